package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Networks that an address may be of.
const (
	networkTLS      = "tls"
	networkUDP      = "udp"
	networkUnix     = "unix"
	networkUnixgram = "unixgram"
)

func dialTo(ctx context.Context, cfg Config) (net.Conn, error) {
	if cfg.Network == networkTLS {
		return dialTLS(ctx, cfg)
	}
	var d net.Dialer
	return d.DialContext(ctx, cfg.Network, cfg.Address)
}

// dialUnix connects to a socket whose kind nobody said for sure.
func dialUnix(ctx context.Context, network, path string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, path)
	if errors.Is(err, unix.EPROTOTYPE) {
		other := networkUnix
		if network == networkUnix {
			other = networkUnixgram
		}
		return d.DialContext(ctx, other, path)
	}
	return c, err
}

func isDatagram(c net.Conn) bool {
	network := c.RemoteAddr().Network()
	return network == networkUDP || network == networkUnixgram
}

func rawOf(c net.Conn) (syscall.RawConn, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, errors.New("not a system's connection")
	}
	return sc.SyscallConn()
}

// TLSRequest is what the relay is asked for.
type TLSRequest struct {
	Address string `json:"address"`
	TLS     TLS    `json:"tls"`
}

// relayFD is the relay's end of the connection.
const relayFD = 3

// dialTLS has another program encrypt: shims are counted per container, and most of them
// have no use for TLS. The relay ends with either side of the connection.
func dialTLS(ctx context.Context, cfg Config) (net.Conn, error) {
	if len(cfg.Relay) == 0 {
		return nil, errors.New("nobody here makes TLS connections")
	}
	request, err := json.Marshal(TLSRequest{Address: cfg.Address, TLS: cfg.TLS})
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "relay"), os.NewFile(uintptr(pair[1]), "relay")
	defer theirs.Close()
	defer ours.Close()
	path, err := exec.LookPath(cfg.Relay[0])
	if err != nil {
		return nil, fmt.Errorf("TLS relay: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	p, err := os.StartProcess(path, append(append([]string(nil), cfg.Relay...), string(request)), &os.ProcAttr{
		Dir: "/", Files: []*os.File{null, null, null, theirs}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("TLS relay: %w", err)
	}
	c, err := net.FileConn(ours)
	if err == nil {
		theirs.Close() // its end alone must say that it is gone
		err = greeted(ctx, c)
	}
	if err != nil {
		_ = p.Kill()
		if c != nil {
			c.Close()
		}
	}
	go func() { _, _ = p.Wait() }() // ends with the relay
	if err != nil {
		return nil, err
	}
	return c, nil
}

// greeted reads the relay's one line: empty when the server is connected, else an error.
func greeted(ctx context.Context, c net.Conn) error {
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	var line []byte
	for one := make([]byte, 1); len(line) < 4096; {
		if _, err := io.ReadFull(c, one); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("TLS relay: %w", err)
		}
		if one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	if len(line) > 0 {
		return errors.New(string(line))
	}
	return nil
}

// ServeTLS is the relay's side: it connects by dial, tells how that went, and passes bytes on
// until either side ends.
func ServeTLS(request string, dial func(TLSRequest) (net.Conn, error)) error {
	unix.CloseOnExec(relayFD)
	f := os.NewFile(relayFD, "sender")
	sender, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("descriptor %d is no connection: this is started by a shim: %w", relayFD, err)
	}
	defer sender.Close()
	var req TLSRequest
	if err := json.Unmarshal([]byte(request), &req); err != nil {
		return err
	}
	server, err := dial(req)
	if err != nil {
		_, err = fmt.Fprintln(sender, strings.ReplaceAll(err.Error(), "\n", " "))
		return err
	}
	defer server.Close()
	if _, err := sender.Write([]byte("\n")); err != nil {
		return err
	}
	ended := make(chan struct{}, 1)
	go func() { // ends with the server's connection
		_, _ = io.Copy(sender, bufio.NewReader(server))
		sender.Close()
		ended <- struct{}{}
	}()
	_, err = io.Copy(server, sender)
	server.Close() // says goodbye to the server, see crypto/tls
	<-ended
	return err
}
