package engine

import (
	"cmp"
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/events"
	"berth/fail"
	"berth/images"
	"berth/oci"
	"berth/supervisor"
	"berth/volumes"
)

// fakeImages knows one image.
type fakeImages struct {
	img      images.Image
	onCommit func(images.CommitOptions) // called while the container is held
	onExport func(io.Writer) error      // what Export writes
}

func busybox() *fakeImages {
	return &fakeImages{img: images.Image{
		ID: "sha256:1111111111111111111111111111111111111111111111111111111111111111",
		Config: ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Config: ocispec.ImageConfig{
			Cmd: []string{"sh"}, Env: []string{"PATH=/bin"},
		}},
	}}
}

func (f *fakeImages) GetFor(name string, _ *oci.Platform) (images.Image, error) {
	if name != "busybox" && name != f.img.ID.String() {
		return images.Image{}, fail.New(fail.NotFound, "No such image: %s", name)
	}
	return f.img, nil
}
func (f *fakeImages) WritableSize(context.Context, oci.Digest, string) (int64, error) { return 0, nil }

func (f *fakeImages) Rootfs(context.Context, oci.Digest, string) (oci.Rootfs, error) {
	return oci.Rootfs{Path: "/nowhere"}, nil
}
func (f *fakeImages) Commit(ctx context.Context, _ oci.Digest, _ string, o images.CommitOptions) (oci.Digest, error) {
	release, err := o.Hold(ctx)
	if err != nil {
		return "", err
	}
	if f.onCommit != nil {
		f.onCommit(o)
	}
	release()
	return f.img.ID, nil
}
func (f *fakeImages) Changes(context.Context, oci.Digest, string, []string) ([]images.Change, error) {
	return nil, nil
}
func (f *fakeImages) Export(_ context.Context, _ oci.Digest, _ string, w io.Writer) error {
	if f.onExport == nil {
		return nil
	}
	return f.onExport(w)
}
func (f *fakeImages) Use(_ context.Context, _ oci.Digest, fn func() error) error { return fn() }
func (f *fakeImages) Release(oci.Digest) error                                   { return nil }
func (f *fakeImages) GraphDriver() string                                        { return "overlay" }

// fakeShims is a world of supervisors that outlives engines, as the real ones do.
type fakeShims struct {
	mu       sync.Mutex // guards all below
	living   map[string]*fakeShim
	made     int
	startErr error             // what Start answers
	makeErr  error             // what Create answers
	onStart  func(s *fakeShim) // called when a container runs, before Start answers
	onRoot   func(ctx context.Context, s *fakeShim) (*os.File, error)
	seen     []supervisor.Config // of every Create
}

func newFakeShims() *fakeShims { return &fakeShims{living: map[string]*fakeShim{}} }

func (f *fakeShims) Create(_ context.Context, cfg supervisor.Config, a []supervisor.Attachment) (shim, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made++
	f.seen = append(f.seen, cfg)
	if f.makeErr != nil {
		return nil, f.makeErr
	}
	s := &fakeShim{world: f, cfg: cfg, attached: a, link: newLink(), state: supervisor.State{ID: cfg.ID}}
	if cfg.Network != nil {
		s.ports = bind(cfg.Network.Ports)
	}
	f.living[cfg.RunDir] = s
	_ = os.WriteFile(filepath.Join(cfg.RunDir, "state.json"), nil, 0o600)
	return &fakeConn{s, s.link}, nil
}

