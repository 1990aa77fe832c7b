package apparmor

import (
	"os"
	"slices"
	"strings"
)

// abi is the set of features that the text is written for. Named, it makes what is mediated
// the same under all parsers that know of such sets, since 3.0: newer features would want
// rules that older parsers do not understand, and distributions choose different sets for
// texts that name none.
const abi = "abi/3.0"

// Text is the default profile's, for this machine.
func Text() string { return text(exists("/etc/apparmor.d/"+abi), Of(os.Getpid())) }

// peers are the names under which packages confine, or only name, the programs that stop,
// kill and signal containers.
var peers = []string{Unconfined, "berthd", "berth-shim", "berth-runtime", "runc", "crun", "runsc"}

// rules is the profile. It is the second lock on doors that capabilities, masked paths and
// read-only mounts keep shut: what is denied here stays so for a container with CAP_SYS_ADMIN.
// A file rule knows no "all but", so what stays open below a closed directory (/proc/<pid>,
// /proc/sys/kernel/shm*, /sys/fs/cgroup) is spared by how the other names begin. It includes
// nothing, for of /etc/apparmor.d one cannot be sure.
const rules = `
profile ` + Default + ` flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  network,
  umount,

  # Who looks after containers may signal them; they may signal each other.
  signal (receive) peer={PEERS},
  signal (send,receive) peer=` + Default + `,

  # ps and debuggers see processes of the same profile only, also in the host's PID namespace.
  ptrace (trace,read,tracedby,readby) peer=` + Default + `,

  deny mount,
  deny pivot_root,

  # The machine's own switches.
  deny /proc/* w,
  deny /proc/{[^0-9s],s[^y],sy[^s],sys[^/]}** wkl,
  deny /proc/sys/{[^k],k[^e],ke[^r],ker[^n],kern[^e],kerne[^l],kernel[^/]}** wkl,
  deny /proc/sys/kernel/{[^s],s[^h],sh[^m]}** wkl,
  deny /proc/{kcore,sysrq-trigger} rwklx,
  deny /sys/{[^f],f[^s],fs[^/]}** wkl,
  deny /sys/fs/{[^c],c[^g],cg[^r],cgr[^o],cgro[^u],cgrou[^p],cgroup[^/]}** wkl,
  deny /sys/{firmware,kernel/security,devices/virtual/powercap}/** rwklx,
}
`

func text(withABI bool, engine string) string {
	all := peers
	if plain(engine) && !slices.Contains(all, engine) {
		all = append(slices.Clone(all), engine)
	}
	out := strings.Replace(rules, "PEERS", strings.Join(all, ","), 1)
	if withABI {
		out = "abi <" + abi + ">,\n" + out
	}
	return out
}

// plain tells that a name means nothing but itself in a rule.
func plain(name string) bool {
	return name != "" && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789_./-") == ""
}
