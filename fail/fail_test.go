package fail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestClassSurvivesWrapping(t *testing.T) {
	err := fmt.Errorf("start web: %w", New(NotFound, "no such image: %s", "x"))
	if Of(err) != NotFound || err.Error() != "start web: no such image: x" {
		t.Fatalf("got class %v, text %q", Of(err), err)
	}
}

func TestOuterClassCoversInner(t *testing.T) {
	err := New(Unavailable, "registry: %w", New(NotFound, "blob: %w", io.ErrUnexpectedEOF))
	if Of(err) != Unavailable {
		t.Fatalf("got %v", Of(err))
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal("the cause is lost")
	}
}

func TestForeignErrorsAreInternalAndContextErrorsCanceled(t *testing.T) {
	if Of(io.EOF) != Internal || Of(fmt.Errorf("x: %w", context.Canceled)) != Canceled {
		t.Fatal("wrong class")
	}
	if Is(nil, Internal) || Mark(Invalid, nil) != nil {
		t.Fatal("nil must have no class")
	}
}
