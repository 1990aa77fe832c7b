package cgroup

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/stage"
	"berth/kernel/systemd"
)

// A group whose name has the form "slice:prefix:name", as runc has it, is a scope of
// systemd's: prefix-name.scope in the slice (system.slice if none is named). systemd makes its
// directory and knows of its limits, so that it does not undo them; all else is done here as
// for any other group, for which the scope is delegated.

// place is where a group is: its path below each hierarchy, and the scope that it is, if any.
type place struct{ path, scope, slice string }

// IsScope tells that a group of this name is a scope of systemd's.
func IsScope(name string) bool {
	slice, _, _ := strings.Cut(name, ":")
	return strings.Count(name, ":") == 2 && !strings.Contains(name, "/") && (slice == "" || strings.HasSuffix(slice, ".slice"))
}

const defaultSlice = "system.slice"

// placeOfScope reads a scope's name.
func placeOfScope(name string) (place, error) {
	parts := strings.Split(name, ":")
	slice, prefix, id := parts[0], parts[1], parts[2]
	if slice == "" {
		slice = defaultSlice
	}
	above, err := slicePath(slice)
	if err != nil {
		return place{}, err
	}
	unit := id + ".scope"
	if prefix != "" {
		unit = prefix + "-" + unit
	}
	// systemd.unit(5): what a unit's name may be made of, and how long it may be.
	if id == "" || len(unit) > 255 || strings.Trim(unit, letters+digits+":-_.\\@") != "" {
		return place{}, fail.New(fail.Invalid, "%q is no name of a scope that systemd takes", unit)
	}
	return place{path: path.Join(above, unit), scope: unit, slice: slice}, nil
}

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
)

// slicePath is the path of a slice: "a-b.slice" lies in "a.slice" (systemd.slice(5)). That of
// "-.slice" is the root.
func slicePath(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if name == "-" && ok {
		return "/", nil
	}
	bad := fail.New(fail.Invalid, "%q is no name of a slice: must be like name.slice or parent-name.slice", slice)
	if !ok || name == "" || len(slice) > 255 || strings.Trim(name, letters+digits+":-_.\\@") != "" {
		return "", bad
	}
	at, whole := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", bad
		}
		whole += part
		at = path.Join(at, whole+".slice")
		whole += "-"
	}
	return at, nil
}

// CheckSlice tells whether a slice of systemd's can have this name.
func CheckSlice(slice string) error {
	_, err := slicePath(slice)
	return err
}

// Scope is the name by which Create has systemd make a scope in the slice for the container id.
func Scope(slice, prefix, id string) string { return slice + ":" + prefix + ":" + id }

// CheckScopes tells why systemd cannot make control groups here.
func CheckScopes() error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	return scopesWork(hs)
}

func scopesWork(hs []hierarchy) error {
	switch {
	case !systemd.Running():
		return fail.New(fail.Invalid, "systemd cannot make control groups: it does not run here; use the cgroup driver cgroupfs, or a path like /berth/name")
	case len(hs) != 1 || !hs[0].unified:
		return fail.New(fail.Invalid, "systemd makes control groups for containers on cgroup v2 alone, and this host has v1: use the cgroup driver cgroupfs, or a path like /berth/name")
	}
	return nil
}

// createScope has systemd make the scope at p.
func createScope(ctx context.Context, hs []hierarchy, p place, res *specs.LinuxResources) (_ *Group, err error) {
	if err := scopesWork(hs); err != nil {
		return nil, err
	}
	h := hs[0]
	dirPath := h.mount + p.path
	limits, err := scopeProperties(res, period{}, bfqIn(sample(h.mount)))
	if err != nil {
		return nil, err
	}
	g := &Group{path: p.path, scope: p.scope, dirs: []dir{{h, dirPath}}}
	made := false
	defer func() {
		if err != nil {
			g.Inhabited()
		}
		if err != nil && made {
			_ = stopScope(context.WithoutCancel(ctx), p.scope)
			_ = removeTree(dirPath)
		}
	}()
	if err := g.hold(); err != nil {
		return nil, err
	}
	properties := append([]systemd.Property{
		{Name: "Description", Value: "Container of Berth"},
		{Name: "Slice", Value: p.slice},
		{Name: "Delegate", Value: true},
		{Name: "DefaultDependencies", Value: false}, // containers end when their engine says so
		{Name: "CollectMode", Value: "inactive-or-failed"},
		{Name: "PIDs", Value: []uint32{uint32(g.guest.Pid)}},
	}, limits...)
	err = systemd.StartScope(ctx, p.scope, properties)
	if fail.Is(err, fail.Conflict) {
		// Of a container that was lost, or systemd has not forgotten the last run yet.
		var at string
		if at, err = systemd.GroupOf(ctx, p.scope); err == nil {
			err = p.abandoned(at, dirPath)
		}
		if err == nil {
			err = stopScope(ctx, p.scope)
		}
		if err == nil {
			err = systemd.StartScope(ctx, p.scope, properties)
		}
	}
	if err != nil {
		return nil, err
	}
	made = true
	if !exists(dirPath) {
		return nil, fail.New(fail.Internal, "systemd has made %s, but not at %s", p.scope, dirPath)
	}
	// systemd delegates the controllers that it knows itself.
	for at := h.mount; len(at) < len(dirPath); {
		_ = handOn(at, h.controllers)
		next, _, _ := strings.Cut(dirPath[len(at)+1:], "/")
		at += "/" + next
	}
	if err := g.applyFiles(res); err != nil {
		return nil, err
	}
	return g, nil
}

