package daemon

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
)

// readiness tells once whoever started us how the start went: a newline when we listen,
// else one line with the reason.
type readiness struct {
	once sync.Once
	to   *os.File // nil: nobody waits
}

func newReadiness(fd int) *readiness {
	if fd < 0 {
		return &readiness{}
	}
	syscall.CloseOnExec(fd) // a shim must not keep the starter waiting
	return &readiness{to: os.NewFile(uintptr(fd), "ready")}
}

func (r *readiness) tell(err error) {
	r.once.Do(func() {
		if r.to == nil {
			return
		}
		text := "\n"
		if err != nil {
			line, _, _ := strings.Cut(err.Error(), "\n")
			text = line + "\n"
		}
		_, _ = io.WriteString(r.to, text)
		r.to.Close()
	})
}

func newLog(s *Settings, level *slog.LevelVar, to io.Writer) *slog.Logger {
	level.Set(s.level())
	if to == os.Stderr && s.LogFormat == "text" && inJournal() {
		return slog.New(newJournalHandler(os.Stderr, level))
	}
	o := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(to, o))
	}
	return slog.New(slog.NewTextHandler(to, o))
}
