// Package daemon puts the engine's parts together, starts them in order, and stops them.
//
// The order of a start: locks (one engine per data root and per exec root), database,
// registry client, images, shims, networks, engine (which brings its records in line with what
// still runs), sockets, readiness. The order of the end is the reverse. Containers live
// on: unlike dockerd, an engine that ends stops none of them.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"berth/api/server"
	"berth/durable"
	"berth/engine"
	"berth/events"
	"berth/fail"
	"berth/images"
	"berth/kernel"
	"berth/kernel/cgroup"
	"berth/logs"
	"berth/metrics"
	"berth/network"
	"berth/registry"
	"berth/supervisor"
	"berth/version"
	"berth/volumes"
)

// shimGroup is the control group of shims, and of engines that clients and shims start, where systemd
// runs: it would count them as the unit's or the login's that they came from, and end them with it.
const shimGroup = "/berth-shims"

func ownGroup() string {
	if info, err := os.Lstat("/run/systemd/system"); err != nil || !info.IsDir() { // sd_booted(3)
		return ""
	}
	return shimGroup
}

// warmShims is how many shims are kept started for the next containers.
const warmShims = 2

// ErrRunning says that another engine serves already what was asked for.
var ErrRunning = errors.New("an engine is running already")

var errEnded = errors.New("berthd was ended before it was ready")

// daemon holds what lives as long as the process.
type daemon struct {
	set         *Settings
	log         *slog.Logger
	level       *slog.LevelVar
	ready       *readiness
	hangup      chan os.Signal
	manager     *manager
	live        atomic.Pointer[Settings] // after reloads
	setRuntimes func(engine.Runtimes)
	tellReload  func(*Settings)
	first       bool     // all that we start ends with us
	cleanup     []func() // in order of starting; run backwards

	registry *registry.Client
}

// Run is the engine's whole life. It ends with nil after a signal, when the engine was
// idle, and when another engine serves already and this one was started on demand.
func Run(set *Settings) error {
	if set.Knock != "" {
		return knock(set.Knock)
	}
	first, noInit := asFirst(set.OnDemand)
	err := live(set, first, noInit)
	if err == nil && first && !set.EndContainers {
		return endWithContainer()
	}
	return err
}

// live is Run in this process. With first all that it starts ends with it; noInit is why there is no init
// before it then.
func live(set *Settings, first bool, noInit error) (err error) {
	syscall.Umask(0o022)
	for i := range passed() {
		syscall.CloseOnExec(firstInherited + i) // shims must not keep our sockets
	}
	level := new(slog.LevelVar)
	d := &daemon{set: set, level: level, ready: newReadiness(set.ReadyFD), hangup: make(chan os.Signal, 1), first: first}
	d.log = newLog(set, level, d.logTo())
	d.manager = adoptManager()
	if group := ownGroup(); group != "" && set.OnDemand {
		d.note("leave the session that this engine was started in", cgroup.EnterLeaf(group, os.Getpid()))
	}
	d.note("start an init: what ends in this container stays a zombie", noInit)
	d.live.Store(set)
	defer func() {
		for _, f := range slices.Backward(d.cleanup) {
			f()
		}
		if err == nil {
			d.ready.tell(errEnded) // said only if readiness was not told before
		}
		d.ready.tell(err)
	}()
	// Registered before anything is made: a signal during a start is an orderly end too, and a hangup
	// waits until there is something to reload.
	signal.Notify(d.hangup, syscall.SIGHUP)
	defer signal.Stop(d.hangup)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err = d.run(ctx)
	switch {
	case errors.Is(err, ErrRunning):
		d.ready.tell(nil) // whoever asked for an engine has one
		return nil
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		return nil
	}
	return err
}

// maxLog is the size at which the log of engines on demand is set aside.
const maxLog = 10 << 20

// logTo is where the engine's log goes: standard error, but for an engine on demand
// <exec-root>/berthd.log, as nobody reads the standard error of a shim's child.
func (d *daemon) logTo() io.Writer {
	if !d.set.OnDemand {
		return os.Stderr
	}
	path := filepath.Join(d.set.ExecRoot, "berthd.log")
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		_ = os.Rename(path, path+".1")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return os.Stderr
	}
	return f
}

func (d *daemon) later(f func()) { d.cleanup = append(d.cleanup, f) }

