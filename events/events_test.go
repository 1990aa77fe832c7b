package events

import (
	"context"
	"strconv"
	"testing"
	"time"
)

func TestSubscriberSeesHistoryThenLiveWithoutGap(t *testing.T) {
	b := NewBus()
	start := time.Now()
	b.Publish(Event{Action: "old"})
	s := b.Subscribe(t.Context(), start, nil)
	b.Publish(Event{Action: "new"})
	if len(s.History) != 1 || s.History[0].Action != "old" {
		t.Fatalf("history %v", s.History)
	}
	if e := <-s.C; e.Action != "new" {
		t.Fatalf("got %v", e)
	}
}

func TestHistoryKeepsTheNewest(t *testing.T) {
	b := NewBus()
	for i := range historySize + 10 {
		b.Publish(Event{Action: strconv.Itoa(i)})
	}
	s := b.Subscribe(t.Context(), time.Unix(1, 0), nil)
	if len(s.History) != historySize || s.History[0].Action != "10" {
		t.Fatalf("%d kept, first %v", len(s.History), s.History[0])
	}
}

func TestSlowSubscriberIsCutOffAndCancelEndsOne(t *testing.T) {
	b := NewBus()
	slow := b.Subscribe(t.Context(), time.Time{}, nil)
	for range subscriberBuffer + 1 {
		b.Publish(Event{})
	}
	n := 0
	for range slow.C {
		n++
	}
	if n != subscriberBuffer || b.Subscribers() != 0 {
		t.Fatalf("%d events, %d subscribers", n, b.Subscribers())
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := b.Subscribe(ctx, time.Time{}, nil)
	cancel()
	if _, open := <-s.C; open {
		t.Fatal("channel still open")
	}
}
