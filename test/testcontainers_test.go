package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// reaperImage is the name that testcontainers-go gives its reaper's image.
const reaperImage = "testcontainers/ryuk:0.14.0"

// testcontainers has a program that uses testcontainers-go start PostgreSQL of the images that e
// has, with its reaper switched off and with a stand-in for it.
func testcontainers(t *testing.T, e *testkit.Engine) {
	program := filepath.Join(testkit.Root(), "bin", "tools", "testcontainers")
	if _, err := os.Stat(program); err != nil {
		t.Skip("bin/tools/testcontainers is not built (make tools)")
	}
	use := func(t *testing.T, env ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program)
		// In a container, for which it takes any machine that has /.dockerenv, it would call ports by the
		// default bridge's address, which is there once that network is used.
		cmd.Env = append(e.Env(), append(env, "TESTCONTAINERS_HOST_OVERRIDE=localhost")...)
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), "all is well") {
			t.Fatalf("%v\n%s%s", err, out, errs.String())
		}
	}
	left := func() string {
		return e.Must("ps", "-aq") + e.Must("network", "ls", "-q", "--filter", "type=custom") + e.Must("volume", "ls", "-q")
	}

	t.Run("what a test suite starts it can take away", func(t *testing.T) {
		use(t, "TESTCONTAINERS_RYUK_DISABLED=true")
		if l := left(); l != "" {
			t.Errorf("left: %s", l)
		}
	})
	t.Run("what a test suite leaves its reaper takes away", func(t *testing.T) {
		e.Busybox()
		e.Must("run", "--name", "maker", "--network", "none", "-v", filepath.Dir(program)+":/from:ro", "busybox", "cp", "/from/testcontainers", "/reaper")
		e.Must("commit", "-c", `ENTRYPOINT ["/reaper", "reaper"]`, "-c", "EXPOSE 8080", "maker", reaperImage)
		e.Must("rm", "maker")
		use(t, "LEAVE=1")
		testkit.Eventually(t, "the reaper has done its work", func() bool { return left() == "" })
		testkit.Eventually(t, "the files are gone", func() bool {
			dirs, err := os.ReadDir(filepath.Join(e.DataRoot, "containers"))
			return err == nil && len(dirs) == 0
		})
	})
}
