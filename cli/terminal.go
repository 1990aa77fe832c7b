package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	mobyclient "github.com/moby/moby/client"
	"github.com/moby/term"
)

var errNotATerminal = errors.New("the input device is not a TTY")

// checkTTY refuses -t with an input that is attached but no terminal.
func (a *app) checkTTY(attachStdin, tty bool) error {
	if _, ok := terminalOf(a.In); attachStdin && tty && !ok {
		return errNotATerminal
	}
	return nil
}

// rawTerminal is the user's terminal while a container's pty is joined to it.
type rawTerminal struct {
	restoreOnce sync.Once
	fd          uintptr
	saved       *term.State
	stopSignals func()
}

// makeRaw puts the terminal behind the input into raw mode. It stays so until restore, which
// the caller defers; a fatal signal that nobody forwards restores it too, then acts as before.
// Without a terminal the result does nothing.
func (a *app) makeRaw() (*rawTerminal, error) {
	fd, ok := terminalOf(a.In)
	if !ok || os.Getenv("NORAW") != "" {
		return &rawTerminal{stopSignals: func() {}}, nil
	}
	saved, err := term.SetRawTerminal(fd)
	if err != nil {
		return nil, err
	}
	t := &rawTerminal{fd: fd, saved: saved, stopSignals: func() {}}
	if a.forwarding() {
		return t, nil // no signal is fatal: the container gets them all
	}
	fatal := make(chan os.Signal, 1)
	done := make(chan struct{})
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(s) { // as nohup has it: then it is not fatal
			signal.Notify(fatal, s)
		}
	}
	t.stopSignals = sync.OnceFunc(func() { signal.Stop(fatal); close(done) })
	go func() {
		select {
		case <-done:
		case s := <-fatal:
			t.restore()
			if number, ok := s.(syscall.Signal); ok {
				signal.Reset(number)
				_ = syscall.Kill(os.Getpid(), number)
			}
		}
	}()
	return t, nil
}

// restore gives the terminal back its mode; further calls do nothing.
func (t *rawTerminal) restore() {
	t.restoreOnce.Do(func() {
		t.stopSignals()
		if t.saved != nil {
			_ = term.RestoreTerminal(t.fd, t.saved)
		}
	})
}

// restoreOnPanic is deferred by goroutines that run beside the one that restores: a panic in
// them ends the process without that one's deferred calls.
func (t *rawTerminal) restoreOnPanic() {
	if p := recover(); p != nil {
		t.restore()
		panic(p)
	}
}

// consoleSize is the size of the user's terminal, zero when the output is none.
func (a *app) consoleSize() (height, width uint) {
	fd, ok := terminalOf(a.Out)
	if !ok {
		return 0, 0
	}
	size, err := term.GetWinsize(fd)
	if err != nil {
		return 0, 0
	}
	return uint(size.Height), uint(size.Width)
}

// followSize tells the engine the terminal's size now and at every change, until ctx ends.
// The first message may come before the pty exists, so it is repeated for a short while.
func (a *app) followSize(ctx context.Context, resize func(context.Context, mobyclient.ContainerResizeOptions) error) {
	if _, ok := terminalOf(a.Out); !ok {
		return
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	tell := func() error {
		height, width := a.consoleSize()
		if height == 0 && width == 0 {
			return nil
		}
		return resize(ctx, mobyclient.ContainerResizeOptions{Height: height, Width: width})
	}
	go func() {
		defer signal.Stop(changed)
		retry := time.NewTimer(0)
		defer retry.Stop()
		for attempt := 1; ; {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				_ = tell()
			case <-retry.C:
				if tell() != nil && attempt < 10 {
					retry.Reset(time.Duration(attempt) * 10 * time.Millisecond)
					attempt++
				}
			}
		}
	}()
}
