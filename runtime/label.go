package runtime

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"berth/kernel/stage"
	"berth/oci"
)

// label is what a security module is told before execve: a text for a file in
// /proc/self.
type label struct{ about, file, text string }

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
		list = append(list, label{"apply AppArmor profile", file, "exec " + name})
	}
	if name := p.SelinuxLabel; name != "" {
		if !selinuxEnabled() {
			return nil, invalid("process.selinuxLabel", "%q: this host has no SELinux", name)
		}
		list = append(list, label{"apply SELinux label", "self/attr/exec", name})
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
		_, name, _ := strings.Cut(l.text, " ")
		p.About(l.about, name)
		f := p.Slot()
		p.Call(unix.SYS_OPENAT, b.proc.Arg(), p.Str(l.file), stage.Int(unix.O_WRONLY|unix.O_CLOEXEC)).Into(f)
		p.Call(unix.SYS_WRITE, f.Arg(), p.Str(l.text), stage.Int(len(l.text)))
		b.close(f)
	}
}
