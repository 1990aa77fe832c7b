package supervisor

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// handover is a connection as a descriptor for the shim. done and undo are called once,
// one of them: after the shim has it, and after it could not be given.
type handover struct {
	fd   int // the shim's; closed by whoever sends it
	done func()
	undo func()
}

// handOver makes a descriptor of conn. A kernel socket is duplicated; what exists only in
// this process, like a TLS session, is copied through a socket pair, and ends with us.
func handOver(conn net.Conn) (handover, error) {
	switch c := conn.(type) {
	case *net.UnixConn:
		return duplicate(conn, c)
	case *net.TCPConn:
		return duplicate(conn, c)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return handover{}, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "relay")
	local, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		unix.Close(fds[1])
		return handover{}, err
	}
	return handover{
		fd:   fds[1],
		done: func() { go relay(conn, local.(*net.UnixConn)) }, // ends when both sides have
		undo: func() { local.Close() },
	}, nil
}

func duplicate(conn net.Conn, sc syscall.Conn) (handover, error) {
	raw, err := sc.SyscallConn()
	if err != nil {
		return handover{}, err
	}
	h := handover{done: func() { conn.Close() }, undo: func() {}}
	e := raw.Control(func(fd uintptr) { h.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) })
	return h, errors.Join(e, err)
}

// relay copies both ways until both are at their end.
func relay(client net.Conn, shim *net.UnixConn) {
	inputs := make(chan struct{})
	go func() { // ends when the client has nothing more to say, or is closed below
		defer close(inputs)
		_, _ = io.Copy(shim, client)
		_ = shim.CloseWrite()
	}()
	_, _ = io.Copy(client, shim)
	if half, ok := client.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	client.Close()
	<-inputs
	shim.Close()
}