func (d *daemon) run(ctx context.Context) error {
	set := d.set
	if os.Geteuid() != 0 {
		return fail.New(fail.NotImplemented, "berthd needs to be run as root: rootless mode is not supported by this version of Berth")
	}
	if set.EndContainers { // also where no engine could run
		if none, err := d.nothingToEnd(); none || err != nil {
			return err
		}
	}
	if err := kernel.CheckRelease(); err != nil {
		return err
	}
	if err := set.applyProxies(); err != nil {
		return err
	}
	if _, err := logs.ParseOptions(set.LogDriver, set.LogOpts); err != nil {
		return fmt.Errorf("default log options: %w", err)
	}
	for _, dir := range []string{set.DataRoot, set.ExecRoot} {
		if err := makeRoot(dir); err != nil {
			return err
		}
	}
	d.manager.status("bringing the recorded containers in line")
	if err := d.lock(ctx); err != nil { // needs no room: the files stay, and may be without a name
		return err
	}
	group, lacks, err := d.lookAround(ctx)
	if err != nil {
		return err
	}
	reserve := durable.OpenReserve(set.DataRoot)
	d.later(reserve.Close)
	if err := d.writePidfile(); err != nil {
		return err
	}
	db, err := durable.OpenDB(filepath.Join(set.DataRoot, "berth.db"))
	if err != nil {
		return err
	}
	d.later(func() { d.note("close the database", db.Close()) })
	db.Draw(reserve)
	id, err := engineID(set.DataRoot)
	if err != nil {
		return err
	}

	bus, err := events.Open(set.DataRoot, d.log)
	if err != nil {
		return err
	}
	d.later(func() { d.note("keep the history of events", bus.Close()) })
	d.tellReload = func(next *Settings) { bus.Publish(reloadEvent(id, next)) }
	d.registry = registry.New(registry.Config{
		Insecure: set.InsecureRegistries, Mirrors: set.RegistryMirrors, HostDirs: set.RegistryHostsDirs,
		Tries: set.MaxDownloadAttempts, Stall: set.RegistryStallTimeout, UserAgent: "berth/" + version.Version, Log: d.log,
	})
	store, err := images.Open(images.Config{Root: set.DataRoot, DB: db, Registry: d.registry, Events: bus, Log: d.log, PushForeign: set.PushForeign, Driver: set.StorageDriver,
		Downloads: set.MaxDownloads, Uploads: set.MaxUploads, CacheMax: int64(set.CacheMax)})
	if err != nil {
		return fmt.Errorf("open the image store: %w", err)
	}
	vols, err := volumes.Open(volumes.Config{Root: set.DataRoot, DB: db, Events: bus, Log: d.log})
	if err != nil {
		return fmt.Errorf("open the volumes: %w", err)
	}
	shim, err := shimPath()
	if err != nil {
		return err
	}
	launcher, err := supervisor.NewLauncher(supervisor.LauncherConfig{ShimPath: shim, Warm: d.warmShims(), Cgroup: ownGroup(), Log: d.log})
	if err != nil {
		return fmt.Errorf("prepare shims: %w", err)
	}
	d.later(func() { d.note("end the warm shims", launcher.Close()) })
	wake, err := d.wakeCommand()
	if err != nil {
		return err
	}
	nets, err := d.openNetworks(ctx, db, id)
	if err != nil {
		return err
	}
	meters := new(metrics.Registry)
	eng, err := engine.Open(ctx, engine.Options{
		DataRoot: set.DataRoot, ExecRoot: set.ExecRoot, DB: db, Images: store, Volumes: vols, Shims: launcher, Events: bus, Log: d.log,
		WakeEngine: wake, LogRelay: []string{wake[0], LogRelayCommand}, CgroupParent: group, Scopes: set.CgroupDriver == driverSystemd, LogDriver: set.LogDriver, LogOpts: set.LogOpts, DefaultUlimits: set.DefaultUlimits, Defaults: set.defaults(), SELinux: set.SELinux, Init: set.Init, InitPath: set.InitPath,
		Runtimes: set.runtimes(), Networks: timeNetworks(nets, meters), DNS: set.dns, DefaultBindIP: set.publishIP(),
		HostGateways: set.hostGateways, CDISpecDirs: set.CDISpecDirs, Ending: set.EndContainers,
	})
	if err != nil {
		return fmt.Errorf("open the engine: %w", err)
	}
	d.later(func() { d.note("let go of the containers", eng.Close()) })
	if set.EndContainers {
		return eng.EndAll(ctx)
	}
	d.setRuntimes = eng.SetRuntimes

	streams, endStreams := context.WithCancel(context.Background())
	defer endStreams()
	api := server.New(server.Config{
		Containers: eng.Containers, Execs: eng.Execs, Images: store, Volumes: vols, Registry: d.registry, Networks: nets, Events: bus, Log: d.log, Streams: streams, Metrics: meters,
		Facts: server.Facts{
			ID: id, DataRoot: set.DataRoot, LogDriver: set.LogDriver, CgroupDriver: set.CgroupDriver, ShimPath: shim, InitPath: set.InitPath, DefaultShmSize: set.DefaultShmSize, Warnings: slices.Concat(set.dangers(), lacks, eng.Warnings()), SELinux: eng.SELinux(),
			SeccompProfile: set.SeccompProfile, NoNewPrivileges: set.NoNewPrivileges,
			Labels:             func() []string { return d.live.Load().Labels },
			Debug:              func() bool { return d.level.Level() <= slog.LevelDebug },
			InsecureRegistries: func() []string { return d.live.Load().InsecureRegistries },
			Mirrors:            func() []string { return d.live.Load().RegistryMirrors },
			Runtimes:           eng.Runtimes,
			CDIDevices:         eng.CDIDevices,
		},
	})
	if set.MetricsAddr != "" {
		if err := d.serveMetrics(set.MetricsAddr, meters); err != nil {
			return err
		}
	}
	listeners, err := listenAll(set)
	if err != nil {
		return err
	}
	return d.serve(ctx, newFront(api, listeners, set, eng.Busy, d.log), endStreams)
}

