package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// systemd is a service manager's end of the notification socket.
func systemd(t *testing.T, watchdog time.Duration) (*manager, func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", fmt.Sprint(watchdog.Microseconds()))
	return adoptManager(), func() string {
		t.Helper()
		buffer := make([]byte, 4096)
		_ = l.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := l.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
}

func TestSystemdIsToldHowWeDo(t *testing.T) {
	m, next := systemd(t, 0)
	if os.Getenv("NOTIFY_SOCKET") != "" {
		t.Error("shims would inherit the socket")
	}
	m.ready("serving x")
	if got := next(); got != "READY=1\nSTATUS=serving x" {
		t.Errorf("%q", got)
	}
	m.reloading()
	if got := next(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") || strings.Contains(got, "USEC=0\n") {
		t.Errorf("%q", got)
	}
	m.stopping("done")
	if got := next(); got != "STOPPING=1\nSTATUS=done" {
		t.Errorf("%q", got)
	}
	t.Setenv("NOTIFY_SOCKET", "/nonexistent")
	adoptManager().ready("nobody hears it")
}

func TestTheWatchdogIsPettedOnlyWhenTheEngineAnswers(t *testing.T) {
	m, next := systemd(t, 80*time.Millisecond)
	var log bytes.Buffer
	answers := []error{nil, errors.New("deadlock"), nil}
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	m.keepAlive(ctx, func(context.Context) error {
		if asked == len(answers)-1 {
			cancel() // it is told no more then
		}
		asked++
		return answers[asked-1]
	}, slog.New(slog.NewTextHandler(&log, nil)))
	m.ready("end")
	if got := next(); got != "WATCHDOG=1" {
		t.Errorf("first %q", got)
	}
	if got := next(); got != "READY=1\nSTATUS=end" {
		t.Errorf("then %q: a failed probe counts", got)
	}
	if !strings.Contains(log.String(), "deadlock") {
		t.Errorf("the log says nothing: %s", &log)
	}
}

func TestTheProbeGoesAClientsWayAndKeepsNobodyBusy(t *testing.T) {
	f, _ := door(t, time.Minute, never)
	f.serve()
	longAgo := time.Now().Add(-time.Hour)
	f.mu.Lock()
	f.last = longAgo
	f.mu.Unlock()
	for range 3 { // each by another name
		if err := f.probe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	if len(f.open) != 0 || !f.last.Equal(longAgo) {
		t.Errorf("%d connections are counted, the last at %s", len(f.open), f.last)
	}
	path := f.listeners[0].Addr().String()
	if f.listeners[0].path != "" {
		path = f.listeners[0].path
	}
	f.mu.Unlock()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.probe(t.Context()); err != nil {
		t.Errorf("the socket's path is gone: %v", err)
	}
}

func TestAProbeOfAnEngineThatHangsFails(t *testing.T) {
	f, _ := door(t, 0, never)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.probe(ctx); err == nil { // nobody accepts
		t.Error("it was answered")
	}
}

func TestLinesForTheJournalBeginWithTheirPriority(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(newJournalHandler(w, slog.LevelDebug)).With("id", "x")
	log.Error("a")
	log.Warn("b")
	log.Info("c", "time", "kept")
	log.Debug("d")
	w.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	want := "<3>msg=a id=x\n<4>msg=b id=x\n<6>msg=c id=x\n<7>msg=d id=x\n"
	if text := strings.ReplaceAll(got.String(), " time=kept", ""); text != want {
		t.Errorf("%q", got.String())
	}
}
