package layer

import (
	"archive/tar"

	"berth/archive"
)

// headerAttributes are those of an entry, with the names that m stores them by.
func headerAttributes(h *tar.Header, m marks) (archive.Attributes, error) {
	a, err := archive.HeaderAttributes(h)
	for i := range a.Xattrs {
		a.Xattrs[i].Name = m.stored(a.Xattrs[i].Name)
	}
	return a, err
}

// xattrBytes is the memory that the extended attributes hold.
func xattrBytes(a *archive.Attributes) (n int) {
	for _, x := range a.Xattrs {
		n += len(x.Name) + len(x.Value)
	}
	return n
}

// readXattrs lists the attributes of an open file. The driver's own marks come apart from
// the others.
func readXattrs(m marks, fd int) (attrs, own []archive.Xattr, err error) {
	all, err := archive.ReadXattrs(fd)
	for _, x := range all {
		if m.own(x.Name) {
			own = append(own, x)
		} else {
			attrs = append(attrs, x)
		}
	}
	return attrs, own, err
}
