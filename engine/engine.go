// Package engine owns sandboxes and containers: their states, their lives and what is
// recorded of them.
//
// A container's request (Config, HostConfig, NetworkingConfig) is kept in the
// vocabulary it came in, moby/api's data types, because inspect must echo it field by
// field; all else about a container is ours, and answers are shaped in api/server.
//
// # Who owns what
//
//	Containers  the door: finds the container and hands it to the owner of the verb
//	creator     create: merge with the image, validate, record
//	lifecycle   start, stop, kill, pause, exit, restart policies, remove
//	reconciler  what to make of the records when an engine opens
//	Execs       further processes of running containers
//	index       ids and names
//	recorder    the database records
//	networker   which networks a container is to be on, settled at its creation
//	wiring      networks of running containers: join, publish, leave; hosts and resolv.conf
//	specMaker   HostConfig → OCI runtime specification
//	runtimes    the external OCI runtimes by name
//	instance    one container: the only owner of its state
//
// # What is durable
//
// A create and a removal are one database transaction each, made before the answer. A
// start is not: whether a container runs is known by its shim, and how it ended by the
// exit record that the shim leaves, so the engine's own record of both is written
// behind the answer. Being stopped by hand is durable before the answer if a restart
// policy depends on it. A connection to a network is recorded when it is made and before the
// answer, a disconnection before it is begun: an endpoint that the record does not know is
// taken back by the next engine.
package engine

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/moby/moby/api/types/container"

	"berth/durable"
	"berth/events"
	"berth/fail"
	"berth/images"
	"berth/kernel/cgroup"
	"berth/supervisor"
	"berth/volumes"
)

// Options configure an Engine.
type Options struct {
	DataRoot, ExecRoot string
	DB                 *durable.DB
	Images             *images.Store
	Volumes            *volumes.Store
	Shims              *supervisor.Launcher
	Events             *events.Bus
	Log                *slog.Logger
	// WakeEngine is the command line that starts this engine again.
	WakeEngine []string
	// LogRelay is the command line that makes TLS connections for log drivers.
	LogRelay []string
	// CgroupParent is where containers' cgroups are made; default "/berth", with Scopes
	// "system.slice".
	CgroupParent string
	// Scopes lets systemd make the cgroups, as scopes in slices.
	Scopes bool
	// LogDriver and LogOpts are the defaults of containers that name none.
	LogDriver string
	LogOpts   map[string]string
	// DefaultUlimits are given to containers that do not set the same ones.
	DefaultUlimits map[string]*container.Ulimit
	// Defaults are more of what containers get that say nothing themselves.
	Defaults Defaults
	// Init gives containers an init that do not say whether they want one. InitPath is a program
	// to use instead of Berth's own.
	Init     bool
	InitPath string
	// Runtimes are the external ones that containers may name.
	Runtimes Runtimes
	// CDISpecDirs hold the specifications of devices that containers may name, the last one
	// first in precedence; none: there are no such devices.
	CDISpecDirs []string
	// SELinux gives containers labels, where the machine has SELinux.
	SELinux bool
	// Networks is a *network.Networks.
	Networks networks
	// DNS is for containers that say nothing themselves.
	DNS DNS
	// DefaultBindIP is where ports of containers on the default bridge are published that
	// name no address; zero: as the network's options say.
	DefaultBindIP netip.Addr
	// HostGateways are what host-gateway and host.berth.internal mean; empty: the bridge that
	// the container is on, else the default bridge.
	HostGateways []netip.Addr
	// Ending says that the engine is open for EndAll alone: no policy starts anything.
	Ending bool

	labels labelMaker // a test's, instead of SELinux
}

// Defaults are what containers get that say nothing themselves.
type Defaults struct {
	CgroupnsMode    container.CgroupnsMode // empty: private
	IPCMode         container.IpcMode      // empty: private
	NoNewPrivileges bool
	Seccomp         string // a profile as JSON text, "unconfined", or empty for the built-in one
}

// CheckSeccomp tells whether a profile can be the default of containers.
func CheckSeccomp(text string) error {
	if text == "" || text == unconfined {
		return nil
	}
	_, err := checkSeccomp(text, defaultCaps)
	return err
}

// DNS are name servers, search domains and options of resolv.conf(5). What is empty is
// taken from the host's own file.
type DNS struct {
	Servers         []netip.Addr
	Search, Options []string
}

// Engine is the door to everything below. The verbs are grouped by the types that own
// them; Engine itself only holds those together.
type Engine struct {
	Containers *Containers
	Execs      *Execs

	warnings []string

	life   *lifecycle
	rec    *recorder
	cancel context.CancelCauseFunc
	work   *sync.WaitGroup
}

// Open loads the recorded containers and brings each in line with the truth: attached
// to its living shim again, or recorded as ended by its exit record, or as lost; work
// that was cut off is finished or undone. The context bounds the opening only.
func Open(ctx context.Context, o Options) (*Engine, error) {
	return open(ctx, o, o.Images, realShims{o.Shims})
}

