package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	mobyclient "github.com/moby/moby/client"
	mobysignal "github.com/moby/sys/signal"
)

// signalForwarder passes the signals this process gets on to a container.
type signalForwarder struct {
	received chan os.Signal
	stop     chan struct{}
	done     chan struct{}
}

// catchSignals begins to collect signals in place of being cancelled by them; forward says
// where they go. Those that arrive between the two wait, so a Ctrl-C is never lost.
func (a *app) catchSignals() *signalForwarder {
	a.stopCancelOnSignal()
	f := &signalForwarder{received: make(chan os.Signal, 128), stop: make(chan struct{}), done: make(chan struct{})}
	signal.Notify(f.received)
	a.forwardingSignals.Store(true)
	return f
}

func (a *app) forwarding() bool { return a.forwardingSignals.Load() }

// forward sends every caught signal to the container until close.
func (f *signalForwarder) forward(ctx context.Context, engine *mobyclient.Client, container string) {
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer close(f.done)
		for {
			select {
			case <-f.stop:
				return
			case s := <-f.received:
				if name := forwardedName(s); name != "" {
					// A container that is gone or not up yet cannot take it; its exit ends us anyway.
					_, _ = engine.ContainerKill(ctx, container, mobyclient.ContainerKillOptions{Signal: name})
				}
			}
		}
	}()
}

// close stops forwarding. It must follow forward.
func (f *signalForwarder) close() {
	signal.Stop(f.received)
	close(f.stop)
	<-f.done
}

// forwardedName is the signal's name, or empty for those that are this process's own business:
// children, broken pipes, the terminal's size, and SIGURG, with which Go preempts goroutines.
func forwardedName(s os.Signal) string {
	number, ok := s.(syscall.Signal)
	if !ok {
		return ""
	}
	switch number {
	case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGWINCH:
		return ""
	}
	for name, value := range mobysignal.SignalMap {
		if value == number {
			return name
		}
	}
	return ""
}
