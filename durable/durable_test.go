package durable

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
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

// testdata/schema-N.db.gz was written by the Berth that had schema N: a container and its
// name.
func TestOldDatabasesAreMigrated(t *testing.T) {
	old, err := filepath.Glob("testdata/schema-*.db.gz")
	if err != nil || len(old) != schemaVersion-1 {
		t.Fatalf("there are databases of %d old schemas, and should be of %d (%v)", len(old), schemaVersion-1, err)
	}
	for _, path := range old {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		now := filepath.Join(t.TempDir(), "berth.db")
		if err := os.WriteFile(now, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time nothing is to be done
			db, err := OpenDB(now)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			err = db.Update(func(tx *Tx) error {
				var c struct{ Name string }
				if ok, err := tx.Get("containers", "0123", &c); err != nil || !ok || c.Name != "web" || string(tx.GetRaw("names", "web")) != "0123" {
					t.Errorf("%s: the container is %v %+v (%v)", path, ok, c, err)
				}
				return errors.Join(tx.PutRaw("networks", "x", []byte("{}")), tx.PutRaw("volumes", "x", []byte("{}")))
			})
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
	}
}
