package daemon

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// front is the HTTP side: it serves the handler on all listeners and knows whether
// anybody is connected.
type front struct {
	http      *http.Server
	log       *slog.Logger
	busy      func() bool // whether the engine has work beyond connections
	idle      time.Duration
	accepting sync.WaitGroup

	mu        sync.Mutex // guards all below
	listeners []*listener
	open      map[net.Conn]struct{}
	last      time.Time // when somebody was connected last
	probing   string    // the name of the watchdog's end of a connection; empty: it does not ask now
	failed    chan error
}

func newFront(h http.Handler, ls []*listener, s *Settings, busy func() bool, logger *slog.Logger) *front {
	f := &front{log: logger, busy: busy, idle: s.IdleTimeout, listeners: ls, open: map[net.Conn]struct{}{}, last: time.Now(), failed: make(chan error, 1)}
	f.http = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Minute, // a client that never finishes its request's head
		ConnState:         f.connState,
		ErrorLog:          log.New(errorLog{logger}, "", 0),
	}
	return f
}

// errorLog takes what net/http has to say, without dressing it up.
type errorLog struct{ log *slog.Logger }

func (e errorLog) Write(p []byte) (int, error) {
	e.log.Debug("http", "message", string(p[:max(len(p)-1, 0)]))
	return len(p), nil
}

// connState counts connections. A hijacked one is the shim's: its container or exec
// keeps the engine busy. The watchdog's probe is no client.
func (f *front) connState(c net.Conn, s http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s == http.StateNew && c.RemoteAddr().String() != f.probing {
		f.open[c] = struct{}{}
	}
	if _, client := f.open[c]; !client {
		return
	}
	if s == http.StateClosed || s == http.StateHijacked {
		delete(f.open, c)
	}
	f.last = time.Now()
}

// serve starts accepting on all listeners.
func (f *front) serve() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.listeners {
		f.accepting.Go(func() {
			err := f.http.Serve(l)
			if !errors.Is(err, errStopped) && !errors.Is(err, http.ErrServerClosed) {
				select {
				case f.failed <- err:
				default:
				}
			}
		})
	}
}

// awaitIdle returns when nothing runs, nobody has been connected for the idle time, and
// no client can connect any more. Before leaving it calls mayLeave, which keeps starting
// clients out until the returned function is called.
func (f *front) awaitIdle(ctx context.Context, mayLeave func() (release func(), ok bool)) error {
	timer := time.NewTimer(f.idle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		left := f.untilIdle()
		if left <= 0 {
			gone, err := f.leave(mayLeave)
			if err != nil || gone {
				return err
			}
			left = f.idle
		}
		timer.Reset(left)
	}
}

// untilIdle tells how long at least the engine has to stay.
func (f *front) untilIdle() time.Duration {
	working := f.busy()
	f.mu.Lock()
	defer f.mu.Unlock()
	if working || len(f.open) > 0 {
		f.last = time.Now()
	}
	return time.Until(f.last.Add(f.idle))
}

// leave stops accepting and looks once more: a client that had connected in the last
// instant is served, and the engine stays.
func (f *front) leave(mayLeave func() (func(), bool)) (gone bool, err error) {
	release, ok := mayLeave()
	if !ok {
		return false, nil // a client is about to start an engine: it will find us
	}
	f.mu.Lock()
	ls := f.listeners
	f.mu.Unlock()
	for _, l := range ls {
		if err := l.stop(); err != nil {
			f.log.Warn("stop accepting", "host", l.host.text, "error", err)
		}
	}
	f.accepting.Wait()
	if f.untilIdleNow() {
		return true, nil // release is never called: the lock goes with the process
	}
	defer release()
	fresh := make([]*listener, 0, len(ls))
	for _, l := range ls {
		l, err := l.reopen()
		if err != nil {
			return false, err
		}
		fresh = append(fresh, l)
	}
	f.mu.Lock()
	f.listeners = fresh
	f.mu.Unlock()
	f.serve()
	return false, nil
}

// serving says in words which sockets these are.
func (f *front) serving() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var at []string
	for _, l := range f.listeners {
		at = append(at, l.host.text)
	}
	return "serving " + strings.Join(at, ", ")
}

func (f *front) untilIdleNow() bool {
	working := f.busy()
	f.mu.Lock()
	defer f.mu.Unlock()
	return !working && len(f.open) == 0
}

// shutdown takes no more clients and lets requests under way finish until ctx ends.
func (f *front) shutdown(ctx context.Context) {
	f.mu.Lock()
	ls := f.listeners
	f.mu.Unlock()
	for _, l := range ls {
		_ = l.stop()
	}
	f.accepting.Wait()
	if err := f.http.Shutdown(ctx); err != nil {
		f.log.Warn("requests were cut off at the end of the engine", "error", err)
		f.http.Close()
	}
	for _, l := range ls {
		l.remove()
		l.Close()
	}
}
