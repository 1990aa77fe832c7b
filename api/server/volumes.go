package server

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sync/errgroup"

	"berth/fail"
	"berth/volumes"
)

// Volumes is what the API needs of *volumes.Store.
type Volumes interface {
	Create(r volumes.CreateRequest) (volumes.Volume, error)
	Get(name string) (volumes.Volume, error)
	List() []volumes.Volume
	Users(name string) []string
	Remove(ctx context.Context, name string) error
	Prune(ctx context.Context, keep func(volumes.Volume) bool) (names []string, freed int64, err error)
	Size(ctx context.Context, name string) (int64, error)
}

// volumeAnswer is a volume as every version shows it; maps that are empty are null.
func volumeAnswer(v volumes.Volume) volume.Volume {
	return volume.Volume{Name: v.Name, Driver: v.Driver, Mountpoint: v.Mountpoint, Scope: "local",
		CreatedAt: v.Created.Format(time.RFC3339), Labels: v.Labels, Options: v.Options}
}

func listVolumes(w *writer, r *request) error {
	f, err := r.filters("dangling", "driver", "label", "name")
	if err != nil {
		return err
	}
	dangling, err := f.boolean("dangling", false)
	if err != nil {
		return err
	}
	out := volume.ListResponse{Volumes: []volume.Volume{}}
	for _, v := range r.s.Volumes.List() {
		if len(f["dangling"]) > 0 && dangling != (len(r.s.Volumes.Users(v.Name)) == 0) {
			continue
		}
		if f.exact("driver", v.Driver) && f.labels("label", v.Labels) &&
			f.any("name", func(want string) bool { return strings.Contains(v.Name, want) }) {
			out.Volumes = append(out.Volumes, volumeAnswer(v))
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func createVolume(w *writer, r *request) error {
	var body volume.CreateRequest
	if err := bodyJSON(w, r, &body, true); err != nil {
		return err
	}
	if body.ClusterVolumeSpec != nil {
		return noSwarm(w, r)
	}
	v, err := r.s.Volumes.Create(volumes.CreateRequest{Name: body.Name, Driver: body.Driver, Labels: body.Labels, Options: body.DriverOpts})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, volumeAnswer(v))
}

func inspectVolume(w *writer, r *request) error {
	v, err := r.s.Volumes.Get(r.path["name"])
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, volumeAnswer(v))
}

func removeVolume(w *writer, r *request) error {
	err := r.s.Volumes.Remove(r.Context(), r.path["name"])
	if fail.Is(err, fail.NotFound) && r.boolean("force") {
		err = nil
	}
	return noContent(w, err)
}

// pruneVolumes takes the anonymous volumes only, since 1.42, unless all are asked for.
func pruneVolumes(w *writer, r *request) error {
	allowed := []string{"label", "label!"}
	if r.version >= 42 {
		allowed = append(allowed, "all")
	}
	f, err := r.filters(allowed...)
	if err != nil {
		return err
	}
	all, err := f.boolean("all", r.version < 42)
	if err != nil {
		return err
	}
	names, freed, err := r.s.Volumes.Prune(r.Context(), func(v volumes.Volume) bool {
		return !all && !v.Anonymous() || !f.labels("label", v.Labels) ||
			len(f["label!"]) > 0 && f.labels("label!", v.Labels)
	})
	if err != nil {
		return err
	}
	r.s.tellPrune("volume", uint64(freed))
	if names == nil {
		names = []string{}
	}
	return writeJSON(w, http.StatusOK, volume.PruneReport{VolumesDeleted: names, SpaceReclaimed: uint64(freed)})
}

// volumeUsage measures all volumes.
func (s *Server) volumeUsage(ctx context.Context, out *usageResponse) error {
	use := &volume.DiskUsage{}
	all := s.Volumes.List()
	sizes := make([]int64, len(all))
	gone := make([]bool, len(all))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(measuring)
	for i, v := range all {
		work.Go(func() (err error) {
			sizes[i], err = s.Volumes.Size(ctx, v.Name)
			if gone[i] = fail.Is(err, fail.NotFound); gone[i] {
				return nil
			}
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	for i, v := range all {
		if gone[i] {
			continue
		}
		row := volumeAnswer(v)
		row.UsageData = &volume.UsageData{Size: sizes[i], RefCount: int64(len(s.Volumes.Users(v.Name)))}
		use.TotalSize += max(sizes[i], 0)
		if row.UsageData.RefCount > 0 {
			use.ActiveCount++
		} else {
			use.Reclaimable += max(sizes[i], 0)
		}
		use.Items = append(use.Items, row)
		out.Volumes = append(out.Volumes, row)
	}
	use.TotalCount = int64(len(use.Items))
	out.VolumeUsage = use
	return nil
}
