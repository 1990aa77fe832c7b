package engine

import (
	"context"

	"berth/fail"
)

// WaitCondition of Wait.
type WaitCondition string

const (
	WaitNotRunning WaitCondition = "not-running"
	WaitNextExit   WaitCondition = "next-exit"
	WaitRemoved    WaitCondition = "removed"
)

// WaitResult is what Wait's channel delivers once.
type WaitResult struct {
	ExitCode int
	Err      error // the container could not be removed, or the engine closes
}

// waiter is one Wait that is not answered yet.
type waiter struct {
	cond WaitCondition
	c    chan WaitResult // capacity 1
}

// wait registers before it returns, so that whatever the caller does next cannot be
// missed. It is forgotten when ctx ends.
func (i *instance) wait(ctx context.Context, cond WaitCondition) (<-chan WaitResult, error) {
	w := &waiter{cond: cond, c: make(chan WaitResult, 1)}
	switch cond {
	case "":
		w.cond = WaitNotRunning
	case WaitNotRunning, WaitNextExit, WaitRemoved:
	default:
		return nil, fail.New(fail.Invalid, "invalid condition: %q", string(cond))
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.now()
	if i.removed || w.cond == WaitNotRunning && !c.State.Running() {
		w.c <- WaitResult{ExitCode: c.State.ExitCode}
		return w.c, nil
	}
	i.waiters[w] = struct{}{}
	context.AfterFunc(ctx, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.waiters, w)
	})
	return w.c, nil
}

// tell answers the waiters that which picks. The caller holds mu.
func (i *instance) tell(which func(*waiter) bool, r WaitResult) {
	for _, w := range i.pick(which) {
		w.c <- r
	}
}

// pick takes waiters out who are to be answered, by whoever calls it: who comes after that does
// not wait for what has just happened. The caller holds mu.
func (i *instance) pick(which func(*waiter) bool) (picked []*waiter) {
	for w := range i.waiters {
		if which(w) {
			picked = append(picked, w)
			delete(i.waiters, w)
		}
	}
	return picked
}

func anyExit(w *waiter) bool { return w.cond != WaitRemoved }
func all(*waiter) bool       { return true }
func removals(w *waiter) bool {
	return w.cond == WaitRemoved
}
