package kernel

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAProjectsNumberIsKeptOutOfItsDirectories(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the attribute is of the namespace trusted")
	}
	open := func() *os.File {
		f, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	keeper, dir := open(), open()
	if err := noteProject(keeper, firstProject+5); errors.Is(err, unix.ENOTSUP) {
		t.Skip("the file system keeps no such attributes")
	} else if err != nil {
		t.Fatal(err)
	}
	if n, err := notedProject(keeper); n != firstProject+5 || err != nil {
		t.Errorf("noted: %#x, %v", n, err)
	}
	if err := ForgetProject(keeper); err != nil {
		t.Error(err)
	}
	if n, err := notedProject(keeper); n != 0 || err != nil {
		t.Errorf("forgotten: %#x, %v", n, err)
	}
	for _, text := range []string{"", "x", "1000", "-1073741829", "1073741829x", "99999999999", "10737418291073741829"} {
		if err := unix.Fsetxattr(int(keeper.Fd()), projectXattr, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		if n, err := notedProject(keeper); n != 0 || err != nil {
			t.Errorf("%q is %#x, %v", text, n, err)
		}
	}
	if err := ForgetProject(dir); err != nil {
		t.Error("a directory without a number:", err)
	}
	if err := MakeProject(keeper, 1<<20, dir); errors.Is(err, ErrNoQuota) {
		if n, err := notedProject(keeper); n != 0 || err != nil {
			t.Errorf("where projects cannot be made one is noted: %#x, %v", n, err)
		}
	} else if n, noted := notedProject(keeper); err != nil || noted != nil || n < firstProject {
		t.Errorf("made: %v, noted %#x, %v", err, n, noted)
	} else if err := ForgetProject(keeper); err != nil {
		t.Error(err)
	}
}
