// Package events is the engine's bus: what happens to objects, told in order to
// whoever listens, with a bounded history for those who come late. The history outlives
// the engine in a file (journal.go).
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

	texts *texts // of one that was published
}

// texts are an event's encodings, made once for all subscribers.
type texts struct {
	mu     sync.Mutex // guards byForm
	byForm map[string][]byte
}

// Text encodes an event in a form that has a name; for a published one it is done once.
// The bytes must not be changed.
func (e Event) Text(form string, encode func(Event) ([]byte, error)) ([]byte, error) {
	if e.texts == nil {
		return encode(e)
	}
	e.texts.mu.Lock()
	defer e.texts.mu.Unlock()
	if text, ok := e.texts.byForm[form]; ok {
		return text, nil
	}
	text, err := encode(e)
	if err == nil {
		if e.texts.byForm == nil {
			e.texts.byForm = make(map[string][]byte, 1)
		}
		e.texts.byForm[form] = text
	}
	return text, err
}

// historySize is how many events are kept in memory (Docker keeps 256 in all); the file
// reaches further back.
const historySize = 256

// subscriberBuffer is how many events a subscriber may be behind.
const subscriberBuffer = 1024

// entry is an event with its number: one more than that of the event before it, also over
// a restart of the engine.
type entry struct {
	N uint64 `json:"n"`
	Event
}

// Bus distributes events. Its zero value is not usable; call NewBus or Open.
type Bus struct {
	journal *journal // nil: none

	mu      sync.Mutex // guards all below
	history []entry
	next    uint64 // number of the next event
	last    time.Time
	counts  map[Kind]uint64
	subs    map[*Subscription]struct{}
}

// Kind is what events are counted by.
type Kind struct{ Type, Action string }

// NewBus makes an empty bus that forgets everything with the process.
func NewBus() *Bus {
	return &Bus{subs: map[*Subscription]struct{}{}, counts: map[Kind]uint64{}, next: 1}
}

// Publish hands e to every subscriber and the history. It never blocks: a
// subscriber that fell subscriberBuffer events behind is cut off (its channel closes).
// A zero Time is set to now; no two such events have the same time, so that who resumes
// after one misses none.
func (b *Bus) Publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
		if ahead := b.last.Sub(e.Time); ahead >= 0 && ahead < time.Millisecond {
			e.Time = b.last.Add(1)
		}
		b.last = e.Time
	}
	n := entry{b.next, e}
	b.next++
	b.counts[Kind{e.Type, verb(e.Action)}]++
	if len(b.history) >= historySize && (b.journal == nil || b.journal.has(b.history[0].N)) {
		copy(b.history, b.history[1:])
		b.history = b.history[:len(b.history)-1]
	}
	b.history = append(b.history, n)
	if b.journal != nil {
		b.journal.add(n)
	}
	if len(b.subs) > 1 {
		e.texts = new(texts) // the history does without
	}
	for s := range b.subs {
		select {
		case s.c <- e:
		default:
			b.drop(s)
			if s.cut != nil {
				go s.cut()
			}
		}
	}
}

// verb is an action without what is special about this one: "exec_create: sh".
func verb(action string) string {
	for i := range len(action) {
		if action[i] == ':' {
			return action[:i]
		}
	}
	return action
}

// Subscription is one listener's view: first History, then C, with no gap between.
type Subscription struct {
	History []Event
	C       <-chan Event
	c       chan Event
	cut     func()
}

// Subscribe listens until ctx ends, then closes C. History holds the kept events at
// or after since; a zero since asks for none. If the subscriber is cut off because it does
// not listen, cut is called (nil: nothing).
func (b *Bus) Subscribe(ctx context.Context, since time.Time, cut func()) *Subscription {
	c := make(chan Event, subscriberBuffer)
	s := &Subscription{C: c, c: c, cut: cut}
	b.mu.Lock()
	first := b.next // of the events in memory
	if len(b.history) > 0 {
		first = b.history[0].N
	}
	further := first > 1 && (len(b.history) == 0 || b.history[0].Time.After(since))
	if !since.IsZero() {
		for _, e := range b.history {
			if !e.Time.Before(since) {
				s.History = append(s.History, e.Event)
			}
		}
	}
	b.subs[s] = struct{}{}
	b.mu.Unlock()
	if b.journal != nil && !since.IsZero() && further {
		s.History = append(b.journal.read(since, first), s.History...)
	}
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

// Counts tells how many events of each kind there were since the engine started.
func (b *Bus) Counts() map[Kind]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[Kind]uint64, len(b.counts))
	for k, n := range b.counts {
		out[k] = n
	}
	return out
}

func (b *Bus) drop(s *Subscription) {
	if _, ok := b.subs[s]; ok {
		delete(b.subs, s)
		close(s.c)
	}
}
