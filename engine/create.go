package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"berth/durable"
	"berth/fail"
	"berth/images"
	"berth/logs"
	"berth/oci"
	"berth/volumes"
)

// CreateRequest is what POST /containers/create brings.
type CreateRequest struct {
	Name       string // empty: one is made up
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
	Platform   *oci.Platform
}

// creator makes containers' records.
type creator struct {
	dirs         layout
	host         *machine
	idx          *index
	rec          *recorder
	ann          announcer
	images       imageStore
	spec         *specMaker
	runtimes     *runtimes
	nets         networks
	volumes      *volumes.Store
	logDriver    string
	logOpts      map[string]string
	cgroupParent string
	labels       *labels
}

func (k *creator) create(ctx context.Context, r CreateRequest) (string, []string, error) {
	if r.Config == nil {
		return "", nil, fail.New(fail.Invalid, "config cannot be empty in order to create a container")
	}
	name := r.Name
	if name != "" {
		bare, err := checkName(name)
		if err != nil {
			return "", nil, err
		}
		name = bare
	}
	img, err := k.images.GetFor(r.Config.Image, r.Platform)
	if err != nil {
		return "", nil, err
	}
	if img.Artifact != "" {
		return "", nil, fail.New(fail.Invalid, "%s is an artifact (%s) and no container image: it cannot be run", r.Config.Image, img.Artifact)
	}
	id, err := newID()
	if err != nil {
		return "", nil, err
	}
	c, warnings, err := k.assemble(id, r, img)
	if err != nil {
		return "", nil, err
	}
	if err := k.labels.give(&c); err != nil {
		return "", nil, err
	}
	if err := k.withImages(ctx, c.images(), func() error { return k.commit(ctx, &c, name) }); err != nil {
		k.labels.release(c)
		return "", nil, err
	}
	k.ann.tell(c, "create")
	return id, warnings, nil
}

// assemble merges and validates all that was asked for.
func (k *creator) assemble(id string, r CreateRequest, img images.Image) (Container, []string, error) {
	cfg := cloneConfig(r.Config)
	host := &container.HostConfig{}
	if r.HostConfig != nil {
		h := *r.HostConfig
		host = &h
	}
	var warnings []string
	if err := refuseForeign(host); err != nil {
		return Container{}, nil, err
	}
	// Only the request's own wish contradicts a shared network; an image's EXPOSE does not.
	if host.NetworkMode.IsContainer() && len(cfg.ExposedPorts) > 0 && len(host.PortBindings) == 0 {
		return Container{}, nil, fail.New(fail.Invalid, "conflicting options: port exposing and the container type network mode")
	}
	if err := mergeImage(cfg, img); err != nil {
		return Container{}, nil, err
	}
	if err := checkConfig(cfg); err != nil {
		return Container{}, nil, err
	}
	if r.Platform == nil && img.Config.Architecture != "" && img.Config.Architecture != runtime.GOARCH {
		warnings = append(warnings, fmt.Sprintf("The requested image's platform (%s/%s) does not match the detected host platform (linux/%s) and no specific platform was requested",
			img.Config.OS, img.Config.Architecture, runtime.GOARCH))
	}
	networking, warn, err := k.normalise(cfg, host, r.Networking)
	if err != nil {
		return Container{}, nil, err
	}
	warnings = append(warnings, warn...)
	if restartsUnhealthy(Container{HostConfig: host}) && healthOf(cfg) == nil {
		warnings = append(warnings, "the restart policy on-unhealthy without a health check is on-failure")
	}
	if host.Init != nil && *host.Init && !host.PidMode.IsPrivate() {
		warnings = append(warnings, "--init is ignored: the container shares its processes' namespace with others, where somebody else reaps them")
	}
	if cfg.Hostname == "" {
		cfg.Hostname = id[:12]
	}
	plan, err := planMounts(cfg, host, k.idx, k.volumes.Mountpoint)
	if err != nil {
		return Container{}, nil, err
	}
	if err := k.findImages(plan); err != nil {
		return Container{}, nil, err
	}
	sandbox := id
	if host.NetworkMode.IsContainer() {
		sandbox = host.NetworkMode.ConnectedContainer()
	}
	command := commandOf(cfg)
	c := Container{
		ID: id, Created: time.Now().UTC(), Image: img.ID, Path: command[0], Args: command[1:],
		Config: cfg, HostConfig: host, Networking: networking, Driver: k.images.GraphDriver(),
		Mounts: plan.points(), plan: plan, Sandbox: sandbox, AppArmorProfile: askedProfile(host.SecurityOpt), State: State{Status: created},
	}
	// A trial specification finds everything that can be found wrong before the start.
	if _, err := k.spec.process(c); err != nil {
		return Container{}, nil, err
	}
	return c, warnings, nil
}

// containerDirMode is that of a container's directory, dockerd's.
const containerDirMode = 0o710

// commit takes the name, makes the directory and records the container. Until the
// record is there, the directory is debris that the next Open collects.
func (k *creator) commit(ctx context.Context, c *Container, name string) (err error) {
	if c.Name, err = k.takeName(name, c.ID); err != nil {
		return err
	}
	i := newInstance(k.dirs, *c)
	i.boot = k.host.boot
	*c = i.now()
	defer func() {
		if err != nil {
			k.idx.release(c.Name, c.ID)
			_ = forgetStorage(i.dir)
			_ = os.RemoveAll(i.dir)
		}
	}()
	needs := c.volumeNeeds()
	held, err := k.volumes.Reserve(i.id, needs)
	if err != nil {
		return asRequest(err)
	}
	defer func() {
		if err != nil {
			held.Cancel()
		}
	}()
	if err := os.Mkdir(i.dir, containerDirMode); err != nil {
		return fmt.Errorf("make the container's directory: %w", err)
	}
	if err := k.limitStorage(ctx, *c, i.dir); err != nil {
		return err
	}
	durable.Failpoint("engine.create.directory")
	if err := k.rec.insert(i, held); err != nil {
		return err
	}
	held.Done()
	durable.Failpoint("engine.create.recorded")
	k.idx.add(i)
	return nil
}

