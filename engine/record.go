package engine

import (
	"encoding/json"
	"fmt"
	"log/slog"
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
	Sandbox      string                    `json:"sandbox"`
	State        State                     `json:"state"`
	RestartCount int                       `json:"restartCount,omitempty"`
	Manual       bool                      `json:"manual,omitempty"` // stopped by hand
	Boot         string                    `json:"boot"`             // boot ID of its creation or latest start
}

func (r record) container(id string) Container {
	return Container{
		ID: id, Name: r.Name, Created: r.Created, Image: r.Image, Path: r.Path, Args: r.Args,
		Config: r.Config, HostConfig: r.HostConfig, Networking: r.Networking,
		State: r.State, RestartCount: r.RestartCount, Driver: r.Driver, Mounts: r.Mounts, Sandbox: r.Sandbox,
	}
}

// record is what to write of the container as it is now. The caller holds mu.
func (i *instance) record() record {
	c := i.now()
	return record{
		Name: c.Name, Created: c.Created, Image: c.Image, Path: c.Path, Args: c.Args,
		Config: c.Config, HostConfig: c.HostConfig, Networking: c.Networking,
		Driver: c.Driver, Mounts: c.Mounts, Sandbox: c.Sandbox,
		State: c.State, RestartCount: c.RestartCount, Manual: i.manual, Boot: i.boot,
	}
}

// recorder writes the records. What must be durable before an answer goes through
// insert, save, rename and delete; all else through later, which writes behind.
type recorder struct {
	db  *durable.DB
	log *slog.Logger

	mu    sync.Mutex // guards dirty and done
	dirty map[*instance]struct{}
	done  bool
	wake  chan struct{}
}

func newRecorder(db *durable.DB, log *slog.Logger) *recorder {
	return &recorder{db: db, log: log, dirty: map[*instance]struct{}{}, wake: make(chan struct{}, 1)}
}

// insert records a new container and its name.
func (r *recorder) insert(i *instance) error {
	return r.update(func(tx *durable.Tx) error {
		rec := i.lockedRecord()
		if err := tx.Put("containers", i.id, rec); err != nil {
			return err
		}
		return tx.PutRaw("names", rec.Name, []byte(i.id))
	})
}

// save records the container as it is, durably.
func (r *recorder) save(i *instance) error {
	return r.update(func(tx *durable.Tx) error { return r.put(tx, i) })
}

// rename records the change of a name.
func (r *recorder) rename(i *instance, from, to string) error {
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

// delete forgets a container and its name.
func (r *recorder) delete(i *instance) error {
	return r.update(func(tx *durable.Tx) error {
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
	return records, known, err
}

func (i *instance) lockedRecord() record {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.record()
}
