package layer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestWhatIsNotDeletedInTimeIsDeletedAfterTheNextStart(t *testing.T) {
	s := open(t)
	a := commit(t, s, "", fileE("a/b/c", "x"), fileE("a/d", "y"))
	must(t, s.Close())
	must(t, s.Remove(a))
	if names, err := os.ReadDir(filepath.Join(s.root, "trash")); err != nil || len(names) != 1 || s.Has(a) {
		t.Fatal("the layer was deleted by a closed store:", names, err)
	}
	s, err := Open(s.root, "")
	must(t, err)
	defer s.Close()
	if left := leftovers(t, s); left != nil {
		t.Fatal(left)
	}
}

func TestSettleHeedsTheContext(t *testing.T) {
	g := newGrave()
	g.slots <- struct{}{}
	g.slots <- struct{}{} // somebody is busy
	g.bury(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.settle(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	<-g.slots
	must(t, g.settle(t.Context()))
}
