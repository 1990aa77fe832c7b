package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	"berth/durable"
	"berth/fail"
	"berth/kernel"
	"berth/kernel/apparmor"
	"berth/supervisor"
)

// profileKeeper keeps the default AppArmor profile in the kernel. All engines of a machine
// share it, and everybody who may can take it out again (aa-remove-unknown does).
type profileKeeper struct {
	kernel profileKernel
	record string // file under the exec root: what this engine, or one before it, has loaded
	log    *slog.Logger
	lacks  string // what is missing to load it: then containers have no default profile
	stays  bool   // they keep the engine's own

	turn  chan struct{}  // capacity 1; whoever sent into it may use entry
	entry apparmor.Entry // where it was last seen
}

// profileKernel is package apparmor, or a test's.
type profileKernel struct {
	find   func() (apparmor.Entry, bool)
	load   func(context.Context) error
	loaded func(name string) (loaded, known bool)
	source string // names what load loads; "": whatever is loaded will do
}

// loadedProfile is the keeper's record.
type loadedProfile struct {
	Source string
	Entry  apparmor.Entry
}

// newProfileKeeper returns nil where the kernel has no AppArmor.
func newProfileKeeper(record string, m *machine, log *slog.Logger) *profileKeeper {
	if !m.apparmor {
		return nil
	}
	source := apparmor.DefaultSource()
	k := &profileKeeper{
		kernel: profileKernel{
			find:   func() (apparmor.Entry, bool) { return apparmor.Find(apparmor.Default) },
			load:   source.Load,
			loaded: apparmor.Loaded,
			source: source.Hash(),
		},
		record: record, log: log, lacks: apparmor.Lacks(), turn: make(chan struct{}, 1),
	}
	if e, ok := k.kernel.find(); ok && k.lacks != "" { // somebody else has loaded it
		k.lacks, k.entry = "", e
	}
	if own := apparmor.Of(os.Getpid()); kernel.Contained() && own != "" && own != apparmor.Unconfined {
		k.stays = true // a container's profile lets nobody out
		k.lacks = fmt.Sprintf("this engine is in a container under the profile %s, which they keep, and which may forbid it to mount anything (start that with --privileged, or --security-opt apparmor=unconfined)", own)
	}
	return k
}

// warning is what info says of a machine that has AppArmor without being able to use it.
func (k *profileKeeper) warning() string {
	if k == nil || k.lacks == "" {
		return ""
	}
	return "AppArmor is enabled, but containers run without the profile " + apparmor.Default + ": " + k.lacks
}

// ensure loads the profile unless it is there.
func (k *profileKeeper) ensure(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if k.entry.Present() {
		return nil
	}
	lost := k.entry != apparmor.Entry{}
	if e, ok := k.kernel.find(); ok && (lost || k.asRecorded(e)) {
		k.entry = e
		return nil
	}
	if err := k.kernel.load(ctx); err != nil {
		return fmt.Errorf("load the AppArmor profile %s: %w", apparmor.Default, err)
	}
	e, ok := k.kernel.find()
	if !ok {
		return fail.New(fail.Internal, "load the AppArmor profile %s: apparmor_parser reports success, but the kernel does not have it", apparmor.Default)
	}
	if lost {
		k.log.Warn("somebody had removed the AppArmor profile of containers: it is loaded again, but containers that ran meanwhile stay unconfined by it until they are restarted", "profile", apparmor.Default)
	}
	k.entry = e
	if data, err := json.Marshal(loadedProfile{k.kernel.source, e}); err == nil {
		_ = durable.WriteFileVolatile(k.record, data, 0o600) // without it the next engine loads it once more
	}
	return nil
}

// asRecorded tells that what the kernel has is what load would give it.
func (k *profileKeeper) asRecorded(e apparmor.Entry) bool {
	if k.kernel.source == "" {
		return true
	}
	var r loadedProfile
	return durable.ReadJSON(k.record, &r) == nil && r == loadedProfile{k.kernel.source, e}
}

// begin has the profile loaded beside the rest of an engine's start. Its failure is told
// again to whoever starts a container.
func (k *profileKeeper) begin(ctx context.Context) {
	if k == nil {
		return
	}
	if w := k.warning(); w != "" {
		k.log.Warn(w)
		return
	}
	if err := k.ensure(ctx); err != nil && ctx.Err() == nil {
		k.log.Error("containers cannot be started under their AppArmor profile", "error", err)
	}
}

// standard is the profile of containers that ask for none: an empty one leaves them as
// the engine itself is.
func (k *profileKeeper) standard(privileged bool) string {
	switch {
	case k == nil, k.stays:
		return ""
	case privileged, k.lacks != "":
		return apparmor.Unconfined
	}
	return apparmor.Default
}

// found is the profile of a run that another engine has begun, and perhaps not recorded. Of
// what runs without one although it was given one somebody has removed that.
func (k *profileKeeper) found(s supervisor.State, recorded string) string {
	if k == nil || !s.Running {
		return recorded
	}
	if p := apparmor.Of(s.Pid); p != "" && (p != apparmor.Unconfined || recorded == "") {
		return p
	}
	return recorded
}

// ready makes sure that a process can be started under a profile.
func (k *profileKeeper) ready(ctx context.Context, profile string) error {
	switch {
	case k == nil || profile == "" || profile == apparmor.Unconfined:
		return nil
	case profile == apparmor.Default && k.lacks == "":
		if err := k.ensure(ctx); err != nil {
			return fmt.Errorf("%w; --security-opt apparmor=unconfined runs a container without it", err)
		}
		return nil
	}
	if loaded, known := k.kernel.loaded(profile); known && !loaded {
		return fail.New(fail.Invalid, "the AppArmor profile %q is not loaded: load it with apparmor_parser first", profile)
	}
	return nil
}
