package testkit

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is a program running on a terminal of its own, with a test at the keys.
type Terminal struct {
	t      testing.TB
	master *os.File
	cmd    *exec.Cmd
	line   *Line
	done   chan struct{}

	mu   sync.Mutex
	seen bytes.Buffer // guarded by mu
	more chan struct{}
}

// OnTerminal starts a program on a new terminal of 24 × 80.
func OnTerminal(t testing.TB, env []string, name string, args ...string) *Terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &Terminal{t: t, master: master, done: make(chan struct{}), more: make(chan struct{}, 1)}
	term.Resize(24, 80)
	term.cmd = exec.Command(name, args...)
	term.cmd.Env = env
	term.cmd.Stdin, term.cmd.Stdout, term.cmd.Stderr = slave, slave, slave
	term.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := term.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	term.line = NoteLine(t, name, args)
	go term.read()
	t.Cleanup(func() {
		_ = term.cmd.Process.Kill()
		master.Close()
		<-term.done
	})
	return term
}

func (p *Terminal) read() {
	defer close(p.done)
	buf := make([]byte, 4096)
	for {
		n, err := p.master.Read(buf)
		p.mu.Lock()
		p.seen.Write(buf[:n])
		p.mu.Unlock()
		select {
		case p.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// Type sends keys.
func (p *Terminal) Type(keys string) {
	p.t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		p.t.Fatalf("type %q: %v", keys, err)
	}
}

// Expect waits until the screen has shown text since the last Expect, and forgets what
// came up to it.
func (p *Terminal) Expect(text string) {
	p.t.Helper()
	deadline := time.After(patience)
	for ended := false; ; {
		p.mu.Lock()
		before, after, found := strings.Cut(p.seen.String(), text)
		if found {
			p.seen.Reset()
			p.seen.WriteString(after)
		}
		p.mu.Unlock()
		if found {
			return
		}
		select {
		case <-p.more:
		case <-p.done:
			if !ended { // what came last was perhaps not looked at yet
				ended = true
				continue
			}
			p.t.Fatalf("the program ended without showing %q; it showed %q", text, before)
		case <-deadline:
			p.t.Fatalf("waited for %q in vain; the screen shows %q", text, before)
		}
	}
}

// Resize changes the terminal's size, which tells the program by SIGWINCH.
func (p *Terminal) Resize(rows, cols uint16) {
	p.t.Helper()
	ws := unix.Winsize{Row: rows, Col: cols}
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &ws); err != nil {
		p.t.Fatal(err)
	}
}

// Raw reports whether the terminal is in raw mode (no echo, no line editing).
func (p *Terminal) Raw() bool {
	p.t.Helper()
	tio, err := unix.IoctlGetTermios(int(p.master.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return tio.Lflag&(unix.ICANON|unix.ECHO) == 0
}

// Exit waits for the program's end and returns its exit code.
func (p *Terminal) Exit() int {
	p.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case <-ended:
		p.line.Code = p.cmd.ProcessState.ExitCode()
		return p.line.Code
	case <-time.After(patience):
		p.mu.Lock()
		defer p.mu.Unlock()
		p.t.Fatalf("%v does not end; the screen shows %q", p.cmd.Args, p.seen.String())
		return -1
	}
}

// Pid is the program's process id, to send it signals.
func (p *Terminal) Pid() int { return p.cmd.Process.Pid }

// Echo reports whether the terminal shows what is typed.
func (p *Terminal) Echo() bool {
	p.t.Helper()
	tio, err := unix.IoctlGetTermios(int(p.master.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return tio.Lflag&unix.ECHO != 0
}
