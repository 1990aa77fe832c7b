package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

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

// relay carries bytes between outer and the returned connection until both directions
// have ended; an end of one direction is passed on as such.
func relay(outer net.Conn) (net.Conn, error) {
	inner, ours, err := socketPair()
	if err != nil {
		return nil, err
	}
	go func() {
		done := make(chan struct{})
		go func() { // client → container
			if _, err := io.Copy(ours, outer); err != nil {
				ours.Close() // the client is gone: a container that is silent would never notice
			} else {
				_ = ours.CloseWrite()
			}
			close(done)
		}()
		_, _ = io.Copy(outer, ours) // container → client
		if c, ok := outer.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
		// The container's streams have ended: what the client may still say has no reader.
		outer.Close()
		<-done
		ours.Close()
	}()
	return inner, nil
}
