package server

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"berth/fail"
)

// attachWebSocket joins a WebSocket client (RFC 6455) to a container's streams: what the
// container writes comes as binary messages, without Docker's frames; what the client sends
// is the container's input. The shim gets one end of a socket pair, we translate.
func attachWebSocket(w *writer, r *request) error {
	c, err := r.s.Containers.Get(r.path["id"])
	if err != nil {
		return err
	}
	accept, err := webSocketAccept(r.Request)
	if err != nil {
		return err
	}
	o := attachOptions(r)
	// Docker attaches what is asked for; a client that names no stream gets all.
	if !o.Stdin && !o.Stdout && !o.Stderr {
		o.Stdin, o.Stdout, o.Stderr = true, true, true
	}
	hijack := func() (net.Conn, []byte, error) {
		conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
		if err != nil {
			return nil, nil, fmt.Errorf("take over the connection: %w", err)
		}
		w.wrote = true
		head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n"
		if _, err := io.WriteString(conn, head); err != nil {
			conn.Close()
			return nil, nil, err
		}
		inner, ours, err := socketPair()
		if err != nil {
			conn.Close()
			return nil, nil, err
		}
		ws := &webSocket{conn: conn, r: rw.Reader}
		go ws.serve(ours, !c.Config.Tty)
		return inner, nil, nil
	}
	return r.s.Containers.Attach(r.Context(), c.ID, o, hijack)
}

// webSocketAccept checks the handshake and computes its answer (RFC 6455, 4.2).
func webSocketAccept(r *http.Request) (string, error) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || key == "" {
		return "", fail.New(fail.Invalid, "this endpoint speaks WebSocket: the upgrade headers are missing")
	}
	if v := r.Header.Get("Sec-WebSocket-Version"); v != "13" {
		return "", fail.New(fail.Invalid, "unsupported WebSocket version %q: use 13", v)
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

// webSocket is the server's side of one connection.
type webSocket struct {
	conn net.Conn
	r    *bufio.Reader
	mu   sync.Mutex // guards writing
}

// Frame opcodes, RFC 6455, 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// serve carries between the client and stream until either ends. A stream without a
// terminal is framed by the shim; its frames' headers are taken off.
func (ws *webSocket) serve(stream *net.UnixConn, framed bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if ws.receive(stream) == nil {
			_ = stream.CloseWrite() // the client closed: its input has ended
			return
		}
		stream.Close()
	}()
	_ = ws.sendAll(stream, framed)
	_ = ws.write(opClose, []byte{0x03, 0xE8}) // 1000, normal closure
	// The client's own comes back (RFC 6455, 7.1.1). Closed with input unread the connection would be
	// reset, which takes the end of the output along.
	_ = ws.conn.SetReadDeadline(time.Now().Add(farewell))
	<-done
	ws.conn.Close()
	stream.Close()
}

func (ws *webSocket) sendAll(stream io.Reader, framed bool) error {
	r := bufio.NewReaderSize(stream, 32<<10)
	buf := make([]byte, 32<<10)
	for {
		n, limit := 0, len(buf)
		var err error
		if framed {
			var h [8]byte
			if _, err = io.ReadFull(r, h[:]); err != nil {
				return err
			}
			for left := int(binary.BigEndian.Uint32(h[4:])); left > 0; left -= n {
				if n, err = io.ReadFull(r, buf[:min(left, limit)]); err != nil {
					return err
				}
				if err = ws.write(opBinary, buf[:n]); err != nil {
					return err
				}
			}
			continue
		}
		if n, err = r.Read(buf); n > 0 {
			if err := ws.write(opBinary, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// receive writes the client's messages to stream until it closes (nil) or its connection breaks.
func (ws *webSocket) receive(stream io.Writer) error {
	for {
		op, payload, err := readFrame(ws.r)
		if err != nil {
			return err
		}
		switch op {
		case opClose:
			return nil
		case opPing:
			err = ws.write(opPong, payload)
		case opText, opBinary, opContinuation:
			if _, err := stream.Write(payload); err != nil {
				stream = io.Discard // the container takes no more, and may still say something
			}
		}
		if err != nil {
			return err
		}
	}
}

const maxFrame = 1 << 20

var errFrame = errors.New("malformed WebSocket frame")

// readFrame reads one frame of a client, which must be masked.
func readFrame(r io.Reader) (op byte, payload []byte, err error) {
	var h [2]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	op = h[0] & 0x0F
	if h[0]&0x70 != 0 || h[1]&0x80 == 0 {
		return 0, nil, errFrame
	}
	n := uint64(h[1] & 0x7F)
	switch n {
	case 126:
		var b [2]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	if n > maxFrame || (op >= opClose && n > 125) {
		return 0, nil, errFrame
	}
	var mask [4]byte
	if _, err := io.ReadFull(r, mask[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return op, payload, nil
}

// write sends one whole message.
func (ws *webSocket) write(op byte, payload []byte) error {
	h := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		h = append(h, byte(n))
	case n <= 0xFFFF:
		h = binary.BigEndian.AppendUint16(append(h, 126), uint16(n))
	default:
		h = binary.BigEndian.AppendUint64(append(h, 127), uint64(n))
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if _, err := ws.conn.Write(h); err != nil {
		return err
	}
	_, err := ws.conn.Write(payload)
	return err
}
