package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	mobyclient "github.com/moby/moby/client"
	mobysignal "github.com/moby/sys/signal"
)

// signalForwarder passes the signals this process gets on to a container.
type signalForwarder struct {
	received chan os.Signal
	stop     chan struct{}
	done     chan struct{}
	all      sync.WaitGroup
}

// catchSignals begins to collect signals in place of being cancelled by them; forward says
// where they go. Those that arrive between the two wait, so a Ctrl-C is never lost.
func (a *app) catchSignals() *signalForwarder {
	f := &signalForwarder{received: make(chan os.Signal, 128), stop: make(chan struct{}), done: make(chan struct{})}
	signal.Notify(f.received, usualSignals...)
	a.stopCancelOnSignal()
	a.forwardingSignals.Store(true)
	// Every signal costs two thread switches, all of them together up to 2 ms: those that
	// hardly ever come are caught while the engine works.
	f.all.Go(func() { signal.Notify(f.received) }) // close waits for it
	return f
}

// usualSignals are those that people, shells and service managers send.
var usualSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

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

// close stops forwarding. It must follow forward. That signals have their default actions
// again is not waited for: mostly the process ends first.
func (f *signalForwarder) close() {
	go func() {
		f.all.Wait()
		signal.Stop(f.received)
	}()
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
