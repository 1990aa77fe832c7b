package durable

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk is a directory with so many bytes of its own.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("a tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

func parts(t *testing.T, dir string) int {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "reserve", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestWhatIsDeletedIsRecordedOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "size=40m")
	r := OpenReserve(dir)
	if n := parts(t, dir); n != reserveParts {
		t.Fatalf("%d parts are set aside", n)
	}
	db, err := OpenDB(filepath.Join(dir, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.Draw(r)
	put := func(key string, size int) error {
		return db.Update(func(tx *Tx) error { return tx.PutRaw("names", key, make([]byte, size)) })
	}
	if err := put("a", 100); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, filepath.Join(dir, "filler"))
	if err := put("c", 4<<20); !IsFull(err) || parts(t, dir) != reserveParts {
		t.Fatalf("what is added takes the reserve: %v, %d parts", err, parts(t, dir))
	}
	// Each transaction deletes something, and wants more room than there is.
	for n, bucket := range []string{"images", "layers", "leases", "networks"} {
		err := db.Update(func(tx *Tx) error {
			if err := tx.Delete("names", "a"); err != nil {
				return err
			}
			return tx.PutRaw(bucket, "x", make([]byte, 150<<10))
		})
		if err != nil || parts(t, dir) == reserveParts {
			t.Fatalf("transaction %d: %v, %d parts are left", n, err, parts(t, dir))
		}
	}
	if got := db.tryGet("names", "a"); got != nil {
		t.Fatal("what was deleted is there")
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	if err := put("d", 1); err != nil || parts(t, dir) != reserveParts {
		t.Fatalf("the reserve is not made again: %v, %d parts", err, parts(t, dir))
	}
}

func (db *DB) tryGet(bucket, key string) (data []byte) {
	_ = db.View(func(tx *Tx) error { data = tx.GetRaw(bucket, key); return nil })
	return data
}

func TestAReserveGivesRoomToWhoOpensItOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "size=40m")
	OpenReserve(dir)
	fillDisk(t, filepath.Join(dir, "filler"))
	for n := 1; n <= reserveParts; n++ {
		OpenReserve(dir)
		if got := parts(t, dir); got != reserveParts-n {
			t.Fatalf("%d parts are left", got)
		}
		fillDisk(t, filepath.Join(dir, "filler"+string(rune('0'+n))))
	}
	if OpenReserve(dir).Release() {
		t.Fatal("nothing is left, and something was released")
	}
	var none *Reserve
	none.Refill()
	if none.Release() {
		t.Fatal("no reserve released something")
	}
}

func TestWhoDoesNotStartGivesItsPartBack(t *testing.T) {
	dir := smallDisk(t, "size=40m")
	OpenReserve(dir)
	fillDisk(t, filepath.Join(dir, "filler"))
	for range 2 * reserveParts {
		r := OpenReserve(dir)
		if got := parts(t, dir); got != reserveParts-1 {
			t.Fatalf("%d parts are left", got)
		}
		if r.Close(); parts(t, dir) != reserveParts {
			t.Fatalf("%d parts are there again", parts(t, dir))
		}
	}
	r := OpenReserve(dir)
	fillDisk(t, filepath.Join(dir, "filler2")) // somebody else was faster
	if r.Close(); parts(t, dir) != reserveParts-1 {
		t.Fatalf("%d parts are there again", parts(t, dir))
	}
	for _, name := range []string{"filler", "filler2"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if r.Refill(); parts(t, dir) != reserveParts {
		t.Fatalf("with room again there are %d parts", parts(t, dir))
	}
	r.Close() // a second time, and after the refill, it does nothing
	if got := parts(t, dir); got != reserveParts || r.missing != 0 {
		t.Fatalf("%d parts, and %d are missed", got, r.missing)
	}
}

func TestASmallDiskIsNotTakenForAReserve(t *testing.T) {
	dir := smallDisk(t, "size=8m")
	if OpenReserve(dir); parts(t, dir) != 0 {
		t.Fatal("a reserve takes an eighth of the disk")
	}
	if OpenReserve(filepath.Join(dir, "missing")).Release() {
		t.Fatal("a missing directory has a reserve")
	}
}

func TestAnOldDatabaseIsOpenedWithoutAWrite(t *testing.T) {
	dir := smallDisk(t, "size=8m")
	path := filepath.Join(dir, "berth.db")
	db, err := OpenDB(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if db, err = OpenDB(path); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Fatalf("the database has changed: %v", err)
	}
}
