package supervisor

import (
	"context"
	"time"
)

// oomCounted is how long the kernel may take, on cgroup v1, from announcing that memory
// is out to counting the process that it killed.
const oomCounted = time.Second

// watchOOM tells of processes that the kernel kills for memory, until ctx ends.
func (s *shim) watchOOM(ctx context.Context) {
	events, err := s.container.WatchOOM(ctx)
	if err != nil {
		return // State and the exit record still tell
	}
	// The container was quicker than the watch?
	known, err := s.container.OOMKills()
	if err == nil {
		s.outOfMemory(known)
	}
	for range events {
		killed := s.countOOM(ctx, known)
		if killed == known {
			continue
		}
		known = killed
		s.outOfMemory(known)
	}
}

// outOfMemory notes and tells that so many processes were killed by now. After the
// container's end its exit tells.
func (s *shim) outOfMemory(kills uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == isRunning {
		s.killedForMemory(kills)
	}
}

// killedForMemory tells of each kill once. The caller holds mu.
func (s *shim) killedForMemory(kills uint64) {
	for ; s.oomKills < kills; s.oomKills++ {
		s.tellLocked(Event{Kind: EventOOM})
	}
}

// countOOM waits until the kernel has counted more than known kills, or does not.
func (s *shim) countOOM(ctx context.Context, known uint64) uint64 {
	ctx, cancel := context.WithTimeout(ctx, oomCounted)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := s.container.OOMKills()
		if err != nil || n > known {
			return max(n, known)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return known
		}
	}
}
