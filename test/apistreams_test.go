package test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"berth/testkit"

	"github.com/moby/moby/api/pkg/stdcopy"
	mobyclient "github.com/moby/moby/client"
)

const (
	rawStream = "application/vnd.docker.raw-stream"
	muxStream = "application/vnd.docker.multiplexed-stream"
)

// split takes a multiplexed stream apart.
func (a *apiTest) split(r io.Reader) (stdout, stderr string) {
	a.Helper()
	var out, errs bytes.Buffer
	_, err := stdcopy.StdCopy(&out, &errs, r)
	a.must(err)
	return out.String(), errs.String()
}

// hijack sends a request by hand, with an upgrade or without, and returns the answer's head
// and the connection after it.
func (a *apiTest) hijack(path, body string, upgrade bool) (*http.Response, *bufio.Reader, *net.UnixConn) {
	a.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(a.e.Host, "unix://"))
	a.must(err)
	a.Cleanup(func() { conn.Close() })
	a.must(conn.SetDeadline(time.Now().Add(30 * time.Second)))
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", path, len(body))
	if upgrade {
		head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
	}
	_, err = io.WriteString(conn, head+"\r\n"+body)
	a.must(err)
	r := bufio.NewReader(conn)
	req, err := http.NewRequest("POST", "http://engine"+path, nil)
	a.must(err)
	resp, err := http.ReadResponse(r, nil)
	a.must(err)
	a.note("POST", req.URL.Path, resp.StatusCode)
	return resp, r, conn.(*net.UnixConn)
}

