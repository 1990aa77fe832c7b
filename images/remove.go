package images

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// Removal is one line of what Remove did: one of the two is set.
type Removal struct{ Untagged, Deleted string }

// RemoveOptions guide Remove.
type RemoveOptions struct {
	Force bool
	// NoPrune asks to keep untagged parents. Images here have no parents, so there is
	// nothing to keep.
	NoPrune bool
	// Platforms narrows the removal to these platforms of a multi-platform image.
	Platforms []oci.Platform
	// Users names the containers that use an image, and those among them that run.
	Users func(id oci.Digest) (all, running []string)
}

// Remove removes a name and, with the last name, the image, by Docker's rules:
//
//   - A name goes if it is not the last one, or no container uses the image, or Force.
//     With a repository's last tag go its digests. When no name is left, the image is
//     deleted if no container uses it; by force also under stopped containers.
//     A name of several platforms goes from all of them.
//   - An ID deletes the image if all names are of one repository and no container uses
//     it; Force overrides both, but not a running container.
//
// A refusal is class Conflict in Docker's words.
func (s *Store) Remove(ctx context.Context, name string, o RemoveOptions) ([]Removal, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	s.removal.Lock()
	r, err := s.takeAway(name, o)
	s.removal.Unlock()
	if err != nil {
		return nil, err
	}
	durable.Failpoint("images.remove.recorded")
	for _, u := range r.log {
		if u.Untagged != "" && !(r.byTag && strings.Contains(u.Untagged, "@")) {
			s.tellOf(r.from, "untag", r.id.String(), r.id.String())
		}
	}
	for _, id := range r.deleted {
		s.tell("delete", id, id.String(), id.String())
	}
	for _, gone := range r.gone {
		chains, _, err := s.discard(gone.Chains, gone.blobs())
		for _, c := range chains {
			r.log = append(r.log, Removal{Deleted: c.String()})
		}
		if err != nil {
			// The image is gone; what could not be deleted is found again by Collect.
			s.log.Warn("content of a removed image is left", "image", gone.ID, "error", err)
		}
	}
	return r.log, nil
}

// removed is what takeAway decided and recorded.
type removed struct {
	id      oci.Digest
	from    *entry // as it was
	byTag   bool   // a tag was asked for: digests that go with it are not told of, as in Docker
	log     []Removal
	deleted []oci.Digest
	gone    []record // of deleted, those whose content nothing needs any more
}

// say adds a line to the log, once.
func (out *removed) say(r Removal) {
	if !slices.Contains(out.log, r) {
		out.log = append(out.log, r)
	}
}

// takeAway changes the records. The caller holds Store.removal, so that no container
// comes to use the image meanwhile.
func (s *Store) takeAway(name string, o RemoveOptions) (removed, error) {
	f, err := s.find(name)
	if err != nil {
		return removed{}, err
	}
	if f.Hidden {
		return removed{}, fail.New(fail.NotFound, "No such image: %s", name)
	}
	these := f.all
	if len(o.Platforms) > 0 {
		if these, err = f.exactly(name, o.Platforms); err != nil {
			return removed{}, err
		}
	}
	out := removed{id: f.ID, from: f.entry, byTag: f.ref != "" && !strings.Contains(f.ref, "@")}
	err = s.change(func(d *draft) error {
		for _, e := range these {
			r, ok := d.get(e.ID)
			if !ok {
				return fail.New(fail.NotFound, "No such image: %s", name)
			}
			u := users{}
			if o.Users != nil {
				u.all, u.running = o.Users(r.ID)
			}
			part := len(these) < len(f.all) // other platforms keep the names
			remove := true
			var err error
			switch {
			case part:
				err = out.unname(&r, true, o.Force, u)
			case f.ref != "":
				remove, err = out.untag(&r, f.ref, name, o.Force, u)
			default:
				err = out.unname(&r, false, o.Force, u)
			}
			if err != nil {
				return err
			}
			if !remove {
				d.put(r)
				continue
			}
			for _, full := range append(slices.Clone(r.Names), r.Digests...) {
				if !part {
					out.say(Removal{Untagged: familiar(full)})
				}
			}
			r.Names, r.Digests = nil, nil
			out.say(Removal{Deleted: r.ID.String()})
			out.deleted = append(out.deleted, r.ID)
			if len(u.all) > 0 {
				r.Hidden = true
				d.put(r)
				continue
			}
			out.gone = append(out.gone, r)
			d.delete(r.ID)
		}
		return nil
	})
	return out, err
}

