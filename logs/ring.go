package logs

import (
	"fmt"
	"sync"
)

// ring stands before an output that may be slow: what does not fit is dropped, and nobody
// waits (mode=non-blocking).
type ring struct {
	to    output
	limit int64
	done  chan struct{}

	mu      sync.Mutex // guards all below
	changed *sync.Cond
	waiting []message
	size    int64 // bytes of their texts
	closing bool
	lost    int
}

func newRing(to output, limit int64) *ring {
	r := &ring{to: to, limit: limit, done: make(chan struct{})}
	r.changed = sync.NewCond(&r.mu)
	go r.run() // ends with Close
	return r
}

// Add keeps a copy. One message always fits, however small the ring.
func (r *ring) Add(m *message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if size := r.size + int64(len(m.Text)); size > r.limit && len(r.waiting) > 0 || r.closing {
		r.lost++
		return
	}
	kept := *m
	kept.Text = append([]byte(nil), m.Text...)
	r.waiting = append(r.waiting, kept)
	r.size += int64(len(kept.Text))
}

// Flush lets the output have what was added.
func (r *ring) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed.Signal()
}

func (r *ring) run() {
	defer close(r.done)
	for {
		r.mu.Lock()
		for len(r.waiting) == 0 && !r.closing {
			r.changed.Wait()
		}
		batch := r.waiting
		r.waiting, r.size = nil, 0
		r.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for i := range batch {
			r.to.Add(&batch[i])
		}
		r.to.Flush()
	}
}

// Close writes what waits.
func (r *ring) Close() error {
	r.mu.Lock()
	r.closing = true
	r.changed.Signal()
	r.mu.Unlock()
	<-r.done
	err := r.to.Close()
	if err == nil && r.lost > 0 {
		err = fmt.Errorf("%d log lines came faster than they could be written, and were dropped", r.lost)
	}
	return err
}
