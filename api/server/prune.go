package server

import (
	"sync"

	"berth/fail"
)

// pruning knows which kinds of objects are being pruned.
type pruning struct {
	mu    sync.Mutex
	kinds map[string]bool
}

func (p *pruning) begin(kind string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kinds[kind] {
		return false
	}
	if p.kinds == nil {
		p.kinds = map[string]bool{}
	}
	p.kinds[kind] = true
	return true
}

func (p *pruning) end(kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.kinds, kind)
}

// alone refuses a prune while another one of its kind is under way.
func alone(kind string, handle func(*writer, *request) error) func(*writer, *request) error {
	return func(w *writer, r *request) error {
		if !r.s.pruning.begin(kind) {
			return fail.New(fail.Conflict, "a prune operation is already running")
		}
		defer r.s.pruning.end(kind)
		return handle(w, r)
	}
}
