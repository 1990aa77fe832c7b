package server

import (
	"net/http"
	"slices"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"berth/fail"
)

// usageResponse is the answer of GET /system/df: the new form since 1.52, the old one
// until 1.52.
type usageResponse struct {
	system.DiskUsage
	*legacyUsage
}

type legacyUsage struct {
	LayersSize int64
	Images     []imageRow
	Containers []container.Summary
	Volumes    []volume.Volume
	BuildCache []build.CacheRecord
	// BuilderSize was there until 1.41.
	BuilderSize *int64 `json:"BuilderSize,omitempty"`
}

func diskUsage(w *writer, r *request) error {
	want := r.list("type")
	for _, t := range want {
		if !slices.Contains([]string{"container", "image", "volume", "build-cache"}, t) {
			return fail.New(fail.Invalid, "unknown object type: %s", t)
		}
	}
	wants := func(t system.DiskUsageObject) bool { return len(want) == 0 || slices.Contains(want, string(t)) }
	out := usageResponse{legacyUsage: &legacyUsage{Images: []imageRow{}, Containers: []container.Summary{}, Volumes: []volume.Volume{}, BuildCache: []build.CacheRecord{}}}
	verbose := r.version < 52 || r.boolean("verbose")
	if wants(system.ImageObject) {
		if err := r.s.imageUsage(&out, r.version); err != nil {
			return err
		}
		if !verbose {
			out.ImageUsage.Items = nil
		}
	}
	if wants(system.ContainerObject) {
		if err := r.s.containerUsage(&out, r); err != nil {
			return err
		}
		if !verbose {
			out.ContainerUsage.Items = nil
		}
	}
	if wants(system.VolumeObject) {
		if err := r.s.volumeUsage(r.Context(), &out); err != nil {
			return err
		}
		if !verbose {
			out.VolumeUsage.Items = nil
		}
	}
	if wants(system.BuildCacheObject) {
		out.BuildCacheUsage = &build.DiskUsage{}
	}
	if r.version < 52 {
		out.DiskUsage = system.DiskUsage{}
	}
	if r.version < 42 {
		out.BuilderSize = new(int64)
	}
	if r.version > 52 {
		out.legacyUsage = nil
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *Server) imageUsage(out *usageResponse, v version) error {
	all, err := s.Images.List()
	if err != nil {
		return err
	}
	total, err := s.Images.LayersSize()
	if err != nil {
		return err
	}
	use := &image.DiskUsage{TotalCount: int64(len(all)), TotalSize: total}
	shared := s.sharedSizes()
	var held int64
	for _, img := range all {
		row := imageSummary(img, v)
		users, _ := s.Containers.Using(img.ID)
		row.Containers = int64(len(users))
		row.SharedSize = shared[img.ID]
		if len(users) > 0 {
			use.ActiveCount++
			held += img.Size
		}
		use.Items = append(use.Items, row.Summary)
		out.Images = append(out.Images, row)
	}
	use.Reclaimable = max(total-held, 0)
	out.LayersSize = total
	out.ImageUsage = use
	return nil
}

func (s *Server) containerUsage(out *usageResponse, r *request) error {
	use := &container.DiskUsage{}
	names := s.listNames()
	now := time.Now()
	for _, c := range s.Containers.List() {
		row := s.summary(c, now, &names, r.version)
		if err := s.addSize(r.Context(), c.ID, &row.SizeRw, &row.SizeRootFs); err != nil {
			return err
		}
		use.TotalSize += row.SizeRw
		if c.State.Running() {
			use.ActiveCount++
		} else {
			use.Reclaimable += row.SizeRw
		}
		use.Items = append(use.Items, row)
		out.Containers = append(out.Containers, row)
	}
	use.TotalCount = int64(len(use.Items))
	out.ContainerUsage = use
	return nil
}

// pruneBuildCache has nothing to remove: there is no build cache, as the disk usage tells.
// Docker's client asks for it with every system prune.
func pruneBuildCache(w *writer, r *request) error {
	r.s.tellPrune("builder", 0)
	return writeJSON(w, http.StatusOK, build.CachePruneReport{CachesDeleted: []string{}})
}
