package kernel

import (
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Features are what the running kernel offers, as far as a user is told of it.
type Features struct {
	Release        string   // as uname -r has it
	Namespaces     []string // names in /proc/self/ns, as the OCI specification spells them, sorted
	FileSystems    []string // that can be mounted now; modules not yet loaded are missing
	SeccompActions []string // SCMP_ACT_* names; none without seccomp filters
	AppArmor       bool
	SELinux        bool
}

// Probe finds the features out, once per process.
var Probe = sync.OnceValue(func() *Features {
	f := &Features{
		AppArmor: strings.HasPrefix(line("/sys/module/apparmor/parameters/enabled"), "Y"),
		SELinux:  unix.Access("/sys/fs/selinux/enforce", unix.F_OK) == nil,
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		f.Release = unix.ByteSliceToString(uts.Release[:])
	}
	entries, _ := os.ReadDir("/proc/self/ns")
	for _, e := range entries {
		switch name := e.Name(); name {
		case "mnt":
			f.Namespaces = append(f.Namespaces, "mount")
		case "net":
			f.Namespaces = append(f.Namespaces, "network")
		case "pid_for_children", "time_for_children": // the same kinds once more
		default:
			f.Namespaces = append(f.Namespaces, name)
		}
	}
	slices.Sort(f.Namespaces)
	text, _ := os.ReadFile("/proc/filesystems")
	for l := range strings.Lines(string(text)) {
		if fields := strings.Fields(l); len(fields) > 0 {
			f.FileSystems = append(f.FileSystems, fields[len(fields)-1])
		}
	}
	for _, a := range strings.Fields(line("/proc/sys/kernel/seccomp/actions_avail")) {
		name := map[string]string{"kill_process": "KILL_PROCESS", "kill_thread": "KILL_THREAD", "trap": "TRAP", "errno": "ERRNO",
			"user_notif": "NOTIFY", "trace": "TRACE", "log": "LOG", "allow": "ALLOW"}[a]
		if name != "" {
			f.SeccompActions = append(f.SeccompActions, "SCMP_ACT_"+name)
		}
	}
	return f
})

// line is a file's content, "" if it cannot be read.
func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// InPIDNamespace tells whether the process numbers in the proc(5) mounted at proc are not the machine's own.
// That one namespace has the same inode on every Linux: PROC_PID_INIT_INO, linux/proc_ns.h.
func InPIDNamespace(proc string) bool {
	link, err := os.Readlink(proc + "/self/ns/pid")
	return err == nil && link != "pid:[4026531836]"
}

// Contained tells whether we are in a container: with process numbers of its own, or a root directory that
// the machine's first process does not have.
func Contained() bool {
	if InPIDNamespace("/proc") {
		return true
	}
	var own, first unix.Stat_t
	return unix.Stat("/", &own) == nil && unix.Stat("/proc/1/root", &first) == nil && (own.Dev != first.Dev || own.Ino != first.Ino)
}