// abandoned tells why the scope that systemd has by this name, with the control group at, may not be
// stopped to make one in the directory dir: it has processes, or is somebody else's in another slice.
func (p place) abandoned(at, dir string) error {
	if at != "" && at != p.path {
		return fail.New(fail.Conflict, "%s is in use as the control group %s: choose another name", p.scope, at)
	}
	pids, err := pidsBelow(dir)
	if err != nil {
		return fmt.Errorf("look whether %s is in use: %w", p.scope, err)
	}
	if len(pids) > 0 {
		return fail.New(fail.Conflict, "%s is in use by %d processes", p.scope, len(pids))
	}
	return nil
}

// hold starts a process that does nothing, for systemd makes no scope without one and ends one
// that has lost its last.
func (g *Group) hold() (err error) {
	p := stage.New()
	p.DefaultSignals()
	p.Await()
	p.Exit(0)
	if g.guest, err = stage.Start(p, stage.Options{}); err != nil {
		return fmt.Errorf("start a process to keep the scope: %w", err)
	}
	return nil
}

// Inhabited says that the group has processes of its caller's, or will never have. Until then
// a scope is kept alive by a process of its own.
func (g *Group) Inhabited() {
	if g.guest == nil {
		return
	}
	_ = unix.PidfdSendSignal(g.guest.PidFD, unix.SIGKILL, nil, 0)
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(g.guest.Pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	g.guest.Close()
	g.guest = nil
}

// removeScope lets systemd forget the scope, whose processes have ended.
func (g *Group) removeScope(ctx context.Context) error {
	g.Inhabited()
	at := g.dirs[0].path
	if !exists(at) {
		return nil // systemd has noticed that it is empty
	}
	if pids, err := pidsBelow(at); err == nil && len(pids) > 0 {
		return fail.New(fail.Conflict, "%d processes are still in it", len(pids))
	}
	return stopScope(ctx, g.scope)
}

// stopPatience is how long systemd may take to end a scope that is empty. Those who wait for a
// container's end wait for that.
const stopPatience = 5 * time.Second

func stopScope(ctx context.Context, scope string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stopPatience, fail.New(fail.Unavailable, "stop %s: systemd has not answered within %v", scope, stopPatience))
	defer cancel()
	return systemd.Stop(ctx, scope)
}

// period is a quota of processor time as cpu.max has it, in µs; 0: not known.
type period struct{ quota, length uint64 }

