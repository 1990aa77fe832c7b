package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// farEngine is an engine behind an sshd, whose sessions find the programs of bin and, without
// a socket in the host, the engine by their environment.
func farEngine(t *testing.T, bin func(e *testkit.Engine) string) (*testkit.Engine, *testkit.SSHD) {
	t.Helper()
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	s := testkit.StartSSHD(t, "PATH="+bin(e)+":/usr/bin:/bin", "DOCKER_HOST="+e.Host, "BERTH_HOST="+e.Host)
	return e, s
}

func own(e *testkit.Engine) string { return e.Bin }

func sshClient(s *testkit.SSHD, program string, args ...string) []string {
	return append(append([]string{"env", "-u", "DOCKER_HOST"}, s.Env()...), append([]string{program}, args...)...)
}

func TestAnEngineIsReachedBySSH(t *testing.T) {
	e, s := farEngine(t, own)
	e.Busybox()
	berth := filepath.Join(e.Bin, "berth")
	socket := strings.TrimPrefix(e.Host, "unix://")
	t.Run("by its socket", func(t *testing.T) { sessions(t, e, sshClient(s, berth, "-H", s.Host(socket))...) })
	t.Run("by default", func(t *testing.T) { brief(t, e, sshClient(s, berth, "-H", s.Host(""))...) })
	if n := len(s.Shared()); n != 1 {
		t.Errorf("%d connections are shared, not one", n)
	}
	t.Run("by a context", func(t *testing.T) {
		e.Must("context", "create", "far", "--docker", "host="+s.Host(socket))
		line := sshClient(s, berth, "-c", "far", "run", "--rm", "--network", "none", "busybox", "echo", "hi")
		if r := e.Run("", line[0], line[1:]...); r.Stdout != "hi\n" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("with a terminal", func(t *testing.T) {
		line := sshClient(s, berth, "-H", s.Host(socket), "run", "--rm", "-it", "--network", "none", "busybox", "sh")
		term := testkit.OnTerminal(t, e.Env(), line[0], line[1:]...)
		term.Expect("/ #")
		term.Type("stty size; echo $((6*7)); exit 5\n")
		term.Expect("42")
		if code := term.Exit(); code != 5 {
			t.Errorf("exit %d", code)
		}
	})
	t.Run("by docker's command line", func(t *testing.T) {
		// The far machine has berth under the name docker, and no docker.
		alias := filepath.Join(e.Dir, "alias")
		if err := os.Mkdir(alias, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(berth, filepath.Join(alias, "docker")); err != nil {
			t.Fatal(err)
		}
		s := testkit.StartSSHD(t, "PATH="+alias+":/bin", "DOCKER_HOST="+e.Host, "BERTH_HOST="+e.Host)
		brief(t, e, sshClient(s, testkit.DockerCLI(t), "-H", s.Host(""))...)
		brief(t, e, sshClient(s, testkit.DockerCLI(t), "-H", s.Host(socket))...)
		brief(t, e, sshClient(s, berth, "-H", s.Host(socket))...)
	})
	t.Run("by somebody who is killed", func(t *testing.T) {
		e.Must("run", "-d", "--name", "silent", "--network", "none", "busybox", "sleep", "1000")
		line := sshClient(s, berth, "-H", s.Host(socket), "attach", "silent")
		cmd := exec.Command(line[0], line[1:]...)
		cmd.Env = e.Env()
		in, err := cmd.StdinPipe() // stays open: only the death is to tell
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "the far end is connected", func() bool { return proxies(e) > 0 })
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		testkit.Eventually(t, "the far end has noticed", func() bool { return proxies(e) == 0 })
	})
}

// brief is a session of few connections, each of which a client without shared ones makes anew.
func brief(t *testing.T, e *testkit.Engine, client ...string) {
	t.Helper()
	line := append(append([]string{}, client...), "run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "cat; echo end; exit 7")
	if r := e.Run("one\n", line[0], line[1:]...); r.Stdout != "one\nend\n" || r.Code != 7 {
		t.Errorf("%q: %+v", line, r)
	}
}

// proxies counts the far ends of connections to the engine's socket.
func proxies(e *testkit.Engine) (n int) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), "dial-stdio") && strings.Contains(string(data), e.Dir) && strings.HasPrefix(string(data), "berth") {
			n++
		}
	}
	return n
}

func TestWhatIsWrongWithAFarEngineIsToldInOneLine(t *testing.T) {
	e, s := farEngine(t, func(*testkit.Engine) string { return "/nonexistent" })
	berth := filepath.Join(e.Bin, "berth")
	bare := testkit.StartSSHD(t, "PATH=/nonexistent")
	for _, c := range []struct{ host, says string }{
		{s.Host("/nonexistent/s"), ""},
		{"ssh://root@127.0.0.1:1", "Connection refused"},
		{"ssh://root@127.0.0.1:" + bare.Port, "Host key verification failed"},
		{"ssh://root:secret@127.0.0.1", "a password cannot be given here"},
		{"ssh://-oProxyCommand=x", "cannot begin with a hyphen"},
		{"ssh://-l@host", "cannot begin with a hyphen"},
		{"ssh://", "names no machine"},
		{"ssh://box?x=1", "options of ssh belong into its configuration"},
	} {
		line := sshClient(s, berth, "-H", c.host, "ps")
		r := e.Run("", line[0], line[1:]...)
		oneLine(t, c.host, r, c.says)
		if strings.Contains(r.Stderr, "secret") {
			t.Errorf("%s: the password is told: %s", c.host, r.Stderr)
		}
	}
	line := sshClient(bare, berth, "-H", bare.Host(""), "ps")
	oneLine(t, "nothing there", e.Run("", line[0], line[1:]...), "neither berth nor docker is installed there")
	line = append([]string{"env", "-u", "DOCKER_HOST", "PATH=/nonexistent", berth}, "-H", s.Host(""), "ps")
	oneLine(t, "no ssh here", e.Run("", line[0], line[1:]...), "needs the program ssh")
}
