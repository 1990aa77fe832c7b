package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/testkit"
)

// freeAddress is a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	return "127.0.0.1:" + testkit.FreePort(t)
}

// oneLine checks that a client was refused in one line that says so.
func oneLine(t *testing.T, what string, r testkit.Result, says string) {
	t.Helper()
	if r.Code == 0 || !strings.Contains(r.Stderr, says) || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("%s: exit %d, want one line with %q: %s", what, r.Code, says, r.Stderr)
	}
}

// sessions proves that streams work: input with its end, output, exit codes, exec beside it.
func sessions(t *testing.T, e *testkit.Engine, client ...string) {
	t.Helper()
	run := func(stdin string, args ...string) testkit.Result {
		t.Helper()
		line := append(append([]string{}, client...), args...)
		return e.Run(stdin, line[0], line[1:]...)
	}
	if r := run("one\ntwo\n", "run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "cat; echo end; exit 7"); r.Stdout != "one\ntwo\nend\n" || r.Code != 7 {
		t.Errorf("run -i: %+v", r)
	}
	id := strings.TrimSpace(run("", "run", "-d", "--network", "none", "busybox", "sh", "-c", "read line; echo got $line; sleep 1000").Stdout)
	if r := run("three\n", "exec", "-i", id, "cat"); r.Stdout != "three\n" || r.Code != 0 {
		t.Errorf("exec -i: %+v", r)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16)
	if r := run(big, "exec", "-i", id, "sh", "-c", "cat | tail -c 16; exit 3"); r.Stdout != "0123456789abcdef" || r.Code != 3 {
		t.Errorf("1 MiB of input: %d bytes, exit %d %s", len(r.Stdout), r.Code, r.Stderr)
	}
	if r := run("", "exec", id, "sh", "-c", "head -c 1048576 /dev/zero"); len(r.Stdout) != 1<<20 {
		t.Errorf("1 MiB of output: %d bytes %s", len(r.Stdout), r.Stderr)
	}
	if r := run("", "rm", "-f", id); r.Code != 0 {
		t.Errorf("rm: %+v", r)
	}
}

func TestMutualTLS(t *testing.T) {
	ca, other := testkit.NewAuthority(t), testkit.NewAuthority(t)
	server, client, stranger := ca.Issue(time.Hour, "127.0.0.1", "localhost"), ca.Issue(time.Hour), other.Issue(time.Hour)
	late := ca.Issue(-time.Hour)
	addr := freeAddress(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"-H", "tcp://" + addr, "--tlsverify", "--tlscacert", ca.Cert, "--tlscert", server.Cert, "--tlskey", server.Key}})
	e.Busybox()
	berth, docker := filepath.Join(e.Bin, "berth"), testkit.DockerCLI(t)
	host := "tcp://" + addr
	with := func(program string, c testkit.Certificate, ca string, more ...string) []string {
		return append([]string{program, "-H", host, "--tlsverify", "--tlscacert", ca, "--tlscert", c.Cert, "--tlskey", c.Key}, more...)
	}
	for name, program := range map[string]string{"berth": berth, "docker": docker} {
		t.Run(name, func(t *testing.T) { sessions(t, e, with(program, client, ca.Cert)...) })
	}
	berthWith := func(c testkit.Certificate, ca string) testkit.Result {
		line := with(berth, c, ca, "ps")
		return e.Run("", line[0], line[1:]...)
	}
	oneLine(t, "a stranger's certificate", berthWith(stranger, ca.Cert), "certificate")
	oneLine(t, "a certificate that has ended", berthWith(late, ca.Cert), "certificate")
	oneLine(t, "an engine that we do not trust", berthWith(client, other.Cert), "certificate signed by unknown authority")
	oneLine(t, "a missing file", e.Berth("-H", host, "--tlsverify", "--tlscert", "/nonexistent", "--tlskey", "/nonexistent", "ps"), "no such file")
	oneLine(t, "no certificate", e.Berth("-H", host, "--tls", "ps"), "certificate")
	// --tls alone trusts whatever engine it is, and that one still asks who we are.
	if r := e.Berth("-H", host, "--tls", "--tlscert", client.Cert, "--tlskey", client.Key, "version", "--format", "{{.Server.Os}}"); r.Code != 0 || r.Stdout != "linux\n" {
		t.Errorf("--tls with a certificate: %+v", r)
	}
	oneLine(t, "no TLS", e.Berth("-H", host, "ps"), "HTTPS server")

	// The environment and contexts do the same.
	dir := t.TempDir()
	for name, from := range map[string]string{"ca.pem": ca.Cert, "cert.pem": client.Cert, "key.pem": client.Key} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, env := range [][]string{{"DOCKER_TLS_VERIFY=1", "DOCKER_CERT_PATH=" + dir}} {
		if r := e.Run("", "env", append(env, "DOCKER_HOST="+host, berth, "ps")...); r.Code != 0 {
			t.Errorf("%q: %+v", env, r)
		}
	}
	e.Must("context", "create", "far", "--docker", "host="+host+",ca="+ca.Cert+",cert="+client.Cert+",key="+client.Key)
	if r := e.Run("", "env", "-u", "DOCKER_HOST", berth, "-c", "far", "ps"); r.Code != 0 {
		t.Errorf("context: %+v", r)
	}
	if r := e.Berth("context", "create", "half", "--docker", "host="+host+",cert="+client.Cert); r.Code == 0 || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("a certificate without its key: %+v", r)
	}
}