// scopeProperties are what systemd has to know of res, lest it writes its own values when it
// is reloaded. now is the present quota, which the new one may change a part of. What systemd
// has no property for it leaves alone.
func scopeProperties(r *specs.LinuxResources, now period, bfq bool) ([]systemd.Property, error) {
	if r == nil {
		return nil, nil
	}
	var out []systemd.Property
	add := func(name string, value any) { out = append(out, systemd.Property{Name: name, Value: value}) }
	if m := r.Memory; m != nil {
		swap, err := swapMax(m)
		if err != nil {
			return nil, err
		}
		if given(m.Limit) {
			add("MemoryMax", asLimit(*m.Limit))
		}
		if given(m.Reservation) {
			add("MemoryLow", asLimit(*m.Reservation))
		}
		if swap != "" {
			add("MemorySwapMax", limitOf(swap))
		}
	}
	if c := r.CPU; c != nil {
		if positive(c.Shares) {
			add("CPUWeight", weightOfShares(*c.Shares))
		}
		if given(c.Quota) {
			now.quota = asLimit(*c.Quota)
		}
		if positive(c.Period) {
			now.length = *c.Period
		}
		if given(c.Quota) || positive(c.Period) {
			out = append(out, quotaProperties(now)...)
		}
		for _, set := range []struct{ property, list string }{{"AllowedCPUs", c.Cpus}, {"AllowedMemoryNodes", c.Mems}} {
			if set.list == "" {
				continue
			}
			bits, err := cpuBits(set.list)
			if err != nil {
				return nil, err
			}
			add(set.property, bits)
		}
		if c.Idle != nil && *c.Idle == 1 {
			add("CPUWeight", uint64(0)) // since systemd 252
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		add("TasksMax", asLimit(taskLimit(*p.Limit)))
	}
	if b := r.BlockIO; b != nil && weightGiven(b.Weight) {
		add("IOWeight", systemdWeight(*b.Weight, bfq))
	}
	return unifiedProperties(out, r.Unified)
}

// quotaProperties: systemd has the quota per second, in steps of 10 ms per second (1 %). One
// that is not a multiple gets the next.
func quotaProperties(p period) []systemd.Property {
	if p.length == 0 {
		p.length = 100_000
	}
	perSecond := uint64(unlimited)
	if p.quota != 0 && p.quota != unlimited {
		const step = 10_000
		perSecond = p.quota * 1_000_000 / p.length
		perSecond = (perSecond + step - 1) / step * step
	}
	return []systemd.Property{{Name: "CPUQuotaPeriodUSec", Value: p.length}, {Name: "CPUQuotaPerSecUSec", Value: perSecond}}
}

// unifiedProperties adds the properties of files of cgroup v2. A value that cannot be read is
// left for the kernel to refuse.
func unifiedProperties(out []systemd.Property, files map[string]string) ([]systemd.Property, error) {
	for _, f := range []struct{ file, property string }{
		{"cpu.weight", "CPUWeight"}, {"memory.min", "MemoryMin"}, {"memory.low", "MemoryLow"}, {"memory.high", "MemoryHigh"},
		{"memory.max", "MemoryMax"}, {"memory.swap.max", "MemorySwapMax"}, {"pids.max", "TasksMax"}, {"io.weight", "IOWeight"},
	} {
		text := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(files[f.file]), "default "))
		n, err := strconv.ParseUint(text, 10, 64)
		if text == "max" {
			n, err = unlimited, nil
		}
		if err == nil {
			out = append(out, systemd.Property{Name: f.property, Value: n})
		}
	}
	if strings.TrimSpace(files["cpu.idle"]) == "1" {
		out = append(out, systemd.Property{Name: "CPUWeight", Value: uint64(0)})
	}
	if quota, length, ok := strings.Cut(strings.TrimSpace(files["cpu.max"]), " "); quota != "" {
		p := period{quota: limitOf(quota)}
		if ok {
			p.length = limitOf(strings.TrimSpace(length))
		}
		out = append(out, quotaProperties(p)...)
	}
	for _, set := range []struct{ file, property string }{{"cpuset.cpus", "AllowedCPUs"}, {"cpuset.mems", "AllowedMemoryNodes"}} {
		if list := strings.TrimSpace(files[set.file]); list != "" {
			bits, err := cpuBits(list)
			if err != nil {
				return nil, err
			}
			out = append(out, systemd.Property{Name: set.property, Value: bits})
		}
	}
	return out, nil
}

// asLimit is a limit of the specification, where less than nothing stands for none.
func asLimit(n int64) uint64 {
	if n < 0 {
		return unlimited
	}
	return uint64(n)
}

// systemdWeight is the weight of which systemd makes the value that we write. To BFQ's file it
// does not write what it was given: a weight above 100 goes from 100…10000 to 100…1000.
func systemdWeight(w uint16, bfq bool) uint64 {
	switch {
	case !bfq:
		return ioWeight(w)
	case w <= 100:
		return uint64(w)
	}
	return 100 + (uint64(w-100)*9900+899)/900
}

// bfqIn tells that weights of block IO are the BFQ scheduler's in the group.
func bfqIn(dir string) bool { return exists(dir + "/io.bfq.weight") }

// cpuBits turns a list like "0-2,7" into a mask, the lowest bit of the first byte being 0.
func cpuBits(list string) ([]byte, error) {
	bits := []byte{}
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		lo, hi, ranged := strings.Cut(part, "-")
		if !ranged {
			hi = lo
		}
		from, err1 := strconv.ParseUint(lo, 10, 13)
		to, err2 := strconv.ParseUint(hi, 10, 13)
		if err1 != nil || err2 != nil || to < from {
			return nil, fail.New(fail.Invalid, "invalid cpuset list %q", list)
		}
		for n := from; n <= to; n++ {
			for uint64(len(bits)) <= n/8 {
				bits = append(bits, 0)
			}
			bits[n/8] |= 1 << (n % 8)
		}
	}
	return bits, nil
}
