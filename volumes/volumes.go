// Package volumes keeps the directories that outlive containers: their records, their
// users, and where they are on disk.
//
// # What is where
//
// A volume is a row of the bucket "volumes", under its name, and the directory
// <data-root>/volumes/<name>/_data. Directories tell nothing but their content: options,
// labels and owner are in the row.
//
// # What survives what
//
// A row is written after its directory is made, and deleted after the directory was
// renamed to ".gone-<number>-<name>": whatever a crash leaves is told apart at the next Open. An
// empty directory without a row was being made, and goes. One with something in it was
// somebody's, and becomes a volume. A renamed one comes back if its row is there, for then
// nobody was told that it is gone.
//
// # Who uses what
//
// The users of a volume are the containers that are recorded with it, running or not:
// the engine tells them with Reserve, Restore and Depart. Volumes with options of mount(2)
// are mounted on their directory while a container that uses them runs; which ones do is
// told with Mount, Adopt and Unmount, and Settle takes away what an engine that was killed
// has left mounted.
package volumes

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/events"
	"berth/fail"
)

// Local is the one driver there is: directories of this machine, and what mount(2) can
// mount on them.
const Local = "local"

// AnonymousLabel marks volumes that were made without a name.
const AnonymousLabel = "com.docker.volume.anonymous"

const (
	bucket   = "volumes"
	dataName = "_data"
	gone     = ".gone-"
)

// Volume is a snapshot of one volume. Callers must not change what it points to.
type Volume struct {
	Name, Driver string
	Mountpoint   string // its directory
	Created      time.Time
	Labels       map[string]string
	Options      map[string]string
	// Owner is the ID of the --rm container that takes the volume along when it goes.
	Owner string
}

// Anonymous tells whether the volume was made without a name.
func (v Volume) Anonymous() bool {
	_, marked := v.Labels[AnonymousLabel]
	return marked
}

// Mounts tells whether something is mounted on the volume's directory while it is used.
func (v Volume) Mounts() bool { return v.Options[optType] != "" }

// row is a volume in the database.
type row struct {
	Driver  string            `json:"driver"`
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"`
	Owner   string            `json:"owner,omitempty"`
}

func (v Volume) row() row { return row{v.Driver, v.Created, v.Labels, v.Options, v.Owner} }

// Config says where a Store lives and what it uses.
type Config struct {
	Root   string // the data root: volumes/ is made in it
	DB     *durable.DB
	Events *events.Bus // nil: nobody is told
	Log    *slog.Logger
}

// Store keeps the volumes of one engine. It is safe for concurrent use.
type Store struct {
	dir    string
	db     *durable.DB
	events *events.Bus
	log    *slog.Logger
	lookup func(ctx context.Context, host string) (string, error)
	// mount is mount(2), patience how long that may take; statfs is statfs(2), whatever it says.
	mount    func(source, target, fsType string, flags uintptr, data string) error
	statfs   func(path string)
	patience time.Duration
	broken   map[string]bool // volumes whose records are unreadable: told of at Open, and left alone

	// Locks are taken in the order of these fields.
	write   sync.Mutex // serialises making and removing volumes
	mu      sync.Mutex // guards all below
	volumes map[string]Volume
	users   map[string]map[string]bool // volume → containers

	running map[string]map[string]bool // volume with options → running containers
	turns   map[string]chan struct{}   // volumes that are being mounted or unmounted, until that is over
	looks   map[string]chan struct{}   // volumes whose servers are being asked for a sign of life, until there is one
}

