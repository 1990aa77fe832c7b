package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

// fakeSELinux makes labels by the rules of the library, counting categories up.
type fakeSELinux struct {
	next      int
	inUse     map[string]bool // levels
	relabeled []string
}

func (f *fakeSELinux) Labels(opts []string) (process, mount string, err error) {
	if slices.Contains(opts, "disable") {
		return "", "u:object_r:container_file_t:s0:c1022,c1023", nil
	}
	kind, level := "container_t", ""
	for _, o := range opts {
		switch key, value, _ := strings.Cut(o, ":"); key {
		case "type":
			kind = value
		case "level":
			level = value
		}
	}
	for level == "" {
		f.next++
		if l := fmt.Sprintf("s0:c%d,c%d", f.next, f.next+100); !f.inUse[l] {
			level = l
		}
	}
	f.inUse[level] = true
	return "u:r:" + kind + ":" + level, "u:object_r:container_file_t:" + level, nil
}

func (f *fakeSELinux) Options(process string) ([]string, error) {
	if process == "" {
		return nil, nil
	}
	p := strings.SplitN(process, ":", 4)
	return []string{"user:" + p[0], "role:" + p[1], "type:" + p[2], "level:" + p[3]}, nil
}
func (f *fakeSELinux) Reserve(label string) { f.inUse[levelOf(label)] = true }
func (f *fakeSELinux) Release(label string) { delete(f.inUse, levelOf(label)) }
func (f *fakeSELinux) ReadOnly() string     { return "u:object_r:container_ro_file_t:s0" }
func (f *fakeSELinux) Relabel(_ context.Context, path, label string) error {
	f.relabeled = append(f.relabeled, path+" "+label)
	return nil
}

