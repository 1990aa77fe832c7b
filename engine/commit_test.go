package engine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/fail"
	"berth/images"
)

func TestCommitPausesWhatRunsAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(f *fixture)
		pause   bool
		during  string
		events  string
	}{
		{"running", func(f *fixture) { f.start("one") }, true, paused, "pause unpause commit"},
		{"running, not to be paused", func(f *fixture) { f.start("one") }, false, running, "commit"},
		{"stopped", func(*fixture) {}, true, created, "commit"},
		{"paused", func(f *fixture) {
			f.start("one")
			if err := f.Containers.Pause(f.t.Context(), "one"); err != nil {
				f.t.Fatal(err)
			}
		}, true, paused, "commit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.create("one", nil)
			c.prepare(f)
			before, begin := f.status("one"), time.Now()
			during := ""
			f.img.onCommit = func(images.CommitOptions) { during = f.status("one") }
			if _, err := f.Containers.Commit(t.Context(), "one", CommitRequest{Pause: c.pause}); err != nil {
				t.Fatal(err)
			}
			if after := f.status("one"); during != c.during || after != before {
				t.Errorf("it was %s, %s meanwhile and is %s", before, during, after)
			}
			if got := strings.Join(actions(f, begin), " "); got != c.events {
				t.Errorf("events %q, want %q", got, c.events)
			}
		})
	}
}

func TestNobodyStartsOrRemovesAContainerThatIsRead(t *testing.T) {
	f := newFixture(t)
	f.create("one", nil)
	f.img.onCommit = func(images.CommitOptions) {
		for _, verb := range []func(context.Context) error{
			func(ctx context.Context) error { return f.Containers.Start(ctx, "one") },
			func(ctx context.Context) error { return f.Containers.Remove(ctx, "one", RemoveOptions{Force: true}) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if err := verb(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("meanwhile: %v", err)
			}
			cancel()
		}
	}
	if _, err := f.Containers.Commit(t.Context(), "one", CommitRequest{Pause: true}); err != nil {
		t.Fatal(err)
	}
	f.start("one")
}

func TestCommitsThatCannotBe(t *testing.T) {
	f := newFixture(t)
	f.create("one", nil)
	f.start("one")
	s := f.shims.of(f.id("one"))
	s.mu.Lock()
	s.pauseErr = fail.New(fail.Internal, "frozen solid")
	s.mu.Unlock()
	_, err := f.Containers.Commit(t.Context(), "one", CommitRequest{Pause: true})
	if err == nil || !strings.Contains(err.Error(), "cannot pause container") || !strings.Contains(err.Error(), "frozen solid") {
		t.Errorf("a container that cannot be paused: %v", err)
	}
	if f.status("one") != running {
		t.Errorf("it is %s", f.status("one"))
	}
	if _, err := os.Stat(filepath.Join(f.dirs().runs(), f.id("one"), heldMark)); err == nil {
		t.Error("the mark is left")
	}
	if _, err := f.Containers.Commit(t.Context(), "one", CommitRequest{}); err != nil {
		t.Errorf("without a pause: %v", err)
	}
	if _, err := f.Containers.Commit(t.Context(), "nobody", CommitRequest{}); !fail.Is(err, fail.NotFound) {
		t.Errorf("an unknown container: %v", err)
	}
}

func TestTheNextEngineWakesWhatWasPausedForACommit(t *testing.T) {
	f := newFixture(t)
	f.create("one", nil)
	f.start("one")
	s := f.shims.of(f.id("one"))
	s.mu.Lock()
	s.state.Paused = true
	s.mu.Unlock()
	mark := filepath.Join(f.dirs().runs(), f.id("one"), heldMark)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.crash()
	f.open()
	if got := f.status("one"); got != running {
		t.Errorf("it is %s", got)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the mark is left")
	}
}

func TestConfigurationOfACommittedImage(t *testing.T) {
	own := &container.Config{Hostname: "h", Env: []string{"A=1", "B=2"}, Cmd: []string{"run"}, Entrypoint: []string{"/e"}, Labels: map[string]string{"l": "own"}, OnBuild: []string{"RUN x"}, WorkingDir: "/w"}
	for _, c := range []struct {
		name  string
		asked *container.Config
		check func(got container.Config) bool
	}{
		{"its own", nil, func(got container.Config) bool {
			return slices.Equal(got.Env, own.Env) && slices.Equal(got.Cmd, own.Cmd) && got.WorkingDir == "/w" && got.OnBuild == nil
		}},
		{"completed", &container.Config{Env: []string{"B=3"}, Cmd: []string{"other"}, Labels: map[string]string{"m": "asked"}}, func(got container.Config) bool {
			return slices.Equal(got.Env, []string{"B=3", "A=1"}) && slices.Equal(got.Cmd, []string{"other"}) && slices.Equal(got.Entrypoint, own.Entrypoint) && len(got.Labels) == 2
		}},
		{"another program", &container.Config{Entrypoint: []string{"/f"}}, func(got container.Config) bool {
			return slices.Equal(got.Entrypoint, []string{"/f"}) && got.Cmd == nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := commitConfig(Container{Config: own}, c.asked)
			var got container.Config
			if err == nil {
				err = json.Unmarshal(data, &got)
			}
			if err != nil || !c.check(got) {
				t.Errorf("%s, %v", data, err)
			}
			if own.OnBuild == nil || own.Env[1] != "B=2" {
				t.Error("the container's own was changed")
			}
		})
	}
}