// Open loads the volumes and clears up what a crash has left. The containers that use
// volumes are told afterwards, with Restore.
func Open(c Config) (*Store, error) {
	s := &Store{dir: filepath.Join(c.Root, "volumes"), db: c.DB, events: c.Events, log: c.Log, lookup: lookup, broken: map[string]bool{},
		volumes: map[string]Volume{}, users: map[string]map[string]bool{}, running: map[string]map[string]bool{}, turns: map[string]chan struct{}{}, looks: map[string]chan struct{}{},
		mount: unix.Mount, statfs: func(path string) { _ = unix.Statfs(path, new(unix.Statfs_t)) }, patience: mountPatience}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	err := os.MkdirAll(c.Root, 0o711)
	if err == nil {
		err = makeDir(s.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("make the directory of volumes: %w", err)
	}
	err = s.db.View(func(tx *durable.Tx) error {
		return tx.ForEach(bucket, func(name string, data []byte) error {
			var r row
			if err := json.Unmarshal(data, &r); err != nil || checkName(name) != nil {
				s.log.Error("the record of a volume is unreadable; its files are left alone", "volume", name, "error", err)
				s.broken[name] = true
				return nil
			}
			s.volumes[name] = Volume{name, r.Driver, s.mountpoint(name), r.Created, r.Labels, r.Options, r.Owner}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return s, s.tidy()
}

// makeDir makes a directory of ours: root passes, others only through (0701, as Docker).
func makeDir(path string) error {
	if err := os.Mkdir(path, 0o701); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(path, 0o701) // whatever the umask
}

func (s *Store) mountpoint(name string) string { return filepath.Join(s.dir, name, dataName) }

// tidy brings directories and rows in line.
func (s *Store) tidy() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), gone) {
			s.undoOrFinish(e.Name())
			continue
		}
		if _, known := s.volumes[e.Name()]; known || s.broken[e.Name()] || !e.IsDir() || checkName(e.Name()) != nil {
			continue
		}
		if err := s.adoptStray(e.Name()); err != nil {
			return err
		}
	}
	for name, v := range s.volumes {
		size, _ := sizeOf(v.Options)
		if err := s.makeFiles(name, size); err != nil {
			s.log.Error("the directory of a volume is missing and cannot be made", "volume", name, "error", err)
		}
	}
	return nil
}

// undoOrFinish settles a removal that was cut off.
func (s *Store) undoOrFinish(hidden string) {
	_, name, _ := strings.Cut(strings.TrimPrefix(hidden, gone), "-")
	from, to := filepath.Join(s.dir, hidden), filepath.Join(s.dir, name)
	var err error
	if _, known := s.volumes[name]; (known || s.broken[name]) && !exists(to) {
		err = os.Rename(from, to)
	} else {
		s.unlimit(from)
		err = os.RemoveAll(from)
	}
	if err != nil {
		s.log.Error("the cut-off removal of a volume cannot be settled", "volume", name, "error", err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// adoptStray decides about a directory without a row.
func (s *Store) adoptStray(name string) error {
	dir := filepath.Join(s.dir, name)
	if s.mounted(name) {
		s.log.Error("something is mounted on a volume that is not recorded; it is left alone", "volume", name)
		return nil
	}
	// Both fail if something is in it.
	if err := os.Remove(filepath.Join(dir, dataName)); err == nil || errors.Is(err, fs.ErrNotExist) {
		s.unlimit(dir)
		if os.Remove(dir) == nil {
			return nil
		}
		if err := os.Mkdir(filepath.Join(dir, dataName), 0o755); err != nil {
			return err
		}
	}
	s.log.Warn("a directory among the volumes was not recorded; it is a volume from now on", "volume", name)
	v := Volume{Name: name, Driver: Local, Mountpoint: s.mountpoint(name), Created: time.Now().UTC()}
	if err := s.db.Update(func(tx *durable.Tx) error { return tx.Put(bucket, name, v.row()) }); err != nil {
		return err
	}
	s.volumes[name] = v
	return nil
}

// makeFiles makes the directory of a volume if it is not there, and bounds it to size bytes if
// that is not 0.
func (s *Store) makeFiles(name string, size int64) error {
	if err := makeDir(filepath.Join(s.dir, name)); err != nil {
		return err
	}
	if err := os.Mkdir(s.mountpoint(name), 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	if err := os.Chmod(s.mountpoint(name), 0o755); err != nil || size == 0 {
		return err
	}
	if err := limit(filepath.Join(s.dir, name), size); err != nil {
		s.removeFiles(name)
		return err
	}
	return nil
}

func (s *Store) removeFiles(name string) {
	s.unlimit(filepath.Join(s.dir, name))
	_ = os.Remove(s.mountpoint(name))
	_ = os.Remove(filepath.Join(s.dir, name))
}

// CreateRequest asks for a volume. An empty name stands for a made-up one.
type CreateRequest struct {
	Name, Driver string
	Labels       map[string]string
	Options      map[string]string
}

// Create returns the volume of that name, and makes it if it is not there. One that is
// there with other options is a Conflict; a driver that does not exist is NotFound.
func (s *Store) Create(r CreateRequest) (Volume, error) {
	if r.Name == "" {
		name, err := NewName()
		if err != nil {
			return Volume{}, err
		}
		r.Name = name
		r.Labels = maps.Clone(r.Labels)
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		r.Labels[AnonymousLabel] = ""
	}
	res, err := s.Reserve("", []Need{{CreateRequest: r}})
	if err != nil {
		return Volume{}, err
	}
	if res.Changes() {
		if err := s.db.Update(res.Record); err != nil {
			res.Cancel()
			return Volume{}, fmt.Errorf("create %s: %w", r.Name, err)
		}
	}
	durable.Failpoint("volumes.create.recorded")
	res.Done()
	return s.Get(r.Name)
}

// NewName makes up the name of an anonymous volume: 64 hexadecimal digits.
func NewName() (string, error) {
	b := make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("make up a volume's name: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// Get returns a volume; NotFound if there is none of that name.
func (s *Store) Get(name string) (Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[name]
	if !ok {
		return Volume{}, noSuchVolume(name)
	}
	return v, nil
}

func noSuchVolume(name string) error {
	return fail.New(fail.NotFound, "get %s: no such volume", name)
}

// Mountpoint is where the volume of that name is, or would be.
func (s *Store) Mountpoint(name string) string { return s.mountpoint(name) }

// List returns all volumes by name.
func (s *Store) List() []Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.volumes), func(a, b Volume) int { return cmp.Compare(a.Name, b.Name) })
}

// Users are the IDs of the containers that are recorded with a volume.
func (s *Store) Users(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.users[name]))
}

// Remove deletes a volume; Conflict, with the containers' IDs, if one uses it.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.remove(ctx, name, func(Volume) bool { return true })
}

// remove deletes a volume that nobody uses if want still wants it then.
func (s *Store) remove(ctx context.Context, name string, want func(Volume) bool) error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	v, known := s.volumes[name]
	users := slices.Sorted(maps.Keys(s.users[name]))
	s.mu.Unlock()
	switch {
	case !known:
		return noSuchVolume(name)
	case len(users) > 0:
		return fail.New(fail.Conflict, "remove %s: volume is in use - [%s]", name, strings.Join(users, ", "))
	case !want(v):
		return nil
	}
	hidden, err := s.hide(name)
	if err == nil {
		err = s.settleNames()
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	durable.Failpoint("volumes.remove.hidden")
	if err := s.db.Update(func(tx *durable.Tx) error { return tx.Delete(bucket, name) }); err != nil {
		s.show(hidden, name)
		return fmt.Errorf("remove %s: %w", name, err)
	}
	durable.Failpoint("volumes.remove.recorded")
	s.forget(v)
	s.bury(hidden)
	return nil
}

// hide renames the directory of a volume that is to be removed.
func (s *Store) hide(name string) (hidden string, err error) {
	end, err := s.brieflyTurn(name)
	if err != nil {
		return "", err
	}
	defer end()
	if s.mounted(name) {
		if err := s.unmount(name); err != nil {
			return "", err
		}
	}
	if at, err := s.within(name); err != nil || at != "" {
		return "", cmp.Or(err, fail.New(fail.Conflict, "%s is mounted and no part of the volume: unmount that first", at))
	}
	for n := 0; ; n++ { // an earlier one of that name may still be on its way
		hidden = filepath.Join(s.dir, fmt.Sprintf("%s%d-%s", gone, n, name))
		err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(s.dir, name), unix.AT_FDCWD, hidden, unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return hidden, err
		}
	}
}

