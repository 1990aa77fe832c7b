package cgroup

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nest makes groups in each other, deeper than a path reaches. The deepest is given to in.
func nest(t *testing.T, dir string, levels int, in func(deepest int)) {
	t.Helper()
	at, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Close(at) }()
	name := strings.Repeat("deep", 50)
	for range levels {
		if err := unix.Mkdirat(at, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := openGroup(at, name)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = next
	}
	in(at)
}

func TestGroupsNestedDeeperThanAnyPathAreSeenKilledAndRemoved(t *testing.T) {
	hs := host(t)
	g := group(t, hs, nil)
	cmd := start(t, g, "while :; do sleep 1000; done")
	dir, _ := g.processes()
	nest(t, dir, 40, func(deepest int) {
		procs, err := openAtForWriting(deepest, "cgroup.procs")
		if err != nil {
			t.Fatal(err)
		}
		defer procs.Close()
		if _, err := procs.WriteString(strconv.Itoa(cmd.Process.Pid)); err != nil {
			t.Skip(err) // a controller that lets no process in without more ado
		}
	})
	pids, err := g.Pids()
	if err != nil || !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("processes %v, %v", pids, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := g.Kill(ctx); err != nil {
		_ = cmd.Process.Kill()
		t.Error(err)
	}
	_ = cmd.Wait()
	if err := g.Remove(ctx); err != nil {
		t.Error(err)
	}
	if exists(dir) {
		t.Error("it is still there")
	}
}

func openAtForWriting(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func TestAWalkGoesOnAfterGroupsThatVanish(t *testing.T) {
	top := t.TempDir()
	for _, d := range []string{"a/b/c", "a/d", "e/f"} {
		if err := os.MkdirAll(top+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	err := walk(top, func(dir string) error {
		name, err := os.Readlink(dir)
		if err != nil {
			name = dir
		}
		seen = append(seen, strings.TrimPrefix(name, top))
		if strings.HasSuffix(name, "/b/c") {
			return os.RemoveAll(top + "/a")
		}
		return nil
	})
	slices.Sort(seen)
	if err != nil || !slices.Contains(seen, "/e/f") || !slices.Contains(seen, "/a/b/c") {
		t.Errorf("visited %q, %v", seen, err)
	}
	if err := removeTree(top); err != nil {
		t.Error(err)
	}
	if exists(top) {
		t.Error("it is still there")
	}
}
