package cgroup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// OOMKills counts the processes of the group and below it that the kernel killed for
// memory, since the group was made. Without a memory controller it is 0; of a group that is gone
// it is the last number that was seen, here or by WatchOOM.
func (g *Group) OOMKills() (uint64, error) {
	d, ok := g.dirOf("memory")
	if !ok {
		return 0, nil
	}
	if d.unified {
		// memory.events counts the groups below too.
		n, err := readKey(d.path+"/memory.events", "oom_kill")
		if gone(err) {
			// The controller is not delegated to this group, or the group is gone.
			return g.kills.Load() + g.killedUnseen(d.path), nil
		}
		for seen := g.kills.Load(); err == nil && n > seen && !g.kills.CompareAndSwap(seen, n); seen = g.kills.Load() {
		}
		return n, err
	}
	var total uint64
	err := walk(d.path, func(dir string) error {
		n, err := readKey(dir+"/memory.oom_control", "oom_kill")
		if gone(err) && dir != d.path {
			return nil
		}
		total += n
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count OOM kills of control group %s: %w", g.path, err)
	}
	return total, nil
}

// WatchOOM tells when the group runs out of memory. The channel gets a value each time,
// unless the one before has not been taken yet, and is closed when ctx ends. On v1, where the
// kernel tells of it, it is closed when the group is removed, too. On v2 a value comes after OOMKills
// has grown; on v1 it comes when the kernel starts looking for a process to kill, so OOMKills may
// grow a moment later. Class Invalid without a memory controller.
//
// It costs one descriptor in the runtime poller and one parked goroutine.
func (g *Group) WatchOOM(ctx context.Context) (<-chan struct{}, error) {
	d, ok := g.dirOf("memory")
	if !ok {
		return nil, fail.New(fail.Invalid, "cannot watch for OOM: the memory controller is not mounted or not writable")
	}
	if d.unified {
		return g.watchOOMV2(ctx, d.path)
	}
	return g.watchOOMV1(ctx, d.path)
}

// watchOOMV1 is Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control". The
// kernel signals the descriptor also when the group is removed.
func (g *Group) watchOOMV1(ctx context.Context, dir string) (<-chan struct{}, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch for OOM: %w", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	control, err := open(dir+"/memory.oom_control", unix.O_RDONLY)
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "open", Path: dir + "/memory.oom_control", Err: err}
	}
	defer unix.Close(control)
	if err := write(dir+"/cgroup.event_control", strconv.Itoa(fd)+" "+strconv.Itoa(control)); err != nil {
		f.Close()
		return nil, fmt.Errorf("watch for OOM: %w", err)
	}
	events := make(chan struct{}, 1)
	go func() {
		defer close(events)
		defer f.Close()
		var count [8]byte
		for waitReadable(ctx, f) == nil {
			if _, err := f.Read(count[:]); err != nil || !exists(dir) {
				return
			}
			notify(events)
		}
	}()
	return events, nil
}

// hit is a moment at which the group had met its limit, and nobody was killed of it yet. The kernel
// notices that at once, but holds back the next notice, of the kill, for 10 ms
// (CGROUP_FILE_NOTIFY_MIN_INTV): by that time systemd may have removed the scope.
type hit struct {
	above uint64 // kills in the group above and below it, read before the group's own
	at    time.Time
}

// killedUnseen tells, as 1 or 0, whether the group that is gone has gone by a kill that nobody has read:
// it had just met its limit, and since then the group above, which counts along, has counted one.
func (g *Group) killedUnseen(dir string) uint64 {
	if h := g.hit.Load(); h != nil && time.Since(h.at) < 5*time.Second && killsAbove(dir) > h.above {
		return 1
	}
	return 0
}

func killsAbove(dir string) uint64 {
	n, _ := readKey(filepath.Dir(dir)+"/memory.events", "oom_kill")
	return n
}

func (g *Group) watchOOMV2(ctx context.Context, dir string) (<-chan struct{}, error) {
	file := dir + "/memory.events"
	f, err := watchFile(file)
	if err != nil {
		return nil, fmt.Errorf("watch for OOM: %w", err)
	}
	before, err := g.OOMKills()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("watch for OOM: %w", err)
	}
	events := make(chan struct{}, 1)
	go func() {
		defer close(events)
		defer f.Close()
		_ = f.wait(ctx, func() (bool, error) {
			var above uint64
			if g.scope != "" {
				above = killsAbove(dir)
			}
			now, err := g.OOMKills()
			if g.scope != "" && now == before {
				if met, e := readKey(file, "max"); e == nil && met > 0 {
					g.hit.Store(&hit{above, time.Now()})
				}
			}
			if err == nil && now > before {
				before = now
				notify(events)
			}
			return false, err
		})
	}()
	return events, nil
}

func notify(events chan<- struct{}) {
	select {
	case events <- struct{}{}:
	default:
	}
}