func (f *fakeShims) Reattach(_ context.Context, runDir string) (shim, error) {
	f.mu.Lock()
	s := f.living[runDir]
	f.mu.Unlock()
	if s == nil {
		return nil, fail.New(fail.NotFound, "no shim")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = newLink()
	return &fakeConn{s, s.link}, nil
}

func (f *fakeShims) of(id string) *fakeShim {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.living {
		if s.cfg.ID == id {
			return s
		}
	}
	return nil
}

// link is one connection's event channel.
type link struct {
	once sync.Once
	c    chan supervisor.Event
}

func newLink() *link                    { return &link{c: make(chan supervisor.Event, 64)} }
func (l *link) shut()                   { l.once.Do(func() { close(l.c) }) }
func (l *link) tell(e supervisor.Event) { l.c <- e }

type fakeShim struct {
	world *fakeShims
	cfg   supervisor.Config

	mu         sync.Mutex // guards all below
	link       *link
	state      supervisor.State
	attached   []supervisor.Attachment
	ignoreTerm bool
	execErr    error
	attachErr  error
	pauseErr   error
	execs      []supervisor.Exec
	updates    []*oci.LinuxResources
	updateErr  error
	ports      []supervisor.Port
	network    []supervisor.Network // of every SetNetwork
}

// exit ends the container as a real shim does: record, event, end of connection.
func (s *fakeShim) exit(code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exitLocked(code)
}

func (s *fakeShim) exitLocked(code int) {
	if !s.state.Running {
		return
	}
	s.state.Running = false
	rec := supervisor.ExitRecord{Code: code, StartedAt: s.state.StartedAt, ExitedAt: time.Now()}
	_ = durable.WriteJSON(filepath.Join(s.cfg.Dir, "exit.json"), rec, 0o600)
	s.leave()
	s.link.tell(supervisor.Event{Kind: "exit", Exit: &rec})
	s.link.shut()
}

// vanish is a SIGKILL of the shim, followed by what its guardian does.
func (s *fakeShim) vanish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	ran, started := s.state.Running, s.state.StartedAt
	s.state.Running = false
	s.link.shut()
	if ran {
		rec := supervisor.ExitRecord{Code: 137, Reason: supervisorLost, StartedAt: started, ExitedAt: time.Now()}
		_ = durable.WriteJSON(filepath.Join(s.cfg.Dir, "exit.json"), rec, 0o600)
	}
	s.leave()
}

func (s *fakeShim) leave() {
	_ = os.Remove(filepath.Join(s.cfg.RunDir, "state.json"))
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	if s.world.living[s.cfg.RunDir] == s {
		delete(s.world.living, s.cfg.RunDir)
	}
}

// fakeConn is an engine's connection to a fakeShim.
type fakeConn struct {
	*fakeShim
	own *link
}

func (c *fakeConn) Events() <-chan supervisor.Event { return c.own.c }
func (c *fakeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == c.link {
		c.link = newLink() // told to nobody
	}
	c.own.shut()
	return nil
}

func (c *fakeConn) Start(context.Context) (int, time.Time, error) {
	s := c.fakeShim
	s.world.mu.Lock()
	startErr, onStart := s.world.startErr, s.world.onStart
	s.world.mu.Unlock()
	if startErr != nil {
		s.vanish()
		return 0, time.Time{}, startErr
	}
	s.mu.Lock()
	at := time.Now()
	s.state.Running, s.state.Pid, s.state.StartedAt = true, os.Getpid(), at
	s.mu.Unlock()
	if onStart != nil {
		onStart(s)
	}
	return os.Getpid(), at, nil
}

func (c *fakeConn) Signal(_ context.Context, _ string, sig unix.Signal, _ bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.Running {
		return fail.New(fail.NotFound, "gone")
	}
	if sig == unix.SIGKILL || sig == unix.SIGTERM && !c.ignoreTerm {
		c.exitLocked(128 + int(sig))
	}
	return nil
}
func (c *fakeConn) Resize(context.Context, string, uint16, uint16) error { return nil }
func (c *fakeConn) Exec(_ context.Context, e supervisor.Exec, _ *supervisor.Attachment) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.execs = append(c.execs, e)
	if c.execErr != nil {
		return 0, c.execErr
	}
	if c.state.Execs == nil {
		c.state.Execs = map[string]supervisor.ExecState{}
	}
	c.state.Execs[e.ID] = supervisor.ExecState{Pid: 4711, Running: true}
	return 4711, nil
}
func (c *fakeConn) Attach(ctx context.Context, a supervisor.Attachment) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmp.Or(ctx.Err(), c.attachErr); err != nil {
		return err
	}
	c.attached = append(c.attached, a)
	return nil
}
func (c *fakeConn) State(context.Context) (supervisor.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, nil
}
func (c *fakeConn) Pids(context.Context) ([]int, error) { return []int{os.Getpid()}, nil }
func (c *fakeConn) Pause(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pauseErr
}
func (c *fakeConn) Resume(context.Context) error { return nil }
func (c *fakeConn) Update(_ context.Context, r *oci.LinuxResources) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.updates = append(c.updates, r)
	return c.updateErr
}
func (c *fakeConn) Ports() []supervisor.Port {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ports
}

