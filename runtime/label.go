package runtime

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// label is what a security module is told before execve: a text for a file in
// /proc/self.
type label struct{ about, name, file, text string }

const applyProfile = "apply AppArmor profile"

// labelsOf finds the labels of a process. A profile that cannot be had is an error: the
// caller believes in its protection.
func labelsOf(p *oci.Process) ([]label, error) {
	var list []label
	if name := p.ApparmorProfile; name != "" {
		text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		if err != nil || !strings.HasPrefix(string(text), "Y") {
			return nil, invalid("process.apparmorProfile", "%q: this host has no AppArmor", name)
		}
		file := "self/attr/apparmor/exec"
		if _, err := os.Stat("/proc/" + file); err != nil {
			file = "self/attr/exec"
		}
		list = append(list, label{applyProfile, name, file, "exec " + name})
	}
	if name := p.SelinuxLabel; name != "" {
		if !selinuxEnabled() {
			return nil, invalid("process.selinuxLabel", "%q: this host has no SELinux", name)
		}
		list = append(list, label{"apply SELinux label", name, "self/attr/exec", name})
	}
	return list, nil
}

func selinuxEnabled() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}

func (b *builder) applyLabels() {
	p := b.p
	for _, l := range b.labels {
		p.About(l.about, l.name)
		f := p.Slot()
		p.Call(unix.SYS_OPENAT, b.proc.Arg(), p.Str(l.file), stage.Int(unix.O_WRONLY|unix.O_CLOEXEC)).Into(f)
		p.Call(unix.SYS_WRITE, f.Arg(), p.Str(l.text), stage.Int(len(l.text)))
		b.close(f)
	}
}

// labelled are the parameters of a new file system with the container's SELinux context
// (mount(8), "context="). proc, sysfs and cgroup have labels by the policy; an mqueue takes
// its one later.
func labelled(plan *mountPlan, context string) []string {
	switch plan.Type {
	case "proc", "sysfs", "cgroup", "cgroup2", "mqueue":
		return plan.opts.data
	}
	if context == "" || hasOption(plan.opts.data, "context") {
		return plan.opts.data
	}
	return append(slices.Clone(plan.opts.data), "context="+context)
}

// labelMount gives the root of a mounted file system a label.
func (b *builder) labelMount(m stage.Slot, context string) {
	if context == "" {
		return
	}
	p := b.p
	dir := p.Slot()
	p.Call(unix.SYS_OPENAT, m.Arg(), p.Str("."), stage.Int(unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)).Into(dir)
	p.Call(unix.SYS_FSETXATTR, dir.Arg(), p.Str("security.selinux"), p.Str(context), stage.Int(len(context)), stage.Int(0))
	b.close(dir)
}