var apiStreams = []apiCase{
	{row: "GET /containers/{id}/logs", test: func(a *apiTest) {
		id := a.create("spoke", `"Cmd":["sh","-c","echo out; echo err >&2; echo last"],"HostConfig":{"NetworkMode":"none"}`)
		a.ask(204, "POST", "/containers/spoke/start", "")
		a.ask(200, "POST", "/containers/spoke/wait", "")
		logs, err := a.sdk.ContainerLogs(a.Context(), id, mobyclient.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: true}) // ends with the container
		a.must(err)
		if out, errs := a.split(logs); out != "out\nlast\n" || errs != "err\n" {
			a.Errorf("stdout %q, stderr %q", out, errs)
		}
		logs.Close()
		read := func(minor int, query string) (string, string) {
			r := a.ask(200, "GET", v(minor, "/containers/spoke/logs?"+query), "")
			if got, want := r.header.Get("Content-Type"), until(42, minor, rawStream, muxStream); got != want {
				a.Errorf("1.%d: %s, want %s", minor, got, want)
			}
			return a.split(strings.NewReader(r.body))
		}
		for query, want := range map[string]string{
			"stdout=1": "out\nlast\n/", "stderr=true": "/err\n", "stdout=1&stderr=1&tail=0": "/", "stdout=1&tail=all": "out\nlast\n/", "stdout=1&tail=-1": "out\nlast\n/",
			"stdout=1&since=4000000000": "/", "stdout=1&until=1": "/", "stdout=1&since=1.000000001": "out\nlast\n/", "stdout=1&until=4000000000": "out\nlast\n/", "stdout=1&stderr=0": "out\nlast\n/",
		} {
			for _, minor := range []int{40, 41, 42, 55} {
				if out, errs := read(minor, query); out+"/"+errs != want {
					a.Errorf("1.%d, %s: %q, want %q", minor, query, out+"/"+errs, want)
				}
			}
		}
		out, _ := read(55, "stdout=1&timestamps=1")
		if len(strings.Fields(out)) != 4 {
			a.Fatalf("timestamps: %q", out)
		}
		if _, err := time.Parse(time.RFC3339Nano, strings.Fields(out)[0]); err != nil {
			a.Error(err)
		}
		a.create("counted-lines", `"Cmd":["seq","5"],"HostConfig":{"NetworkMode":"none"}`)
		a.ask(204, "POST", "/containers/counted-lines/start", "")
		a.ask(200, "POST", "/containers/counted-lines/wait", "")
		if last, _ := a.split(strings.NewReader(a.ask(200, "GET", "/containers/counted-lines/logs?stdout=1&tail=2", "").body)); last != "4\n5\n" {
			a.Errorf("the last two: %q", last)
		}
		a.create("spoke-tty", `"Tty":true,"Cmd":["echo","raw"],"HostConfig":{"NetworkMode":"none"}`)
		a.ask(204, "POST", "/containers/spoke-tty/start", "")
		a.ask(200, "POST", "/containers/spoke-tty/wait", "")
		if r := a.ask(200, "GET", "/containers/spoke-tty/logs?stdout=1", ""); r.body != "raw\r\n" || r.header.Get("Content-Type") != rawStream {
			a.Errorf("%q %v", r.body, r.header)
		}
		a.ask(400, "GET", "/containers/spoke/logs", "").says("you must choose at least one stream")
		a.ask(400, "GET", "/containers/spoke/logs?stdout=1&since=monday", "")
		a.ask(404, "GET", "/containers/nosuch/logs?stdout=1", "")
	}},
	{row: "POST /containers/{id}/attach", test: func(a *apiTest) {
		a.create("talks", `"Cmd":["sh","-c","read l; echo got $l; echo bad >&2"],"OpenStdin":true,"StdinOnce":true,"HostConfig":{"NetworkMode":"none"}`)
		in, err := a.sdk.ContainerAttach(a.Context(), "talks", mobyclient.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
		a.must(err)
		defer in.Close()
		if kind, _ := in.MediaType(); kind != muxStream {
			a.Errorf("media type %q", kind)
		}
		a.ask(204, "POST", "/containers/talks/start", "")
		_, err = io.WriteString(in.Conn, "hello\n")
		a.must(err)
		a.must(in.CloseWrite())
		if out, errs := a.split(in.Reader); out != "got hello\n" || errs != "bad\n" {
			a.Errorf("stdout %q, stderr %q", out, errs)
		}
		// Without an upgrade the answer is 200 and then the stream too; logs are replayed. With an
		// upgrade older versions have the old type.
		for _, tt := range []struct {
			minor   int
			upgrade bool
			status  int
			kind    string
		}{{55, false, 200, muxStream}, {55, true, 101, muxStream}, {42, true, 101, muxStream}, {41, true, 101, rawStream}, {40, false, 200, rawStream}} {
			resp, r, _ := a.hijack(v(tt.minor, "/containers/talks/attach?logs=1&stdout=1&stderr=1"), "", tt.upgrade)
			if resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != tt.kind || tt.upgrade && resp.Header.Get("Upgrade") != "tcp" {
				a.Errorf("%+v: %s %v", tt, resp.Status, resp.Header)
			}
			if out, errs := a.split(r); out != "got hello\n" || errs != "bad\n" {
				a.Errorf("%+v: stdout %q, stderr %q", tt, out, errs)
			}
		}
		a.ask(404, "POST", "/containers/nosuch/attach?stream=1&stdout=1", "")
		a.ask(400, "POST", "/containers/talks/attach?stream=1&stdin=1&detachKeys=ctrl-nope", "")
		a.sleeper("stoppedtalk")
		a.ask(204, "POST", "/containers/stoppedtalk/pause", "")
		a.ask(409, "POST", "/containers/stoppedtalk/attach?stream=1&stdout=1", "").says("is paused, unpause the container before attach")
	}},
	{row: "GET /containers/{id}/attach/ws", test: func(a *apiTest) {
		a.create("web", `"Cmd":["sh","-c","read l; echo got $l"],"OpenStdin":true,"HostConfig":{"NetworkMode":"none"}`)
		a.ask(204, "POST", "/containers/web/start", "")
		conn, err := net.Dial("unix", strings.TrimPrefix(a.e.Host, "unix://"))
		a.must(err)
		defer conn.Close()
		a.must(conn.SetDeadline(time.Now().Add(30 * time.Second)))
		_, err = io.WriteString(conn, "GET /containers/web/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		a.must(err)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		a.must(err)
		a.note("GET", "/containers/web/attach/ws", resp.StatusCode)
		if resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			a.Fatalf("%s %v", resp.Status, resp.Header)
		}
		// A masked text frame of a client (RFC 6455, section 5.2), then binary ones of the engine.
		_, err = conn.Write([]byte{0x81, 0x80 | 3, 0, 0, 0, 0, 'h', 'i', '\n'})
		a.must(err)
		var got []byte
		for !bytes.Contains(got, []byte("got hi\n")) {
			head := make([]byte, 2)
			_, err := io.ReadFull(r, head)
			a.must(err)
			if head[0] != 0x82 || head[1] > 125 {
				a.Fatalf("a frame %x after %q", head, got)
			}
			frame := make([]byte, head[1])
			_, err = io.ReadFull(r, frame)
			a.must(err)
			got = append(got, frame...)
		}
		upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
		a.ask(404, "GET", "/containers/nosuch/attach/ws?stream=1&stdout=1", "", upgrade...)
		a.ask(400, "GET", "/containers/web/attach/ws?stream=1&stdout=1", "") // no websocket
	}, never: []int{200}},
	{row: "POST /containers/{id}/resize", test: func(a *apiTest) {
		a.create("sized", `"Tty":true,"OpenStdin":true,"Cmd":["sh"],"HostConfig":{"NetworkMode":"none"}`)
		a.ask(409, "POST", "/containers/sized/resize?h=10&w=20", "").says("is not running")
		a.ask(204, "POST", "/containers/sized/start", "")
		_, err := a.sdk.ContainerResize(a.Context(), "sized", mobyclient.ContainerResizeOptions{Height: 33, Width: 77})
		a.must(err)
		in, err := a.sdk.ContainerAttach(a.Context(), "sized", mobyclient.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
		a.must(err)
		defer in.Close()
		_, err = io.WriteString(in.Conn, "stty size; exit\n")
		a.must(err)
		if out, _ := io.ReadAll(in.Reader); !bytes.Contains(out, []byte("33 77")) {
			a.Errorf("%q", out)
		}
		a.ask(404, "POST", "/containers/nosuch/resize?h=1&w=1", "")
		a.ask(400, "POST", "/containers/sized/resize?h=x&w=1", "")
	}},
	{row: "POST /containers/{id}/exec", test: func(a *apiTest) {
		id := a.sleeper("hosts")
		made, err := a.sdk.ExecCreate(a.Context(), id, mobyclient.ExecCreateOptions{Cmd: []string{"true"}, Env: []string{"A=1"}, User: "app", WorkingDir: "/tmp"})
		a.must(err)
		if len(made.ID) != 64 {
			a.Errorf("%+v", made)
		}
		for _, m := range everyVersion {
			a.ask(201, "POST", v(m, "/containers/hosts/exec"), `{"Cmd":["true"],"AttachStdout":true,"Unknown":1}`).shape(`.: Id s`)
		}
		a.ask(400, "POST", "/containers/hosts/exec", `{"Cmd":[]}`).says("o exec command specified")
		a.ask(400, "POST", "/containers/hosts/exec", `{`)
		a.ask(400, "POST", "/containers/hosts/exec", `{"Cmd":["true"],"DetachKeys":"ctrl-nope"}`)
		a.ask(404, "POST", "/containers/nosuch/exec", `{"Cmd":["true"]}`)
		a.create("hostless", "")
		a.ask(409, "POST", "/containers/hostless/exec", `{"Cmd":["true"]}`).says("is not running")
		a.ask(204, "POST", "/containers/hosts/pause", "")
		a.ask(409, "POST", "/containers/hosts/exec", `{"Cmd":["true"]}`).says("is paused, unpause the container before exec")
	}},
	{row: "POST /exec/{id}/start", test: func(a *apiTest) {
		a.sleeper("execs")
		exec := func(settings string) string {
			return a.ask(201, "POST", "/containers/execs/exec", `{"AttachStdin":true,"AttachStdout":true,"AttachStderr":true,`+settings+`}`).at("Id").(string)
		}
		id := exec(`"Cmd":["sh","-c","cat; echo bad >&2; exit 4"]`)
		in, err := a.sdk.ExecAttach(a.Context(), id, mobyclient.ExecAttachOptions{})
		a.must(err)
		defer in.Close()
		_, err = io.WriteString(in.Conn, "text\n")
		a.must(err)
		a.must(in.CloseWrite())
		if out, errs := a.split(in.Reader); out != "text\n" || errs != "bad\n" {
			a.Errorf("stdout %q, stderr %q", out, errs)
		}
		a.ask(200, "GET", "/exec/"+id+"/json", "").is(4, "ExitCode")
		for _, tt := range []struct {
			minor   int
			upgrade bool
			status  int
			tty     bool
			kind    string
		}{{55, false, 200, false, muxStream}, {55, true, 101, false, muxStream}, {41, true, 101, false, rawStream}, {55, true, 101, true, rawStream}} {
			id := exec(fmt.Sprintf(`"Tty":%v,"Cmd":["echo","hi"]`, tt.tty))
			resp, r, _ := a.hijack(v(tt.minor, "/exec/"+id+"/start"), fmt.Sprintf(`{"Tty":%v}`, tt.tty), tt.upgrade)
			if resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != tt.kind {
				a.Errorf("%+v: %s %v", tt, resp.Status, resp.Header)
			}
			if text, _ := io.ReadAll(r); !bytes.Contains(text, []byte("hi")) || !tt.tty && (len(text) < 8 || text[0] != 1 || binary.BigEndian.Uint32(text[4:8]) != 3) {
				a.Errorf("%+v: %q", tt, text)
			}
		}
		detached := exec(`"Cmd":["true"]`)
		_, err = a.sdk.ExecStart(a.Context(), detached, mobyclient.ExecStartOptions{Detach: true})
		a.must(err)
		testkit.Eventually(a, "the exec ends", func() bool { return a.ask(200, "GET", "/exec/"+detached+"/json", "").at("Running") == false })
		a.ask(409, "POST", "/exec/"+detached+"/start", `{"Detach":true}`).says("has already run")
		a.ask(404, "POST", "/exec/nosuch/start", `{}`).says("No such exec instance: nosuch")
		// A program that is not there is told in the stream and by the exit code.
		missing := exec(`"Cmd":["nosuchprogram"]`)
		_, r, _ := a.hijack("/exec/"+missing+"/start", `{}`, true)
		if text, _ := io.ReadAll(r); !bytes.Contains(text, []byte("executable file not found")) {
			a.Errorf("%q", text)
		}
		a.ask(200, "GET", "/exec/"+missing+"/json", "").is(127, "ExitCode")
		late := exec(`"Cmd":["true"]`)
		a.ask(204, "POST", "/containers/execs/pause", "")
		a.ask(409, "POST", "/exec/"+late+"/start", `{}`)
		a.ask(204, "POST", "/containers/execs/unpause", "")
		a.ask(204, "POST", "/containers/execs/kill", "")
		if r := plain(a, "POST", "/exec/"+late+"/start", `{}`); r != 409 && r != 404 {
			a.Errorf("of a stopped container: %d", r)
		}
	}},
	{row: "POST /exec/{id}/resize", test: func(a *apiTest) {
		a.sleeper("resizes")
		id := a.ask(201, "POST", "/containers/resizes/exec", `{"Tty":true,"AttachStdin":true,"AttachStdout":true,"Cmd":["sh"]}`).at("Id").(string)
		a.ask(400, "POST", "/exec/"+id+"/resize?h=x&w=1", "")
		in, err := a.sdk.ExecAttach(a.Context(), id, mobyclient.ExecAttachOptions{TTY: true, ConsoleSize: mobyclient.ConsoleSize{Height: 11, Width: 22}})
		a.must(err)
		defer in.Close()
		io.WriteString(in.Conn, "stty size\n")
		r := bufio.NewReader(in.Reader)
		await := func(text string) {
			for {
				line, err := r.ReadString('\n')
				if strings.Contains(line, text) {
					return
				}
				a.must(err)
			}
		}
		await("11 22")
		_, err = a.sdk.ExecResize(a.Context(), id, mobyclient.ExecResizeOptions{Height: 44, Width: 55})
		a.must(err)
		io.WriteString(in.Conn, "stty size; exit\n")
		await("44 55")
		a.ask(404, "POST", "/exec/nosuch/resize?h=1&w=1", "")
	}},
	{row: "GET /exec/{id}/json", test: func(a *apiTest) {
		box := a.sleeper("execd")
		id := a.ask(201, "POST", "/containers/execd/exec", `{"Cmd":["sleep","1000"],"User":"app","AttachStdout":true}`).at("Id").(string)
		a.ask(200, "GET", "/exec/"+id+"/json", "").is(false, "Running").is("<nil>", "ExitCode")
		a.ask(200, "POST", "/exec/"+id+"/start", `{"Detach":true}`)
		one, err := a.sdk.ExecInspect(a.Context(), id, mobyclient.ExecInspectOptions{})
		a.must(err)
		if !one.Running || one.ContainerID != box || one.PID == 0 {
			a.Errorf("%+v", one)
		}
		a.ask(200, "GET", "/containers/execd/json", "").is(id, "ExecIDs", "0")
		for _, m := range everyVersion {
			a.ask(200, "GET", v(m, "/exec/"+id+"/json"), "").shape(`
				.: ID s Running b ExitCode n0 ProcessConfig o OpenStdin b OpenStderr b OpenStdout b CanRemove b ContainerID s DetachKeys s Pid n
				ProcessConfig: tty b entrypoint s arguments l privileged b? user s?`).is("sleep", "ProcessConfig", "entrypoint").is("1000", "ProcessConfig", "arguments", "0").is("app", "ProcessConfig", "user")
		}
		a.ask(404, "GET", "/exec/nosuch/json", "").says("No such exec instance: nosuch")
	}},
}

// plain is the status of a request.
func plain(a *apiTest, method, path, body string) int {
	status, _, _ := ask(a.T, a.e, method, path, body)
	a.note(method, path, status)
	return status
}
