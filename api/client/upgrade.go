package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	mobyclient "github.com/moby/moby/client"

	"berth/fail"
)

// Upgrade posts body (nil: none) to path and takes the connection over for raw streams, as
// attach and exec do. Unlike the library's own way it keeps what the engine said when it
// refused: the error is that message. The API's version must have been negotiated, by any
// request before.
func Upgrade(ctx context.Context, engine *mobyclient.Client, path string, query url.Values, body any) (mobyclient.HijackedResponse, error) {
	var none mobyclient.HijackedResponse
	request, err := newRequest(ctx, engine, http.MethodPost, path, query, body)
	if err != nil {
		return none, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "tcp")
	conn, reader, response, err := send(ctx, engine, request)
	if err != nil {
		return none, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return none, refusal(response)
	}
	return mobyclient.HijackedResponse{Conn: conn, Reader: reader}, nil
}

// ExecExitCode is the exit code of an exec that has ended. It is nil while it runs, and of an
// exec that never ran: the library's ExecInspect tells neither from 0.
func ExecExitCode(ctx context.Context, engine *mobyclient.Client, id string) (*int, error) {
	request, err := newRequest(ctx, engine, http.MethodGet, "/exec/"+url.PathEscape(id)+"/json", nil, nil)
	if err != nil {
		return nil, err
	}
	conn, _, response, err := send(ctx, engine, request)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if response.StatusCode != http.StatusOK {
		return nil, refusal(response)
	}
	defer response.Body.Close()
	var answer struct{ ExitCode *int }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("the engine's answer about an exec: %w", err)
	}
	return answer.ExitCode, nil
}

func newRequest(ctx context.Context, engine *mobyclient.Client, method, path string, query url.Values, body any) (*http.Request, error) {
	var payload io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(data)
	}
	base := ""
	if host, err := mobyclient.ParseHostURL(engine.DaemonHost()); err == nil && host.Scheme != "unix" {
		base = strings.TrimSuffix(host.Path, "/")
	}
	// The name of a host that is a socket matters to nobody, but HTTP wants one.
	target := url.URL{Scheme: "http", Host: mobyclient.DummyHost, Path: base + "/v" + engine.ClientVersion() + path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), payload)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	return request, nil
}

// send makes a connection for one request and reads the head of its answer. Until that is
// there, the end of ctx ends the connection; after that it is the caller's.
func send(ctx context.Context, engine *mobyclient.Client, request *http.Request) (net.Conn, *bufio.Reader, *http.Response, error) {
	conn, err := engine.Dialer()(ctx)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("connect to the engine at %s: %w", engine.DaemonHost(), err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	reader := bufio.NewReader(conn)
	var response *http.Response
	if err = request.Write(conn); err == nil {
		response, err = http.ReadResponse(reader, request)
	}
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, nil, nil, err
	}
	return conn, reader, response, nil
}

// refusal is the engine's message, else the status.
func refusal(response *http.Response) error {
	defer response.Body.Close()
	class := fail.Internal
	switch response.StatusCode {
	case http.StatusBadRequest:
		class = fail.Invalid
	case http.StatusNotFound:
		class = fail.NotFound
	case http.StatusConflict:
		class = fail.Conflict
	case http.StatusServiceUnavailable:
		class = fail.Unavailable
	}
	var answer struct {
		Message string `json:"message"`
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err == nil && json.Unmarshal(data, &answer) == nil && answer.Message != "" {
		return fail.New(class, "Error response from daemon: %s", answer.Message)
	}
	return fail.New(class, "the engine answered %s to a request for streams", response.Status)
}
