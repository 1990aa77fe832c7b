// Package testkit holds what tests share: throw-away engines, registries and images,
// terminals, and the check that nothing is left behind. Only tests import it.
package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// NeedRoot skips a test that only root can run.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
}

// Integration skips a test that drives real processes when -short asks for unit tests.
func Integration(t testing.TB) {
	t.Helper()
	if testing.Short() {
		skip(t, "integration test, skipped by -short")
	}
	NeedRoot(t)
}

// NeedTool returns the path of an external program, and skips the test without it.
func NeedTool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		skip(t, "%s is not installed", name)
	}
	return path
}

const shimProgram = "berth-shim"

var programs = []string{"berth", "berthd", shimProgram, "berth-runtime"}

// UnifiedCgroups tells whether this machine has cgroup v2 alone.
func UnifiedCgroups() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// Programs are the names of Berth's programs.
func Programs() []string { return programs }

var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("BERTH_TEST_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	dir := filepath.Join(Root(), "bin", "test")
	for _, p := range programs {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, p), "./cmd/"+p)
		cmd.Dir = Root()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build %s: %w\n%s", p, err, out)
		}
	}
	return dir, nil
})

// Binaries builds Berth's programs once per test process, from the tree as it is, and
// returns their directory. BERTH_TEST_BIN names a directory to use instead.
func Binaries(t testing.TB) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Root is the root of the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// DockerCLI returns an official docker client of version 28 or newer: the one that
// `make tools` built, or the machine's.
func DockerCLI(t testing.TB) string {
	t.Helper()
	built := filepath.Join(Root(), "bin", "tools", "docker")
	if _, err := os.Stat(built); err == nil {
		return built
	}
	path := NeedTool(t, "docker")
	out, err := exec.Command(path, "--version").Output()
	var major int
	if _, scanErr := fmt.Sscanf(string(out), "Docker version %d.", &major); err != nil || scanErr != nil || major < 28 {
		skip(t, "the docker client here is %q; 28 or newer is needed (make tools)", out)
	}
	return path
}
