package server

import (
	"cmp"
	"context"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"berth/engine"
	"berth/events"
	"berth/images"
	"berth/metrics"
	"berth/oci"
	"berth/registry"
	berth "berth/version"
)

// Names are those of Docker's own metrics, so that dashboards made for it work.
const (
	daemonMetrics = "engine_daemon_"
	builderPrefix = "builder_"
)

// describe registers what the engine is and does, and has its verbs timed.
func (s *Server) describe(r *metrics.Registry) {
	none := []string(nil)
	r.Gauge(daemonMetrics+"engine_info", "The information related to the engine and the OS it is running on",
		[]string{"architecture", "commit", "daemon_id", "graphdriver", "kernel", "os", "os_type", "os_version", "version"}, func(emit metrics.Emit) {
			pretty, osVersion := osRelease()
			emit(1, machine(), berth.Commit, s.Facts.ID, s.Images.GraphDriver(), kernelVersion(), pretty, "linux", osVersion, berth.Version)
		})
	r.Gauge(daemonMetrics+"engine_cpus_cpus", "The number of cpus that the host system of the engine has", none, func(emit metrics.Emit) { emit(float64(runtime.NumCPU())) })
	r.Gauge(daemonMetrics+"engine_memory_bytes", "The number of bytes of memory that the host system of the engine has", none, func(emit metrics.Emit) { emit(float64(memTotal())) })
	r.Gauge(daemonMetrics+"container_states_containers", "The count of containers in various states", []string{"state"}, func(emit metrics.Emit) {
		n := countStates(s.Containers.List())
		emit(float64(n.paused), "paused")
		emit(float64(n.running), "running")
		emit(float64(n.stopped), "stopped")
	})
	r.Gauge(daemonMetrics+"images_images", "The count of images", none, func(emit metrics.Emit) {
		if all, err := s.Images.List(); err == nil {
			emit(float64(len(all)))
		}
	})
	r.Gauge(daemonMetrics+"networks_networks", "The count of networks", none, func(emit metrics.Emit) { emit(float64(len(s.Networks.List()))) })
	r.Gauge(daemonMetrics+"volumes_volumes", "The count of volumes", none, func(emit metrics.Emit) { emit(float64(len(s.Volumes.List()))) })
	r.Counter(daemonMetrics+"events_total", "The number of events logged", none, func(emit metrics.Emit) {
		total := uint64(0)
		for _, n := range s.Events.Counts() {
			total += n
		}
		emit(float64(total))
	})
	r.Counter(daemonMetrics+"events_by_kind_total", "The number of events logged, by the type of the object and the action", []string{"type", "action"}, func(emit metrics.Emit) {
		counts := s.Events.Counts()
		for _, k := range slices.SortedFunc(maps.Keys(counts), compareKinds) {
			emit(float64(counts[k]), k.Type, k.Action)
		}
	})
	r.Gauge(daemonMetrics+"events_subscribers_total", "The number of current subscribers to events", none, func(emit metrics.Emit) { emit(float64(s.Events.Subscribers())) })
	r.Counter(daemonMetrics+"health_checks_total", "The total number of health checks", none, func(emit metrics.Emit) {
		total, _ := s.Containers.HealthChecks()
		emit(float64(total))
	})
	r.Counter(daemonMetrics+"health_checks_failed_total", "The total number of failed health checks", none, func(emit metrics.Emit) {
		_, failed := s.Containers.HealthChecks()
		emit(float64(failed))
	})
	s.infoTime = r.Timer(daemonMetrics+"host_info_functions_seconds", "The number of seconds it takes to call functions gathering info about the host", "function", "system_info")
	s.Containers = timedContainers{s.Containers, r.Timer(daemonMetrics+"container_actions_seconds", "The number of seconds it takes to process each container action", "action",
		"changes", "commit", "create", "delete", "start")}
	s.Images = timedImages{s.Images, r.Timer(daemonMetrics+"image_actions_seconds", "The number of seconds it takes to process each image action", "action",
		"delete", "import", "load", "pull", "push", "save")}
	for _, m := range []struct{ name, help string }{
		{"builds_triggered_total", "Number of triggered image builds"},
		{"builds_failed_total", "Number of failed image builds"},
	} {
		r.Counter(builderPrefix+m.name, m.help, none, func(emit metrics.Emit) { emit(0) })
	}
}

func compareKinds(a, b events.Kind) int {
	return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Action, b.Action))
}

// stateCounts are the numbers of containers as info tells them.
type stateCounts struct{ all, running, paused, stopped int }

func countStates(list []engine.Container) (n stateCounts) {
	for _, c := range list {
		n.all++
		switch {
		case c.State.Status == "paused":
			n.paused++
		case c.State.Running():
			n.running++
		default:
			n.stopped++
		}
	}
	return n
}

// timedContainers are the engine's containers whose verbs are timed.
type timedContainers struct {
	Containers
	time *metrics.Timer
}

func (c timedContainers) Create(ctx context.Context, r engine.CreateRequest) (id string, warnings []string, err error) {
	defer c.time.Since(time.Now(), "create")
	return c.Containers.Create(ctx, r)
}

func (c timedContainers) Start(ctx context.Context, ref string) error {
	defer c.time.Since(time.Now(), "start")
	return c.Containers.Start(ctx, ref)
}

func (c timedContainers) Remove(ctx context.Context, ref string, o engine.RemoveOptions) error {
	defer c.time.Since(time.Now(), "delete")
	return c.Containers.Remove(ctx, ref, o)
}

func (c timedContainers) Commit(ctx context.Context, ref string, r engine.CommitRequest) (oci.Digest, error) {
	defer c.time.Since(time.Now(), "commit")
	return c.Containers.Commit(ctx, ref, r)
}

func (c timedContainers) Changes(ctx context.Context, ref string) ([]images.Change, error) {
	defer c.time.Since(time.Now(), "changes")
	return c.Containers.Changes(ctx, ref)
}

// timedImages are the images whose transfers and removals are timed.
type timedImages struct {
	Images
	time *metrics.Timer
}

func (i timedImages) Pull(ctx context.Context, ref reference.Named, platform *oci.Platform, auth *registry.Auth, report images.Progress) (images.Image, error) {
	defer i.time.Since(time.Now(), "pull")
	return i.Images.Pull(ctx, ref, platform, auth, report)
}

func (i timedImages) Push(ctx context.Context, ref reference.Named, o images.PushOptions, auth *registry.Auth, report images.Progress) error {
	defer i.time.Since(time.Now(), "push")
	return i.Images.Push(ctx, ref, o, auth, report)
}

func (i timedImages) Remove(ctx context.Context, name string, o images.RemoveOptions) ([]images.Removal, error) {
	defer i.time.Since(time.Now(), "delete")
	return i.Images.Remove(ctx, name, o)
}

func (i timedImages) Save(ctx context.Context, names []string, o images.SaveOptions, w io.Writer) error {
	defer i.time.Since(time.Now(), "save")
	return i.Images.Save(ctx, names, o, w)
}

func (i timedImages) Load(ctx context.Context, r io.Reader, o images.LoadOptions, report images.Progress) ([]string, error) {
	defer i.time.Since(time.Now(), "load")
	return i.Images.Load(ctx, r, o, report)
}

func (i timedImages) Import(ctx context.Context, r io.Reader, o images.ImportOptions) (oci.Digest, error) {
	defer i.time.Since(time.Now(), "import")
	return i.Images.Import(ctx, r, o)
}
