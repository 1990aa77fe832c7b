package test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"berth/test/compatibility"
	"berth/testkit"
)

// TestSecondOpinion has Debian's SDK of another language drive the engine.
func TestSecondOpinion(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's, which has Debian's packages
	if out, err := exec.Command(python, "-s", "-c", "import docker").CombinedOutput(); err != nil {
		t.Skipf("python3-docker is not installed: %s", out)
	}
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	hub := testkit.Registry(t, testkit.RegistryOptions{})
	r := e.Run("", python, "-s", "-B", filepath.Join(testkit.Root(), "test", "testdata", "second_opinion.py"), e.Host, hub.Addr, e.Dir)
	checks := 0
	for line := range strings.Lines(r.Stdout) {
		var check struct {
			Check, Wrong string
			Answers      [][]any
		}
		if err := json.Unmarshal([]byte(line), &check); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		checks++
		if check.Wrong != "" {
			t.Errorf("%s: %s\nasked: %v", check.Check, check.Wrong, check.Answers)
			continue
		}
		for _, a := range check.Answers {
			if row := compatibility.RowOf(a[0].(string), a[1].(string)); row != "" {
				testkit.NoteAnswer(t, testkit.Answer{Row: row, Status: int(a[2].(float64)), By: "python3-docker"})
			}
		}
	}
	if r.Code != 0 || checks < 13 {
		t.Errorf("exit %d after %d checks: %s", r.Code, checks, r.Stderr)
	}
}
