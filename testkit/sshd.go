package testkit

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// SSHD is Debian's sshd on a port of loopback, with keys of its own. It lets the test's user in,
// by the one key that Client uses, and gives its sessions an environment of the test's choice.
type SSHD struct {
	Port   string
	Client string // directory with a program ssh that knows the machine and has the key

	t        testing.TB
	dir      string
	sessions string // the control sockets of shared connections are in it
}

// StartSSHD starts one that ends with the test. It skips the test where sshd is missing.
func StartSSHD(t testing.TB, env ...string) *SSHD {
	t.Helper()
	Integration(t)
	program := NeedTool(t, "sshd")
	ssh, keygen := NeedTool(t, "ssh"), NeedTool(t, "ssh-keygen")
	dir, err := os.MkdirTemp("", "bs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &SSHD{Client: filepath.Join(dir, "bin"), t: t, dir: dir, sessions: filepath.Join(dir, "run")}
	// sshd wants this directory, for its unprivileged part to be locked up in.
	if os.Mkdir("/run/sshd", 0o755) == nil {
		t.Cleanup(func() { os.Remove("/run/sshd") })
	}
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	s.Port = FreePort(t)
	host, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("known", fmt.Sprintf("[127.0.0.1]:%s %s", s.Port, host), 0o600)
	set := make([]string, len(env))
	for i, pair := range env {
		set[i] = fmt.Sprintf("%q", pair)
	}
	s.write("sshd_config", fmt.Sprintf("ListenAddress 127.0.0.1:%s\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 200\nMaxSessions 200\nSetEnv %s\n",
		s.Port, dir, dir, strings.Join(set, " ")), 0o600)
	s.write("ssh_config", fmt.Sprintf("IdentityFile %s/user\nIdentitiesOnly yes\nUserKnownHostsFile %s/known\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n", dir, dir), 0o600)
	for _, d := range []string{s.Client, s.sessions} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.write("bin/ssh", fmt.Sprintf("#!/bin/sh\nexec %s -F %s/ssh_config \"$@\"\n", ssh, dir), 0o700)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "-D", "-e", "-f", filepath.Join(dir, "sshd_config"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := startBound(t, cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.endShared()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			data, _ := os.ReadFile(log.Name())
			t.Logf("sshd's log:\n%s", lastLines(data, 30))
		}
	})
	Eventually(t, "sshd answers", func() bool {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+s.Port, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return s
}

func (s *SSHD) write(name, text string, mode os.FileMode) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

// Host is how a client reaches the engine behind it; socket may be empty.
func (s *SSHD) Host(socket string) string { return "ssh://root@127.0.0.1:" + s.Port + socket }

// Env makes a client use its ssh, and keep shared connections where they end with the test.
func (s *SSHD) Env() []string {
	return []string{"PATH=" + s.Client + ":" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + s.sessions}
}

// Shared are the sockets of connections that clients share.
func (s *SSHD) Shared() []string {
	found, _ := filepath.Glob(filepath.Join(s.sessions, "*", "*"))
	return found
}

func (s *SSHD) endShared() {
	for _, socket := range s.Shared() {
		_ = exec.Command("ssh", "-F", "/dev/null", "-o", "ControlPath="+socket, "-O", "exit", "none").Run()
	}
}
