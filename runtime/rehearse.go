package runtime

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"berth/kernel/cgroup"
	oci "berth/oci/bundle"
)

// Rehearse does with spec what Create does with it up to the fork, on the host's own root
// and without a group, and leaves no trace. A process that has done it once has the code in
// memory, and creates its first container in half the time.
func Rehearse(spec *oci.Spec) error {
	cfg := Config{ID: "rehearsal", Bundle: "/", Spec: spec, Root: oci.Rootfs{Path: "/"}}
	if err := validate(&cfg); err != nil {
		return err
	}
	spec = cfg.Spec
	c := &Container{id: cfg.ID, spec: spec}
	b := newBuilder(spec, cfg.Bundle)
	defer b.release()
	var err error
	if b.labels, err = labelsOf(spec.Process); err != nil {
		return err
	}
	b.ns = planNamespaces(spec.Linux.Namespaces)
	if c.root, err = os.OpenFile("/", unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	defer c.root.Close()
	filter, err := c.compileFilter()
	if err != nil {
		return err
	}
	_, _ = cgroup.Load("/berth/" + cfg.ID) // not there, but all hierarchies were looked at
	if _, _, err := ResolveUser(c.root, "", nil); err != nil {
		return err
	}
	if _, err := b.compileInit(c, &cfg, filter); err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	b.p.Discard()
	return nil
}
