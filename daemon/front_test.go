package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"berth/durable"
	"berth/fail"
)

// door is a front on a unix socket with a handler that says hello.
func door(t *testing.T, idle time.Duration, busy func() bool) (*front, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenUnix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	set := &Settings{IdleTimeout: idle}
	f := newFront(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }), []*listener{l}, set, busy, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		f.shutdown(ctx)
	})
	return f, path
}

func never() bool { return false }

func get(path string) (string, error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	resp, err := c.Get("http://x/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

func always() (func(), bool) { return func() {}, true }

func TestTheSocketIsTheGroupsAlone(t *testing.T) {
	_, path := door(t, 0, never)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Fatal(info.Mode(), err)
	}
	if _, err := listenUnix(path, ""); !fail.Is(err, fail.Conflict) {
		t.Errorf("a socket that is served: %v", err)
	}
	if os.Geteuid() == 0 {
		if _, err := listenUnix(filepath.Join(t.TempDir(), "s"), "no-such-group"); !fail.Is(err, fail.Invalid) {
			t.Errorf("unknown group: %v", err)
		}
	}
	if _, err := listenUnix(filepath.Join(t.TempDir(), strings.Repeat("x", 100)), ""); !fail.Is(err, fail.Invalid) {
		t.Errorf("too long: %v", err)
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := listenUnix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestTheSocketOfWhoComesNextStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenUnix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Remove(path); err != nil { // as systemd does for a socket of its own
		t.Fatal(err)
	}
	next, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.remove()
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
	next.Close()
	l, err = listenUnix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.remove()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("our own: %v", err)
	}
}

func TestAnIdleEngineLeavesAndRefusesWhoComesThen(t *testing.T) {
	f, path := door(t, time.Millisecond, never)
	f.serve()
	if err := f.awaitIdle(t.Context(), always); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("unix", path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("after leaving: %v", err)
	}
}

func TestAnEngineStaysWhileItIsBusyOrSomebodyIsConnected(t *testing.T) {
	var working atomic.Bool
	working.Store(true)
	asked := make(chan struct{}, 100)
	f, path := door(t, time.Millisecond, func() bool { asked <- struct{}{}; return working.Load() })
	f.serve()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() { left <- f.awaitIdle(t.Context(), always) }()
	for range 3 {
		<-asked
	}
	working.Store(false)
	for range 3 { // now only the connection keeps it
		<-asked
	}
	select {
	case err := <-left:
		t.Fatalf("left with a client connected: %v", err)
	default:
	}
	conn.Close()
	if err := <-left; err != nil {
		t.Fatal(err)
	}
}

func TestAClientOfTheLastInstantIsServed(t *testing.T) {
	f, path := door(t, time.Millisecond, never)
	f.serve()
	released := make(chan struct{})
	// The client connects when the engine has already decided to leave.
	var late net.Conn
	first := true
	mayLeave := func() (func(), bool) {
		if !first {
			return func() {}, true
		}
		first = false
		var err error
		if late, err = net.Dial("unix", path); err != nil {
			t.Error(err)
		}
		return func() { close(released) }, true
	}
	left := make(chan error, 1)
	go func() { left <- f.awaitIdle(t.Context(), mayLeave) }()
	<-released // it stayed
	if _, err := io.WriteString(late, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(late)
	if err != nil || !strings.HasSuffix(string(data), "hello") {
		t.Fatalf("%q %v", data, err)
	}
	late.Close()
	if err := <-left; err != nil {
		t.Fatal(err)
	}
}

func TestAReopenedSocketServesAgain(t *testing.T) {
	f, path := door(t, time.Hour, never)
	f.serve()
	calls := 0
	f.busy = func() bool { calls++; return true }
	gone, err := f.leave(always)
	if gone || err != nil || calls == 0 {
		t.Fatal(gone, err)
	}
	if got, err := get(path); got != "hello" {
		t.Fatal(got, err)
	}
}

func TestNobodyLeavesWhileAClientStartsAnEngine(t *testing.T) {
	f, path := door(t, time.Millisecond, never)
	f.serve()
	gone, err := f.leave(func() (func(), bool) { return nil, false })
	if gone || err != nil {
		t.Fatal(gone, err)
	}
	if got, err := get(path); got != "hello" {
		t.Fatal(got, err)
	}
}

func TestManyClientsAgainstAnEngineThatKeepsLeaving(t *testing.T) {
	// Every client is served, or finds nobody and would start an engine; none is reset.
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			l, err := listenUnix(path, "")
			if err != nil {
				t.Error(err)
				return
			}
			f := newFront(hello, []*listener{l}, &Settings{IdleTimeout: time.Microsecond}, never, slog.New(slog.DiscardHandler))
			f.serve()
			if err := f.awaitIdle(context.Background(), always); err != nil {
				t.Error(err)
			}
			f.shutdown(context.Background())
		}
	}()
	served := 0
	for range 300 {
		got, err := get(path)
		switch {
		case err == nil && got == "hello":
			served++
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		default:
			t.Fatalf("neither served nor refused: %q %v", got, err)
		}
	}
	close(stop)
	<-done
	t.Logf("%d of 300 served", served)
}

