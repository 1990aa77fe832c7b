package durable

import (
	"os"
	"syscall"
)

// armed is the failpoint at which this process must die, from BERTH_FAILPOINT.
var armed = os.Getenv("BERTH_FAILPOINT")

// Failpoint marks an instant between two steps that a crash may separate. When
// BERTH_FAILPOINT names it, the process dies there by SIGKILL; otherwise it costs
// one comparison. Names are literals "package.operation.step", unique in the tree:
// the crash tests find them by reading the source.
func Failpoint(name string) {
	if armed != "" && armed == name {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