func TestAnOpenAPIIsLoud(t *testing.T) {
	addr := freeAddress(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"-H", "tcp://" + addr, "--tlsverify=false"}})
	e.Busybox()
	sessions(t, e, filepath.Join(e.Bin, "berth"), "-H", "tcp://"+addr)
	if !strings.Contains(e.Log(), "THIS API IS OPEN: everybody who reaches tcp://"+addr+" is root on this machine") {
		t.Errorf("the log does not warn:\n%s", e.Log())
	}
	if r := e.Berth("info"); !strings.Contains(r.Stdout+r.Stderr, "WARNING: everybody who reaches tcp://"+addr) {
		t.Errorf("info does not warn: %+v", r)
	}
	// A web page that has its own name point to loopback gets nothing.
	request, _ := http.NewRequest("GET", "http://"+addr+"/containers/json", nil)
	request.Host = "evil.example"
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusForbidden {
		t.Errorf("%s %s", response.Status, body)
	}
	if addrs := e.Berth("-H", "tcp://"+addr, "system", "info", "--format", "{{.ID}}"); addrs.Code != 0 {
		t.Errorf("%+v", addrs)
	}
	// Its memory is for the local socket alone.
	response, err = http.Get("http://" + addr + "/debug/vars")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("debug: %s", response.Status)
	}
}

func TestAReadOnlySocketIsForDashboards(t *testing.T) {
	dir := t.TempDir()
	look := filepath.Join(dir, "ro.sock")
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"-H", "unix://" + look + "?ro&group=65534"}})
	e.Busybox()
	info, err := os.Stat(look)
	if err != nil || info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != 65534 {
		t.Fatalf("%v %v", info, err)
	}
	e.Must("run", "-d", "--name", "web", "--network", "none", "-e", "PASSWORD=hunter2", "-v", "data:/data", "busybox", "sh", "-c", "echo hello; sleep 1000")
	e.Must("volume", "create", "-o", "type=cifs", "-o", "device=//far/x", "-o", "o=username=a,password=hunter2", "secret")
	ro := func(program string, args ...string) testkit.Result {
		return e.Run("", program, append([]string{"-H", "unix://" + look}, args...)...)
	}
	berth, docker := filepath.Join(e.Bin, "berth"), testkit.DockerCLI(t)
	for _, program := range []string{berth, docker} {
		for _, line := range []string{"ps -a", "images", "info", "version", "volume ls", "network ls", "inspect web", "inspect data", "image inspect busybox", "top web", "top web aux",
			"stats --no-stream web", "system df", "events --since 1h --until 0s", "port web", "volume inspect secret"} {
			if r := ro(program, strings.Fields(line)...); r.Code != 0 || strings.Contains(r.Stdout, "hunter2") {
				t.Errorf("%s %s: %+v", filepath.Base(program), line, r)
			}
		}
		if r := ro(program, "logs", "web"); r.Stdout != "hello\n" {
			t.Errorf("logs: %+v", r)
		}
		if r := ro(program, "inspect", "-f", "{{.Config.Env}}", "web"); !strings.Contains(r.Stdout, "PASSWORD=***") {
			t.Errorf("names of the environment: %+v", r)
		}
		for _, line := range []string{"run busybox true", "create busybox", "start web", "stop web", "kill web", "rm -f web", "exec web true", "attach --no-stdin web", "rename web x", "pause web", "update -m 64m web", "top web ev", "top web -eo pid,args", "history busybox",
			"commit web x", "tag busybox x", "rmi busybox", "pull localhost:1/x", "save busybox", "volume create x", "volume rm data", "network create x", "network prune -f", "system prune -f", "wait web"} {
			if r := ro(program, strings.Fields(line)...); r.Code == 0 || !strings.Contains(r.Stderr, "this socket is read-only") && !strings.Contains(r.Stderr, "received 403") {
				t.Errorf("%s %s: %+v", filepath.Base(program), line, r)
			}
		}
	}
	oneLine(t, "a change", ro(berth, "stop", "web"), "this socket is read-only: POST ")
	if r := e.Berth("inspect", "-f", "{{.Config.Env}} {{.State.Running}}", "web"); !strings.Contains(r.Stdout, "PASSWORD=hunter2") || !strings.Contains(r.Stdout, "true") {
		t.Errorf("by the whole socket: %+v", r)
	}
}

