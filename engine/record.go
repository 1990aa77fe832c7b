package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"berth/durable"
	"berth/oci"
)

// record is a container as the bucket "containers" keeps it.
type record struct {
	Name         string                    `json:"name"`
	Created      time.Time                 `json:"created"`
	Image        oci.Digest                `json:"image"`
	Path         string                    `json:"path"`
	Args         []string                  `json:"args"`
	Config       *container.Config         `json:"config"`
	HostConfig   *container.HostConfig     `json:"hostConfig"`
	Networking   *network.NetworkingConfig `json:"networking,omitempty"`
	Driver       string                    `json:"driver"`
	Mounts       []MountPoint              `json:"mounts,omitempty"`
	Plan         mountRequests             `json:"plan,omitempty"`
	Sandbox      string                    `json:"sandbox"`
	State        State                     `json:"state"`
	RestartCount int                       `json:"restartCount,omitempty"`
	Manual       bool                      `json:"manual,omitempty"` // stopped by hand
	Boot         string                    `json:"boot"`             // boot ID of its creation or latest start; empty: endedWithMachine
	AppArmor     string                    `json:"apparmor,omitempty"`
	ProcessLabel string                    `json:"processLabel,omitempty"`
	MountLabel   string                    `json:"mountLabel,omitempty"`
	Backoff      time.Duration             `json:"backoff,omitempty"` // the latest pause before an automatic restart

	volatile bool // it was read from under the exec root
}

func (r record) container(id string) Container {
	if r.Plan == nil { // written before there were volumes
		r.Plan, _ = parseMounts(r.HostConfig)
	}
	return Container{
		ID: id, Name: r.Name, Created: r.Created, Image: r.Image, Path: r.Path, Args: r.Args,
		Config: r.Config, HostConfig: r.HostConfig, Networking: r.Networking,
		State: r.State, RestartCount: r.RestartCount, Driver: r.Driver, Mounts: r.Mounts, Sandbox: r.Sandbox, AppArmorProfile: r.AppArmor, ProcessLabel: r.ProcessLabel, MountLabel: r.MountLabel, plan: r.Plan,
	}
}

// record is what to write of the container as it is now. The caller holds mu.
func (i *instance) record() record {
	c := i.now()
	return record{
		Name: c.Name, Created: c.Created, Image: c.Image, Path: c.Path, Args: c.Args,
		Config: c.Config, HostConfig: c.HostConfig, Networking: c.Networking,
		Driver: c.Driver, Mounts: c.Mounts, Plan: c.plan, Sandbox: c.Sandbox,
		State: c.State, RestartCount: c.RestartCount, Manual: i.manual, Boot: i.boot, Backoff: i.backoff, AppArmor: c.AppArmorProfile, ProcessLabel: c.ProcessLabel, MountLabel: c.MountLabel,
	}
}

// recorder writes the records. What must be durable before an answer goes through
// insert, save, rename and delete; all else through later, which writes behind.
//
// A container that removes itself would not outlive a reboot anyway. Its record is a file
// under the exec root, which survives the engine and costs no flush of the disk; power loss
// leaves its directory, without a record, to the next Open.
type recorder struct {
	db  *durable.DB
	dir string // of the records under the exec root, <id>.json
	log *slog.Logger

	mu    sync.Mutex // guards dirty and done
	dirty map[*instance]struct{}
	done  bool
	wake  chan struct{}
}

func newRecorder(db *durable.DB, dir string, log *slog.Logger) *recorder {
	return &recorder{db: db, dir: dir, log: log, dirty: map[*instance]struct{}{}, wake: make(chan struct{}, 1)}
}

// volumeChanges are rows of volumes that are written together with a container's record.
type volumeChanges interface {
	Changes() bool
	Record(tx *durable.Tx) error
}

// insert records a new container, its name and its volumes. A crash between the record of a
// --rm container and those of its volumes leaves one whose volumes are missing: nobody was
// told of it, and the next Open drops it.
func (r *recorder) insert(i *instance, v volumeChanges) error {
	if i.volatile = i.now().HostConfig.AutoRemove; i.volatile {
		if err := r.write(i.id, i.lockedRecord()); err != nil {
			return err
		}
		if !v.Changes() {
			return nil
		}
		durable.Failpoint("engine.create.volatile")
		err := r.update(v.Record)
		if err != nil {
			_ = os.Remove(r.file(i.id))
		}
		return err
	}
	return r.update(func(tx *durable.Tx) error {
		if err := v.Record(tx); err != nil {
			return err
		}
		rec := i.lockedRecord()
		if err := tx.Put("containers", i.id, rec); err != nil {
			return err
		}
		return tx.PutRaw("names", rec.Name, []byte(i.id))
	})
}

// save records the container as it is, durably.
func (r *recorder) save(i *instance) error {
	if i.volatile {
		return r.write(i.id, i.lockedRecord())
	}
	return r.update(func(tx *durable.Tx) error { return r.put(tx, i) })
}

