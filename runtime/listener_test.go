package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	oci "berth/oci/bundle"
)

// agent answers for the calls of processes that are connected to its socket: a mkdir fails
// with the errno of its number, everything else goes on.
type agent struct {
	path   string
	errno  int32
	states chan specs.ContainerProcessState
}

func newAgent(t *testing.T, errno int32) *agent {
	t.Helper()
	a := &agent{path: t.TempDir() + "/agent.sock", errno: errno, states: make(chan specs.ContainerProcessState, 10)}
	l, err := net.Listen("unix", a.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fd, state, err := receiveListener(conn.(*net.UnixConn))
			if err != nil {
				t.Error(err)
				return
			}
			a.states <- state
			go a.answer(fd)
		}
	}()
	return a
}

func receiveListener(conn *net.UnixConn) (fd int, state specs.ContainerProcessState, err error) {
	defer conn.Close()
	text, oob := make([]byte, 1<<16), make([]byte, 64)
	n, oobn, _, _, err := conn.ReadMsgUnix(text, oob)
	if err != nil {
		return -1, state, err
	}
	if m, err := conn.Read(text[n:]); m != 0 || err == nil {
		return -1, state, fmt.Errorf("the connection goes on after the state: %d bytes, %v", m, err)
	}
	if err := json.Unmarshal(text[:n], &state); err != nil {
		return -1, state, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return -1, state, fmt.Errorf("%d control messages, %v", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 || len(state.Fds) != 1 || state.Fds[0] != "seccompFd" {
		return -1, state, fmt.Errorf("descriptors %v called %v, %v", fds, state.Fds, err)
	}
	return fds[0], state, nil
}

// seccompNotif and seccompNotifResp are those of linux/seccomp.h.
type seccompNotif struct {
	id         uint64
	pid, flags uint32
	nr, arch   uint32
	ip         uint64
	args       [6]uint64
}

type seccompNotifResp struct {
	id           uint64
	val          int64
	error, flags uint32
}

func (a *agent) answer(fd int) {
	defer unix.Close(fd)
	for {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err == unix.EINTR {
			continue
		} else if n != 1 || err != nil {
			return
		}
		var call seccompNotif
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&call))); errno != 0 {
			return // no process is left
		}
		answer := seccompNotifResp{id: call.id, flags: 1} // SECCOMP_USER_NOTIF_FLAG_CONTINUE
		if call.nr == unix.SYS_MKDIRAT || call.nr == mkdirNumber {
			answer.flags, answer.error = 0, uint32(-a.errno)
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	}
}

const mkdirNumber = 83 // of amd64; no call of ours on arm64

func TestAnAgentAnswersForTheContainersCalls(t *testing.T) {
	needRoot(t)
	for _, nnp := range []bool{false, true} {
		t.Run(fmt.Sprintf("noNewPrivileges %v", nnp), func(t *testing.T) {
			a := newAgent(t, int32(unix.ENOMEDIUM))
			cfg := config(t)
			cfg.Spec.Annotations = map[string]string{"a": "b"}
			cfg.Spec.Process.NoNewPrivileges = nnp
			// Calls of the set-up itself are among them.
			cfg.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: a.path, ListenerMetadata: "which one",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat", "setresuid", "umask", "execve", "read"}, Action: specs.ActNotify}}}
			cfg.Spec.Process.Args = []string{"sleep", "1000"}
			c := create(t, cfg)
			s := <-a.states
			if s.Version != specs.Version || s.Pid != c.Pid() || s.Metadata != "which one" || s.State.ID != cfg.ID || s.State.Status != specs.StateCreating ||
				s.State.Pid != c.Pid() || s.State.Annotations["a"] != "b" {
				t.Errorf("state %+v", s)
			}
			if err := c.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			got := insideAs(t, c, &oci.Process{Args: []string{"mkdir", "/new"}, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: nnp})
			if got != "mkdir: can't create directory '/new': No medium found\n" {
				t.Errorf("got %q", got)
			}
			s = <-a.states
			if s.Pid == c.Pid() || s.State.Pid != c.Pid() || s.State.Status != specs.StateRunning {
				t.Errorf("state of an executed process: %+v", s)
			}
		})
	}
}

func TestWithoutItsAgentAContainerIsNotMade(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct {
		names []string
		path  string
		want  string
	}{
		{[]string{"mkdir"}, "/no/such/socket", "linux.seccomp.listenerPath: reach the agent: dial unix /no/such/socket: connect: no such file or directory"},
		{[]string{"sendmsg"}, "/x", "linux.seccomp.syscalls[0].names: sendmsg cannot be left to the agent"},
		{[]string{"mkdir"}, "", "linux.seccomp: "},
	} {
		cfg := config(t, "true")
		cfg.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: tc.path,
			Syscalls: []specs.LinuxSyscall{{Names: tc.names, Action: specs.ActNotify}}}
		if _, err := Create(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v at %q: %v", tc.names, tc.path, err)
		}
	}
	// A filter that only forbids does not use the path.
	cfg := config(t, "true")
	cfg.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/no/such/socket"}
	destroy(t, create(t, cfg))
	if _, err := os.Stat("/no/such/socket"); err == nil {
		t.Error("a socket was made")
	}
}
