package daemon

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"berth/fail"
)

// listener is one socket that the API is served on. It can stop accepting without losing
// a client: see stop.
type listener struct {
	net.Listener
	host      host
	path      string // of a unix socket that we made
	made      os.FileInfo
	group     string // its group
	inherited bool   // from systemd, who keeps it when we end
	tls       *tls.Config
	stopping  atomic.Bool
}

// listenAll opens every host's socket. Inherited ones that are named come first: what is to be
// read-only must not be taken by a host that takes all.
func listenAll(s *Settings) ([]*listener, error) {
	hosts := slices.Clone(s.listen)
	slices.SortStableFunc(hosts, func(a, b host) int { return cmp.Compare(takesAll(a), takesAll(b)) })
	taken := map[int]bool{}
	var out []*listener
	for _, h := range hosts {
		ls, err := listen(h, s, taken)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, ls...)
	}
	return out, nil
}

func takesAll(h host) int {
	if h.scheme == "fd" && (h.addr == "" || h.addr == "*") {
		return 1
	}
	return 0
}

func closeAll(ls []*listener) {
	for _, l := range ls {
		l.Close()
	}
}

func listen(h host, s *Settings, taken map[int]bool) ([]*listener, error) {
	switch h.scheme {
	case "unix":
		group := h.group
		if group == "" {
			group = s.Group
		}
		l, err := listenUnix(h.addr, group)
		if err != nil {
			return nil, err
		}
		l.host = h
		return []*listener{l}, nil
	case "fd":
		return inheritedListeners(h, taken)
	}
	conf, err := serverTLS(s)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", h.addr)
	if err != nil {
		return nil, fail.New(fail.Unavailable, "listen on %s: %w", h.text, err)
	}
	return []*listener{{Listener: l, host: h, tls: conf}}, nil
}

// listenUnix makes a socket at path: 0660, of the socket's group, in place at once. A
// socket that somebody else serves is not taken away.
func listenUnix(path, group string) (*listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fail.New(fail.Conflict, "listen on %s: another process serves this socket", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	gid, err := socketGroup(group)
	if err != nil {
		return nil, err
	}
	// Bound under another name and renamed, so that nobody meets it with wrong rights.
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	old := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		if len(tmp) > 107 {
			return nil, fail.New(fail.Invalid, "listen on %s: the path of a unix socket cannot be longer than %d bytes", path, 107-len(".new"))
		}
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if gid >= 0 {
		err = os.Chown(tmp, -1, gid)
	}
	made, statErr := os.Lstat(tmp)
	err = errors.Join(err, statErr, os.Chmod(tmp, 0o660), os.Rename(tmp, path))
	if err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &listener{Listener: l, host: host{text: "unix://" + path, scheme: "unix", addr: path}, path: path, made: made, group: group}, nil
}

// socketGroup is the ID of the group that may talk to us; -1 leaves it as it is.
func socketGroup(name string) (int, error) {
	if os.Geteuid() != 0 {
		return -1, nil
	}
	asked := name != ""
	if !asked {
		name = "berth"
	}
	if id, err := strconv.Atoi(name); err == nil {
		return id, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		if asked {
			return 0, fail.New(fail.Invalid, "group %s of the socket does not exist", name)
		}
		return -1, nil
	}
	return strconv.Atoi(g.Gid)
}

// firstInherited is the first descriptor that systemd passes.
const firstInherited = 3

// passed are the names of the sockets that systemd passed to us, in order (sd_listen_fds(3)).
// They are taken out of the environment, for they are not for those whom we start.
var passed = sync.OnceValue(func() []string {
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name) // fails for impossible names only
	}
	if pid != os.Getpid() || n < 0 {
		return nil
	}
	for len(names) < n {
		names = append(names, "")
	}
	return names[:n]
})

// inheritedPath is where the first of them can be reached. It is remembered, for a reload asks when
// the descriptors are gone.
var inheritedPath = sync.OnceValues(func() (string, error) {
	for i := range passed() {
		if sa, err := syscall.Getsockname(firstInherited + i); err == nil {
			if u, ok := sa.(*syscall.SockaddrUnix); ok && strings.HasPrefix(u.Name, "/") {
				return u.Name, nil
			}
		}
	}
	return "", fail.New(fail.Invalid, "fd://: no unix socket was passed to this process")
})

