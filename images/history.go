package images

import (
	"slices"
	"time"

	"berth/oci"
)

// HistoryEntry is one row of history, newest first.
type HistoryEntry struct {
	ID        string // the image's ID for the newest, "<missing>" for others
	Created   time.Time
	CreatedBy string
	Comment   string
	Tags      []string
	Size      int64
}

// History tells how the image came about, of a platform if one is given. Layers that its configuration says nothing
// about get rows without words, so that the sizes add up.
func (s *Store) History(name string, platform *oci.Platform) ([]HistoryEntry, error) {
	f, err := s.findExact(name, platform)
	if err != nil {
		return nil, err
	}
	img, err := f.image()
	if err != nil {
		return nil, err
	}
	chains := f.Chains
	next := func() int64 {
		if len(chains) == 0 {
			return 0
		}
		n, err := s.layers.Size(chains[0])
		if err != nil {
			s.log.Warn("history lacks a layer's size", "image", f.ID, "error", err)
		}
		chains = chains[1:]
		return n
	}
	var rows []HistoryEntry
	for _, h := range img.Config.History {
		row := HistoryEntry{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			row.Created = *h.Created
		}
		if !h.EmptyLayer {
			row.Size = next()
		}
		rows = append(rows, row)
	}
	for len(chains) > 0 {
		rows = append(rows, HistoryEntry{ID: "<missing>", Created: img.Created(), Size: next()})
	}
	slices.Reverse(rows)
	if len(rows) == 0 {
		rows = []HistoryEntry{{Created: img.Created()}}
	}
	rows[0].ID, rows[0].Tags = img.ID.String(), img.RepoTags
	return rows, nil
}
