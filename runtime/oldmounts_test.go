package runtime

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/kernel"
	oci "berth/oci/bundle"
)

const oldKernel = "BERTH_TEST_OLD_KERNEL"

// TestMain makes this process live on a kernel without mount_setattr, when it is asked to.
func TestMain(m *testing.M) {
	if os.Getenv(oldKernel) != "" {
		forgetMountSetattr()
	}
	os.Exit(m.Run())
}

func forgetMountSetattr() {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_MOUNT_SETATTR},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		panic(errno)
	}
}

func TestContainersAreTheSameOnAKernelWithoutMountSetattr(t *testing.T) {
	needRoot(t)
	tests := []string{"TestOnlyTheContainersOwnMountsAreThere", "TestMountOptionsReachTheKernel", "TestBindMountsBeforeLinux512", "TestPropagationOfABindMount",
		"TestMaskedAndReadOnlyPaths", "TestAReadOnlyRoot", "TestRootsOfEveryShape", "TestTheContainerSeesItsOwnCgroups", "TestANewUserNamespaceMapsRoot",
		"TestThePropagationOfTheRoot", "TestDevicesAndLinks", "TestATmpfsStartsWithACopyOfWhatItCovers", "TestATerminalIsTheContainersOwn"}
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "^("+strings.Join(tests, "|")+")$")
	cmd.Env = append(os.Environ(), oldKernel+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, name := range tests {
		if !strings.Contains(string(out), "--- PASS: "+name) {
			t.Errorf("%s did not pass", name)
		}
	}
}

func needMountSetattr(t testing.TB) {
	t.Helper()
	if !kernel.HasMountSetattr() {
		t.Skip("this kernel has no mount_setattr (before 5.12)")
	}
}

func TestBindMountsBeforeLinux512(t *testing.T) {
	needRoot(t)
	if kernel.HasMountSetattr() {
		t.Skip("this kernel has mount_setattr")
	}
	dir := tmpfs(t, t.TempDir()+"/m")
	tmpfs(t, dir+"/below")
	cfg := config(t)
	cfg.Spec.Mounts = append(cfg.Spec.Mounts,
		oci.Mount{Destination: "/a", Source: dir, Options: []string{"rbind", "ro", "nosuid", "noexec", "noatime"}},
		oci.Mount{Destination: "/b", Source: dir, Options: []string{"bind", "nodev", "rw", "shared"}},
		oci.Mount{Destination: "/a", Options: []string{"remount", "nodev", "rw"}})
	c := running(t, cfg)
	m := mountsOf(t, c.Pid())
	for at, want := range map[string]string{"/a": "rw,nosuid,nodev,noexec,noatime ", "/a/below": "rw,relatime ", "/b": "rw,nodev,relatime shared:"} {
		if !strings.HasPrefix(m[at], want) {
			t.Errorf("%s: %q, want %q", at, m[at], want)
		}
	}
	for _, options := range [][]string{{"rbind", "rro"}, {"rbind", "idmap"}} {
		cfg := config(t, "true")
		userNamespace(t, &cfg)
		cfg.Spec.Mounts = append(cfg.Spec.Mounts, oci.Mount{Destination: "/a", Source: dir, Options: options})
		if _, err := Create(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "Linux 5.12") {
			t.Errorf("%v: %v", options, err)
		}
	}
}
