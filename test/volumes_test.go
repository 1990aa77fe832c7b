package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// volumeImage imports busybox with files in a VOLUME, and returns its name.
func volumeImage(t *testing.T, e *testkit.Engine) string {
	t.Helper()
	e.Busybox()
	e.Must("run", "--name", "making", "--network", "none", "busybox", "sh", "-c",
		"mkdir -p /data/sub && echo hello > /data/f && ln /data/f /data/sub/same && ln -s f /data/l && chmod 640 /data/f && chown 1001:1002 /data /data/f && chmod 711 /data")
	e.Must("commit", "--change", "VOLUME /data", "making", "with-data")
	e.Must("rm", "making")
	return "with-data"
}

func TestDataInANamedVolumeOutlivesItsContainers(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	image := volumeImage(t, e)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			name := "kept-" + c.name
			if got := c.must(e, "volume", "create", name); got != name {
				t.Errorf("create printed %q", got)
			}
			c.must(e, "run", "--rm", "--network", "none", "-v", name+":/data", image, "sh", "-c", "echo more > /data/g")
			got := c.must(e, "run", "--rm", "--network", "none", "-v", name+":/data", image, "sh", "-c",
				"cat /data/f /data/g /data/l; stat -c %u:%g:%a /data /data/f; stat -c %h /data/sub/same")
			if want := "hello\nmore\nhello\n1001:1002:711\n1001:1002:640\n2"; got != want {
				t.Errorf("the second container finds %q, want %q", got, want)
			}
			if ls := c.must(e, "volume", "ls", "-q"); ls != name {
				t.Errorf("volumes: %q", ls)
			}
			c.must(e, "volume", "rm", name)
			if _, err := os.Stat(filepath.Join(e.DataRoot, "volumes", name)); !os.IsNotExist(err) {
				t.Errorf("the directory of a removed volume: %v", err)
			}
			if r := c.run(e, "volume", "inspect", name); r.Code != 1 || !strings.Contains(r.Stderr, "get "+name+": no such volume") {
				t.Errorf("inspect of a removed volume: %d %s", r.Code, r.Stderr)
			}
		})
	}
}
