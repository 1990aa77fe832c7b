package machine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/testkit"
	"berth/testkit/vm"
)

// boot is a machine of the test's own, or, while one works on a test, the one that `vm up DIR` has
// booted (BERTH_VM_IN=DIR).
func boot(t *testing.T) *vm.Machine {
	t.Helper()
	dir := os.Getenv("BERTH_VM_IN")
	if dir == "" {
		return vm.Boot(t, vm.Config{})
	}
	m, err := vm.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// debianPackage builds the Debian package of this tree into the machine's shared directory and
// returns its path in the guest; version is empty for the tree's own.
func debianPackage(t *testing.T, m *vm.Machine, version string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(testkit.Root(), "packaging", "build.sh"), "deb")
	cmd.Env = append(os.Environ(), "ARCHS=amd64", "OUT="+m.Share())
	if version != "" {
		cmd.Env = append(cmd.Env, "VERSION="+version)
	}
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build.sh deb: %v\n%s", err, &errors)
	}
	return "/share/" + filepath.Base(strings.TrimSpace(string(out)))
}

// apt runs apt-get without questions.
func apt(t *testing.T, m *vm.Machine, words string) string {
	t.Helper()
	return m.Run(t, "DEBIAN_FRONTEND=noninteractive apt-get -y -q "+words)
}

// await runs a condition in the guest until it holds.
func await(t *testing.T, m *vm.Machine, what, condition string) {
	t.Helper()
	out, err := m.Try("for n in $(seq 600); do if " + condition + "; then exit 0; fi; sleep 0.2; done; exit 1")
	if err != nil {
		t.Fatalf("%s: it never happened: %s: %v\n%s", what, condition, err, out)
	}
}

// expect runs a script whose output is known.
func expect(t *testing.T, m *vm.Machine, script, want string) {
	t.Helper()
	if got := m.Run(t, script); got != want {
		t.Errorf("%s\n got: %q\nwant: %q", script, got, want)
	}
}
