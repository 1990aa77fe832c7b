package cli

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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

func TestExecSendsWhatDockerSends(t *testing.T) {
	docker := dockerOfToday(t)
	for _, line := range []string{"exec web ls -l", "exec -i web cat", "exec -d -e A=b -e C web sleep 1", "exec -u 1:2 -w /x --privileged --detach-keys ctrl-a,d web id", "exec -t web ls"} {
		routes := execRoutes(0, "")
		routes["GET /containers/web/json"] = answer(map[string]any{"Id": "web", "State": map[string]any{"Running": true}})
		theirs, ours := newFakeEngine(t, routes), newFakeEngine(t, routes)
		if out, err := exec.Command(docker, append([]string{"-H", theirs.host()}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
			t.Fatalf("docker %s: %v: %s", line, err, out)
		}
		if r := ours.berth(t, "", strings.Fields(line)...); r.code != 0 {
			t.Fatalf("berth %s: %+v", line, r)
		}
		for _, path := range []string{"POST /containers/web/exec", "POST /exec/e1/start"} {
			var want, got map[string]any
			_ = json.Unmarshal(theirs.asked(path)[0].Body, &want)
			_ = json.Unmarshal(ours.asked(path)[0].Body, &got)
			if strings.HasSuffix(path, "/exec") {
				delete(want, "Detach") // engines look at it when the exec starts only
			}
			if diff := cmp.Diff(normalize(want), normalize(got)); diff != "" {
				t.Errorf("%s: %s differs (-docker +berth):\n%s", line, path, diff)
			}
		}
	}
}