func TestASecondEngineIsRefusedAndToldWhoHoldsTheRoots(t *testing.T) {
	roots := func(args ...string) *daemon {
		s, err := parse(t, `{}`, args...)
		if err != nil {
			t.Fatal(err)
		}
		return &daemon{set: s, log: slog.New(slog.DiscardHandler)}
	}
	data, run := t.TempDir(), t.TempDir()
	first := roots("--data-root", data, "--exec-root", run)
	if err := first.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, f := range first.cleanup {
			f()
		}
	}()
	for _, d := range []*daemon{
		roots("--data-root", t.TempDir(), "--exec-root", run),
		roots("--data-root", data, "--exec-root", t.TempDir()),
	} {
		err := d.lock(t.Context())
		if !fail.Is(err, fail.Conflict) || !strings.Contains(err.Error(), fmt.Sprintf("held by berthd (pid %d, data-root %s)", os.Getpid(), data)) {
			t.Errorf("%v", err)
		}
		for _, f := range d.cleanup {
			f()
		}
	}
}

func TestAnEngineOnDemandWaitsForOneThatLeavesAndGivesWayToOneThatServes(t *testing.T) {
	run, data := t.TempDir(), t.TempDir()
	holder, err := durable.Acquire(filepath.Join(run, "berthd.lock"), "the old one")
	if err != nil {
		t.Fatal(err)
	}
	s, err := parse(t, `{}`, "--data-root", data, "--exec-root", run, "--on-demand")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{set: s, log: slog.New(slog.DiscardHandler)}
	got := make(chan error, 1)
	go func() { got <- d.lock(t.Context()) }()
	holder.Release()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, f := range d.cleanup {
			f()
		}
	}()
	l, err := listenUnix(filepath.Join(run, "berth.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	second := &daemon{set: s, log: d.log}
	if err := second.lock(t.Context()); !errors.Is(err, ErrRunning) {
		t.Fatal(err)
	}
}

func TestReadinessIsToldOnce(t *testing.T) {
	for want, err := range map[string]error{"\n": nil, "no space\n": errors.New("no space\nleft")} {
		r, w, perr := os.Pipe()
		if perr != nil {
			t.Fatal(perr)
		}
		fd, perr := syscall.Dup(int(w.Fd()))
		if perr != nil {
			t.Fatal(perr)
		}
		w.Close()
		n := newReadiness(fd)
		n.tell(err)
		n.tell(errors.New("later"))
		got, rerr := io.ReadAll(r)
		if rerr != nil || string(got) != want {
			t.Errorf("%q %v", got, rerr)
		}
		r.Close()
	}
	newReadiness(-1).tell(nil)
}
