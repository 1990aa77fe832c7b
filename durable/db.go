package durable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"berth/fail"
)

// schemaVersion counts the migrations below; a database newer than us is refused.
const schemaVersion = 2

// migrations[i] takes a database from version i to i+1. Old databases of every
// version stay in testdata and are opened by a test.
var migrations = []func(*bbolt.Tx) error{
	addBuckets("containers", "names", "images", "layers", "leases"),
	addBuckets("networks", "volumes"),
}

func addBuckets(names ...string) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		for _, b := range names {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return err
			}
		}
		return nil
	}
}

// DB is the state database: one file, one writer process.
type DB struct {
	bolt    *bbolt.DB
	reserve *Reserve
}

// OpenDB opens or creates the database at path and migrates it to our schema.
func OpenDB(path string) (*DB, error) {
	_, missing := os.Stat(path)
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fail.New(fail.Conflict, "%s is in use by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	version := 0
	err = b.View(func(tx *bbolt.Tx) (err error) {
		version, err = versionOf(tx)
		return err
	})
	if err == nil && version < schemaVersion { // else nothing is written, for the disk may be full
		err = b.Update(migrate)
	}
	if err == nil && missing != nil {
		err = SyncDir(filepath.Dir(path))
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &DB{bolt: b}, nil
}

// versionOf is the schema of a database; 0 if it is new.
func versionOf(tx *bbolt.Tx) (version int, err error) {
	meta := tx.Bucket([]byte("meta"))
	if meta == nil {
		return 0, nil
	}
	if v := meta.Get([]byte("version")); v != nil {
		if version, err = strconv.Atoi(string(v)); err != nil {
			return 0, fmt.Errorf("schema version %q is not a number", v)
		}
	}
	if version > schemaVersion {
		return 0, fail.New(fail.Invalid, "written by a newer Berth (schema %d, this one knows %d)", version, schemaVersion)
	}
	return version, nil
}

func migrate(tx *bbolt.Tx) error {
	version, err := versionOf(tx)
	if err != nil {
		return err
	}
	meta, err := tx.CreateBucketIfNotExists([]byte("meta"))
	if err != nil {
		return err
	}
	for ; version < schemaVersion; version++ {
		if err := migrations[version](tx); err != nil {
			return fmt.Errorf("migrate to schema %d: %w", version+1, err)
		}
	}
	return meta.Put([]byte("version"), []byte(strconv.Itoa(version)))
}

// Draw has transactions that delete something go on with what r gives up when the disk is
// full. It is called before any other use.
func (db *DB) Draw(r *Reserve) { db.reserve = r }

// Close closes the database; transactions under way are awaited.
func (db *DB) Close() error { return db.bolt.Close() }

// View runs fn in a read-only transaction.
func (db *DB) View(fn func(*Tx) error) error {
	return db.bolt.View(func(tx *bbolt.Tx) error { return fn(&Tx{tx: tx}) })
}

// Update runs fn in a transaction that is durable when Update returns nil and
// leaves no trace otherwise. Transactions are serialised: keep fn short. On a full disk it
// may be called again.
func (db *DB) Update(fn func(*Tx) error) error {
	for {
		var t *Tx
		err := db.bolt.Update(func(tx *bbolt.Tx) error {
			t = &Tx{tx: tx}
			return fn(t)
		})
		if err == nil {
			db.reserve.Refill()
		}
		if !IsFull(err) || !t.deletes || !db.reserve.Release() {
			return err
		}
	}
}

// Check verifies the pages of the whole database, and tells what is wrong with them.
func (db *DB) Check(ctx context.Context) (problems []error, err error) {
	err = db.bolt.View(func(tx *bbolt.Tx) error {
		for e := range tx.Check() { // to its end: the channel is unbuffered
			problems = append(problems, e)
		}
		return ctx.Err()
	})
	return problems, err
}

// Tx is a transaction. Buckets are the ones of the package's schema.
type Tx struct {
	tx      *bbolt.Tx
	deletes bool
}

// Put stores v's JSON under key.
func (t *Tx) Put(bucket, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return t.PutRaw(bucket, key, data)
}

// PutRaw stores data under key.
func (t *Tx) PutRaw(bucket, key string, data []byte) error {
	return t.bucket(bucket).Put([]byte(key), data)
}

// Get decodes the value of key into v and reports whether there is one.
func (t *Tx) Get(bucket, key string, v any) (bool, error) {
	data := t.bucket(bucket).Get([]byte(key))
	if data == nil {
		return false, nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("%s/%s: %w", bucket, key, err)
	}
	return true, nil
}

// GetRaw returns a copy of key's value, nil if there is none.
func (t *Tx) GetRaw(bucket, key string) []byte {
	data := t.bucket(bucket).Get([]byte(key))
	if data == nil {
		return nil
	}
	return append([]byte{}, data...)
}

// Delete removes key; a missing one is no error.
func (t *Tx) Delete(bucket, key string) error {
	t.deletes = true
	return t.bucket(bucket).Delete([]byte(key))
}

// ForEach calls fn for every key in order. The data is valid only during the call,
// and fn must not change the bucket.
func (t *Tx) ForEach(bucket string, fn func(key string, data []byte) error) error {
	return t.bucket(bucket).ForEach(func(k, v []byte) error { return fn(string(k), v) })
}

func (t *Tx) bucket(name string) *bbolt.Bucket {
	b := t.tx.Bucket([]byte(name))
	if b == nil {
		panic("durable: no bucket " + name + " in the schema")
	}
	return b
}
