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
	waiting []run
	texts   []byte // of all that wait
	size    int64  // bytes of memory, about, that they take
	closing bool
	lost    int
}

// run is messages that differ in their texts alone, as most of one read do: a message of
// its own would take many times the memory of a short line.
type run struct {
	head message
	ends []uint32 // of each one's text in texts
}

// What a run and a message in it take beside the text, with what the lists have in reserve.
// Were they not counted, empty lines would cost nothing and fill the memory.
const (
	runCost  = 256
	lineCost = 8
)

func (r *run) takes(m *message) bool {
	h := &r.head
	return h.Stream == m.Stream && h.Time.Equal(m.Time) && h.Open == m.Open && h.Part == m.Part && h.Line == m.Line
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
	n := len(r.waiting)
	fresh := n == 0 || !r.waiting[n-1].takes(m)
	size := r.size + int64(len(m.Text)) + lineCost
	if fresh {
		size += runCost
	}
	if size > r.limit && n > 0 || r.closing {
		r.lost++
		return
	}
	if fresh {
		head := *m
		head.Text = nil
		r.waiting = append(r.waiting, run{head: head})
		n++
	}
	r.texts = append(r.texts, m.Text...)
	last := &r.waiting[n-1]
	last.ends = append(last.ends, uint32(len(r.texts))) // Options.Buffer is less than 2 GiB
	r.size = size
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
		batch, texts := r.waiting, r.texts
		r.waiting, r.texts, r.size = nil, nil, 0
		r.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		begin := uint32(0)
		for i := range batch {
			m := batch[i].head
			for _, end := range batch[i].ends {
				m.Text = texts[begin:end]
				r.to.Add(&m)
				begin = end
			}
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
