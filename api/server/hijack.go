package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/engine"
)

// hijacker makes the callback by which the engine takes a client's connection over from
// HTTP: it writes the head of the answer and gives the connection away. After that the
// connection is the shim's; the server neither reads nor closes it.
func hijacker(w *writer, r *request, contentType string) engine.Hijack {
	return func() (net.Conn, []byte, error) {
		conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
		if err != nil {
			return nil, nil, fmt.Errorf("take over the connection: %w", err)
		}
		w.wrote = true
		prefix := make([]byte, rw.Reader.Buffered())
		if _, err := io.ReadFull(rw.Reader, prefix); err != nil {
			conn.Close()
			return nil, nil, err
		}
		if _, err := conn.Write(upgradeHead(r, w.Header(), contentType)); err != nil {
			conn.Close()
			return nil, nil, err
		}
		if _, ok := conn.(*net.UnixConn); ok {
			return conn, prefix, nil
		}
		if _, ok := conn.(*net.TCPConn); ok {
			return conn, prefix, nil
		}
		// What is not a plain socket, a TLS connection, cannot be handed to another
		// process: the shim gets one end of a pair, and we carry between the other and the client.
		inner, err := relay(conn)
		if err != nil {
			conn.Close()
			return nil, nil, err
		}
		return inner, prefix, nil
	}
}

// upgradeHead answers 101 to a client that asked for an upgrade and 200 to others; what
// follows are the raw streams either way.
func upgradeHead(r *request, h http.Header, contentType string) []byte {
	var b strings.Builder
	if r.Header.Get("Upgrade") != "" {
		b.WriteString("HTTP/1.1 101 UPGRADED\r\nContent-Type: " + contentType + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n")
	} else {
		b.WriteString("HTTP/1.1 200 OK\r\nContent-Type: " + contentType + "\r\n")
	}
	h = h.Clone()
	h.Del("Content-Type")
	_ = h.Write(&b)
	b.WriteString("\r\n")
	return []byte(b.String())
}

// socketPair makes two connected sockets, both closed on exec.
func socketPair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "stream")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, nil, errors.Join(err, closeFrom(conns[:i], fds[i+1:]))
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1], nil
}

func closeFrom(conns []*net.UnixConn, fds []int) (err error) {
	for _, c := range conns {
		err = errors.Join(err, c.Close())
	}
	for _, fd := range fds {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}

// farewell is how long a client of a relay may take to close its connection after all was said; as
// long as with a shim, who speaks to the others.
const farewell = 2 * time.Second

// relay carries bytes between outer and the returned connection until both directions
// have ended; an end of one direction is passed on as such.
func relay(outer net.Conn) (net.Conn, error) {
	inner, ours, err := socketPair()
	if err != nil {
		return nil, err
	}
	go func() { // ends with the container's output, or with the client
		inputEnded := make(chan struct{})
		go func() {
			defer close(inputEnded)
			passInput(ours, outer)
		}()
		_, _ = io.Copy(outer, ours)
		if c, ok := outer.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
			// Closed with input unread it would be reset, which takes the end of the output along.
			_ = outer.SetReadDeadline(time.Now().Add(farewell))
			<-inputEnded
		}
		outer.Close()
		<-inputEnded
		ours.Close()
	}()
	return inner, nil
}

// passInput carries what the client says until it says no more.
func passInput(container *net.UnixConn, client net.Conn) {
	from := &source{r: client}
	_, err := io.Copy(container, from)
	switch {
	case from.broken:
		container.Close() // the client is gone: a container that is silent would never notice
	case err == nil:
		_ = container.CloseWrite()
	default: // the container takes no more, and may still say something
		_, _ = io.Copy(io.Discard, client)
	}
}

// source remembers whether reading has failed.
type source struct {
	r      io.Reader
	broken bool
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.broken = err != nil && err != io.EOF
	return n, err
}