// rename records the change of a name.
func (r *recorder) rename(i *instance, from, to string) error {
	if i.volatile {
		rec := i.lockedRecord()
		rec.Name = to
		return r.write(i.id, rec)
	}
	return r.update(func(tx *durable.Tx) error {
		rec := i.lockedRecord()
		rec.Name = to
		if err := tx.Put("containers", i.id, rec); err != nil {
			return err
		}
		if err := tx.Delete("names", from); err != nil {
			return err
		}
		return tx.PutRaw("names", to, []byte(i.id))
	})
}

// delete forgets a container, its name and the volumes that go with it. Those of a --rm
// container have it as their owner: if a crash leaves them, they go as orphans.
func (r *recorder) delete(i *instance, v volumeChanges) error {
	if i.volatile {
		if err := os.Remove(r.file(i.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the container's record: %w", err)
		}
		if !v.Changes() {
			return nil
		}
		return r.update(v.Record)
	}
	return r.update(func(tx *durable.Tx) error {
		if err := v.Record(tx); err != nil {
			return err
		}
		name := i.now().Name
		if string(tx.GetRaw("names", name)) == i.id {
			if err := tx.Delete("names", name); err != nil {
				return err
			}
		}
		return tx.Delete("containers", i.id)
	})
}

// later records the container soon, and without anybody waiting. A container that
// removes itself keeps no record of its runs: nobody could ever ask for them.
func (r *recorder) later(i *instance) {
	if i.now().HostConfig.AutoRemove {
		return
	}
	r.mu.Lock()
	r.dirty[i] = struct{}{}
	r.mu.Unlock()
	r.nudge()
}

func (r *recorder) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run writes what later collected until close.
func (r *recorder) run() {
	for range r.wake {
		r.mu.Lock()
		batch, done := r.dirty, r.done
		r.dirty = map[*instance]struct{}{}
		r.mu.Unlock()
		if err := r.flush(batch); err != nil {
			r.log.Error("containers could not be recorded; their shims' records are used after a restart", "error", err)
		}
		if done {
			return
		}
	}
}

func (r *recorder) flush(batch map[*instance]struct{}) error {
	if len(batch) == 0 {
		return nil
	}
	return r.update(func(tx *durable.Tx) error {
		for i := range batch {
			if err := r.put(tx, i); err != nil {
				return err
			}
		}
		return nil
	})
}

const recordSuffix = ".json"

func (r *recorder) file(id string) string { return filepath.Join(r.dir, id+recordSuffix) }

// write records a container under the exec root.
func (r *recorder) write(id string, rec record) error {
	data, err := json.Marshal(rec)
	if err == nil {
		err = durable.WriteFileVolatile(r.file(id), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the container's record: %w", err)
	}
	return nil
}

// loadVolatile adds the records under the exec root. One that cannot be read is of no use
// to anybody: the container is cleared away with it.
func (r *recorder) loadVolatile(records map[string]record, known map[string]bool) error {
	if err := durable.RemoveDebris(r.dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok || known[id] {
			continue
		}
		rec := record{volatile: true}
		data, err := os.ReadFile(filepath.Join(r.dir, e.Name()))
		if err == nil {
			err = json.Unmarshal(data, &rec)
		}
		if err != nil || rec.Config == nil || rec.HostConfig == nil {
			r.log.Error("the record of a --rm container is unreadable; it is removed", "id", id, "error", err)
			if err := os.Remove(r.file(id)); err != nil {
				return err
			}
			continue
		}
		records[id], known[id] = rec, true
	}
	return nil
}

func (r *recorder) put(tx *durable.Tx, i *instance) error {
	if tx.GetRaw("containers", i.id) == nil {
		return nil // removed meanwhile
	}
	return tx.Put("containers", i.id, i.lockedRecord())
}

func (r *recorder) update(fn func(*durable.Tx) error) error {
	if err := r.db.Update(fn); err != nil {
		return fmt.Errorf("write the container's record: %w", err)
	}
	return nil
}

// close writes what is left and ends run.
func (r *recorder) close() error {
	r.mu.Lock()
	r.done = true
	r.mu.Unlock()
	r.nudge()
	return nil
}

// load reads all records. known also holds the ids of records that cannot be read:
// those are told of and left alone, with their files.
func (r *recorder) load() (records map[string]record, known map[string]bool, err error) {
	records, known = map[string]record{}, map[string]bool{}
	err = r.db.View(func(tx *durable.Tx) error {
		return tx.ForEach("containers", func(id string, data []byte) error {
			known[id] = true
			var rec record
			if err := json.Unmarshal(data, &rec); err != nil || rec.Config == nil || rec.HostConfig == nil {
				r.log.Error("the record of a container is unreadable; the container is ignored", "id", id, "error", err)
				return nil
			}
			records[id] = rec
			return nil
		})
	})
	if err == nil {
		err = r.loadVolatile(records, known)
	}
	return records, known, err
}

func (i *instance) lockedRecord() record {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.record()
}
