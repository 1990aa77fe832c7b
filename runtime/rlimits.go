package runtime

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	inherited "berth/kernel/rlimit"
)

// rlimitNumbers are those of linux/resource.h.
var rlimitNumbers = map[string]int{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4,
	"RLIMIT_RSS": 5, "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9,
	"RLIMIT_LOCKS": 10, "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13,
	"RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

type rlimit struct {
	name     string
	resource int
	value    *unix.Rlimit
}

// rlimits translates the limits of a process. One above what this host lets us give is
// lowered to that, with a warning: Docker's --ulimit then still starts the container.
func (b *builder) rlimits(list []specs.POSIXRlimit) ([]rlimit, error) {
	out := make([]rlimit, 0, len(list)+1)
	nofile := false
	for _, l := range list {
		n := rlimitNumbers[l.Type]
		nofile = nofile || n == unix.RLIMIT_NOFILE
		value := &unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		var now unix.Rlimit
		if err := unix.Prlimit(0, n, nil, &now); err != nil {
			return nil, fail.New(fail.Internal, "%s: %w", l.Type, err)
		}
		if value.Max > now.Max && (b.userns || ownCapabilities()&(1<<unix.CAP_SYS_RESOURCE) == 0) {
			value.Max = now.Max
			value.Cur = min(value.Cur, value.Max)
			b.warnings = append(b.warnings, fmt.Sprintf("%s: lowered to %d, the highest value that may be given here", l.Type, now.Max))
		}
		if n == unix.RLIMIT_NOFILE {
			if err := checkOpenFiles(value.Max, "/proc/sys/fs/nr_open"); err != nil {
				return nil, err
			}
		}
		out = append(out, rlimit{l.Type, n, value})
	}
	if !nofile && inherited.Files.Max != 0 {
		// Go raises the soft limit of its own process at its start; a program that uses
		// select(2) must not inherit that.
		var now unix.Rlimit
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &now); err == nil && now.Cur != inherited.Files.Cur && inherited.Files.Cur <= now.Max {
			out = append(out, rlimit{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: inherited.Files.Cur, Max: now.Max}})
		}
	}
	return out, nil
}

// checkOpenFiles: nobody may have more open files than fs.nr_open, whatever his privileges, and the
// kernel says no more than "operation not permitted" (getrlimit(2)).
func checkOpenFiles(limit uint64, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || limit <= most {
		return nil
	}
	asked := strconv.FormatUint(limit, 10)
	if limit == math.MaxUint64 {
		asked = "unlimited"
	}
	return fail.New(fail.Invalid, "RLIMIT_NOFILE: %s is more than this host lets any process open, which is %d: choose less, or raise fs.nr_open with sysctl", asked, most)
}