func (d *daemon) openNetworks(ctx context.Context, db *durable.DB, id string) (*network.Networks, error) {
	cfg := d.set.networks
	cfg.DB, cfg.RunDir, cfg.EngineID, cfg.Log = db, filepath.Join(d.set.ExecRoot, "networks"), id, d.log
	// One in a container may share the machine's network with the machine's own.
	cfg.DefaultEngine = d.set.DataRoot == defaultDataRoot && !kernel.Contained()
	nets, err := network.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the networks: %w", err)
	}
	d.later(func() { d.note("close the networks", nets.Close()) })
	return nets, nil
}

// serve answers until a signal, an idle end, or a broken socket.
func (d *daemon) serve(ctx context.Context, f *front, endStreams func()) error {
	base, cancel := context.WithCancel(context.Background())
	defer cancel()
	f.http.BaseContext = func(l net.Listener) context.Context {
		return server.Through(base, l.(*listener).host.door(d.set.TLSVerify))
	}
	f.serve()
	d.ready.tell(nil)
	d.manager.ready(f.serving())
	watched, cancelWatch := context.WithCancel(base)
	var watching sync.WaitGroup
	watching.Go(func() { d.manager.keepAlive(watched, f.probe, d.log) })
	unwatch := func() { cancelWatch(); watching.Wait() }
	defer unwatch()
	for _, l := range f.listeners {
		if danger := l.host.unguarded(d.set); danger != "" {
			d.log.Warn("THIS API IS OPEN: " + danger + "; use ssh:// or --tlsverify")
		}
		d.log.Info("serving the API", "host", l.host.text, "version", version.Version, "api", server.DefaultVersion)
	}
	idle := make(chan error, 1)
	idleCtx, stopIdle := context.WithCancel(ctx)
	defer stopIdle()
	if d.set.IdleTimeout > 0 {
		go func() { idle <- f.awaitIdle(idleCtx, d.mayLeave) }()
	}
	for {
		select {
		case <-d.hangup:
			d.manager.reloading()
			d.reload()
			d.manager.ready(f.serving())
			continue
		case err := <-f.failed:
			f.shutdown(ctx)
			return fmt.Errorf("serve the API: %w", err)
		case err := <-idle:
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("serve the API: %w", err)
			}
			if err == nil {
				d.log.Info("nothing to do: ending", "idle", d.set.IdleTimeout)
				unwatch()
				d.manager.stopping("nothing to do")
				endStreams()
				d.end(f)
				return nil
			}
		case <-ctx.Done():
		}
		if d.set.IdleTimeout > 0 {
			stopIdle()
		}
		fate := "containers live on"
		if d.first {
			fate = "containers are ended next"
		}
		d.log.Info("ending; " + fate)
		unwatch()
		d.manager.stopping("finishing requests; " + fate)
		endStreams()
		d.end(f)
		return nil
	}
}

func (d *daemon) end(f *front) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(d.live.Load().ShutdownTimeout)*time.Second)
	defer cancel()
	f.shutdown(ctx)
}

func (d *daemon) note(what string, err error) {
	if err != nil {
		d.log.Warn("could not "+what, "error", err)
	}
}

