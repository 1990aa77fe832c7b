package stage

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// handingOver is a program whose second process writes "hello" and executes nothing.
func handingOver(out *os.File) *Program {
	p := New()
	fd := p.File(out)
	p.DefaultSignals()
	p.HandOver()
	p.Call(unix.SYS_WRITE, fd, p.Str("hello"), Int(5))
	p.Notify(7)
	p.Await()
	p.Exit(3)
	return p
}

func TestTheSuccessorIsTheChildThatStartGives(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := Start(handingOver(w), Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	m, err := c.Receive()
	if err != nil || m.Kind != Reached || m.Value != 7 {
		t.Fatalf("got %+v, %v", m, err)
	}
	if err := c.Send(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(); err != io.EOF {
		t.Errorf("Receive: %v, want EOF", err)
	}
	if text, _ := io.ReadAll(r); string(text) != "hello" {
		t.Errorf("output %q", text)
	}
	if ws := reap(t, c); ws.ExitStatus() != 3 {
		t.Errorf("exit status %d", ws.ExitStatus())
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("the first process was not reaped: pid %d, %v", pid, err)
	}
}

func TestAFailureBeforeTheHandOverIsNamed(t *testing.T) {
	p := New()
	p.About("change directory to", "/nonexistent")
	p.Call(unix.SYS_CHDIR, p.Str("/nonexistent"))
	p.HandOver()
	p.Exit(0)
	c, err := Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Receive()
	if !errors.Is(err, unix.ENOENT) || err.Error() != "change directory to /nonexistent: no such file or directory" {
		t.Errorf("got %v", err)
	}
	if ws := reap(t, c); ws.ExitStatus() != 255 {
		t.Errorf("exit status %d", ws.ExitStatus())
	}
	if dir, _ := os.Getwd(); dir == "" {
		t.Error("our own working directory is gone")
	}
}

func TestHandingOverIsRefusedWithABirthElsewhere(t *testing.T) {
	p := New()
	p.HandOver()
	if _, err := Start(p, Options{Namespaces: unix.CLONE_NEWUTS}); err == nil {
		t.Error("no error")
	}
}

// The first process runs on our stack and in our memory: that has to survive threads that
// allocate, collect garbage and move stacks meanwhile.
func TestProcessesAreHandedOverWhileTheRuntimeIsBusy(t *testing.T) {
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				deep(200)
				runtime.GC()
			}
		})
	}
	var done sync.WaitGroup
	enough := time.Now().Add(20 * time.Second) // on an emulated processor
	for range 4 {
		done.Go(func() {
			for range 50 {
				if time.Now().After(enough) {
					return
				}
				r, w, err := os.Pipe()
				if err != nil {
					t.Error(err)
					return
				}
				c, err := Start(handingOver(w), Options{})
				w.Close()
				if err != nil {
					t.Error(err)
					return
				}
				if m, err := c.Receive(); err != nil || m.Value != 7 {
					t.Errorf("got %+v, %v", m, err)
				}
				if err := c.Send(); err != nil {
					t.Error(err)
				}
				text, _ := io.ReadAll(r)
				r.Close()
				var ws unix.WaitStatus
				if _, err := unix.Wait4(c.Pid, &ws, 0, nil); err != nil || ws.ExitStatus() != 3 || string(text) != "hello" {
					t.Errorf("wrote %q, status %d, %v", text, ws.ExitStatus(), err)
				}
				c.Close()
			}
		})
	}
	done.Wait()
	close(stop)
	busy.Wait()
}

//go:noinline
func deep(n int) int {
	var pad [64]int
	if n == 0 {
		return 0
	}
	pad[n%64] = n
	return deep(n-1) + pad[n%64]
}
