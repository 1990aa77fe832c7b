package runtime

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/kernel"
	"berth/kernel/stage"
)

// capabilitySets are the five sets as bit masks.
type capabilitySets struct {
	bounding, effective, permitted, inheritable, ambient uint64
}

// capabilities translates a specification's sets, without those that this host cannot
// give: unknown to it, or not held by the caller. dropped names them.
func capabilities(c *specs.LinuxCapabilities, userns bool) (s capabilitySets, dropped []string) {
	if c == nil {
		return s, nil
	}
	have := uint64(kernel.KnownCapabilities())
	if !userns {
		have = ownCapabilities()
	}
	missing := map[string]bool{}
	mask := func(names []string, have uint64) (m uint64) {
		for _, name := range names {
			bit, ok := kernel.ParseCapability(name)
			if !ok || !kernel.CapabilitySet(have).Has(bit) {
				if !missing[name] {
					missing[name] = true
					dropped = append(dropped, name)
				}
				continue
			}
			m |= 1 << bit
		}
		return m
	}
	s.bounding = mask(c.Bounding, have)
	s.permitted = mask(c.Permitted, have)
	s.effective = mask(c.Effective, have) & s.permitted
	s.inheritable = mask(c.Inheritable, have)
	s.ambient = mask(c.Ambient, have) & s.permitted & s.inheritable
	return s, dropped
}

// ownCapabilities is the caller's permitted set.
func ownCapabilities() uint64 {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32
}

// dropBounding removes from the bounding set what is not in keep, also capabilities
// that only newer kernels know.
func (b *builder) dropBounding(keep uint64) {
	p := b.p
	p.About("drop capabilities from the bounding set", "")
	known := kernel.KnownCapabilities()
	for n := 0; n < 64; n++ {
		if keep&(1<<n) != 0 || !known.Has(kernel.Capability(n)) {
			continue
		}
		p.Call(unix.SYS_PRCTL, stage.Int(unix.PR_CAPBSET_DROP), stage.Int(n), stage.Int(0), stage.Int(0), stage.Int(0))
	}
}

// setCapabilities gives the process its sets, when it has its final user.
func (b *builder) setCapabilities(s capabilitySets) {
	p := b.p
	p.About("set capabilities", "")
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{
		{Effective: uint32(s.effective), Permitted: uint32(s.permitted), Inheritable: uint32(s.inheritable)},
		{Effective: uint32(s.effective >> 32), Permitted: uint32(s.permitted >> 32), Inheritable: uint32(s.inheritable >> 32)},
	}
	p.Call(unix.SYS_CAPSET, stage.Pin(p, hdr), stage.Pin(p, data))
	ambient := func(what, n int) stage.Step {
		return p.Call(unix.SYS_PRCTL, stage.Int(unix.PR_CAP_AMBIENT), stage.Int(what), stage.Int(n), stage.Int(0), stage.Int(0))
	}
	ambient(unix.PR_CAP_AMBIENT_CLEAR_ALL, 0).Ignore(unix.EINVAL)
	for n := 0; n < 64; n++ {
		if s.ambient&(1<<n) != 0 {
			ambient(unix.PR_CAP_AMBIENT_RAISE, n)
		}
	}
}
