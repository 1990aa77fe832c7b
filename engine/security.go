package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
	"berth/kernel/apparmor"
	filter "berth/kernel/seccomp"
)

// defaultCaps are the capabilities of an ordinary container (Docker's fourteen).
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// defaultMasked and defaultReadonly are the places in /proc and /sys that tell too much
// of the machine or change it.
var (
	defaultMasked = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	defaultReadonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// capabilities is the set that --cap-add, --cap-drop and --privileged leave, in the
// kernel's order of numbers for "ALL" and in the order asked for otherwise.
func capabilities(h *container.HostConfig, m *machine) ([]string, error) {
	if h.Privileged {
		return m.caps, nil
	}
	add, addAll, err := capNames(h.CapAdd, m)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := capNames(h.CapDrop, m)
	if err != nil {
		return nil, err
	}
	base := defaultCaps
	switch {
	case addAll:
		base = m.caps
	case dropAll:
		base = nil
	}
	var out []string
	for _, c := range append(slices.Clone(base), add...) {
		dropped := slices.Contains(drop, c) && (addAll || !slices.Contains(add, c))
		if !dropped && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}

// capNames reads names with or without CAP_, in any case.
func capNames(names []string, m *machine) (caps []string, everything bool, err error) {
	for _, n := range names {
		up := strings.ToUpper(strings.TrimSpace(n))
		if up == "ALL" || up == "CAP_ALL" {
			everything = true
			continue
		}
		if !strings.HasPrefix(up, "CAP_") {
			up = "CAP_" + up
		}
		if !slices.Contains(knownCaps, up) {
			return nil, false, fail.New(fail.Invalid, "invalid capability: unknown capability: %q", n)
		}
		caps = append(caps, up)
	}
	return caps, everything, nil
}

// knownCaps are all of capabilities(7), whether or not this kernel has them.
var knownCaps = strings.Fields(`
CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP
CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER
CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
CAP_CHECKPOINT_RESTORE`)

// Words for seccomp profiles, instead of one as JSON text.
const unconfined, builtin = "unconfined", "builtin"

// security is what --security-opt asks for.
type security struct {
	seccomp    string // JSON text, "unconfined", "builtin", or empty for the default
	apparmor   string
	nested     bool // label=nested
	noNewPrivs bool
	openSystem bool // systempaths=unconfined
	// ownGroups: whether the container may make control groups of its own; nil: if it is privileged.
	ownGroups *bool
}

func parseSecurity(opts []string, m *machine) (security, error) {
	s := security{noNewPrivs: m.defaults.NoNewPrivileges}
	for _, opt := range opts {
		if opt == "no-new-privileges" {
			s.noNewPrivs = true
			continue
		}
		key, value, ok := strings.Cut(opt, "=")
		if !ok {
			key, value, ok = strings.Cut(opt, ":")
		}
		if !ok {
			return s, fail.New(fail.Invalid, "invalid --security-opt: %q", opt)
		}
		switch key {
		case "no-new-privileges":
			on, err := strconv.ParseBool(value)
			if err != nil {
				return s, fail.New(fail.Invalid, "invalid --security-opt: %q", opt)
			}
			s.noNewPrivs = on
		case "seccomp":
			s.seccomp = value
		case "apparmor":
			if value == "" || strings.ContainsAny(value, "\x00\n") {
				return s, fail.New(fail.Invalid, "invalid --security-opt: %q", opt)
			}
			if value != apparmor.Unconfined && !m.apparmor {
				return s, fail.New(fail.Invalid, "AppArmor is not enabled on this machine: only apparmor=unconfined is possible")
			}
			s.apparmor = value
		case "label":
			kind, part, _ := strings.Cut(value, ":")
			alone := value == "disable" || value == nested
			if !alone && (part == "" || !slices.Contains([]string{"user", "role", "type", "level", "filetype"}, kind)) {
				return s, fail.New(fail.Invalid, "invalid --security-opt: %q", opt)
			}
			s.nested = s.nested || value == nested
		case "writable-cgroups":
			on, err := strconv.ParseBool(value)
			if err != nil {
				return s, fail.New(fail.Invalid, "invalid --security-opt: %q", opt)
			}
			s.ownGroups = &on
		case "systempaths":
			if value != "unconfined" {
				return s, fail.New(fail.Invalid, "invalid --security-opt: %q", opt)
			}
			s.openSystem = true
		default:
			return s, fail.New(fail.Invalid, "invalid --security-opt: %q", opt)
		}
	}
	return s, nil
}

// normaliseSecurity validates options and capabilities and settles the masked paths.
func normaliseSecurity(h *container.HostConfig, m *machine) (warnings []string, err error) {
	s, err := parseSecurity(h.SecurityOpt, m)
	if err != nil {
		return nil, err
	}
	// On cgroup v2 all of the host's groups would be seen there: a way to the host that Docker leaves open.
	if s.ownGroups != nil && *s.ownGroups && h.CgroupnsMode.IsHost() && !h.Privileged {
		return nil, fail.New(fail.Invalid, "conflicting options: writable-cgroups=true and the host's cgroup namespace, where the container could write all of the host's groups: use --cgroupns private, or --privileged")
	}
	caps, err := capabilities(h, m)
	if err != nil {
		return nil, err
	}
	for _, c := range caps {
		if !slices.Contains(m.caps, c) && !slices.Contains(defaultCaps, c) {
			return nil, fail.New(fail.Invalid, "capability %s is not available to this engine", c)
		}
	}
	if s.seccomp != "" && s.seccomp != unconfined && s.seccomp != builtin {
		if warnings, err = checkSeccomp(s.seccomp, caps); err != nil {
			return nil, err
		}
	}
	switch {
	case s.openSystem:
		h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
	case h.Privileged: // sees all there is, see specMaker
	default:
		if h.MaskedPaths == nil {
			h.MaskedPaths = defaultMasked
		}
		if h.ReadonlyPaths == nil {
			h.ReadonlyPaths = defaultReadonly
		}
	}
	// Who is to touch the host's processes cannot be confined by a label: inspect says so, on
	// machines without SELinux too.
	if (h.Privileged || h.IpcMode.IsHost() || h.PidMode.IsHost()) && !slices.ContainsFunc(h.SecurityOpt, isLabel) {
		h.SecurityOpt = append(slices.Clone(h.SecurityOpt), "label=disable")
	}
	return warnings, nil
}

func isLabel(opt string) bool {
	return strings.HasPrefix(opt, "label=") || strings.HasPrefix(opt, "label:")
}

// askedProfile is the AppArmor profile that security options ask for, empty if none. The
// last one counts.
func askedProfile(opts []string) (profile string) {
	for _, opt := range opts {
		for _, sep := range []string{"=", ":"} {
			if p, ok := strings.CutPrefix(opt, "apparmor"+sep); ok {
				profile = p
			}
		}
	}
	return profile
}

// checkSeccomp finds at creation what a start would stumble over, and warns of rules for
// calls that do not exist.
func checkSeccomp(text string, caps []string) (warnings []string, err error) {
	p, err := customSeccomp(text, caps)
	if err != nil || p == nil {
		return nil, err
	}
	_, unknown, err := filter.Compile(p)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	for _, name := range unknown {
		if !filter.Known(name) {
			warnings = append(warnings, fmt.Sprintf("The seccomp profile names an unknown system call, %q: its rule is skipped", name))
		}
	}
	return warnings, nil
}

// customSeccomp compiles a profile given as JSON text for a capability set.
func customSeccomp(text string, caps []string) (*specs.LinuxSeccomp, error) {
	if !json.Valid([]byte(text)) {
		return nil, fail.New(fail.Invalid, "seccomp profile is not valid JSON")
	}
	p, err := seccomp.LoadProfile(text, specFor(caps))
	if err != nil {
		return nil, fail.New(fail.Invalid, "seccomp profile: %w", err)
	}
	return p, nil
}

func specFor(caps []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
}

// seccompProfiles caches the built-in profile, and the one that is the engine's default, by
// capability set: they depend on nothing else but the machine. Profiles are shared and never
// changed.
type seccompProfiles struct {
	mu     sync.Mutex // guards byCaps
	byCaps map[string]*specs.LinuxSeccomp
}

// get makes a profile of JSON text, or the built-in one, for a capability set.
func (d *seccompProfiles) get(text string, caps []string) (p *specs.LinuxSeccomp, err error) {
	key := text + " " + strings.Join(caps, " ")
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.byCaps[key]; p != nil {
		return p, nil
	}
	if text == builtin {
		p, err = seccomp.GetDefaultProfile(specFor(caps))
	} else {
		p, err = customSeccomp(text, caps)
	}
	if err != nil {
		return nil, fmt.Errorf("default seccomp profile: %w", err)
	}
	if d.byCaps == nil || len(d.byCaps) > 64 {
		d.byCaps = map[string]*specs.LinuxSeccomp{}
	}
	d.byCaps[key] = p
	return p, nil
}
