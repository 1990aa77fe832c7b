package server

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sync/errgroup"

	"berth/fail"
	"berth/kernel"
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
	var work errgroup.Group // each part has fields of its own
	if wants(system.ImageObject) {
		work.Go(func() error { return r.s.imageUsage(&out, r.version) })
	}
	if wants(system.ContainerObject) {
		work.Go(func() error { return r.s.containerUsage(&out, r) })
	}
	if wants(system.VolumeObject) {
		work.Go(func() error { return r.s.volumeUsage(r.Context(), &out) })
	}
	if err := work.Wait(); err != nil {
		return err
	}
	if !verbose {
		if out.ImageUsage != nil {
			out.ImageUsage.Items = nil
		}
		if out.ContainerUsage != nil {
			out.ContainerUsage.Items = nil
		}
		if out.VolumeUsage != nil {
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
	disk, err := s.Images.DiskUse(s.imageInUse())
	if err != nil {
		return err
	}
	use := &image.DiskUsage{TotalCount: int64(len(all)), TotalSize: disk.Layers, Reclaimable: disk.Layers - disk.Held}
	shared := s.sharedSizes()
	for _, img := range all {
		row := imageSummary(img, v)
		users, _ := s.Containers.Using(img.ID)
		row.Containers = int64(len(users))
		row.SharedSize = shared[img.ID]
		if len(users) > 0 {
			use.ActiveCount++
		}
		use.Items = append(use.Items, row.Summary)
		out.Images = append(out.Images, row)
	}
	out.LayersSize = disk.Layers
	out.ImageUsage = use
	return nil
}

// measuring is how many containers' or volumes' files are looked at at the same time.
const measuring = 8

func (s *Server) containerUsage(out *usageResponse, r *request) error {
	use := &container.DiskUsage{}
	names := s.listNames()
	now := time.Now()
	all := s.Containers.List()
	rows := make([]container.Summary, len(all))
	work, ctx := errgroup.WithContext(r.Context())
	work.SetLimit(measuring)
	for i, c := range all {
		rows[i] = s.summary(c, now, &names, r.version)
		work.Go(func() error { return s.addSize(ctx, c.ID, &rows[i].SizeRw, &rows[i].SizeRootFs) })
	}
	if err := work.Wait(); err != nil {
		return err
	}
	for i, row := range rows {
		use.TotalSize += row.SizeRw
		if all[i].State.Running() {
			use.ActiveCount++
		} else {
			use.Reclaimable += row.SizeRw
		}
	}
	use.Items, out.Containers = rows, append(out.Containers, rows...)
	use.TotalCount = int64(len(rows))
	out.ContainerUsage = use
	return nil
}

// dataUsage is the answer of GET /berth/df: bytes of what Docker's disk usage does not tell of, so
// that all lines together are what the data root takes.
type dataUsage struct {
	Content  int64 // blobs of images, as they came: what is pushed and saved
	Cache    int64 // what no image needs; a prune of images removes it
	Logs     int64
	Overhead int64 // directories, parts of blocks, the database, all that containers have beside their files; less what holes save in images
	Total    int64 // allocated below the data root
}

// dataRootUsage measures the data root.
func dataRootUsage(w *writer, r *request) error {
	out, err := r.s.dataUsage(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *Server) dataUsage(r *request) (u dataUsage, err error) {
	var told usageResponse
	told.legacyUsage = &legacyUsage{}
	work, ctx := errgroup.WithContext(r.Context())
	work.Go(func() error { return s.containerUsage(&told, r) })
	var volumes usageResponse
	volumes.legacyUsage = &legacyUsage{}
	work.Go(func() error { return s.volumeUsage(ctx, &volumes) })
	work.Go(func() (err error) {
		u.Total, err = s.layersUsed.measure(ctx, s.Facts.DataRoot, s.Images.IsUnpacked)
		return err
	})
	disk, err := s.Images.DiskUse(s.imageInUse())
	if err != nil {
		_ = work.Wait()
		return u, err
	}
	for _, c := range s.Containers.List() {
		u.Logs += s.Containers.LogSize(c.ID)
	}
	if err := work.Wait(); err != nil {
		return u, err
	}
	u.Content, u.Cache = disk.Content, disk.Cache
	u.Overhead = u.Total - disk.Layers - u.Content - u.Cache - u.Logs - told.ContainerUsage.TotalSize - volumes.VolumeUsage.TotalSize
	return u, nil
}

// fixedUsage remembers what the directories take below which nothing changes.
type fixedUsage struct {
	mu    sync.Mutex
	bytes map[string]int64
}

// measure is kernel.DiskUsed of root.
func (f *fixedUsage) measure(ctx context.Context, root string, fixed func(path string) bool) (int64, error) {
	f.mu.Lock()
	before := f.bytes
	f.mu.Unlock()
	var mu sync.Mutex // guards now
	now := map[string]int64{}
	learn := func(path string, n int64) {
		if fixed(path) {
			mu.Lock()
			now[path] = n
			mu.Unlock()
		}
	}
	n, err := kernel.DiskUsed(ctx, root, func(path string) (int64, bool) {
		n, ok := before[path]
		if ok {
			learn(path, n)
		}
		return n, ok
	}, learn)
	if err == nil {
		f.mu.Lock()
		f.bytes = now // those that are gone are forgotten
		f.mu.Unlock()
	}
	return n, err
}

// cacheFilters are what a build cache's records can be chosen by, with one value each.
// Docker's newer name of unused-for is until.
var cacheFilters = []string{"until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private"}

// pruneBuildCache has nothing to remove: there is no build cache, as the disk usage tells.
// Docker's client asks for it with every system prune, labels for the other kinds included.
func pruneBuildCache(w *writer, r *request) error {
	f, err := r.filters(slices.Concat(cacheFilters, []string{"label", "label!"})...)
	if err != nil {
		return err
	}
	for _, key := range cacheFilters {
		if len(f[key]) > 1 {
			return fail.New(fail.Invalid, "more than one %s filter specified", key)
		}
	}
	if len(f["unused-for"]) > 0 {
		if len(f["until"]) > 0 {
			return fail.New(fail.Invalid, "filters until and unused-for cannot be combined: they mean the same")
		}
		f["until"] = f["unused-for"]
	}
	if _, err := f.until(time.Now()); err != nil {
		return err
	}
	for _, bytes := range []string{"keep-storage", "reserved-space", "max-used-space", "min-free-space"} { // the first until 1.47
		if _, _, err := r.number(bytes); err != nil {
			return err
		}
	}
	r.s.tellPrune("builder", 0)
	return writeJSON(w, http.StatusOK, build.CachePruneReport{CachesDeleted: []string{}})
}
