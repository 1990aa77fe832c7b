package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"berth/fail"
)

// EndAll ends every container that runs, for the machine or Berth itself is about to go: each by its
// own stop signal and timeout, all at the same time, but one that depends on others before
// those. Nobody has stopped them by hand, so at the next boot their policies bring them back. The
// engine has to be open for that alone (Options.Ending). What could not be ended is in the error.
func (e *Engine) EndAll(ctx context.Context) error {
	l := e.life
	live := map[string]*instance{}
	for _, i := range l.idx.all() {
		switch {
		case l.cancelRestart(i): // a shim that waited for that would wake an engine
			l.endedWithMachine(i)
		case i.now().State.Running():
			live[i.id] = i
		}
	}
	over := map[string]chan struct{}{}
	for id := range live {
		over[id] = make(chan struct{})
	}
	var mu sync.Mutex // guards failed
	var failed []error
	var ending sync.WaitGroup
	for id, before := range endOrder(live, l.idx) {
		ending.Go(func() {
			defer close(over[id])
			for _, dependent := range before {
				<-over[dependent]
			}
			if err := l.endWithMachine(ctx, live[id]); err != nil {
				mu.Lock()
				failed = append(failed, fmt.Errorf("container %s: %w", live[id].now().Name, err))
				mu.Unlock()
			}
		})
	}
	ending.Wait()
	return errors.Join(failed...)
}

// endWithMachine ends one container.
func (l *lifecycle) endWithMachine(ctx context.Context, i *instance) error {
	c := i.now()
	sig, patience, err := stopTerms(c, StopOptions{})
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.noRestart = true
	i.mu.Unlock()
	gone, err := i.wait(ctx, WaitRemoved)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { // ends with the container, or the engine
		r, _, err := i.live()
		if err == nil {
			if err = l.signal(ctx, i, r, sig); err == nil {
				err = l.awaitExit(ctx, i, r, patience)
			}
		}
		if fail.Is(err, fail.Conflict) || fail.Is(err, fail.NotFound) { // it ended by itself meanwhile
			err = nil
		}
		ended <- err
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	l.ann.tell(c, "stop")
	if c.HostConfig.AutoRemove {
		return awaitRemoval(ctx, gone)
	}
	l.endedWithMachine(i)
	return nil
}

// endedWithMachine notes that the next engine is to do what it does after a boot.
func (l *lifecycle) endedWithMachine(i *instance) {
	i.mu.Lock()
	i.boot = endedWithMachine
	i.mu.Unlock()
	l.rec.later(i)
}

func awaitRemoval(ctx context.Context, gone <-chan WaitResult) error {
	t := time.NewTimer(killPatience)
	defer t.Stop()
	select {
	case <-gone:
		return nil
	case <-t.C:
		return fail.New(fail.Internal, "it was not removed in time")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endOrder tells for each container which others have to end before it: those that link to it,
// live in one of its namespaces or use its volumes. Of containers that depend on each
// other in a circle one goes first.
func endOrder(live map[string]*instance, idx *index) map[string][]string {
	before := map[string][]string{}
	for id, needs := range startOrder(live, idx) {
		if _, known := before[id]; !known {
			before[id] = nil
		}
		for _, d := range needs {
			before[d] = append(before[d], id)
		}
	}
	return before
}

// startOrder tells for each container which others have to start before it: the reverse. Of a
// circle one goes first, too.
func startOrder(all map[string]*instance, idx *index) map[string][]string {
	needs := map[string][]string{}
	for id, i := range all {
		for _, ref := range dependencies(i.now()) {
			if d, err := idx.find(ref); err == nil && all[d.id] != nil && d.id != id {
				needs[id] = append(needs[id], d.id)
			}
		}
	}
	after := map[string][]string{}
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(id string)
	visit = func(id string) {
		state[id] = visiting
		for _, d := range needs[id] {
			if state[d] == visiting {
				continue // the circle is cut here
			}
			after[id] = append(after[id], d)
			if state[d] == 0 {
				visit(d)
			}
		}
		state[id] = done
	}
	for _, id := range sortedKeys(all) {
		if _, known := after[id]; !known {
			after[id] = nil
		}
		if state[id] == 0 {
			visit(id)
		}
	}
	return after
}

// dependencies names the containers that c cannot do without.
func dependencies(c Container) (refs []string) {
	h := c.HostConfig
	for _, donor := range []string{h.NetworkMode.ConnectedContainer(), h.IpcMode.Container(), h.PidMode.Container()} {
		if donor != "" {
			refs = append(refs, donor)
		}
	}
	links := h.Links
	if c.Networking != nil {
		for _, e := range c.Networking.EndpointsConfig {
			if e != nil {
				links = append(links[:len(links):len(links)], e.Links...)
			}
		}
	}
	for _, l := range links {
		target, _ := SplitLink(l)
		refs = append(refs, target)
	}
	for _, from := range h.VolumesFrom {
		source, _, _ := strings.Cut(from, ":")
		refs = append(refs, source)
	}
	return refs
}
