package runtimecli

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	oci "berth/oci/bundle"
	"berth/runtime"
)

// A service manager that waits for its service to be ready gives us the address of a
// datagram socket (sd_notify(3)). The container gets a socket of its own in its place,
// at notifyDir; from there readiness is passed on, and nothing else.
const (
	notifyDir  = "/run/notify"
	notifyName = "notify.sock"
)

type notifier struct {
	host string // address of the service manager's socket
	conn *net.UnixConn
}

func (s store) notifyDir(id string) string { return filepath.Join(s.root, id, "notify") }

// prepareNotify makes the directory of the container's socket and its place in spec.
func (a *app) prepareNotify(id string, spec *oci.Spec) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	dir := a.notifyDir(id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: notifyDir, Source: dir,
		Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"}})
	spec.Process.Env = append(spec.Process.Env, "NOTIFY_SOCKET="+filepath.Join(notifyDir, notifyName))
	return nil
}

// listenNotify opens the container's socket, before the container runs. It returns nil
// if nobody waits.
func (a *app) listenNotify(id string) (*notifier, error) {
	host := os.Getenv("NOTIFY_SOCKET")
	if host == "" {
		return nil, nil
	}
	if _, err := os.Stat(a.notifyDir(id)); errors.Is(err, os.ErrNotExist) {
		return nil, nil // it was created without
	}
	path := filepath.Join(a.notifyDir(id), notifyName)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o777); err != nil { // any user of the container
		conn.Close()
		return nil, err
	}
	return &notifier{host, conn}, nil
}

func (n *notifier) close() {
	if n != nil {
		n.conn.Close()
	}
}

// relay passes on that the container is ready, or returns when it has ended without.
func (n *notifier) relay(ctx context.Context, c *runtime.Container) error {
	if n == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.AwaitEnd(ctx)
		n.conn.Close()
	}()
	defer func() { <-ended }()
	defer cancel()
	var text [4096]byte
	for {
		size, err := n.conn.Read(text[:])
		if errors.Is(err, net.ErrClosed) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		for line := range bytes.Lines(text[:size]) {
			if line = bytes.TrimSpace(line); bytes.HasPrefix(line, []byte("READY=")) {
				return n.tell(line, c.Pid())
			}
		}
	}
}

func (n *notifier) tell(ready []byte, pid int) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.host, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(string(ready) + "\nMAINPID=" + strconv.Itoa(pid) + "\n"))
	return err
}
