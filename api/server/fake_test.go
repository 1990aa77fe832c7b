package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/engine"
	"berth/events"
	"berth/fail"
	"berth/images"
	"berth/logs"
	"berth/oci"
	"berth/registry"
)

// fakeEngine stands for *engine.Containers and *engine.Execs at the server's boundary.
type fakeEngine struct {
	list      []engine.Container
	created   engine.CreateRequest
	attach    func(engine.AttachOptions, engine.Hijack) error
	stopped   engine.StopOptions
	updated   engine.UpdateRequest
	committed engine.CommitRequest
	waits     chan engine.WaitResult
	entries   []logs.Entry
	read      logs.ReadOptions
	exec      engine.Exec
	err       error // what verbs answer
	panics    bool

	stats     []engine.Stats
	watched   engine.StatsOptions
	connected string
	endpoint  *mobynet.EndpointSettings
}

func (f *fakeEngine) Create(_ context.Context, r engine.CreateRequest) (string, []string, error) {
	f.created = r
	return strings.Repeat("c", 64), nil, f.err
}
func (f *fakeEngine) Start(context.Context, string) error {
	if f.panics {
		panic("boom")
	}
	return f.err
}
func (f *fakeEngine) Stop(_ context.Context, _ string, o engine.StopOptions) error {
	f.stopped = o
	return f.err
}
func (f *fakeEngine) Restart(_ context.Context, _ string, o engine.StopOptions) error {
	f.stopped = o
	return f.err
}
func (f *fakeEngine) Kill(context.Context, string, string) error { return f.err }
func (f *fakeEngine) Wait(context.Context, string, engine.WaitCondition) (<-chan engine.WaitResult, error) {
	return f.waits, f.err
}
func (f *fakeEngine) Remove(context.Context, string, engine.RemoveOptions) error { return f.err }
func (f *fakeEngine) Rename(context.Context, string, string) error               { return f.err }
func (f *fakeEngine) RemoveLink(context.Context, string) error                   { return f.err }
func (f *fakeEngine) Pause(context.Context, string) error                        { return f.err }
func (f *fakeEngine) Unpause(context.Context, string) error                      { return f.err }
func (f *fakeEngine) Update(_ context.Context, _ string, r engine.UpdateRequest) ([]string, error) {
	f.updated = r
	return nil, f.err
}
func (f *fakeEngine) Files(context.Context, string) (*engine.Files, error) {
	return nil, fail.New(fail.NotFound, "No such container")
}
func (f *fakeEngine) Changes(context.Context, string) ([]images.Change, error) { return nil, nil }
func (f *fakeEngine) Export(_ context.Context, _ string, begin func(interrupted <-chan struct{}) io.Writer) error {
	begin(nil)
	return nil
}
func (f *fakeEngine) LogSize(string) int64 { return 0 }
func (f *fakeEngine) Commit(_ context.Context, _ string, r engine.CommitRequest) (oci.Digest, error) {
	f.committed = r
	return oci.Digest("sha256:" + strings.Repeat("a", 64)), f.err
}
func (f *fakeEngine) Get(ref string) (engine.Container, error) {
	ref = strings.TrimPrefix(ref, "/")
	for _, c := range f.list {
		if c.Name == ref || strings.HasPrefix(c.ID, ref) {
			return c, nil
		}
	}
	return engine.Container{}, fail.New(fail.NotFound, "No such container: %s", ref)
}
func (f *fakeEngine) List() []engine.Container                           { return f.list }
func (f *fakeEngine) Size(context.Context, string) (int64, int64, error) { return 5, 1005, nil }
func (f *fakeEngine) Logs(_ context.Context, _ string, o logs.ReadOptions, fn func(logs.Entry) error) error {
	f.read = o
	if f.err != nil {
		return f.err
	}
	for _, e := range f.entries {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}
func (f *fakeEngine) Attach(_ context.Context, _ string, o engine.AttachOptions, h engine.Hijack) error {
	return f.attach(o, h)
}
func (f *fakeEngine) Resize(context.Context, string, uint16, uint16) error { return f.err }
func (f *fakeEngine) Top(_ context.Context, _, args string) ([]string, [][]string, error) {
	return []string{"PID", "CMD"}, [][]string{{"1", args}}, f.err
}
func (f *fakeEngine) HealthChecks() (total, failed uint64) { return 7, 2 }
func (f *fakeEngine) Stats(_ context.Context, _ string, o engine.StatsOptions, fn func(engine.Stats) error) error {
	if f.err != nil {
		return f.err
	}
	f.watched = o
	for _, s := range f.stats {
		if err := fn(s); err != nil {
			return err
		}
	}
	return nil
}
func (f *fakeEngine) Using(id oci.Digest) (all, running []string) {
	for _, c := range f.list {
		if c.Image == id {
			all = append(all, c.ID)
			if c.State.Running() {
				running = append(running, c.ID)
			}
		}
	}
	return all, running
}
func (f *fakeEngine) Connect(_ context.Context, ref, network string, cfg *mobynet.EndpointSettings) error {
	f.connected, f.endpoint = ref+" to "+network, cfg
	return f.err
}
func (f *fakeEngine) Disconnect(_ context.Context, ref, network string, force bool) error {
	f.connected = fmt.Sprintf("%s off %s, force %t", ref, network, force)
	return f.err
}
func (f *fakeEngine) Prune(_ context.Context, keep func(engine.Container) bool) ([]string, int64, error) {
	var ids []string
	for _, c := range f.list {
		if !c.State.Running() && !keep(c) {
			ids = append(ids, c.ID)
		}
	}
	return ids, 7, f.err
}

// fakeExecs has the verbs of *engine.Execs.
type fakeExecs struct{ f *fakeEngine }

func (x fakeExecs) Create(_ context.Context, c string, r engine.ExecRequest) (string, error) {
	x.f.exec = engine.Exec{ID: strings.Repeat("e", 64), Container: c, Request: r}
	return x.f.exec.ID, x.f.err
}
func (x fakeExecs) Start(_ context.Context, _ string, o engine.ExecStart, h engine.Hijack) error {
	if o.Detach || x.f.err != nil {
		return x.f.err
	}
	conn, _, err := h()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "out")
	return err
}
func (x fakeExecs) Get(_ context.Context, id string) (engine.Exec, error) {
	if x.f.exec.ID != id {
		return engine.Exec{}, fail.New(fail.NotFound, "No such exec instance: %s", id)
	}
	return x.f.exec, nil
}
func (x fakeExecs) Resize(context.Context, string, uint16, uint16) error { return x.f.err }

