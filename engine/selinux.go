package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"berth/fail"
	"berth/kernel/selinux"
	"berth/oci"
)

// labelMaker is *selinux.Host, or a test's.
type labelMaker interface {
	Labels(opts []string) (process, mount string, err error)
	Options(process string) ([]string, error)
	Reserve(label string)
	Release(label string)
	ReadOnly() string
	Relabel(ctx context.Context, path, label string) error
}

// labels gives containers their SELinux labels. They are made with the container and kept in
// its record. Without a host, where SELinux is off, nothing has labels and nothing is relabelled.
type labels struct {
	host labelMaker
	idx  *index
}

// newLabels also says what is wrong if labels are wanted and cannot be had.
func newLabels(o Options, idx *index) (*labels, string) {
	if o.labels != nil {
		return &labels{o.labels, idx}, ""
	}
	if h := selinux.Open(o.SELinux); h != nil {
		return &labels{h, idx}, ""
	}
	if o.SELinux {
		return &labels{nil, idx}, "selinux-enabled is set, but this machine has no SELinux: containers get no labels"
	}
	return &labels{nil, idx}, ""
}

func (l *labels) on() bool { return l != nil && l.host != nil }

// give makes the labels of a new container. One that shares the processes or the IPC objects
// of another gets the label of that, or it could not reach them.
func (l *labels) give(c *Container) error {
	if !l.on() {
		return nil
	}
	h := c.HostConfig
	if !slices.ContainsFunc(h.SecurityOpt, isLabel) {
		opts, err := l.shared(h)
		if err != nil {
			return err
		}
		for _, o := range opts {
			h.SecurityOpt = append(slices.Clone(h.SecurityOpt), "label="+o)
		}
	}
	var opts []string
	for _, o := range h.SecurityOpt {
		if isLabel(o) && o[len("label="):] != nested {
			opts = append(opts, o[len("label="):])
		}
	}
	var err error
	c.ProcessLabel, c.MountLabel, err = l.host.Labels(opts)
	return err
}

// nested is the option that lets a container use SELinux itself.
const nested = "nested"

func (l *labels) shared(h *container.HostConfig) (opts []string, err error) {
	for _, donor := range []string{h.IpcMode.Container(), h.PidMode.Container()} {
		if donor == "" {
			continue
		}
		i, err := l.idx.find(donor)
		if err != nil {
			return nil, err
		}
		more, err := l.host.Options(i.now().ProcessLabel)
		if err != nil {
			return nil, fail.New(fail.Invalid, "SELinux label of container %s: %w", donor, err)
		}
		if len(more) == 0 { // it has none
			more = []string{"disable"}
		}
		if opts != nil && !slices.Equal(opts, more) {
			return nil, fail.New(fail.Invalid, "--ipc and --pid containers SELinux labels aren't the same")
		}
		opts = more
	}
	return opts, nil
}

// reserve keeps the categories of a container that an earlier engine made.
func (l *labels) reserve(c Container) {
	if l.on() && c.ProcessLabel != "" {
		l.host.Reserve(c.ProcessLabel)
	}
}

// release gives the categories of a container back that is gone, unless another has them too.
func (l *labels) release(c Container) {
	if !l.on() || c.ProcessLabel == "" {
		return
	}
	for _, i := range l.idx.all() {
		if i.id != c.ID && levelOf(i.now().ProcessLabel) == levelOf(c.ProcessLabel) {
			return
		}
	}
	l.host.Release(c.ProcessLabel)
}

// levelOf is the last part of user:role:type:level, which may have colons itself.
func levelOf(label string) string {
	if parts := strings.SplitN(label, ":", 4); len(parts) == 4 {
		return parts[3]
	}
	return ""
}

// prepare labels what a container is about to use and does not get its label by being mounted:
// a root that is no overlay, its three files, and what it was asked for by z and Z.
func (l *labels) prepare(ctx context.Context, c Container, root oci.Rootfs, netFiles string) error {
	if !l.on() || c.MountLabel == "" {
		return nil
	}
	for _, dir := range []string{root.Path, root.Upper} {
		if dir != "" && len(root.Lower) == 0 {
			if err := l.host.Relabel(ctx, dir, c.MountLabel); err != nil {
				return fmt.Errorf("root file system: %w", err)
			}
		}
	}
	files := c.MountLabel
	if c.Sandbox != c.ID {
		files = forAll(files)
	}
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		if c.plan.at("/etc/"+name) >= 0 {
			continue
		}
		if err := l.host.Relabel(ctx, filepath.Join(netFiles, name), files); err != nil {
			return err
		}
	}
	for _, r := range c.plan {
		if label := l.of(c, r.Point); label != "" {
			if err := l.host.Relabel(ctx, r.Point.Source, label); err != nil {
				return err
			}
		}
	}
	return nil
}

// of is the label that a mount of the container is to get, "" if it is to keep its own.
func (l *labels) of(c Container, p MountPoint) string {
	if !l.on() || p.Type != "bind" && p.Type != "volume" {
		return ""
	}
	switch modes := strings.Split(p.Mode, ","); {
	case slices.Contains(modes, "z"):
		return forAll(c.MountLabel)
	case slices.Contains(modes, "Z"):
		return c.MountLabel
	}
	return ""
}

// forAll is a label without categories: every container may use such files.
func forAll(label string) string {
	if level := levelOf(label); level != "" {
		return strings.TrimSuffix(label, level) + "s0"
	}
	return label
}
