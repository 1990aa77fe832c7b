package client

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"berth/fail"
)

// far is a host that is reached by the system's ssh(1): ssh://[USER@]HOST[:PORT][/SOCKET]. Each
// connection is a process whose far end runs "berth system dial-stdio", or docker's where
// there is no berth. Of all of them one makes the connection to the machine and the others share it for a
// minute (ControlMaster in ssh_config(5)), unless the user's configuration settles that.
type far struct {
	url                      string
	user, name, port, socket string

	once  sync.Once
	args  []string
	fault error
}

// parseSSH reads an ssh:// host.
func parseSSH(text string) (*far, error) {
	u, err := url.Parse(text)
	bad := func(why string) (*far, error) {
		return nil, fail.New(fail.Invalid, "invalid host %q: %s", text, why)
	}
	switch {
	case err != nil:
		return nil, fail.New(fail.Invalid, "invalid host: %w", err)
	case u.Hostname() == "":
		return bad("it names no machine")
	case strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.User.Username(), "-"):
		return bad("a name cannot begin with a hyphen")
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return bad("use ssh://[USER@]HOST[:PORT][/SOCKET]; options of ssh belong into its configuration, ~/.ssh/config")
	}
	if _, given := u.User.Password(); given {
		return nil, fail.New(fail.Invalid, "invalid host ssh://%s: a password cannot be given here: use a key", u.Hostname())
	}
	f := &far{url: text, user: u.User.Username(), name: u.Hostname(), port: u.Port()}
	if strings.Trim(u.Path, "/") != "" {
		f.socket = u.Path
	}
	return f, nil
}

// destination are ssh's arguments that say where to.
func (f *far) destination() (args []string) {
	if f.user != "" {
		args = append(args, "-l", f.user)
	}
	if f.port != "" {
		args = append(args, "-p", f.port)
	}
	return append(args, "--", f.name)
}

// command is what the far shell is to run, whichever shell that is.
func (f *far) command() string {
	host := ""
	if f.socket != "" {
		host = " --host " + quote("unix://"+f.socket)
	}
	script := "if command -v berth >/dev/null 2>&1; then exec berth" + host + " system dial-stdio; " +
		"elif command -v docker >/dev/null 2>&1; then exec docker" + host + " system dial-stdio; else exit 127; fi"
	return "sh -c " + quote(script)
}

// quote makes one word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// prepare composes ssh's command line, once.
func (f *far) prepare(ctx context.Context) ([]string, error) {
	f.once.Do(func() {
		if _, err := exec.LookPath("ssh"); err != nil {
			f.fault = fail.New(fail.Unavailable, "%s needs the program ssh: %w", f.url, err)
			return
		}
		f.args = append([]string{"-T", "-o", "ConnectTimeout=30"}, f.reuse(ctx)...)
		f.args = append(append(f.args, f.destination()...), f.command())
	})
	return f.args, f.fault
}

// reuse are the options by which connections to one machine become one. Whoever has
// configured that (a ControlPath) knows why; what cannot be done costs only time.
func (f *far) reuse(ctx context.Context) []string {
	config, err := exec.CommandContext(ctx, "ssh", append([]string{"-G"}, f.destination()...)...).Output()
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(config)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "controlpath "); ok && path != "none" {
			return nil
		}
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = os.TempDir()
	}
	dir = filepath.Join(dir, fmt.Sprintf("berth-ssh-%d", os.Geteuid()))
	const longest = 108 - 1 - 40 - 18 // of sun_path: a hash, and what ssh appends while it binds
	if len(dir) > longest || strings.ContainsAny(dir, "% \"'") || os.MkdirAll(dir, 0o700) != nil || ours(dir) != nil {
		return nil
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		return nil
	}
	return []string{"-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", "ControlPath=" + filepath.Join(dir, "%C")}
}

