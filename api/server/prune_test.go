package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"berth/fail"
)

func TestOnlyOnePruneOfAKindAtATime(t *testing.T) {
	s := &Server{}
	entered, leave := make(chan struct{}), make(chan struct{})
	slow := alone("images", func(*writer, *request) error {
		entered <- struct{}{}
		<-leave
		return nil
	})
	call := func(handle func(*writer, *request) error) error {
		return handle(&writer{ResponseWriter: httptest.NewRecorder()}, &request{Request: httptest.NewRequest(http.MethodPost, "/", nil), s: s})
	}
	first := make(chan error)
	go func() { first <- call(slow) }()
	<-entered
	if err := call(slow); !fail.Is(err, fail.Conflict) || err.Error() != "a prune operation is already running" {
		t.Errorf("a second prune: %v", err)
	}
	if err := call(alone("volumes", func(*writer, *request) error { return nil })); err != nil {
		t.Errorf("a prune of another kind: %v", err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Error(err)
	}
	go func() { <-entered }()
	if err := call(slow); err != nil {
		t.Errorf("the next prune: %v", err)
	}
}
