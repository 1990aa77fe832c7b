package supervisor

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/fail"
)

func wirePair(t *testing.T) (a, b *wire) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return newWire(conns[0]), newWire(conns[1])
}

func TestFramesArriveInOrderWithTheirDescriptors(t *testing.T) {
	a, b := wirePair(t)
	big := strings.Repeat("x", 300_000) // more than a socket's buffer
	for i := range 20 {
		var files []int
		body := any("small")
		if i%3 == 0 {
			body = big
		}
		for range i % 4 {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			w.WriteString(string(rune('a' + i)))
			w.Close()
			fd, err := unix.Dup(int(r.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			files = append(files, fd)
		}
		if err := a.send(frame{ID: uint64(i), Op: "test"}, body, files); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		f, files, err := b.receive()
		if err != nil {
			t.Fatal(err)
		}
		if f.ID != uint64(i) || len(files) != i%4 || f.Version != ProtocolVersion {
			t.Errorf("frame %d: id %d with %d files", i, f.ID, len(files))
		}
		for _, fd := range files {
			got := make([]byte, 2)
			n, _ := unix.Read(fd, got)
			if string(got[:max(n, 0)]) != string(rune('a'+i)) {
				t.Errorf("frame %d: its file reads %q", i, got[:max(n, 0)])
			}
			flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("frame %d: the descriptor is inherited by children", i)
			}
			unix.Close(fd)
		}
	}
	a.drained()
	a.close()
	if _, _, err := b.receive(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if err := a.send(frame{}, nil, nil); !fail.Is(err, fail.NotFound) {
		t.Errorf("after close: %v", err)
	}
}

// A shim that refuses a creation answers and ends, maybe before the sender has looked at what
// became of its request: sending must not fail for that, or the answer goes unread.
func TestAFrameThatHasArrivedIsSentThoughItsReceiverHasGone(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for range 5000 {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fds[0]), "pair")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = unix.Read(fds[1], make([]byte, 8)) // blocks, so that it goes on at the very moment
			unix.Close(fds[1])
		}()
		fd, err := unix.Dup(int(null.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if err := newWire(conn.(*net.UnixConn)).write(parcel{[]byte("x"), []int{fd}}); err != nil {
			t.Fatal(err)
		}
		<-gone
		conn.Close()
	}
}

func TestBrokenFramesAreRefused(t *testing.T) {
	for name, raw := range map[string][]byte{
		"too large":               {0xff, 0xff, 0xff, 0xff, 'x'},
		"cut":                     {0, 0, 0, 9, '{'},
		"not JSON":                {0, 0, 0, 1, 'x'},
		"files that did not come": append([]byte{0, 0, 0, 11}, `{"files":1}`...),
	} {
		a, b := wirePair(t)
		a.conn.Write(raw)
		a.conn.Close()
		if f, _, err := b.receive(); err == nil || err == io.EOF {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

func TestErrorsKeepClassAndText(t *testing.T) {
	for c := fail.Internal; c <= fail.Canceled; c++ {
		err := toWire(fail.New(c, "text")).err()
		if fail.Of(err) != c || err.Error() != "text" {
			t.Errorf("%v became %v: %v", c, fail.Of(err), err)
		}
	}
	if err := (&wireError{Class: "of the future", Text: "t"}).err(); fail.Of(err) != fail.Internal {
		t.Errorf("an unknown class became %v", fail.Of(err))
	}
	if toWire(nil).err() != nil {
		t.Error("nil became an error")
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"v":1,"id":3,"op":"state","body":{}}`), 2)
	f.Fuzz(func(t *testing.T, body []byte, split int) {
		a, b := wirePair(t)
		raw := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
		raw = append(raw, body...)
		split = max(0, min(split, len(raw)))
		go func() {
			a.conn.Write(raw[:split])
			a.conn.Write(raw[split:])
			a.conn.Close()
		}()
		if _, files, err := b.receive(); err == nil && len(files) > 0 {
			t.Error("files out of nothing")
		} else if errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
}