// settleNames makes what hide did durable. Without it a power failure could take back the new
// name and not the deletion of the row, and Open would take the directory for somebody's.
func (s *Store) settleNames() error { return durable.SyncDir(s.dir) }

func (s *Store) show(hidden, name string) {
	if err := os.Rename(hidden, filepath.Join(s.dir, name)); err != nil {
		s.log.Error("a volume that could not be removed is back when the engine starts again", "volume", name, "error", err)
	}
}

// bury deletes the files of a volume that is gone for everybody; what is left the next Open
// tries again.
func (s *Store) bury(hidden string) {
	s.unlimit(hidden)
	if err := os.RemoveAll(hidden); err != nil {
		s.log.Error("the files of a removed volume cannot be deleted", "directory", hidden, "error", err)
	}
}

// forget makes a volume unknown and tells of it.
func (s *Store) forget(v Volume) {
	s.mu.Lock()
	delete(s.volumes, v.Name)
	delete(s.users, v.Name)
	s.mu.Unlock()
	s.tell("destroy", v)
}

// Prune deletes the volumes that nobody uses, but for those that keep takes, and tells
// the freed bytes.
func (s *Store) Prune(ctx context.Context, keep func(Volume) bool) (names []string, freed int64, err error) {
	for _, v := range s.List() {
		if len(s.Users(v.Name)) > 0 || keep(v) {
			continue
		}
		size, err := s.Size(ctx, v.Name)
		if err != nil && !fail.Is(err, fail.NotFound) {
			return names, freed, err
		}
		wanted := false
		err = s.remove(ctx, v.Name, func(now Volume) bool { wanted = !keep(now); return wanted })
		switch {
		case fail.Is(err, fail.NotFound), fail.Is(err, fail.Conflict): // somebody was faster
		case err != nil:
			return names, freed, err
		case wanted:
			names, freed = append(names, v.Name), freed+max(size, 0) // of files that are elsewhere nothing is known
		}
	}
	return names, freed, nil
}