// exactly are the wanted platforms of f, each of which has to be here.
func (f found) exactly(name string, want []oci.Platform) ([]*entry, error) {
	var these []*entry
	for _, p := range want {
		one, err := f.exact(name, p)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(these, one.entry) {
			these = append(these, one.entry)
		}
	}
	return these, nil
}

// users are the containers that stand on an image.
type users struct{ all, running []string }

func shortID(id string) string { return id[:min(12, len(id))] }

// untag takes one reference off r, and reports whether the image shall go with it.
func (out *removed) untag(r *record, ref, asked string, force bool, u users) (bool, error) {
	if !force && r.oneRepository() && len(u.all) > 0 {
		return false, fail.New(fail.Conflict, "conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
			asked, shortID(u.all[0]), short(r.ID))
	}
	drop := func(list *[]string, full string) {
		*list = slices.DeleteFunc(*list, func(n string) bool { return n == full })
		out.say(Removal{Untagged: familiar(full)})
	}
	if strings.Contains(ref, "@") {
		drop(&r.Digests, ref)
	} else {
		drop(&r.Names, ref)
		repo := repoOf(ref)
		if !slices.ContainsFunc(r.Names, func(n string) bool { return repoOf(n) == repo }) {
			for _, full := range slices.Clone(r.Digests) {
				if repoOf(full) == repo {
					drop(&r.Digests, full)
				}
			}
		}
	}
	if len(r.Names)+len(r.Digests) > 0 {
		return false, nil
	}
	// The name is gone, as was asked. A container in the way keeps the image, untagged.
	return len(u.running) == 0 && (force || len(u.all) == 0), nil
}

// unname checks whether an image asked for by its ID may go with all its names. As part
// of a multi-platform image its names do not count.
func (out *removed) unname(r *record, part, force bool, u users) error {
	refuse := func(how, why string) error {
		return fail.New(fail.Conflict, "conflict: unable to delete %s (%s) - %s", short(r.ID), how, why)
	}
	switch {
	case len(u.running) > 0:
		return refuse("cannot be forced", "image is being used by running container "+shortID(u.running[0]))
	case force:
		return nil
	case !part && !r.oneRepository():
		return refuse("must be forced", "image is referenced in multiple repositories")
	case len(u.all) > 0:
		return refuse("must be forced", "image is being used by stopped container "+shortID(u.all[0]))
	}
	return nil
}

// oneRepository reports whether r has at most one tag, and no reference outside one
// repository.
func (r *record) oneRepository() bool {
	if len(r.Names)+len(r.Digests) <= 1 {
		return true
	}
	if len(r.Names) > 1 {
		return false
	}
	repo := repoOf(append(slices.Clone(r.Names), r.Digests...)[0])
	return !slices.ContainsFunc(r.Digests, func(d string) bool { return repoOf(d) != repo })
}

// discard deletes the layers, top-most first, and blobs that no record or lease needs.
// It tells which layers and how many bytes went.
func (s *Store) discard(chains, blobs []oci.Digest) (gone []oci.Digest, freed int64, err error) {
	s.sweep.Lock()
	defer s.sweep.Unlock()
	if s.isDamaged() { // what the unreadable records need is not known
		return nil, 0, nil
	}
	keepBlobs, keepLayers := s.needed(func(oci.Digest) bool { return true })
	for _, c := range slices.Backward(chains) {
		if keepLayers[c] || !s.layers.Has(c) {
			continue
		}
		n, _ := s.layers.Size(c)
		if err := s.layers.Remove(c); err != nil {
			return gone, freed, err
		}
		durable.Failpoint("images.discard.layer")
		gone, freed = append(gone, c), freed+n
	}
	var forget []oci.Digest
	for _, d := range blobs {
		if keepBlobs[d] || !s.blobs.Has(d) {
			continue
		}
		n, _ := s.blobs.Size(d)
		if err := s.blobs.Delete(d); err != nil {
			return gone, freed, err
		}
		durable.Failpoint("images.discard.blob")
		forget, freed = append(forget, d), freed+n
	}
	return gone, freed, s.forgetBlobs(forget)
}

func (s *Store) discardBlobs(blobs []oci.Digest) error {
	_, _, err := s.discard(nil, blobs)
	return err
}

// forgetBlobs drops what is remembered of blobs that are gone.
func (s *Store) forgetBlobs(gone []oci.Digest) error {
	if len(gone) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *durable.Tx) error {
		for _, d := range gone {
			if err := tx.Delete(blobsBucket, d.String()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget deleted blobs: %w", err)
	}
	return nil
}
