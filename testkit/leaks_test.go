package testkit

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// Shims and guardians are executed from a detached mount: nothing in /proc/PID names the
// file, and they still have to be found.
func TestShimsAndGuardiansThatAreLeftAreFound(t *testing.T) {
	e := StartEngine(t, EngineOptions{})
	e.Busybox()
	id := e.Must("run", "-d", "--network", "none", "busybox", "sleep", "1000")
	e.Kill()
	var left string
	Eventually(t, "the spare shims have ended", func() bool {
		left = strings.Join(e.leaksNow(takeStock()), "\n")
		return strings.Count(left, "process ") == 3 // shim, guardian, sleep
	})
	names := map[string]int{}
	for _, pid := range e.Shims() {
		name, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
		names[strings.TrimSpace(string(name))]++
	}
	if names["berth-shim"] != 1 || names["berth-guardian"] != 1 || !strings.Contains(left, "sleep 1000") {
		t.Errorf("found %v and\n%s", names, left)
	}
	other := StartEngine(t, EngineOptions{})
	for _, pid := range other.Shims() {
		for _, p := range e.Shims() {
			if p == pid {
				t.Errorf("process %d is taken for both engines'", pid)
			}
		}
	}
	e.Start()
	e.Must("rm", "-f", id)
}