// asRequest keeps what a part of a container lacks from being read as "no such image".
func asRequest(err error) error {
	if fail.Is(err, fail.NotFound) {
		return fail.Mark(fail.Invalid, err)
	}
	return err
}

// findImages settles which images are mounted.
func (k *creator) findImages(plan mountRequests) error {
	for i := range plan {
		r := &plan[i]
		if r.Point.Type != "image" || r.Image != "" {
			continue
		}
		img, err := k.images.GetFor(r.Point.Source, nil)
		if err != nil {
			return asRequest(fmt.Errorf("mount %s: %w", r.Point.Destination, err))
		}
		if img.Artifact != "" {
			return fail.New(fail.Invalid, "mount %s: %s is an artifact (%s) and has no files to mount", r.Point.Destination, r.Point.Source, img.Artifact)
		}
		r.Image = img.ID
	}
	return nil
}

// withImages runs fn while none of the images can be removed.
func (k *creator) withImages(ctx context.Context, ids []oci.Digest, fn func() error) error {
	if len(ids) == 0 {
		return fn()
	}
	return k.images.Use(ctx, ids[0], func() error { return k.withImages(ctx, ids[1:], fn) })
}

// images are those that the container is made from and has mounted, each once.
func (c Container) images() []oci.Digest {
	out := []oci.Digest{c.Image}
	for _, r := range c.plan {
		if r.Image != "" && !slices.Contains(out, r.Image) {
			out = append(out, r.Image)
		}
	}
	return out
}

// volumeNeeds are the volumes of a container that is made. The anonymous ones of a --rm
// container belong to it.
func (c Container) volumeNeeds() (needs []volumes.Need) {
	for _, r := range c.plan {
		if r.Point.Type != "volume" {
			continue
		}
		n := volumes.Need{CreateRequest: volumes.CreateRequest{Name: r.Point.Name}}
		if r.wanted != nil {
			n.Driver, n.Labels, n.Options = r.wanted.driver, r.wanted.labels, r.wanted.options
			if r.Anonymous {
				n.Labels = maps.Clone(n.Labels)
				if n.Labels == nil {
					n.Labels = map[string]string{}
				}
				n.Labels[volumes.AnonymousLabel] = ""
				if c.HostConfig.AutoRemove {
					n.Owner = c.ID
				}
			}
		}
		needs = append(needs, n)
	}
	return needs
}

func (k *creator) takeName(name, id string) (string, error) {
	if name != "" {
		return name, k.idx.reserve(name, id)
	}
	for attempt := 0; ; attempt++ {
		name := madeUpName(attempt)
		if err := k.idx.reserve(name, id); err == nil || attempt == 20 {
			return name, err
		}
	}
}

// normalise turns hostConfig into what inspect shows: defaults filled in, references
// to other containers by id. cfg gets a host name where the mode decides it.
func (k *creator) normalise(cfg *container.Config, h *container.HostConfig, asked *network.NetworkingConfig) (*network.NetworkingConfig, []string, error) {
	if err := k.normaliseLog(cfg, h); err != nil {
		return nil, nil, err
	}
	named := cfg.Hostname != ""
	networking, warnings, err := networker{k.nets, k.idx}.normalise(cfg, h, asked)
	if err != nil {
		return nil, nil, err
	}
	for _, step := range []func() ([]string, error){
		func() ([]string, error) { return nil, normaliseNamespaces(cfg, h, named, k.idx, k.host.defaults) },
		func() ([]string, error) { return normaliseResources(h, k.host) },
		func() ([]string, error) { return normaliseSecurity(h, k.host) },
		func() ([]string, error) { return nil, checkSysctls(h) },
		func() ([]string, error) { return nil, checkRestart(h) },
		func() ([]string, error) { return nil, checkNetFiles(h) },
	} {
		w, err := step()
		if err != nil {
			return nil, nil, err
		}
		warnings = append(warnings, w...)
	}
	if h.Runtime == "" {
		h.Runtime = k.runtimes.byDefault()
	}
	if _, err := storageSize(h.StorageOpt); err != nil {
		return nil, nil, err
	}
	if _, err := k.runtimes.get(h.Runtime); err != nil {
		return nil, nil, err
	}
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	return networking, warnings, nil
}

// normaliseLog fills in the engine's log driver, and its options where they fit.
func (k *creator) normaliseLog(cfg *container.Config, h *container.HostConfig) error {
	l := &h.LogConfig
	if l.Type == "" {
		l.Type = k.logDriver
	}
	if l.Config = maps.Clone(l.Config); l.Config == nil {
		l.Config = map[string]string{}
	}
	for name, value := range k.logOpts {
		if _, given := l.Config[name]; !given && l.Type != logs.DriverNone && (l.Type == k.logDriver || logs.IsCacheOption(name)) {
			l.Config[name] = value
		}
	}
	o, err := logOptions(Container{Config: cfg, HostConfig: h})
	if err != nil {
		return err
	}
	return o.Check()
}

func newID() (string, error) {
	b := make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// cloneConfig copies what merging changes.
func cloneConfig(c *container.Config) *container.Config {
	n := *c
	n.Env = slices.Clone(c.Env)
	n.Labels = maps.Clone(c.Labels)
	n.Volumes = maps.Clone(c.Volumes)
	n.ExposedPorts = maps.Clone(c.ExposedPorts)
	return &n
}