func (c *fakeConn) SetNetwork(_ context.Context, n supervisor.Network) ([]supervisor.Port, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.network = append(c.network, n)
	c.ports = bind(n.Ports)
	return c.ports, nil
}

// bind numbers ports as a shim would.
func bind(want []supervisor.Port) []supervisor.Port {
	var out []supervisor.Port
	for n, p := range want {
		if p.HostPort == 0 {
			p.HostPort = uint16(40000 + n)
		}
		p.HostPortEnd = 0
		if p.HostIP.IsValid() {
			out = append(out, p)
			continue
		}
		for _, ip := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			p.HostIP = ip
			out = append(out, p)
		}
	}
	return out
}

func (c *fakeConn) SetPolicy(_ context.Context, p supervisor.Policy) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg.Policy = p
	return nil
}
func (c *fakeConn) Hold() {}

func (c *fakeConn) Root(ctx context.Context) (*os.File, error) {
	c.world.mu.Lock()
	onRoot := c.world.onRoot
	c.world.mu.Unlock()
	if onRoot != nil {
		return onRoot(ctx, c.fakeShim)
	}
	return os.Open("/")
}
func (c *fakeConn) Destroy(context.Context) error { c.vanish(); return nil }

// fixture is an engine over fakes that can be opened again.
type fixture struct {
	t     *testing.T
	opt   Options
	img   *fakeImages
	shims *fakeShims
	nets  *fakeNetworks
	*Engine
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	db, err := durable.OpenDB(filepath.Join(dir, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	nets := newFakeNetworks()
	f := &fixture{t: t, img: busybox(), shims: newFakeShims(), nets: nets, opt: Options{
		Networks: nets,
		DataRoot: filepath.Join(dir, "data"), ExecRoot: filepath.Join(dir, "run"), DB: db, Events: events.NewBus(),
		WakeEngine: []string{"berthd"},
	}}
	f.open()
	t.Cleanup(func() {
		f.Close()
		db.Close()
	})
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	var err error
	if f.opt.Volumes, err = volumes.Open(volumes.Config{Root: f.opt.DataRoot, DB: f.opt.DB, Events: f.opt.Events}); err != nil {
		f.t.Fatal(err)
	}
	e, err := open(f.t.Context(), f.opt, f.img, f.shims)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Engine = e
}

// crash drops the engine without a word to its records: what was to be written behind
// is lost, as after SIGKILL. The shims live on.
func (f *fixture) crash() {
	f.rec.mu.Lock()
	f.rec.dirty = map[*instance]struct{}{}
	f.rec.mu.Unlock()
	f.Engine.Close()
}

func (f *fixture) create(name string, change func(*CreateRequest)) string {
	f.t.Helper()
	r := CreateRequest{Name: name, Config: &container.Config{Image: "busybox"}, HostConfig: &container.HostConfig{NetworkMode: "none"}}
	if change != nil {
		change(&r)
	}
	id, _, err := f.Containers.Create(f.t.Context(), r)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *fixture) start(ref string) {
	f.t.Helper()
	if err := f.Containers.Start(f.t.Context(), ref); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) status(ref string) string {
	c, err := f.Containers.Get(ref)
	if err != nil {
		return "none"
	}
	return c.State.Status
}

// eventually polls what no event tells.
func eventually(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if fn() {
			return
		}
	}
	t.Fatalf("never came true: %s", what)
}

// forgetVolatile deletes what lies under the exec root, as a loss of power does.
func (f *fixture) forgetVolatile() {
	f.t.Helper()
	if err := os.RemoveAll(f.opt.ExecRoot); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) dirs() layout { return layout{data: f.opt.DataRoot, exec: f.opt.ExecRoot} }