// fakeImages stands for *images.Store.
type fakeImages struct {
	list    []images.Image
	steps   []images.Step
	err     error
	removed []string
	loaded  string
	opts    images.ImportOptions
}

func (f *fakeImages) report(p images.Progress) {
	for _, s := range f.steps {
		p(s)
	}
}
func (f *fakeImages) Pull(_ context.Context, _ reference.Named, _ *oci.Platform, _ *registry.Auth, p images.Progress) (images.Image, error) {
	f.report(p)
	return images.Image{}, f.err
}
func (f *fakeImages) Push(_ context.Context, _ reference.Named, _ images.PushOptions, _ *registry.Auth, p images.Progress) error {
	f.report(p)
	return f.err
}
func (f *fakeImages) Get(name string) (images.Image, error) {
	for _, img := range f.list {
		for _, t := range img.RepoTags {
			if t == name || strings.TrimSuffix(t, ":latest") == name {
				return img, nil
			}
		}
		if img.ID.String() == name {
			return img, nil
		}
	}
	return images.Image{}, fail.New(fail.NotFound, "No such image: %s", name)
}
func (f *fakeImages) GetExact(name string, platform *oci.Platform) (images.Image, error) {
	img, err := f.Get(name)
	if err == nil && platform != nil && platform.Architecture != img.Config.Architecture {
		err = fail.New(fail.NotFound, "its platform (linux/%s) does not match", img.Config.Architecture)
	}
	return img, err
}
func (f *fakeImages) Manifests(oci.Digest) ([]images.Part, error) { return nil, f.err }
func (f *fakeImages) CanSave(names []string, _ images.SaveOptions) error {
	for _, n := range names {
		if _, err := f.Get(n); err != nil {
			return err
		}
	}
	return nil
}
func (f *fakeImages) List() ([]images.Image, error)     { return f.list, nil }
func (f *fakeImages) Tag(string, reference.Named) error { return f.err }
func (f *fakeImages) Remove(_ context.Context, name string, _ images.RemoveOptions) ([]images.Removal, error) {
	f.removed = append(f.removed, name)
	return []images.Removal{{Untagged: name}}, f.err
}
func (f *fakeImages) History(string, *oci.Platform) ([]images.HistoryEntry, error) {
	return []images.HistoryEntry{{ID: "sha256:aa", Created: day, CreatedBy: "CMD sh", Tags: []string{"busybox:latest"}, Size: 0}, {ID: "<missing>", Created: day, Size: 1000}}, nil
}
func (f *fakeImages) Save(_ context.Context, _ []string, _ images.SaveOptions, w io.Writer) error {
	_, err := io.WriteString(w, "tar")
	return err
}
func (f *fakeImages) Load(_ context.Context, r io.Reader, _ images.LoadOptions, p images.Progress) ([]string, error) {
	first := make([]byte, 1)
	_, _ = io.ReadFull(r, first)
	if p != nil {
		f.report(p) // while the body is coming
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	f.loaded = string(first) + string(rest)
	return []string{"busybox:latest"}, f.err
}
func (f *fakeImages) Import(_ context.Context, _ io.Reader, o images.ImportOptions) (oci.Digest, error) {
	f.opts = o
	return busyboxID, f.err
}
func (f *fakeImages) GraphDriver() string { return "overlay" }

func (f *fakeImages) DriverFacts() [][2]string { return nil }
func (f *fakeImages) DiskUse(func(oci.Digest) bool) (images.DiskUse, error) {
	return images.DiskUse{Layers: 1000, Held: 1000}, nil
}
func (f *fakeImages) IsUnpacked(string) bool { return false }
func (f *fakeImages) Usage() (int64, error)  { return 2000, nil }
func (f *fakeImages) Check(_ context.Context, o images.CheckOptions) (images.CheckSummary, error) {
	o.Found(images.Damage{Kind: "blob", ID: "sha256:1", Problem: "it is missing", Repaired: o.Repair})
	return images.CheckSummary{Blobs: 1}, nil
}

func (f *fakeImages) Collect(context.Context, func(oci.Digest) bool) (int64, error) {
	return 0, nil
}

const busyboxID = oci.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")

var day = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

func busybox() images.Image {
	created := day
	return images.Image{
		ID:     busyboxID,
		Target: oci.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", Size: 500},
		Config: oci.Image{
			Created:  &created,
			Platform: oci.Platform{OS: "linux", Architecture: "amd64"},
			Config:   ocispec.ImageConfig{Cmd: []string{"sh"}, Labels: map[string]string{"maker": "us"}},
			RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []oci.Digest{"sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}},
		},
		RawConfig:  []byte(`{"created":"2026-01-02T03:04:05.000006Z","os":"linux","architecture":"amd64","comment":"made here","config":{"Cmd":["sh"],"Labels":{"maker":"us"},"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["CMD","true"]}}}`),
		RepoTags:   []string{"busybox:latest"},
		Size:       1000,
		LastTagged: day,
	}
}

func web() engine.Container {
	return engine.Container{
		ID:         strings.Repeat("1", 64),
		Name:       "web",
		Created:    day,
		Image:      busyboxID,
		Path:       "sh",
		Args:       []string{"-c", "sleep 10"},
		Config:     &container.Config{Image: "busybox", Hostname: "111111111111", Cmd: []string{"sh", "-c", "sleep 10"}, Labels: map[string]string{"app": "web"}},
		HostConfig: &container.HostConfig{NetworkMode: "host", LogConfig: container.LogConfig{Type: "json-file"}},
		Networking: &mobynet.NetworkingConfig{EndpointsConfig: map[string]*mobynet.EndpointSettings{"host": {}}},
		State:      engine.State{Status: "running", Pid: 42, StartedAt: day.Add(time.Second)},
		Driver:     "overlay",
		LogPath:    "/data/containers/1/json.log",
		Mounts:     []engine.MountPoint{{Type: "bind", Source: "/srv", Destination: "/data", Mode: "", RW: true, Propagation: "rprivate"}},
	}
}

func job() engine.Container {
	c := web()
	c.ID, c.Name = strings.Repeat("2", 64), "job"
	c.Config = &container.Config{Image: "busybox", Tty: true}
	c.HostConfig = &container.HostConfig{NetworkMode: "none"}
	c.Networking = &mobynet.NetworkingConfig{EndpointsConfig: map[string]*mobynet.EndpointSettings{"none": {}}}
	c.State = engine.State{Status: "exited", ExitCode: 3, StartedAt: day, FinishedAt: day.Add(time.Minute)}
	c.Created = day.Add(-time.Hour)
	c.Mounts = nil
	return c
}

type fakeRegistry struct{}

func (fakeRegistry) Login(_ context.Context, a registry.Auth) (string, error) {
	if a.Password != "right" {
		return "", fail.New(fail.Unauthorized, "incorrect username or password")
	}
	return "", nil
}
func (fakeRegistry) Search(_ context.Context, term string, limit int, _ *registry.Auth) ([]registry.Found, error) {
	if term == "nowhere.test/x" {
		return nil, fail.New(fail.NotFound, "nowhere.test cannot be searched: it has no /v1/search")
	}
	return []registry.Found{{Name: term, Stars: limit, Official: true}, {Name: "other/" + term, Stars: 1}}, nil
}
func (fakeRegistry) Repository(reference.Named, *registry.Auth) *registry.Repository { return nil }

type bench struct {
	*Server
	eng  *fakeEngine
	img  *fakeImages
	nets *fakeNetworks
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{eng: &fakeEngine{list: []engine.Container{web(), job()}, waits: make(chan engine.WaitResult, 1)}, img: &fakeImages{list: []images.Image{busybox()}}, nets: newFakeNetworks()}
	none := func() []string { return nil }
	b.Server = New(Config{
		Volumes:    someVolumes(t),
		Containers: b.eng, Execs: fakeExecs{b.eng}, Images: b.img, Registry: fakeRegistry{}, Networks: b.nets, Events: events.NewBus(), Log: slog.New(slog.DiscardHandler),
		Facts: Facts{ID: "engine", DataRoot: "/data", LogDriver: "json-file", CgroupDriver: "cgroupfs", Labels: none, Debug: func() bool { return false }, InsecureRegistries: none, Mirrors: none,
			Runtimes: func() engine.Runtimes { return engine.Runtimes{Default: "berth"} }},
	})
	return b
}

// ask sends one request and returns the recorded answer. A body makes it JSON.
func (b *bench) ask(method, path, body string) *httptest.ResponseRecorder {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, path, r)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, req)
	return w
}