// activate starts the engine as systemd does: with sockets that are there already.
func activate(t *testing.T, e *testkit.Engine, names string, sockets []*net.UnixListener, hosts ...string) *exec.Cmd {
	t.Helper()
	ready, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	line := append([]string{"-c", fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec "$@"`, len(sockets), names), "sh"}, e.Command()...)
	line = append(line, "--ready-fd", itoa(3+len(sockets)))
	for _, h := range hosts {
		line = append(line, "-H", h)
	}
	cmd := exec.Command("sh", line...)
	log, err := os.Create(filepath.Join(e.Dir, "activated.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	for _, s := range sockets {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, tell)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tell.Close()
	_ = ready.SetReadDeadline(time.Now().Add(90 * time.Second))
	if said, err := io.ReadAll(io.LimitReader(ready, 1)); err != nil || string(said) != "\n" {
		text, _ := os.ReadFile(log.Name())
		t.Errorf("not ready: %q %v\n%s", said, err, text)
	}
	return cmd
}

func TestSocketActivation(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	var sockets []*net.UnixListener
	for _, name := range []string{"full", "look"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(e.Dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		sockets = append(sockets, l)
	}
	// A client that comes before the engine waits in the socket's queue.
	early, err := net.Dial("unix", filepath.Join(e.Dir, "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	if _, err := io.WriteString(early, "GET /_ping HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	end := func(cmd *exec.Cmd) {
		t.Helper()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the engine's end: %v", err)
		}
	}
	// The one that takes all is named first, and yet does not get what is named.
	cmd := activate(t, e, "full:look", sockets, "fd://", "fd://look?ro")
	answer, _ := io.ReadAll(early)
	if !strings.HasPrefix(string(answer), "HTTP/1.0 200 OK") {
		t.Errorf("the early client: %q", answer)
	}
	full, look := "unix://"+filepath.Join(e.Dir, "full"), "unix://"+filepath.Join(e.Dir, "look")
	if r := e.Berth("-H", full, "volume", "create", "xx"); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if r := e.Berth("-H", look, "volume", "ls", "-q"); r.Stdout != "xx\n" {
		t.Errorf("%+v", r)
	}
	oneLine(t, "the read-only socket", e.Berth("-H", look, "volume", "rm", "xx"), "this socket is read-only")
	end(cmd)
	// The sockets are systemd's: the next engine serves them again.
	cmd = activate(t, e, "full:look", sockets, "fd://full")
	if r := e.Berth("-H", full, "volume", "rm", "xx"); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	end(cmd)
}

// A client that never finishes its request's head, or its handshake, holds up nobody else.
func TestSlowClientsHoldUpNobody(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	path := strings.TrimPrefix(e.Host, "unix://")
	for range 300 {
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /_ping HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
			t.Fatal(err)
		}
	}
	e.Must("ps")
}
