package engine

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/fail"
)

func TestFilesThatAreLentAreThoseOfTheRunUnderWay(t *testing.T) {
	f, roots := newFixture(t), t.TempDir()
	for _, run := range []string{"1", "2"} {
		if err := os.MkdirAll(filepath.Join(roots, run, "of"+run), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	f.create("web", nil)
	f.start("web")
	first, started := f.shims.of(get(t, f, "web").ID), make(chan error, 1)
	f.shims.onRoot = func(ctx context.Context, s *fakeShim) (*os.File, error) {
		if s != first {
			return os.Open(filepath.Join(roots, "2"))
		}
		root, err := os.Open(filepath.Join(roots, "1"))
		s.exit(0) // and the next run is there before the answer of this one's shim
		eventually(t, "it has ended", func() bool { return f.status("web") == exited })
		over := make(chan struct{})
		go func() {
			defer close(over)
			started <- f.Containers.Start(t.Context(), "web")
		}()
		select {
		case <-over:
		case <-ctx.Done():
		}
		return root, err
	}
	files, err := f.Containers.Files(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if _, err := files.Stat("/of2"); err != nil {
		t.Errorf("the files are not those of the run under way: %v", err)
	}
	select {
	case <-files.Interrupted():
		t.Error("the files were taken back at once")
	default:
	}
}

func get(t *testing.T, f *fixture, ref string) Container {
	t.Helper()
	c, err := f.Containers.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAStartDoesNotWaitForEverForACopyOfThePreviousRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create("web", nil)
		f.start("web")
		files, err := f.Containers.Files(t.Context(), "web")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Containers.Stop(t.Context(), "web", StopOptions{}); err != nil {
			t.Fatal(err)
		}
		err = f.Containers.Start(t.Context(), "web")
		if !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), "a copy of its files during the previous run does not end") {
			t.Errorf("start beside a copy that does not end: %v (%v)", err, fail.Of(err))
		}
		files.Close()
		f.start("web")

		if files, err = f.Containers.Files(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		if err := f.Containers.Stop(t.Context(), "web", StopOptions{}); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		go func() { failed <- f.Containers.Start(context.WithoutCancel(t.Context()), "web") }()
		synctest.Wait()
		began := time.Now()
		f.Engine.Close()
		if err := <-failed; !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), errClosed.Error()) || time.Since(began) > time.Second {
			t.Errorf("start in an engine that closes: %v after %s", err, time.Since(began))
		}
		files.Close()
	})
}

// client is one that reads an export, and whose connection is cut when the export is ended.
type client struct {
	*io.PipeReader
	ended chan error
}

func export(f *fixture, ref string) client {
	r, w := io.Pipe()
	c := client{r, make(chan error, 1)}
	go func() {
		err := f.Containers.Export(context.Background(), ref, func(interrupted <-chan struct{}) io.Writer {
			go func() { <-interrupted; w.CloseWithError(os.ErrDeadlineExceeded) }()
			return w
		})
		w.CloseWithError(err)
		c.ended <- err
	}()
	return c
}

func TestAnExportWhoseClientStandsStillIsEndedOnceOthersWantTheContainer(t *testing.T) {
	const size = 1 << 20
	for _, c := range []struct {
		name string
		read func(client) // what the client reads at most
		whole,
		others bool
	}{
		{"one that stands still while nobody waits", func(c client) { time.Sleep(time.Hour); _, _ = io.Copy(io.Discard, c) }, true, false},
		{"one that stands still while others wait", func(c client) { time.Sleep(time.Hour); _, _ = io.Copy(io.Discard, c) }, false, true},
		{"a slow one", func(c client) {
			for {
				time.Sleep(clientPatience / 2)
				if _, err := io.CopyN(io.Discard, c, 32<<10); err != nil {
					return
				}
			}
		}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.img.onExport = func(w io.Writer) error { _, err := w.Write(make([]byte, size)); return err }
				f.create("web", nil)
				reader := export(f, "web")
				go c.read(reader)
				time.Sleep(time.Minute) // the copy is under way, or stands still
				if c.others {
					began := time.Now()
					if err := f.Containers.Remove(t.Context(), "web", RemoveOptions{}); err != nil {
						t.Error(err)
					}
					if !c.whole && time.Since(began) > 2*time.Second {
						t.Errorf("the removal waited %s more", time.Since(began))
					}
				}
				err := <-reader.ended
				if c.whole != (err == nil) || err != nil && !fail.Is(err, fail.Conflict) {
					t.Errorf("the export ended with %v (%v)", err, fail.Of(err))
				}
				time.Sleep(2 * time.Hour) // the client is gone
			})
		})
	}
}

func TestACopyWhoseClientSendsNothingIsEndedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstance(layout{}, Container{ID: "x", HostConfig: &container.HostConfig{}})
		giveBack, err := i.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pace := i.copies()
		r, w := io.Pipe()
		context.AfterFunc(pace.ctx, func() { w.CloseWithError(os.ErrDeadlineExceeded) })
		go func() {
			_, _ = io.ReadAll(pace.reader(r))
			pace.over()
			giveBack()
		}()
		began := time.Now()
		if giveBack, err = i.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		giveBack()
		if d := time.Since(began); d < clientPatience || d > clientPatience+2*time.Second {
			t.Errorf("the turn came after %s", d)
		}
	})
}
