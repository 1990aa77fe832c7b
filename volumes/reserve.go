package volumes

import (
	"fmt"
	"maps"
	"time"

	"berth/durable"
	"berth/fail"
)

// Need is a volume that a container is to have. Owner is set to the container's ID if the
// volume goes when the container does.
type Need struct {
	CreateRequest
	Owner string
}

// Reservation is a container's hold on its volumes while it is being recorded. Until Done
// or Cancel no other volume is made or removed, if one of these is new.
type Reservation struct {
	s         *Store
	container string
	held      []string // volumes that the container did not use before
	fresh     []Volume
	locked    bool
}

// Reserve makes the container a user of volumes, which are made if they are not there.
// New ones become durable by Record, in the transaction that records the container, and
// known by Done.
func (s *Store) Reserve(container string, needs []Need) (_ *Reservation, err error) {
	r := &Reservation{s: s, container: container}
	if len(needs) == 0 {
		return r, nil
	}
	s.write.Lock()
	r.locked = true
	defer func() {
		if err != nil {
			r.Cancel()
		}
	}()
	for _, n := range needs {
		if err := r.reserve(n); err != nil {
			return nil, err
		}
	}
	if len(r.fresh) == 0 {
		r.unlock()
	}
	return r, nil
}

func (r *Reservation) reserve(n Need) error {
	s := r.s
	if n.Driver != "" && n.Driver != Local {
		return fail.New(fail.NotFound, "create %s: error looking up volume plugin %s: plugin %q not found", n.Name, n.Driver, n.Driver)
	}
	if s.broken[n.Name] {
		return fail.New(fail.Internal, "create %s: the record of this volume is unreadable: its files are in %s", n.Name, s.mountpoint(n.Name))
	}
	s.mu.Lock()
	v, known := s.volumes[n.Name]
	if known && len(n.Options) > 0 && !maps.Equal(n.Options, v.Options) {
		s.mu.Unlock()
		return fail.New(fail.Conflict, "create %s: the volume exists with other options: remove it first, or use another name", n.Name)
	}
	if known {
		r.hold(n.Name)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	for _, f := range r.fresh {
		if f.Name == n.Name { // twice in one container
			return nil
		}
	}
	if err := checkName(n.Name); err != nil {
		return err
	}
	if err := checkOptions(n.Options); err != nil {
		return fail.New(fail.Invalid, "create %s: %w", n.Name, err)
	}
	v = Volume{Name: n.Name, Driver: Local, Mountpoint: s.mountpoint(n.Name), Created: time.Now().UTC().Truncate(time.Second),
		Labels: n.Labels, Options: n.Options, Owner: n.Owner}
	r.fresh = append(r.fresh, v) // from here on Cancel clears up
	size, _ := sizeOf(n.Options)
	if err := s.makeFiles(n.Name, size); err != nil {
		return fmt.Errorf("create %s: %w", n.Name, err)
	}
	durable.Failpoint("volumes.create.made")
	return nil
}

// hold makes the container a user. The caller holds mu.
func (r *Reservation) hold(name string) {
	if r.container == "" || r.s.users[name][r.container] {
		return
	}
	if r.s.users[name] == nil {
		r.s.users[name] = map[string]bool{}
	}
	r.s.users[name][r.container] = true
	r.held = append(r.held, name)
}

// Changes tells whether there is something to record.
func (r *Reservation) Changes() bool { return len(r.fresh) > 0 }

// Record writes the new volumes.
func (r *Reservation) Record(tx *durable.Tx) error {
	for _, v := range r.fresh {
		if err := tx.Put(bucket, v.Name, v.row()); err != nil {
			return err
		}
	}
	return nil
}

// Done makes the new volumes known, when they are recorded.
func (r *Reservation) Done() {
	r.s.mu.Lock()
	for _, v := range r.fresh {
		r.s.volumes[v.Name] = v
		r.hold(v.Name)
	}
	r.s.mu.Unlock()
	for _, v := range r.fresh {
		r.s.tell("create", v)
	}
	r.unlock()
}

// Cancel takes everything back.
func (r *Reservation) Cancel() {
	r.s.mu.Lock()
	for _, name := range r.held {
		r.s.drop(name, r.container)
	}
	r.s.mu.Unlock()
	for _, v := range r.fresh {
		r.s.removeFiles(v.Name)
	}
	r.unlock()
}

func (r *Reservation) unlock() {
	if r.locked {
		r.locked = false
		r.s.write.Unlock()
	}
}

// drop ends a use. The caller holds mu.
func (s *Store) drop(name, container string) {
	delete(s.users[name], container)
	if len(s.users[name]) == 0 {
		delete(s.users, name)
	}
}

// Restore tells of a recorded container's use of a volume when the engine opens; false if
// there is no such volume.
func (s *Store) Restore(container, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.volumes[name]; !known {
		return false
	}
	r := Reservation{s: s, container: container}
	r.hold(name)
	return true
}

// CollectOrphans deletes the volumes whose owner is not among the living: --rm containers
// that went when no engine was there. It is called after all Restores.
func (s *Store) CollectOrphans(lives func(container string) bool) error {
	for _, v := range s.List() {
		if v.Owner == "" || lives(v.Owner) || len(s.Users(v.Name)) > 0 {
			continue
		}
		d := s.depart("", []string{v.Name})
		if err := s.db.Update(d.Record); err != nil {
			d.Cancel()
			return err
		}
		d.Done()()
	}
	return nil
}

// Departure is the end of a container's use of its volumes, while that is being recorded.
type Departure struct {
	s         *Store
	container string
	uses      []string
	doomed    []doomed // go with the container
	kept      []Volume // others use them: they have no owner any more
	locked    bool
}

// doomed is a volume that goes, and where its files are meanwhile.
type doomed struct {
	Volume
	hidden string
}

// Depart ends the use of volumes by a container that is removed. Those in take are deleted,
// unless others use them: they become hidden now, forgotten by Record in the transaction
// that forgets the container, and unknown by Done.
func (s *Store) Depart(container string, uses, take []string) *Departure {
	d := s.depart(container, take)
	d.uses = uses
	return d
}

func (s *Store) depart(container string, take []string) *Departure {
	d := &Departure{s: s, container: container}
	if len(take) == 0 {
		return d
	}
	s.write.Lock()
	d.locked = true
	for _, name := range take {
		s.mu.Lock()
		v, known := s.volumes[name]
		others := len(s.users[name])
		if s.users[name][container] {
			others--
		}
		s.mu.Unlock()
		switch {
		case !known:
		case others > 0:
			if v.Owner == container && container != "" {
				v.Owner = ""
				d.kept = append(d.kept, v)
			}
		default:
			hidden, err := s.hide(name)
			if err != nil {
				s.log.Error("an anonymous volume cannot be removed with its container", "volume", name, "container", container, "error", err)
				continue
			}
			d.doomed = append(d.doomed, doomed{v, hidden})
		}
	}
	if len(d.doomed) > 0 {
		if err := s.settleNames(); err != nil {
			s.log.Error("anonymous volumes that go with their container may come back after a power failure", "container", container, "error", err)
		}
	}
	if len(d.doomed)+len(d.kept) == 0 {
		d.unlock()
	}
	return d
}

// Changes tells whether there is something to record.
func (d *Departure) Changes() bool { return len(d.doomed)+len(d.kept) > 0 }

// Record forgets the volumes that go.
func (d *Departure) Record(tx *durable.Tx) error {
	for _, v := range d.doomed {
		if err := tx.Delete(bucket, v.Name); err != nil {
			return err
		}
	}
	for _, v := range d.kept {
		if err := tx.Put(bucket, v.Name, v.row()); err != nil {
			return err
		}
	}
	return nil
}

// Done makes the volumes unknown, when that is recorded. What it returns deletes their
// files, which may take long.
func (d *Departure) Done() (bury func()) {
	s := d.s
	s.mu.Lock()
	for _, name := range d.uses {
		s.drop(name, d.container)
	}
	for _, v := range d.kept {
		s.volumes[v.Name] = v
	}
	s.mu.Unlock()
	for _, v := range d.doomed {
		s.forget(v.Volume)
	}
	d.unlock()
	return func() {
		for _, v := range d.doomed {
			s.bury(v.hidden)
		}
	}
}

// Cancel takes everything back.
func (d *Departure) Cancel() {
	for _, v := range d.doomed {
		d.s.show(v.hidden, v.Name)
	}
	d.unlock()
}

func (d *Departure) unlock() {
	if d.locked {
		d.locked = false
		d.s.write.Unlock()
	}
}