// open is Open with the two true boundaries, images and shims, replaceable by tests.
func open(ctx context.Context, o Options, img imageStore, shims shims) (*Engine, error) {
	switch {
	case o.Scopes:
		if err := cgroup.CheckScopes(); err != nil {
			return nil, err
		}
		if o.CgroupParent == "" {
			o.CgroupParent = "system.slice"
		}
		if err := cgroup.CheckSlice(o.CgroupParent); err != nil {
			return nil, fail.New(fail.Invalid, "cgroup parent: %w", err)
		}
	case o.CgroupParent == "":
		o.CgroupParent = "/berth"
	}
	if o.LogDriver == "" {
		o.LogDriver = "json-file"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dirs := layout{data: o.DataRoot, exec: o.ExecRoot}
	for _, d := range []string{dirs.containers(), dirs.trash(), dirs.runs(), dirs.records()} {
		if err := os.MkdirAll(d, 0o710); err != nil {
			return nil, fmt.Errorf("make the engine's directories: %w", err)
		}
	}
	host, err := probeMachine()
	if err != nil {
		return nil, fmt.Errorf("look at this machine: %w", err)
	}
	host.scopes, host.defaults = o.Scopes, o.Defaults

	named, err := newNamedDevices(o.CDISpecDirs)
	if err != nil {
		return nil, err
	}
	living, cancel := context.WithCancelCause(context.Background())
	work := new(sync.WaitGroup)
	idx := newIndex()
	lab, warning := newLabels(o, idx)
	if warning != "" {
		o.Log.Warn(warning)
	}
	rec := newRecorder(o.DB, dirs.records(), o.Log)
	work.Go(rec.run)
	ann := announcer{o.Events}
	spec := &specMaker{host: host, cgroupParent: o.CgroupParent, ulimits: o.DefaultUlimits, named: named, init: newInitProgram(dirs, o.InitPath, o.Init),
		profile: newProfileKeeper(filepath.Join(dirs.exec, "apparmor.json"), host, o.Log), labels: lab}
	work.Go(func() { spec.profile.begin(living) })
	boxes := &sandboxes{idx: idx, cgroupParent: o.CgroupParent}
	execs := newExecs(idx, ann, spec)
	runtimes := newRuntimes(o.Runtimes)
	wire := &wiring{
		nets: o.Networks, idx: idx, ann: ann, log: o.Log, dns: o.DNS, bindIP: o.DefaultBindIP, gateways: o.HostGateways,
		work: work, resolvPath: "/etc/resolv.conf", leaving: map[*run]struct{}{},
	}
	life := &lifecycle{
		ctx: living, ending: o.Ending, work: work, dirs: dirs, log: o.Log, host: host,
		idx: idx, rec: rec, ann: ann, spec: spec, boxes: boxes, wire: wire, execs: execs,
		images: img, shims: shims, runtimes: runtimes, volumes: o.Volumes, labels: lab, wake: o.WakeEngine, logRelay: o.LogRelay, clock: wallClock{},
	}
	e := &Engine{
		Containers: &Containers{
			idx: idx, life: life, rec: rec, ann: ann, images: img, log: o.Log, samples: newSampler(living, work, idx, spec.cgroup),
			create: &creator{
				dirs: dirs, host: host, idx: idx, rec: rec, ann: ann, images: img, spec: spec, runtimes: runtimes, volumes: o.Volumes, nets: o.Networks,
				logDriver: o.LogDriver, logOpts: o.LogOpts, cgroupParent: o.CgroupParent, labels: lab,
			},
		},
		Execs: execs,
		life:  life, rec: rec, cancel: cancel, work: work, warnings: warnings(warning, spec.profile.warning()),
	}
	r := reconciler{life: life, dirs: dirs, log: o.Log}
	if err := r.run(ctx); err != nil {
		return nil, fmt.Errorf("bring the recorded containers in line: %w", closing(e, err))
	}
	return e, nil
}

func closing(e *Engine, cause error) error {
	_ = e.Close()
	return cause
}

// Close lets go of all shims. Containers go on. Waits that are pending are told.
func (e *Engine) Close() error {
	e.cancel(errClosed)
	for _, i := range e.life.idx.all() {
		i.letGo()
	}
	err := e.rec.close()
	e.work.Wait()
	return err
}

// Warnings are what info says of the machine that the engine found.
func (e *Engine) Warnings() []string { return e.warnings }

func warnings(all ...string) (out []string) {
	for _, w := range all {
		if w != "" {
			out = append(out, "WARNING: "+w)
		}
	}
	return out
}

// SELinux tells whether containers get labels.
func (e *Engine) SELinux() bool { return e.life.labels.on() }

// Busy reports whether a container runs or a restart or removal is pending; an idle
// engine may exit.
func (e *Engine) Busy() bool {
	for _, i := range e.life.idx.all() {
		if i.busy() {
			return true
		}
	}
	return e.life.sweeping.Load() > 0
}

// layout knows where things are on disk.
type layout struct{ data, exec string }

func (l layout) containers() string { return filepath.Join(l.data, "containers") }
func (l layout) trash() string      { return filepath.Join(l.data, "trash") }
func (l layout) runs() string       { return filepath.Join(l.exec, "containers") }
func (l layout) records() string    { return filepath.Join(l.exec, "records") }
