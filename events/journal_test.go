package events

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func openBus(t *testing.T, dir string) *Bus {
	t.Helper()
	b, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func actions(b *Bus, t *testing.T, since time.Time) string {
	t.Helper()
	var out []string
	for _, e := range b.Subscribe(t.Context(), since, nil).History {
		out = append(out, e.Action)
	}
	return strings.Join(out, " ")
}

func publish(b *Bus, all ...string) {
	for _, a := range all {
		b.Publish(Event{Type: "container", Action: a, ID: "x", Attrs: map[string]string{"name": a}})
	}
}

func TestHistoryOutlivesTheEngine(t *testing.T) {
	dir := t.TempDir()
	b := openBus(t, dir)
	publish(b, "one", "two")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	between := time.Now()
	b = openBus(t, dir)
	publish(b, "three")
	if got := actions(b, t, time.Unix(1, 0)); got != "one two three" {
		t.Errorf("all: %q", got)
	}
	if got := actions(b, t, between); got != "three" {
		t.Errorf("since: %q", got)
	}
	if got := actions(b, t, time.Time{}); got != "" {
		t.Errorf("none were asked for: %q", got)
	}
}

func TestHistoryOfAKilledEngineIsThere(t *testing.T) {
	dir := t.TempDir()
	b := openBus(t, dir)
	publish(b, "one", "two")
	for deadline := time.Now().Add(time.Minute); !b.journal.has(2); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the events are not written")
		}
	}
	path := filepath.Join(dir, journalName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"n":3,"type":"container","action":"torn","id`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	after := openBus(t, dir)
	publish(after, "next")
	if got := actions(after, t, time.Unix(1, 0)); got != "one two next" {
		t.Errorf("%q", got)
	}
}

func TestHistoryReachesBeyondMemoryAndIsBounded(t *testing.T) {
	dir := t.TempDir()
	b := openBus(t, dir)
	const many = 3000
	filler := strings.Repeat("x", 200)
	for k := range many {
		b.Publish(Event{Type: "container", Action: "a", ID: fmt.Sprint(k), Attrs: map[string]string{"label": filler}})
		for k%500 == 0 && !b.journal.has(uint64(k+1)) {
			time.Sleep(time.Millisecond)
		}
	}
	for check := 0; check < 2; check++ {
		history := b.Subscribe(t.Context(), time.Unix(1, 0), nil).History
		if len(history) < 700 || history[len(history)-1].ID != fmt.Sprint(many-1) {
			t.Fatalf("%d events, the last one %s", len(history), history[len(history)-1].ID)
		}
		first := many - len(history)
		for k, e := range history {
			if e.ID != fmt.Sprint(first+k) {
				t.Fatalf("event %s is at the place of %d", e.ID, first+k)
			}
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = openBus(t, dir)
	}
	files, _ := os.ReadDir(dir)
	var size int64
	for _, f := range files {
		info, _ := f.Info()
		size += info.Size()
	}
	if len(files) != 2 || size > 4*journalSize {
		t.Errorf("%d files of %d bytes", len(files), size)
	}
}

func TestAnEventOfAnySizeIsToldButNotKept(t *testing.T) {
	dir := t.TempDir()
	b := openBus(t, dir)
	b.Publish(Event{Type: "container", Action: "large", Attrs: map[string]string{"l": strings.Repeat("x", 2*maxLine)}})
	publish(b, "small")
	if got := actions(b, t, time.Unix(1, 0)); got != "large small" {
		t.Errorf("now: %q", got)
	}
	_ = b.Close()
	if got := actions(openBus(t, dir), t, time.Unix(1, 0)); got != "small" {
		t.Errorf("later: %q", got)
	}
}

func TestADiskThatTakesNothingHoldsNobodyUp(t *testing.T) {
	b := openBus(t, t.TempDir())
	b.journal.fileMu.Lock()
	_ = b.journal.file.Close()
	b.journal.fileMu.Unlock()
	for k := range 3 * maxPending {
		publish(b, fmt.Sprint(k))
	}
	if got := actions(b, t, time.Unix(1, 0)); !strings.HasSuffix(got, fmt.Sprint(3*maxPending-1)) {
		t.Errorf("the newest event is missing: …%s", got[max(0, len(got)-20):])
	}
}

func TestTimesOfEventsDiffer(t *testing.T) {
	b := NewBus()
	for range 200 {
		publish(b, "a")
	}
	seen := map[time.Time]bool{}
	for _, e := range b.Subscribe(t.Context(), time.Unix(1, 0), nil).History {
		if seen[e.Time] {
			t.Fatalf("two events at %v", e.Time)
		}
		seen[e.Time] = true
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte("{\"n\":1,\"type\":\"container\",\"action\":\"start\",\"id\":\"x\",\"time\":\"2026-01-02T03:04:05Z\"}\n"))
	f.Add([]byte("{\"n\":1}\n\x00\x00\x00\n{\"n\":18446744073709551615,\"type\":\"a\",\"action\":\"b\",\"time\":\"9999-12-31T23:59:59Z\"}\n{"))
	f.Add([]byte("\n\n[]\n\"\"\nnull\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, journalName), data, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		publish(b, "new")
		s := b.Subscribe(t.Context(), time.Unix(1, 0), nil)
		if n := len(s.History); n == 0 || s.History[n-1].Action != "new" {
			t.Fatalf("the new event is not the last of %d", n)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(filepath.Join(dir, journalName))
		if err != nil || len(kept) == 0 || kept[len(kept)-1] != '\n' {
			t.Fatalf("the file does not end with a line: %q %v", kept, err)
		}
	})
}
