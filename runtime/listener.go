package runtime

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/seccomp"
)

// A seccomp filter can leave decisions to an agent (SCMP_ACT_NOTIFY). The process installs
// it and sends the descriptor that seccomp(2) returned to us, and we pass it on to the
// agent's socket (runtime-spec, config-linux.md, "The Container Process State").

// installListener compiles both. From here on any call of the process may wait for the
// agent.
func (b *builder) installListener(f *seccomp.Program) {
	p := b.p
	notify := p.Slot()
	b.filterCall(f).Into(notify)
	p.About("hand the seccomp filter's descriptor over (the filter must allow sendmsg)", "")
	p.SendFile(notify, sentListener)
}

// checkListener refuses a filter under which the process could not send the descriptor.
func checkListener(profile *specs.LinuxSeccomp) error {
	for i, rule := range profile.Syscalls {
		if rule.Action == specs.ActNotify && slices.Contains(rule.Names, "sendmsg") {
			return invalid(indexed("linux.seccomp.syscalls", i)+".names", "sendmsg cannot be left to the agent: it is how the agent is reached")
		}
	}
	return nil
}

// passListener sends the descriptor and the state of the process to the agent, on a
// connection of its own.
func (c *Container) passListener(ctx context.Context, pid int, status specs.ContainerState, f *os.File) error {
	defer f.Close()
	profile := c.spec.Linux.Seccomp
	text, err := json.Marshal(specs.ContainerProcessState{Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid,
		Metadata: profile.ListenerMetadata, State: c.state(status)})
	if err != nil {
		return err
	}
	refused := func(err error) error {
		return fail.New(fail.Invalid, "linux.seccomp.listenerPath: reach the agent: %w", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", profile.ListenerPath)
	if err != nil {
		return refused(err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	socket := conn.(*net.UnixConn)
	n, _, err := socket.WriteMsgUnix(text, unix.UnixRights(int(f.Fd())), nil)
	if err == nil && n < len(text) {
		_, err = socket.Write(text[n:])
	}
	if err != nil {
		return refused(err)
	}
	return nil
}
