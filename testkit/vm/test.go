package vm

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"berth/testkit"
)

// Boot boots a machine for a test and ends it with the test. Without BERTH_VM=1 (see `make
// test-vm`) and with -short the test is skipped. With BERTH_VM_DIR=DIR it is the machine that
// `vm up DIR` has booted, which goes on.
func Boot(t testing.TB, c Config) *Machine {
	t.Helper()
	testkit.Integration(t)
	if os.Getenv("BERTH_VM") == "" {
		t.Skip("boots a virtual machine: set BERTH_VM=1 (make test-vm does)")
	}
	if dir := os.Getenv("BERTH_VM_DIR"); dir != "" {
		m, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	dir, err := os.MkdirTemp("", "berth-vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	m, err := Start(ctx, dir, c)
	if err != nil { // asked for, so that a machine that cannot be had is a failure
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the machine's console:\n%s", Tail(m.Console(), 20))
		}
		m.Kill()
	})
	return m
}

// Run runs a shell script in the guest and returns what it wrote; the test ends if it fails.
// It may take ten minutes.
func (m *Machine) Run(t testing.TB, script string) string {
	t.Helper()
	out, err := m.Try(script)
	if err != nil {
		t.Fatalf("in the guest: %s: %v\n%s", script, err, out)
	}
	return out
}

// Try is Run for scripts that may fail.
func (m *Machine) Try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	out, err := m.Command(ctx, script).CombinedOutput()
	return strings.TrimRight(string(out), "\n"), err
}
