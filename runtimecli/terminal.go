package runtimecli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"berth/fail"
	"berth/runtime"
)

// sendFile hands a descriptor to whoever listens at a unix socket, with its name as the
// message, as runc does.
func sendFile(socket string, f *os.File) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	ctrlErr := raw.Control(func(fd uintptr) {
		n, _, err = conn.(*net.UnixConn).WriteMsgUnix([]byte(f.Name()), unix.UnixRights(int(fd)), nil)
	})
	if err == nil && n != len(f.Name()) {
		err = io.ErrShortWrite
	}
	return errors.Join(ctrlErr, err)
}

func sendPidfd(socket string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	if err := sendFile(socket, f); err != nil {
		return fmt.Errorf("send the process descriptor: %w", err)
	}
	return nil
}

// foreground starts a process, lends it our terminal and signals, and waits for its end.
// The result is its exit code.
func (a *app) foreground(p *runtime.Process, caught *caughtSignals, start func() error) (int, error) {
	caught.catching.Wait()
	if err := start(); err != nil {
		return 1, err
	}
	caught.catching.Go(func() { signal.Notify(caught.signals) })
	detach, err := lendTerminal(p.Console())
	if err != nil {
		return 1, err
	}
	done := make(chan struct{})
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		forward(p, caught.signals, done)
	}()
	exit, err := p.Wait()
	close(done)
	<-forwarded
	detach()
	if err != nil {
		return 1, err
	}
	return exit.Code, nil
}

// caughtSignals are those for a process that runs in the foreground. What comes before it
// exists is kept for it.
//
// Every signal that is caught or given back costs two thread switches, all of them together
// some milliseconds. So the usual ones are caught while the process is made, the rare ones
// while it runs, and the end of this program is faster than giving them back.
type caughtSignals struct {
	signals  chan os.Signal
	catching sync.WaitGroup
}

func catchSignals() *caughtSignals {
	c := &caughtSignals{signals: make(chan os.Signal, 32)}
	c.catching.Go(func() { signal.Notify(c.signals, usualSignals...) })
	return c
}

// release gives the signals back, without waiting for it.
func (c *caughtSignals) release() {
	go func() {
		c.catching.Wait()
		signal.Stop(c.signals)
	}()
}

// usualSignals are those that people, shells, terminals and service managers send.
var usualSignals = []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH}

// forward passes signals on until done. Some mean this program alone: SIGCHLD, SIGURG
// (which Go's scheduler sends to itself), SIGPIPE and, with a terminal, SIGWINCH.
func forward(p *runtime.Process, signals <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case s := <-signals:
			switch s {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE:
			case unix.SIGWINCH:
				copySize(p.Console())
			default:
				p.Signal(s.(unix.Signal))
			}
		}
	}
}

func copySize(console *os.File) {
	if console == nil {
		return
	}
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return
	}
	if raw, err := console.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	}
}

// lendTerminal connects our standard streams with the process's terminal. The returned
// function, called when the process has ended, waits for its last output.
func lendTerminal(console *os.File) (detach func(), err error) {
	if console == nil {
		return func() {}, nil
	}
	restore := func() {}
	if term.IsTerminal(0) {
		copySize(console)
		old, err := term.MakeRaw(0)
		if err != nil {
			return nil, fail.New(fail.Internal, "make the terminal raw: %w", err)
		}
		restore = func() { term.Restore(0, old) }
	}
	// Reading our input ends with this program: nothing can interrupt it.
	go io.Copy(console, os.Stdin)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(os.Stdout, console) // ends with EIO when the last process has closed its side
	}()
	return func() {
		<-drained
		restore()
	}, nil
}
