package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/testkit"
)

func TestExternalRuntimeRunsContainers(t *testing.T) {
	testkit.NeedTool(t, "runc")
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	r := e.Berth("run", "--rm", "--runtime", "runc", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
	if r.Code != 3 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("exit %d, %q, %q", r.Code, r.Stdout, r.Stderr)
	}
}

var _ = os.Args
var _ = filepath.Join
var _ = regexp.MustCompile
var _ = strings.Join
