// Package events is the engine's bus: what happens to objects, told in order to
// whoever listens, with a bounded history for those who come late.
package events

import (
	"context"
	"sync"
	"time"
)

// Event is one thing that happened to one object.
type Event struct {
	Type   string            `json:"type"`   // container, image, volume, network, daemon, builder
	Action string            `json:"action"` // Docker's verb: create, start, die, …
	ID     string            `json:"id"`
	Attrs  map[string]string `json:"attrs,omitempty"`
	Time   time.Time         `json:"time"`
}

// historySize is how many events --since can reach back (Docker keeps 256 too).
const historySize = 256

// Bus distributes events. Its zero value is not usable; call NewBus.
type Bus struct {
	mu      sync.Mutex // guards all below
	history []Event
	subs    map[*Subscription]struct{}
}

// NewBus makes an empty bus.
func NewBus() *Bus { return &Bus{subs: map[*Subscription]struct{}{}} }

// Publish hands e to every subscriber and the history. It never blocks: a
// subscriber that fell subscriberBuffer events behind is cut off (its channel closes).
// A zero Time is set to now.
func (b *Bus) Publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if len(b.history) == historySize {
		copy(b.history, b.history[1:])
		b.history = b.history[:historySize-1]
	}
	b.history = append(b.history, e)
	for s := range b.subs {
		select {
		case s.c <- e:
		default:
			b.drop(s)
		}
	}
}

const subscriberBuffer = 1024

// Subscription is one listener's view: first History, then C, with no gap between.
type Subscription struct {
	History []Event
	C       <-chan Event
	c       chan Event
}

// Subscribe listens until ctx ends, then closes C. History holds the kept events at
// or after since; a zero since asks for none.
func (b *Bus) Subscribe(ctx context.Context, since time.Time) *Subscription {
	c := make(chan Event, subscriberBuffer)
	s := &Subscription{C: c, c: c}
	b.mu.Lock()
	if !since.IsZero() {
		for _, e := range b.history {
			if !e.Time.Before(since) {
				s.History = append(s.History, e)
			}
		}
	}
	b.subs[s] = struct{}{}
	b.mu.Unlock()
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(s)
	})
	return s
}

// Subscribers counts the listeners (NEventsListener of info).
func (b *Bus) Subscribers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs)
}

func (b *Bus) drop(s *Subscription) {
	if _, ok := b.subs[s]; ok {
		delete(b.subs, s)
		close(s.c)
	}
}
