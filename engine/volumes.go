package engine

import (
	"context"
	"slices"
)

// mountVolumes makes the volumes of a container that starts usable. Whoever calls it
// calls unmountVolumes when the container does not run, also if this fails.
func (l *lifecycle) mountVolumes(ctx context.Context, c Container) error {
	all, _ := c.plan.volumes()
	for _, name := range all {
		if err := l.volumes.Mount(ctx, name, c.ID); err != nil {
			return asInternal(err)
		}
	}
	return nil
}

func (l *lifecycle) unmountVolumes(c Container) {
	all, _ := c.plan.volumes()
	for _, name := range all {
		if err := l.volumes.Unmount(name, c.ID); err != nil {
			l.log.Error("a volume could not be unmounted; the engine's next start tries again", "volume", name, "error", err)
		}
	}
}

// adoptVolumes tells the volumes of a container that runs already.
func (l *lifecycle) adoptVolumes(c Container) {
	all, _ := c.plan.volumes()
	for _, name := range all {
		l.volumes.Adopt(name, c.ID)
	}
}

// hasMountedVolumes tells whether there is something to unmount when the container ends.
func (l *lifecycle) hasMountedVolumes(c Container) bool {
	all, _ := c.plan.volumes()
	return slices.ContainsFunc(all, func(name string) bool {
		v, err := l.volumes.Get(name)
		return err == nil && v.Mounts()
	})
}

func (l *lifecycle) tellMounted(c Container) {
	for _, r := range c.plan {
		if p := r.Point; p.Type == "volume" {
			l.volumes.TellMounted(p.Name, c.ID, p.Destination, p.Propagation, p.RW)
		}
	}
}

// volumesEnded is called when a container has ended.
func (l *lifecycle) volumesEnded(c Container) {
	l.unmountVolumes(c)
	all, _ := c.plan.volumes()
	for _, name := range all {
		l.volumes.TellUnmounted(name, c.ID)
	}
}
