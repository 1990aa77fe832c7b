package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// manager is systemd, if it started us as a service: it is told how we do (sd_notify(3)), and
// kills us if it does not hear that we are well (WatchdogSec= in systemd.service(5)).
type manager struct {
	conn     *net.UnixConn // nil: nobody wants to hear
	watchdog time.Duration // it waits no longer than this for a word; 0: it does not wait
}

// adoptManager takes what systemd left in our environment out of it, for shims and hooks are no
// services of its.
func adoptManager() *manager {
	m := new(manager)
	path := os.Getenv("NOTIFY_SOCKET")
	micros, _ := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID"} {
		_ = os.Unsetenv(name) // fails for impossible names only
	}
	if path == "" {
		return m
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // a leading @ is an abstract name
	if err != nil {
		return m
	}
	m.conn = conn
	m.watchdog = max(time.Duration(micros)*time.Microsecond, 0)
	return m
}

// tell sends one message of assignments. A manager that does not take it has its own ways to
// find out about us.
func (m *manager) tell(assignments ...string) {
	if m.conn != nil {
		_, _ = m.conn.Write([]byte(strings.Join(assignments, "\n")))
	}
}

func (m *manager) status(format string, args ...any) {
	m.tell("STATUS=" + fmt.Sprintf(format, args...))
}

func (m *manager) ready(status string) { m.tell("READY=1", "STATUS="+status) }

// reloading has to be followed by ready.
func (m *manager) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	m.tell("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(now.Nano()/1000, 10), "STATUS=reading the configuration")
}

func (m *manager) stopping(status string) { m.tell("STOPPING=1", "STATUS="+status) }

// keepAlive pets the watchdog until ctx ends, each time once probe has shown that the engine
// answers: an engine that hangs is to be killed, though this goroutine runs.
func (m *manager) keepAlive(ctx context.Context, probe func(context.Context) error, log *slog.Logger) {
	if m.conn == nil || m.watchdog <= 0 {
		return
	}
	tick := time.NewTicker(m.watchdog / 4)
	defer tick.Stop()
	for {
		short, cancel := context.WithTimeout(ctx, m.watchdog/2)
		err := probe(short)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			m.tell("WATCHDOG=1")
		default:
			log.Error("the engine does not answer itself; systemd's watchdog will end it if that goes on", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// probe asks the engine what any client may ask: the containers that run. It takes a client's
// way, through the first unix socket; without one it calls the handler.
func (f *front) probe(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://berth/containers/json", nil)
	if err != nil {
		return err
	}
	// By this name its connection is told from a client's: the watchdog keeps no engine from
	// being idle. A new one each time, for names are everybody's to see and to take.
	name := "@berth-probe-" + uuid.NewString()
	f.mu.Lock()
	ls := f.listeners
	f.probing = name
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.probing = ""
		f.mu.Unlock()
	}()
	for _, l := range ls {
		addr, ok := l.Addr().(*net.UnixAddr)
		if !ok {
			continue
		}
		if l.path != "" {
			addr = &net.UnixAddr{Name: l.path, Net: "unix"} // it was bound under another name
		}
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.UnixAddr{Name: name, Net: "unix"}}
			return d.DialContext(ctx, "unix", addr.Name)
		}}}
		resp, err := c.Do(req)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
			break // the socket's path is gone, which no restart of ours would mend
		}
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return answered(resp.StatusCode)
	}
	w := &verdict{header: http.Header{}, code: http.StatusOK}
	done := make(chan struct{})
	go func() { defer close(done); f.http.Handler.ServeHTTP(w, req) }()
	select {
	case <-done:
		return answered(w.code)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func answered(code int) error {
	if code != http.StatusOK {
		return fmt.Errorf("the list of containers is answered with status %d", code)
	}
	return nil
}

// verdict keeps of an answer whether it is one.
type verdict struct {
	header http.Header
	code   int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) WriteHeader(code int)        { v.code = code }
func (v *verdict) Write(p []byte) (int, error) { return len(p), nil }

// inJournal tells that standard error is a stream to the journal, by systemd's word for it
// (JOURNAL_STREAM in systemd.exec(5)).
func inJournal() bool {
	var st unix.Stat_t
	if err := unix.Fstat(2, &st); err != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// journalHandler writes a line as the journal wants it: a priority before it (sd-daemon(3)), no
// time and no level in it.
type journalHandler struct {
	level slog.Leveler
	lines map[string]slog.Handler // by prefix
}

func newJournalHandler(to *os.File, level slog.Leveler) *journalHandler {
	h := &journalHandler{level: level, lines: map[string]slog.Handler{}}
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}}
	for _, prefix := range []string{"<3>", "<4>", "<6>", "<7>"} {
		h.lines[prefix] = slog.NewTextHandler(prefixed{prefix, to}, o)
	}
	return h
}

// prefixed writes lines; slog makes one write per record.
type prefixed struct {
	prefix string
	to     *os.File
}

func (p prefixed) Write(line []byte) (int, error) {
	if _, err := p.to.Write(append([]byte(p.prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	prefix := "<7>"
	switch {
	case r.Level >= slog.LevelError:
		prefix = "<3>"
	case r.Level >= slog.LevelWarn:
		prefix = "<4>"
	case r.Level >= slog.LevelInfo:
		prefix = "<6>"
	}
	return h.lines[prefix].Handle(ctx, r)
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(l slog.Handler) slog.Handler { return l.WithAttrs(attrs) })
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	return h.each(func(l slog.Handler) slog.Handler { return l.WithGroup(name) })
}

func (h *journalHandler) each(fn func(slog.Handler) slog.Handler) slog.Handler {
	next := &journalHandler{level: h.level, lines: map[string]slog.Handler{}}
	for prefix, l := range h.lines {
		next.lines[prefix] = fn(l)
	}
	return next
}
