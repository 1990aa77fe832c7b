package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// The oldest Linux that containers can be made on: docs/kernels.md says what it takes.
const oldestMajor, oldestMinor = 5, 10

// CheckRelease refuses a kernel that is too old, in one line. One whose number cannot be
// read is given its chance.
func CheckRelease() error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	return checkRelease(unix.ByteSliceToString(uts.Release[:]))
}

func checkRelease(release string) error {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 || major > oldestMajor || major == oldestMajor && minor >= oldestMinor {
		return nil
	}
	return fail.New(fail.NotImplemented, "this is Linux %s, and Berth needs %d.%d or later", release, oldestMajor, oldestMinor)
}