func TestContainersGetLabelsOfTheirOwn(t *testing.T) {
	f := newFixture(t)
	f.Close()
	host := &fakeSELinux{inUse: map[string]bool{}}
	f.opt.labels = host
	f.open()
	labelled := func(name string, change func(*container.HostConfig)) string {
		f.create(name, func(r *CreateRequest) {
			if change != nil {
				change(r.HostConfig)
			}
		})
		c, _ := f.Containers.Get(name)
		return c.ProcessLabel + " " + c.MountLabel
	}
	opt := func(o ...string) func(*container.HostConfig) {
		return func(h *container.HostConfig) { h.SecurityOpt = o }
	}
	const none = " u:object_r:container_file_t:s0:c1022,c1023"
	for _, c := range []struct {
		name   string
		change func(*container.HostConfig)
		want   string
	}{
		{"aa", func(h *container.HostConfig) { h.IpcMode = "shareable" }, "u:r:container_t:s0:c1,c101 u:object_r:container_file_t:s0:c1,c101"},
		{"bb", nil, "u:r:container_t:s0:c2,c102 u:object_r:container_file_t:s0:c2,c102"},
		{"nested", opt("label=nested"), "u:r:container_t:s0:c3,c103 u:object_r:container_file_t:s0:c3,c103"},
		{"typed", opt("label:type:my_t", "label=level:s0:c7,c8"), "u:r:my_t:s0:c7,c8 u:object_r:container_file_t:s0:c7,c8"},
		{"disabled", opt("label=disable"), none},
		{"privileged", func(h *container.HostConfig) { h.Privileged = true }, none},
		{"hostpid", func(h *container.HostConfig) { h.PidMode = "host" }, none},
		{"hostipc", func(h *container.HostConfig) { h.IpcMode = "host" }, none},
		{"friend", func(h *container.HostConfig) { h.PidMode = "container:aa" }, "u:r:container_t:s0:c1,c101 u:object_r:container_file_t:s0:c1,c101"},
		{"both", func(h *container.HostConfig) { h.PidMode, h.IpcMode = "container:friend", "container:aa" }, "u:r:container_t:s0:c1,c101 u:object_r:container_file_t:s0:c1,c101"},
		{"guest", func(h *container.HostConfig) { h.PidMode = "container:disabled" }, none},
		{"named", func(h *container.HostConfig) {
			h.PidMode, h.SecurityOpt = "container:aa", []string{"label=type:my_t"}
		}, "u:r:my_t:s0:c4,c104 u:object_r:container_file_t:s0:c4,c104"},
	} {
		if got := labelled(c.name, c.change); got != c.want {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	_, _, err := f.Containers.Create(t.Context(), CreateRequest{Config: &container.Config{Image: "busybox"},
		HostConfig: &container.HostConfig{NetworkMode: "none", PidMode: "container:bb", IpcMode: "container:aa"}})
	if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "labels aren't the same") {
		t.Errorf("two different donors: %v", err)
	}
	if !f.SELinux() {
		t.Error("the engine does not say that it has SELinux")
	}

	// A level is free when the last container with it is gone, and not before; engines that
	// come later know which ones are taken.
	remove := func(name string) {
		if err := f.Containers.Remove(t.Context(), name, RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	remove("aa")
	remove("both")
	if !host.inUse["s0:c1,c101"] {
		t.Error("a level that a container has is free")
	}
	f.Close()
	*host = fakeSELinux{inUse: map[string]bool{}}
	f.open()
	if !host.inUse["s0:c1,c101"] || !host.inUse["s0:c7,c8"] {
		t.Errorf("after a new start of the engine: %v", host.inUse)
	}
	remove("friend")
	if host.inUse["s0:c1,c101"] {
		t.Error("a level that nobody has is taken")
	}

	// A creation that fails gives its level back.
	before := len(host.inUse)
	if _, _, err := f.Containers.Create(t.Context(), CreateRequest{Name: "bb", Config: &container.Config{Image: "busybox"}, HostConfig: &container.HostConfig{NetworkMode: "none"}}); err == nil {
		t.Fatal("a name is taken twice")
	}
	if len(host.inUse) != before {
		t.Errorf("%v", host.inUse)
	}

	// Without SELinux the labels stay in the record and are not used.
	f.Close()
	f.opt.labels = nil
	f.open()
	f.start("bb")
	id, _ := f.Containers.Get("bb")
	if s := f.shims.of(id.ID).cfg.Spec; s.Process.SelinuxLabel != "" || s.Linux.MountLabel != "" {
		t.Errorf("labels without SELinux: %q, %q", s.Process.SelinuxLabel, s.Linux.MountLabel)
	}
}

func TestWhatAContainerUsesIsLabelled(t *testing.T) {
	f := newFixture(t)
	f.Close()
	host := &fakeSELinux{inUse: map[string]bool{}}
	f.opt.labels = host
	f.open()
	dir := t.TempDir()
	init := true
	id := f.create("cc", func(r *CreateRequest) {
		r.HostConfig.Init = &init
		r.HostConfig.SecurityOpt = []string{"label=nested"}
		r.HostConfig.Binds = []string{dir + "/own:/own:Z", dir + "/all:/all:ro,z", dir + "/as-is:/as-is", "vol:/vol", "mine:/mine:Z", dir + "/hosts:/etc/hosts"}
		r.HostConfig.Mounts = []mount.Mount{{Type: mount.TypeTmpfs, Target: "/t"}}
	})
	f.start("cc")
	cfg := f.shims.of(id).cfg
	const own, all = "u:object_r:container_file_t:s0:c1,c101", "u:object_r:container_file_t:s0"
	if cfg.Spec.Process.SelinuxLabel != "u:r:container_t:s0:c1,c101" || cfg.Spec.Linux.MountLabel != own {
		t.Errorf("%q, %q", cfg.Spec.Process.SelinuxLabel, cfg.Spec.Linux.MountLabel)
	}
	files := filepath.Join(f.dirs().containers(), id)
	volumes := filepath.Join(f.opt.DataRoot, "volumes")
	want := []string{
		filepath.Join(f.opt.DataRoot, "docker-init") + " u:object_r:container_ro_file_t:s0",
		"/nowhere " + own, files + "/resolv.conf " + own, files + "/hostname " + own,
		dir + "/own " + own, dir + "/all " + all,
		volumes + "/vol/_data " + all, volumes + "/mine/_data " + own,
	}
	slices.Sort(want)
	slices.Sort(host.relabeled)
	if !slices.Equal(host.relabeled, want) {
		t.Errorf("relabelled:\n%s\nnot:\n%s", strings.Join(host.relabeled, "\n"), strings.Join(want, "\n"))
	}
	fills := map[string]string{}
	for _, s := range cfg.Sources {
		fills[s.Destination] = s.Label
	}
	if fills["/vol"] != all || fills["/mine"] != own {
		t.Errorf("volumes are filled with files labelled %v", fills)
	}
	var seen bool
	for _, m := range cfg.Spec.Mounts {
		seen = seen || m.Destination == "/sys/fs/selinux" && m.Source == "/sys/fs/selinux"
	}
	if !seen {
		t.Error("label=nested does not show the container SELinux's file system")
	}

	// A further process has the container's label.
	exec, err := f.Execs.Create(t.Context(), "cc", ExecRequest{Cmd: []string{"ps"}, Privileged: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Execs.Start(t.Context(), exec, ExecStart{Detach: true}, nil); err != nil {
		t.Fatal(err)
	}
	if got := f.shims.of(id).execs[0].Process.SelinuxLabel; got != "u:r:container_t:s0:c1,c101" {
		t.Errorf("exec: %q", got)
	}
}

func TestAGivenInitKeepsItsLabel(t *testing.T) {
	f := newFixture(t)
	f.Close()
	host := &fakeSELinux{inUse: map[string]bool{}}
	f.opt.labels, f.opt.InitPath, f.opt.Init = host, "/bin/sh", true
	f.open()
	id := f.create("cc", nil)
	f.start("cc")
	if !slices.ContainsFunc(f.shims.of(id).cfg.Spec.Mounts, func(m specs.Mount) bool { return m.Source == "/bin/sh" && m.Destination == initInside }) {
		t.Error("the container has not got the init")
	}
	if slices.ContainsFunc(host.relabeled, func(s string) bool { return strings.HasPrefix(s, "/bin/") }) {
		t.Errorf("relabelled: %v", host.relabeled)
	}
}

func TestLabelsAreWantedWhereThereIsNoSELinux(t *testing.T) {
	f := newFixture(t)
	f.Close()
	f.opt.SELinux = true
	f.open()
	if f.SELinux() {
		t.Skip("this machine has SELinux")
	}
	if w := f.Warnings(); !slices.Contains(w, "WARNING: selinux-enabled is set, but this machine has no SELinux: containers get no labels") {
		t.Errorf("warnings: %v", w)
	}
	id := f.create("cc", func(r *CreateRequest) { r.HostConfig.SecurityOpt = []string{"label=type:x_t"} })
	f.start("cc")
	if c, _ := f.Containers.Get(id); c.ProcessLabel != "" || c.MountLabel != "" {
		t.Errorf("%q, %q", c.ProcessLabel, c.MountLabel)
	}
}

func TestLabelOptionsAreChecked(t *testing.T) {
	for opt, good := range map[string]bool{
		"label=disable": true, "label:disable": true, "label=nested": true, "label=type:x": true, "label=level:s0:c1,c2": true,
		"label=type": false, "label=disable:x": false, "label=colour:red": false, "label=": false, "label": false,
	} {
		if _, err := parseSecurity([]string{opt}, &machine{}); (err == nil) != good {
			t.Errorf("%s: %v", opt, err)
		}
	}
}
