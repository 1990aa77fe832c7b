package supervisor

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// docker-py reads the head of the answer through a buffer and loses what comes with it.
func TestOutputIsNotReadTogetherWithTheHeadBeforeIt(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[1]), "peer")
	peer, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := unix.Write(fds[0], []byte("head")); err != nil {
		t.Fatal(err)
	}
	c, err := newClient(fds[0], AttachOptions{Stdout: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	c.write(toStdout, []byte("one "))
	c.write(toStdout, []byte("two"))
	buf := make([]byte, 100)
	if n, err := peer.Read(buf); err != nil || string(buf[:n]) != "head" {
		t.Errorf("the first read is %q, %v", buf[:n], err)
	}
	c.finish()
	if err := peer.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(peer); err != nil || string(rest) != "one two" {
		t.Errorf("then comes %q, %v", rest, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone, c.unread = true, true
	c.settle()
}
