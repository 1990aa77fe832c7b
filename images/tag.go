package images

import (
	"github.com/distribution/reference"

	"berth/fail"
)

// Tag gives the image source the further name target, taking the name away from
// another image if need be.
func (s *Store) Tag(source string, target reference.Named) error {
	target = reference.TagNameOnly(target)
	if _, digested := target.(reference.Digested); digested {
		return fail.New(fail.Invalid, "refusing to create a tag with a digest reference")
	}
	if reference.FamiliarName(target) == "sha256" {
		return fail.New(fail.Invalid, "refusing to create an ambiguous tag using digest algorithm as name")
	}
	f, err := s.find(source)
	if err != nil {
		return err
	}
	err = s.change(func(d *draft) error {
		tagged := 0
		for _, e := range f.all {
			if r, ok := d.get(e.ID); ok && !r.Hidden {
				d.name(&r, target.String())
				d.put(r)
				tagged++
			}
		}
		if tagged == 0 {
			return fail.New(fail.NotFound, "No such image: %s", source)
		}
		return nil
	})
	if err == nil {
		s.tell("tag", f.ID, f.ID.String(), reference.FamiliarString(target))
	}
	return err
}