// inheritedListeners takes the sockets of systemd's socket activation (sd_listen_fds(3)):
// all of them, or the one whose number or name the host is. None is taken twice.
func inheritedListeners(h host, taken map[int]bool) ([]*listener, error) {
	const first = firstInherited
	addr := h.addr
	var out []*listener
	for i, name := range passed() {
		if taken[i] || takesAll(h) == 0 && addr != strconv.Itoa(first+i) && addr != name {
			continue
		}
		taken[i] = true
		f := os.NewFile(uintptr(first+i), "LISTEN_FD")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			closeAll(out)
			return nil, fail.New(fail.Invalid, "fd://%s: descriptor %d is not a listening socket: %w", addr, first+i, err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		} else {
			l.Close()
			closeAll(out)
			return nil, fail.New(fail.Invalid, "fd://%s: descriptor %d is not a unix socket", addr, first+i)
		}
		at := h
		at.text = "fd://" + l.Addr().String()
		out = append(out, &listener{Listener: l, host: at, inherited: true})
	}
	if len(out) == 0 {
		return nil, fail.New(fail.Invalid, "fd://%s: no such socket was passed to this process", addr)
	}
	return out, nil
}

var errStopped = errors.New("the socket takes no more clients")

// Accept ends with errStopped after stop, when the clients that had connected before are
// accepted.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil && l.stopping.Load() {
		conn, err = l.drain()
	}
	if err == nil && l.tls != nil {
		conn = tls.Server(conn, l.tls)
	}
	return conn, err
}

// stop takes no more clients, in a way that none is lost. On a socket of ours the read
// side is shut down: from then on connect(2) is refused, while those who connected before
// are still in the queue, and Accept hands them out until it is empty. systemd's socket is
// left alone: who is in its queue starts the next engine.
func (l *listener) stop() error {
	l.stopping.Store(true)
	switch s := l.Listener.(type) {
	case *net.UnixListener:
		if !l.inherited {
			if err := control(s, func(fd int) error { return syscall.Shutdown(fd, syscall.SHUT_RD) }); err != nil {
				return err
			}
		}
		return s.SetDeadline(time.Unix(1, 0)) // the shutdown alone does not wake a waiting Accept
	default:
		return s.Close()
	}
}

// drain accepts one who waits in the queue of a stopped socket. It goes around the
// deadline that woke us.
func (l *listener) drain() (net.Conn, error) {
	u, ok := l.Listener.(*net.UnixListener)
	if !ok || l.inherited {
		return nil, errStopped
	}
	client := -1
	err := control(u, func(fd int) (err error) {
		client, _, err = syscall.Accept4(fd, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
		return err
	})
	if err != nil {
		return nil, errStopped
	}
	f := os.NewFile(uintptr(client), "client")
	defer f.Close()
	return net.FileConn(f)
}

func control(l *net.UnixListener, fn func(fd int) error) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = fn(int(fd)) })
	return errors.Join(err, inner)
}

// reopen makes a stopped listener usable again.
func (l *listener) reopen() (*listener, error) {
	if l.path == "" {
		l.stopping.Store(false)
		if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok {
			return l, d.SetDeadline(time.Time{})
		}
		return l, nil
	}
	fresh, err := listenUnix(l.path, l.group)
	if err != nil {
		return nil, err
	}
	fresh.host = l.host
	l.Close()
	return fresh, nil
}

// Close ends a listener for good and removes a socket that is ours.
func (l *listener) Close() error {
	return l.Listener.Close()
}

// remove takes our socket's name away, if it is still ours: systemd makes its socket without our
// lock. Only who holds the engine's lock may do so, and before Close: until then no other file can be
// taken for ours.
func (l *listener) remove() {
	if l.path == "" {
		return
	}
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
		os.Remove(l.path)
	}
}

// serverTLS is nil without --tls, and demands certificates of both sides with --tlsverify.
func serverTLS(s *Settings) (*tls.Config, error) {
	if !s.TLS && !s.TLSVerify {
		return nil, nil
	}
	home, _ := os.UserHomeDir()
	file := func(given, name string) string {
		if given != "" {
			return given
		}
		return filepath.Join(home, ".docker", name)
	}
	cert, err := tls.LoadX509KeyPair(file(s.TLSCert, "cert.pem"), file(s.TLSKey, "key.pem"))
	if err != nil {
		return nil, fail.New(fail.Invalid, "TLS: %w", err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if !s.TLSVerify {
		return conf, nil
	}
	ca, err := os.ReadFile(file(s.TLSCA, "ca.pem"))
	if err != nil {
		return nil, fail.New(fail.Invalid, "TLS: %w", err)
	}
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if !conf.ClientCAs.AppendCertsFromPEM(ca) {
		return nil, fail.New(fail.Invalid, "TLS: %s holds no certificate", file(s.TLSCA, "ca.pem"))
	}
	return conf, nil
}
