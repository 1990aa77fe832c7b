package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	mobyclient "github.com/moby/moby/client"

	"berth/fail"
)

// maxAnswer bounds an answer of Call.
const maxAnswer = 16 << 20

// Call sends a request for an endpoint that is Berth's own, which the official client does
// not know, and returns the answer's header and body. An engine that does not have it is
// class NotImplemented.
func Call(ctx context.Context, engine *mobyclient.Client, method, path string, query url.Values, header http.Header, body []byte) (http.Header, []byte, error) {
	if _, err := engine.Ping(ctx, mobyclient.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil, nil, err
	}
	request, err := newRequest(ctx, engine, method, path, query, nil)
	if err != nil {
		return nil, nil, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if body != nil {
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	conn, _, response, err := send(ctx, engine, request)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		if response.StatusCode == http.StatusNotFound && !strings.HasPrefix(response.Header.Get("Server"), "Berth/") {
			return nil, nil, fail.New(fail.NotImplemented, "the engine at %s has no %s: it is Berth's own", engine.DaemonHost(), path)
		}
		return nil, nil, refusal(response)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case ctx.Err() != nil:
		return nil, nil, context.Cause(ctx)
	case err != nil:
		return nil, nil, fmt.Errorf("the engine's answer: %w", err)
	case len(data) > maxAnswer:
		return nil, nil, fmt.Errorf("the engine's answer is larger than %d bytes", maxAnswer)
	}
	return response.Header, data, nil
}
