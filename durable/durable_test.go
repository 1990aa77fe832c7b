package durable

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"berth/fail"
)

func TestWriteFileReplacesAndLeavesNoDebris(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, s := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(s), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := os.ReadFile(path)
	fi, _ := os.Stat(path)
	names, _ := os.ReadDir(dir)
	if string(got) != "two" || fi.Mode().Perm() != 0o640 || len(names) != 1 {
		t.Fatalf("content %q, mode %v, %d entries", got, fi.Mode(), len(names))
	}
}

func TestWriteFileIntoMissingDirectoryFailsClean(t *testing.T) {
	if err := WriteFile(filepath.Join(t.TempDir(), "no", "state"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Acquire(path, "berthd, pid 7")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Acquire(path, "other")
	if !fail.Is(err, fail.Conflict) || !strings.Contains(err.Error(), "berthd, pid 7") {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := AcquireWait(ctx, path, "late"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	l.Release()
	// The abandoned waiter may win first, but it lets go at once.
	l, err = AcquireWait(t.Context(), path, "next")
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

func TestDBKeepsWhatWasCommittedOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	db, err := OpenDB(path)
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	if err := db.Update(func(tx *Tx) error { return tx.Put("names", "a", "1") }); err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *Tx) error {
		_ = tx.Put("names", "b", "2")
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	db.Close()
	if db, err = OpenDB(path); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_ = db.View(func(tx *Tx) error {
		var s string
		if ok, _ := tx.Get("names", "a", &s); !ok || s != "1" {
			t.Errorf("a = %q", s)
		}
		if tx.GetRaw("names", "b") != nil {
			t.Error("b survived its failed transaction")
		}
		return nil
	})
}

func TestDBFromTheFutureIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	b, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Update(func(tx *bbolt.Tx) error {
		m, _ := tx.CreateBucket([]byte("meta"))
		return m.Put([]byte("version"), []byte("99"))
	})
	b.Close()
	if _, err := OpenDB(path); !fail.Is(err, fail.Invalid) {
		t.Fatalf("got %v", err)
	}
}