// tell puts what happens to a volume on the bus; extra are key, value pairs.
func (s *Store) tell(action string, v Volume, extra ...string) {
	if s.events == nil {
		return
	}
	attrs := map[string]string{"driver": v.Driver}
	for i := 0; i+1 < len(extra); i += 2 {
		attrs[extra[i]] = extra[i+1]
	}
	s.events.Publish(events.Event{Type: "volume", Action: action, ID: v.Name, Attrs: attrs})
}

// checkName holds names to Docker's form, for they are names of directories.
func checkName(name string) error {
	ok := name != ""
	for i, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		ok = ok && (letter || i > 0 && (c == '_' || c == '.' || c == '-'))
	}
	const longest = 255 - len(gone) - 8 // NAME_MAX, also for a hidden one
	switch {
	case !ok:
		return fail.New(fail.Invalid, "create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", name, name)
	case len(name) == 1:
		return fail.New(fail.Invalid, "create %s: volume name is too short, names should be at least two alphanumeric characters", name)
	case len(name) > longest:
		return fail.New(fail.Invalid, "create %s…: the name of a volume has at most %d characters", name[:32], longest)
	}
	return nil
}

func lookup(ctx context.Context, host string) (string, error) {
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return "", err
	}
	slices.SortStableFunc(addrs, func(a, b net.IPAddr) int { return cmp.Compare(len(b.IP.To4()), len(a.IP.To4())) }) // IPv4 first
	return addrs[0].String(), nil
}
