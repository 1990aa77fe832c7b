package runtime

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	oci "berth/oci/bundle"
)

// withFiles calls do with so many descriptors left.
func withFiles(t *testing.T, left int, do func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	first := int(f.Fd()) // the lowest free number
	f.Close()
	low := was
	low.Cur = uint64(first + left)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	do()
}

// sweep gives do ever more descriptors until it succeeds some times in a row.
func sweep(t *testing.T, do func(left int) error) {
	t.Helper()
	const enough = 4
	failed, good := 0, 0
	for left := 0; good < enough; left++ {
		if err := do(left); err != nil {
			failed, good = failed+1, 0
		} else {
			good++
		}
		if left > 200 {
			t.Fatal("200 descriptors are too few")
		}
	}
	if failed < 5 {
		t.Errorf("only %d ways to fail", failed)
	}
}

// settled is what is left once it is no more than before: who watches for an end lets go last.
func settled(t *testing.T, before []string) (after []string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if after = leftovers(t); slices.Equal(after, before) || time.Now().After(end) {
			return after
		}
	}
}

func TestNothingIsLeftWhenDescriptorsRunOut(t *testing.T) {
	needRoot(t)
	if _, err := hostNull(); err != nil { // kept for the process's life
		t.Fatal(err)
	}
	lower := layer(t)
	c := running(t, config(t))
	before := leftovers(t)
	sweep(t, func(left int) error {
		cfg := config(t, "true")
		cfg.Root = overlay(t, lower)
		cfg.Spec.Process.Terminal = left%2 == 0
		var made *Container
		var err error
		withFiles(t, left, func() { made, err = Create(context.Background(), cfg) })
		if err == nil {
			destroy(t, made)
		}
		if after := settled(t, before); !slices.Equal(after, before) {
			t.Errorf("%d left, %v:\nbefore %v\nafter  %v", left, err, before, after)
		}
		return err
	})
	sweep(t, func(left int) error {
		var p *Process
		var err error
		withFiles(t, left, func() {
			p, err = c.Exec(context.Background(), ExecConfig{Process: &oci.Process{Args: []string{"true"}, Env: []string{"PATH=/bin"}, Terminal: left%2 == 0}})
		})
		if err == nil {
			if _, err := p.Wait(); err != nil {
				t.Error(err)
			}
			p.Release()
		}
		if after := settled(t, before); !slices.Equal(after, before) {
			t.Errorf("exec, %d left, %v:\nbefore %v\nafter  %v", left, err, before, after)
		}
		return err
	})
}
