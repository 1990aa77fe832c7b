package cli

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func execRoutes(exitCode int, out string) map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"POST /containers/web/exec": answer(map[string]string{"Id": "e1"}),
		"POST /exec/e1/start": func(w http.ResponseWriter, r *http.Request) {
			var body struct{ Detach bool }
			_ = json.NewDecoder(r.Body).Decode(&body)
			if body.Detach {
				return
			}
			hijack("application/vnd.docker.multiplexed-stream", func(conn net.Conn, in io.Reader) {
				_, _ = conn.Write(frame(1, out))
				_, _ = conn.Write(frame(2, "err"))
			})(w, r)
		},
		"GET /exec/e1/json": answer(map[string]any{"ID": "e1", "Running": false, "ExitCode": exitCode}),
	}
}

func TestExecExitsAsItsCommandDid(t *testing.T) {
	for _, code := range []int{0, 1, 126, 127, 137} {
		e := newFakeEngine(t, execRoutes(code, "out"))
		if r := e.berth(t, "", "exec", "-e", "A=b", "-w", "/x", "-u", "1", "web", "ls", "-l"); r.code != code || r.out != "out" || r.err != "err" {
			t.Errorf("%d: got %+v", code, r)
		}
		want := `{"User":"1","Privileged":false,"Tty":false,"AttachStdin":false,"AttachStderr":true,"AttachStdout":true,"DetachKeys":"","Env":["A=b"],"WorkingDir":"/x","Cmd":["ls","-l"]}`
		var wanted, got map[string]any
		_ = json.Unmarshal([]byte(want), &wanted)
		_ = json.Unmarshal(e.asked("POST /containers/web/exec")[0].Body, &got)
		for key, value := range wanted {
			if a, b := mustJSON(value), mustJSON(got[key]); a != b && !(a == `""` && b == "null") && !(a == "false" && b == "null") {
				t.Errorf("%s is %s, want %s", key, b, a)
			}
		}
	}
}

func mustJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func TestExecDetachedReturnsAtOnce(t *testing.T) {
	e := newFakeEngine(t, execRoutes(3, ""))
	if r := e.berth(t, "", "exec", "-d", "web", "sleep", "9"); r.code != 0 || r.out != "" {
		t.Errorf("got %+v", r)
	}
	if n := len(e.asked("GET /exec/e1/json")); n != 0 {
		t.Error("asked for the exit code of a detached exec")
	}
}

func TestExecErrorsOfTheEngine(t *testing.T) {
	for text, code := range map[string]int{
		"container web is not running":                  1,
		"No such container: web":                        1,
		`exec: "x": executable file not found in $PATH`: 127,
		"exec /x: permission denied":                    126,
	} {
		e := newFakeEngine(t, map[string]http.HandlerFunc{"POST /containers/web/exec": refuse(409, text)})
		if r := e.berth(t, "", "exec", "web", "x"); r.code != code || !strings.Contains(r.err, text) {
			t.Errorf("got %+v, want %d", r, code)
		}
	}
}
