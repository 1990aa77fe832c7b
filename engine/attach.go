package engine

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"syscall"

	"github.com/moby/term"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/logs"
	"berth/supervisor"
)

// AttachOptions of Attach. Replay sends what was logged before first (logs=1).
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Stream, Replay        bool
	DetachKeys            string
}

const defaultDetachKeys = "ctrl-p,ctrl-q"

// detachKeys validates keys; empty means the default.
func detachKeys(keys string) (string, error) {
	if keys == "" {
		return defaultDetachKeys, nil
	}
	if _, err := term.ToBytes(keys); err != nil {
		return "", fail.New(fail.Invalid, "Invalid detach keys (%s) provided", keys)
	}
	return keys, nil
}

func attach(ctx context.Context, i *instance, o AttachOptions, hijack Hijack, ann announcer) error {
	keys, err := detachKeys(o.DetachKeys)
	if err != nil {
		return err
	}
	c := i.now()
	switch c.State.Status {
	case paused:
		return fail.New(fail.Conflict, "container %s is paused, unpause the container before attach", c.ID)
	case restarting:
		return fail.New(fail.Conflict, "container %s is restarting, wait until the container is running", c.ID)
	case removing, dead:
		return fail.New(fail.Conflict, "container %s is marked for removal and cannot be attached to", c.ID)
	}
	if o.Replay {
		if log, err := logOptions(c); err != nil || log.Unread {
			return cmp.Or(err, noLog())
		}
	}
	conn, prefix, err := hijack()
	if err != nil {
		return err
	}
	// A client that has said all and left at once cancels its request. It is heard all the same.
	ctx = context.WithoutCancel(ctx)
	tty := c.Config.Tty
	if o.Replay {
		if err := replay(ctx, conn, i, o, !tty); err != nil {
			_ = conn.Close()
			return fmt.Errorf("send the log to an attached client: %w", err)
		}
	}
	if !o.Stream {
		return conn.Close()
	}
	a := supervisor.Attachment{Conn: conn, AttachOptions: supervisor.AttachOptions{
		Stdin: o.Stdin && c.Config.OpenStdin, Stdout: o.Stdout, Stderr: o.Stderr, Framed: !tty, Prefix: prefix,
	}}
	if tty && a.Stdin {
		a.DetachKeys = keys
	}
	i.mu.Lock()
	r := i.run
	switch {
	case i.removed:
		_ = conn.Close()
	case r == nil:
		i.pending = append(i.present(), a)
	}
	i.mu.Unlock()
	if r != nil {
		if err := r.shim.Attach(ctx, a); err != nil {
			_ = conn.Close() // there are no streams to follow, and nobody else knows of it
			return asGone(err, c)
		}
	}
	ann.tell(c, "attach") // who hears of it can rely on all that follows being sent
	return nil
}

// present drops from the clients that wait for a start those that have left. The
// caller holds mu.
func (i *instance) present() []supervisor.Attachment {
	kept := i.pending[:0]
	for _, a := range i.pending {
		if hungUp(a.Conn) {
			_ = a.Conn.Close()
			continue
		}
		kept = append(kept, a)
	}
	i.pending = kept
	return kept
}

// hungUp reports whether the peer has closed its end altogether; one that only shut
// down its sending side still listens.
func hungUp(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP and POLLERR are always told
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

// replay writes what was logged so far.
func replay(ctx context.Context, conn net.Conn, i *instance, o AttachOptions, framed bool) error {
	read := logs.ReadOptions{Stdout: o.Stdout, Stderr: o.Stderr, Tail: -1}
	return i.readLog(ctx, read, func(e logs.Entry) error {
		if !framed {
			_, err := conn.Write(e.Line)
			return err
		}
		_, err := conn.Write(frame(e.Stream, e.Line))
		return err
	})
}

// frame puts Docker's eight-byte header before data: stream, three zeros, length.
func frame(stream string, data []byte) []byte {
	out := make([]byte, 8, 8+len(data))
	out[0] = 1
	if stream == logs.Stderr {
		out[0] = 2
	}
	binary.BigEndian.PutUint32(out[4:], uint32(len(data)))
	return append(out, data...)
}
