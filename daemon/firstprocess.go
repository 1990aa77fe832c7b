package daemon

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"berth/kernel"
	"berth/kernel/pid1"
)

// An engine that is a container's main program is its first process, as in `docker run … berthd`. Then it
// inherits what others leave, shims' guardians for example, and nobody else would reap that: so the init of
// `--init` becomes the first process, and the engine its child. And with the engine all of the
// container ends, so the engine's containers are ended before, as by the shutdown of a machine. The same
// holds for the child of somebody else's init.

// firstMark tells an engine that it is such a child.
const firstMark = "BERTH_FIRST"

// inits are the names of programs that end when the one that they were started with ends.
var inits = []string{"docker-init", "tini", "tini-static", "catatonit", "podman-init", "dumb-init"}

// asFirst reports whether all that the engine starts ends with it. As the first process itself it does not
// come back, but once more as the child of an init; where that cannot be executed the error says why.
func asFirst(onDemand bool) (bool, error) {
	if os.Getpid() != 1 {
		_, marked := os.LookupEnv(firstMark)
		_ = os.Unsetenv(firstMark) // shims start engines, too
		if os.Getppid() != 1 || onDemand || !kernel.InPIDNamespace("/proc") {
			return false, nil
		}
		name, err := os.ReadFile("/proc/1/comm")
		return marked || err == nil && slices.Contains(inits, strings.TrimSpace(string(name))), nil
	}
	own, err := os.Executable()
	if err != nil {
		return true, err
	}
	program, err := pid1.Program()
	if err != nil {
		return true, err
	}
	fd, err := unix.MemfdCreate("berth-init", unix.MFD_CLOEXEC)
	if err != nil {
		return true, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "berth-init")
	defer f.Close()
	if _, err := f.Write(program); err != nil {
		return true, err
	}
	argv := slices.Concat([]string{"berth-init", "--", own}, os.Args[1:])
	return true, os.NewSyscallError("execve", syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), argv, append(os.Environ(), firstMark+"=1")))
}

// endWithContainer becomes the engine that ends all containers.
func endWithContainer() error {
	own, err := os.Executable()
	if err != nil {
		return err
	}
	return os.NewSyscallError("execve", syscall.Exec(own, append(slices.Clone(os.Args), "--end-containers"), os.Environ()))
}
