package images

import (
	"context"
	"sync"

	"berth/fail"
	"berth/oci"
)

// course is what those have in common who can share a flight.
type course struct {
	target, manifest oci.Digest
	platform         string // that was asked for
}

// flight is one manifest's way into the store, shared by all who want it at the same
// time. It ends early when the last of them gives up.
type flight struct {
	course
	lease  *lease // on the content, until all who wanted it have recorded it
	cancel context.CancelCauseFunc
	done   chan struct{}
	got    arrived // valid, like err, once done is closed
	err    error

	// Guarded by Store.mu.
	riders int
	ended  bool

	mu       sync.Mutex // guards what follows, watchers included
	watchers map[*watcher]struct{}
	order    []string        // layers, in the order of their first step
	latest   map[string]Step // by layer: for those who come late
}

// watcher is who wants to be told of a flight's steps. It takes them when it can: a client that
// stands still holds up nobody but itself.
type watcher struct {
	steps []Step         // it has still to be told of; of those that only count bytes the last one
	at    map[string]int // by layer: the place of its last one in steps
	news  chan struct{}  // holds one: there are some
}

func (w *watcher) add(s Step) {
	if i, ok := w.at[s.ID]; ok && w.steps[i].Status == s.Status {
		w.steps[i] = s
	} else {
		w.at[s.ID] = len(w.steps)
		w.steps = append(w.steps, s)
	}
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// fetcher does a flight's work.
type fetcher func(context.Context, Progress, *lease) (arrived, error)

// board brings a manifest into the store by work, or joins who is at it already. The
// content is leased until leave is called, which must be.
func (s *Store) board(ctx context.Context, c course, report Progress, work fetcher) (got arrived, leave func(), err error) {
	f, err := s.join(ctx, c, work)
	if err != nil {
		return arrived{}, func() {}, err
	}
	w := f.watch()
	defer f.unwatch(w)
	for {
		select {
		case <-w.news:
			f.tell(w, report)
		case <-f.done:
			f.tell(w, report)
			return f.got, func() { s.alight(f, nil) }, f.err
		case <-ctx.Done():
			s.alight(f, context.Cause(ctx))
			return arrived{}, func() {}, context.Cause(ctx)
		}
	}
}

// join finds the flight of a course, or starts it.
func (s *Store) join(ctx context.Context, c course, work fetcher) (*flight, error) {
	if f := s.underWay(c); f != nil {
		return f, nil
	}
	l, err := s.newLease("pull", c.manifest.String())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if f := s.underWayLocked(c); f != nil { // somebody was faster
		s.mu.Unlock()
		l.release()
		return f, nil
	}
	fctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	f := &flight{course: c, lease: l, cancel: cancel, done: make(chan struct{}), riders: 1,
		watchers: map[*watcher]struct{}{}, latest: map[string]Step{}}
	s.flights[c] = f
	s.mu.Unlock()
	go s.fly(fctx, f, work)
	return f, nil
}

func (s *Store) underWay(c course) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.underWayLocked(c)
}

func (s *Store) underWayLocked(c course) *flight {
	f := s.flights[c]
	if f == nil || f.ended && f.err != nil {
		return nil
	}
	f.riders++
	return f
}

func (s *Store) fly(ctx context.Context, f *flight, work fetcher) {
	got, err := work(ctx, f.report, f.lease)
	f.cancel(nil)
	s.mu.Lock()
	f.got, f.err, f.ended = got, err, true
	deserted := f.riders == 0
	s.mu.Unlock()
	switch {
	case fail.Is(err, fail.Invalid): // no later try can use what came
		f.lease.abort()
	case deserted:
		f.lease.release()
	}
	if _, err := s.blobs.ExpirePartials(); err != nil {
		s.log.Warn("old partial downloads are left", "error", err)
	}
	close(f.done)
}

// alight takes one rider off. The last one to leave a flight under way cancels it and
// waits for its end; the last one of all ends its lease.
func (s *Store) alight(f *flight, cause error) {
	s.mu.Lock()
	f.riders--
	last, ended := f.riders == 0, f.ended
	if last && s.flights[f.course] == f {
		delete(s.flights, f.course)
	}
	s.mu.Unlock()
	switch {
	case last && ended:
		f.lease.release()
	case last:
		f.cancel(cause)
		<-f.done
	}
}

// watch adds a watcher, who gets to know of all layers so far, and of what comes.
func (f *flight) watch() *watcher {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &watcher{at: map[string]int{}, news: make(chan struct{}, 1)}
	f.watchers[w] = struct{}{}
	for _, id := range f.order {
		w.add(f.latest[id])
	}
	return w
}

// tell reports what w has not been told of.
func (f *flight) tell(w *watcher, report Progress) {
	f.mu.Lock()
	steps := w.steps
	w.steps, w.at = nil, map[string]int{}
	f.mu.Unlock()
	for _, s := range steps {
		report(s)
	}
}

func (f *flight) unwatch(w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, w)
}

// report is a Progress.
func (f *flight) report(s Step) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.latest[s.ID]; !ok {
		f.order = append(f.order, s.ID)
	}
	f.latest[s.ID] = s
	for w := range f.watchers {
		w.add(s)
	}
}