// dial makes one connection. That it cannot be made is known when the first answer is awaited.
func (f *far) dial(ctx context.Context) (net.Conn, error) {
	args, err := f.prepare(ctx)
	if err != nil {
		return nil, err
	}
	var pipes [6]*os.File // read and write ends: ssh's input, output, and errors
	for i := 0; i < len(pipes); i += 2 {
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			closeFiles(pipes[:i]...)
			return nil, err
		}
	}
	// Not bound to ctx: the connection outlives the request that it was made for. A session of its
	// own keeps the terminal's signals away; when we die it goes too.
	cmd := exec.Command("ssh", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pipes[0], pipes[3], pipes[5]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	err = cmd.Start()
	closeFiles(pipes[0], pipes[3], pipes[5])
	if err != nil {
		closeFiles(pipes[1], pipes[2], pipes[4])
		return nil, fail.New(fail.Unavailable, "%s: %w", f.url, err)
	}
	c := &farConn{far: f, in: pipes[1], out: pipes[2], cmd: cmd, ended: make(chan struct{})}
	go c.await(pipes[4])
	return c, nil
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// farConn is a connection through an ssh process.
type farConn struct {
	far     *far
	in, out *os.File
	cmd     *exec.Cmd
	heard   bool          // the far end has said something
	ended   chan struct{} // the process has; the fields below are set
	code    int
	said    string
}

// await keeps the last that ssh has to say, and reaps it.
func (c *farConn) await(errs *os.File) {
	var tail []byte
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := errs.Read(buf)
			if tail = append(tail, buf[:n]...); len(tail) > 8192 {
				tail = tail[len(tail)-4096:]
			}
			if err != nil {
				return
			}
		}
	}()
	_ = c.cmd.Wait()
	// A connection that is shared for a minute may hold the other end for as long.
	_ = errs.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-read
	errs.Close()
	c.code, c.said = c.cmd.ProcessState.ExitCode(), string(tail)
	close(c.ended)
}

func (c *farConn) Read(p []byte) (int, error) {
	n, err := c.out.Read(p)
	c.heard = c.heard || n > 0
	if err == io.EOF && !c.heard {
		select {
		case <-c.ended:
			if c.code != 0 {
				return n, c.failure()
			}
		case <-time.After(5 * time.Second): // its output has ended, but not it
		}
	}
	return n, err
}

// failure tells why the far end never answered.
func (c *farConn) failure() error {
	lines := strings.FieldsFunc(c.said, func(r rune) bool { return r == '\n' || r == '\r' })
	why := fmt.Sprintf("ssh ended with code %d", c.code)
	if len(lines) > 0 {
		why = lines[len(lines)-1]
	}
	if c.code == 127 {
		why = "neither berth nor docker is installed there, or not in the PATH of commands that ssh runs"
	}
	return &UnreachableError{fail.New(fail.Unavailable, "Cannot connect to the engine at %s: %s", c.far.url, why)}
}

// UnreachableError says why the way to a far engine could not be gone, in full.
type UnreachableError struct{ error }

func (e *UnreachableError) Unwrap() error { return e.error }

func (c *farConn) Write(p []byte) (int, error) {
	n, err := c.in.Write(p)
	if err != nil {
		select {
		case <-c.ended:
			if c.code != 0 {
				return n, c.failure()
			}
		case <-time.After(time.Second):
		}
	}
	return n, err
}

// CloseWrite tells the far end that no more comes.
func (c *farConn) CloseWrite() error { return c.in.Close() }

// Close ends the process, which may have nobody at its other end any more.
func (c *farConn) Close() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	c.in.Close()
	return c.out.Close()
}

type farAddr string

func (a farAddr) Network() string { return "ssh" }
func (a farAddr) String() string  { return string(a) }

func (c *farConn) LocalAddr() net.Addr  { return farAddr("here") }
func (c *farConn) RemoteAddr() net.Addr { return farAddr(c.far.url) }

func (c *farConn) SetReadDeadline(t time.Time) error  { return c.out.SetReadDeadline(t) }
func (c *farConn) SetWriteDeadline(t time.Time) error { return c.in.SetWriteDeadline(t) }

func (c *farConn) SetDeadline(t time.Time) error {
	if err := c.in.SetWriteDeadline(t); err != nil {
		return err
	}
	return c.out.SetReadDeadline(t)
}