// makeRoot makes the data root or the exec root.
func makeRoot(dir string) error {
	err := os.MkdirAll(dir, 0o711)
	var fs syscall.Statfs_t
	if err == nil && syscall.Statfs(dir, &fs) == nil && fs.Flags&unix.ST_RDONLY != 0 {
		err = syscall.EROFS
	}
	if errors.Is(err, syscall.EROFS) {
		return fail.New(fail.Unavailable, "%s is on a read-only file system: make that writable (after an I/O error: check the disk first), or choose another --data-root or --exec-root", dir)
	}
	return err
}

// lock makes sure that we are the only engine of our roots. Started on demand we wait
// for one that is on its way out, and give way to one that serves.
func (d *daemon) lock(ctx context.Context) error {
	holder := fmt.Sprintf("berthd (pid %d, data-root %s)", os.Getpid(), d.set.DataRoot)
	for _, path := range []string{filepath.Join(d.set.ExecRoot, "berthd.lock"), filepath.Join(d.set.DataRoot, "lock")} {
		l, err := durable.Acquire(path, holder)
		switch {
		case fail.Is(err, fail.Conflict) && d.set.OnDemand:
			l, err = d.takeOver(ctx, path, holder)
		case fail.Is(err, fail.Conflict) && (d.set.EndContainers || d.first): // it may be one that a client has just started
			l, err = d.replace(ctx, path, holder)
		}
		if fail.Is(err, fail.Conflict) {
			return fmt.Errorf("another engine is running: %w", err)
		}
		if err != nil {
			return err
		}
		d.later(func() { d.note("release "+path, l.Release()) })
	}
	return nil
}

// takeOver waits for the lock of an engine that does not serve any more.
func (d *daemon) takeOver(ctx context.Context, path, holder string) (*durable.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	got := make(chan struct{})
	var lock *durable.Lock
	var err error
	go func() { lock, err = durable.AcquireWait(ctx, path, holder); close(got) }()
	// The holder may be one that is starting: it will serve soon, without giving up its
	// lock. There is no event for that but a connection.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if d.served() {
			cancel()
			if <-got; lock != nil {
				lock.Release()
			}
			return nil, ErrRunning
		}
		select {
		case <-got:
			return lock, err
		case <-tick.C:
		}
	}
}

// served reports whether our sockets answer.
func (d *daemon) served() bool {
	for _, h := range d.set.listen {
		if h.scheme != "unix" {
			continue
		}
		conn, err := net.Dial("unix", h.addr)
		if err != nil {
			return false
		}
		conn.Close()
	}
	return true
}

// mayLeave keeps clients from starting an engine while we decide to leave: they hold
// the same lock.
func (d *daemon) mayLeave() (func(), bool) {
	l, err := durable.Acquire(filepath.Join(d.set.ExecRoot, "berthd.start.lock"), fmt.Sprintf("berthd (pid %d) leaving", os.Getpid()))
	if err != nil {
		return nil, false
	}
	return func() { d.note("release the start lock", l.Release()) }, true
}

func (d *daemon) writePidfile() error {
	path := d.set.Pidfile
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFileVolatile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return fmt.Errorf("write the pid file: %w", err)
	}
	d.later(func() { os.Remove(path) })
	return nil
}

// engineID is a random name that an engine keeps for life.
func engineID(root string) (string, error) {
	path := filepath.Join(root, "engine-id")
	data, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(data))) > 0 {
		return strings.TrimSpace(string(data)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := uuid.NewString()
	return id, durable.WriteFile(path, []byte(id+"\n"), 0o644)
}

// shimPath finds berth-shim: beside us, or in ../lib/berth, where packages put programs that
// people do not call.
func shimPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	places := []string{filepath.Join(dir, "berth-shim"), filepath.Join(filepath.Dir(dir), "lib", "berth", "berth-shim")}
	for _, path := range places {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fail.New(fail.Unavailable, "berth-shim is neither %s nor %s", places[0], places[1])
}

// wakeCommand is how a shim starts us again: with our own flags, on demand. Behind
// systemd's socket nobody but systemd may start an engine; a connection makes it do so.
func (d *daemon) wakeCommand() ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(d.set.listen, func(h host) bool { return h.scheme == "fd" }) {
		path, err := inheritedPath()
		if err != nil {
			return nil, err
		}
		return []string{self, "--knock", path}, nil
	}
	return append([]string{self}, d.set.wakeArgs()...), nil
}

// knock connects to a socket, so that systemd starts the engine behind it.
func knock(path string) error {
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", path)
	}}, Timeout: time.Minute}
	resp, err := c.Get("http://berth/_ping")
	if err != nil {
		return fmt.Errorf("wake the engine behind %s: %w", path, err)
	}
	return resp.Body.Close()
}
