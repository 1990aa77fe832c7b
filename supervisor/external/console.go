package external

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// consoleSocket is where a runtime sends the master side of a terminal that it has made
// (runc, docs/terminals.md).
type consoleSocket struct {
	l    *net.UnixListener
	dir  *os.File
	name string
	path string
}

// listenConsole makes a socket in dir. The path for the runtime leads through a descriptor
// of ours: it must fit into the 108 bytes of a socket's address.
func listenConsole(dir string) (*consoleSocket, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "console-")
	if err != nil {
		d.Close()
		return nil, err
	}
	f.Close()
	os.Remove(f.Name()) // it was for the name
	s := &consoleSocket{dir: d, name: f.Name()}
	s.path = "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(d.Fd())) + "/" + filepath.Base(s.name)
	if s.l, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: s.path}); err != nil {
		d.Close()
		return nil, fmt.Errorf("listen for the terminal: %w", err)
	}
	s.l.SetUnlinkOnClose(false)
	return s, nil
}

func (s *consoleSocket) close() {
	s.l.Close()
	os.Remove(s.name)
	s.dir.Close()
}

// terminalWithin bounds how long a terminal may be on its way after the runtime has said
// that all is done.
const terminalWithin = 5 * time.Second

// receive takes the terminal that a runtime has sent.
func (s *consoleSocket) receive(ctx context.Context, rt Runtime) (*os.File, error) {
	f, err := s.take(ctx)
	if err != nil {
		return nil, fail.New(fail.Internal, "%s has sent no terminal: %w", rt.title(), err)
	}
	return f, nil
}

func (s *consoleSocket) take(ctx context.Context) (*os.File, error) {
	deadline := time.Now().Add(terminalWithin)
	_ = s.l.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = s.l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := s.l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, n, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	var files []int
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		files = append(files, fds...)
	}
	if len(files) != 1 {
		for _, fd := range files {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("%d descriptors came instead of one", len(files))
	}
	if _, err := unix.IoctlGetWinsize(files[0], unix.TIOCGWINSZ); err != nil {
		unix.Close(files[0])
		return nil, errors.New("what came is not a terminal")
	}
	return os.NewFile(uintptr(files[0]), "terminal"), nil
}
