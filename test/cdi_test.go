package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/testkit"
)

const cdiThings = `
cdiVersion: 0.7.0
kind: berth.test/thing
containerEdits:
  env: [EVERY_THING=yes]
devices:
- name: full
  containerEdits:
    env: [THING=full]
    deviceNodes:
    - {path: /dev/thing, hostPath: /dev/null, permissions: r}
    mounts:
    - {hostPath: DIR/files, containerPath: /opt/thing, options: [bind, ro, nosuid, nodev]}
    hooks:
    - {hookName: createRuntime, path: /bin/sh, args: [sh, -c, "cat > DIR/hooked"]}
    additionalGids: [4711]
- name: other
  containerEdits: {env: [OTHER=yes]}
`

const cdiGPUs = `{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[
	{"name":"0","containerEdits":{"env":["GPU_ZERO=yes"]}},{"name":"1","containerEdits":{"env":["GPU_ONE=yes"]}},{"name":"all","containerEdits":{"env":["GPU_ALL=yes"]}}]}`

func TestDevicesOfCDISpecifications(t *testing.T) {
	dir := t.TempDir()
	specs := filepath.Join(dir, "cdi")
	for _, d := range []string{"cdi", "files"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--cdi-spec-dir", specs}})
	e.Busybox()
	refused := func(why string, args ...string) {
		t.Helper()
		r := e.Berth(append(append([]string{"run", "--rm", "--network", "none"}, args...), "busybox", "true")...)
		if r.Code != 125 || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, why) {
			t.Errorf("%v: exit %d, %q (want one line with %s)", args, r.Code, r.Stderr, why)
		}
	}
	refused(`could not select device driver "" with capabilities: [[gpu]]`, "--gpus", "all")
	refused("unresolvable CDI devices berth.test/thing=full", "--device", "berth.test/thing=full")

	// Files are found when they come.
	write(t, filepath.Join(dir, "files", "f"), "a file of the device\n")
	write(t, filepath.Join(specs, "things.yaml"), strings.ReplaceAll(cdiThings, "DIR", dir))
	out := e.Must("run", "--name", "cdi", "--network", "none", "-u", "1:2", "--group-add", "3", "--device", "berth.test/thing=full", "busybox", "sh", "-c",
		`env; ls -l /dev/thing; cat /opt/thing/f; id -G; touch /opt/thing/f 2>&1 || true`)
	for _, want := range []string{"EVERY_THING=yes\n", "THING=full\n", "crw-rw-rw- .* 1, +3 .*/dev/thing", "a file of the device\n", "2 3 4711\n", "Read-only file system"} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	hooked, err := os.ReadFile(filepath.Join(dir, "hooked"))
	if id := e.Must("inspect", "-f", "{{.Id}}", "cdi"); err != nil || !strings.Contains(string(hooked), id) {
		t.Errorf("the hook got %q %v, want the state of %s", hooked, err, id)
	}
	if shown := e.Must("inspect", "-f", "{{json .HostConfig.DeviceRequests}}", "cdi"); shown != `[{"Driver":"cdi","Count":0,"DeviceIDs":["berth.test/thing=full"],"Capabilities":null,"Options":null}]` {
		t.Errorf("inspect shows %s", shown)
	}
	e.Must("rm", "cdi")

	write(t, filepath.Join(specs, "gpus.json"), cdiGPUs)
	for _, g := range []struct{ args, want string }{
		{"--gpus all", "GPU_ALL"}, {"--gpus 1", "GPU_ZERO"}, {"--gpus device=1", "GPU_ONE"},
		{"--gpus 2 --device berth.test/thing=other", "GPU_ONE GPU_ZERO OTHER"},
		{"--gpus all,capabilities=utility", "GPU_ALL"},
		{"--gpus all,driver=nvidia --read-only", "GPU_ALL"},
	} {
		out := e.Must(append(append([]string{"run", "--rm", "--network", "none"}, strings.Fields(g.args)...), "busybox", "sh", "-c", "env | grep -oE '^(GPU_[A-Z]*|OTHER)' | sort | xargs")...)
		if out != g.want {
			t.Errorf("%s brings %s, want %s", g.args, out, g.want)
		}
	}
	if out := e.MustDocker("run", "--rm", "--network", "none", "--device", "berth.test/thing=other", "--gpus", "device=0", "busybox", "env"); !strings.Contains(out, "OTHER=yes") || !strings.Contains(out, "GPU_ZERO=yes") {
		t.Errorf("the official client's container has %s", out)
	}
	refused("could not select device driver", "--gpus", "all,capabilities=teleport")
	refused("could not select device driver", "--gpus", "all,driver=amd.com")
	refused("nvidia.com/gpu=7", "--gpus", "device=7")
	info := e.Must("info", "-f", "{{json .CDISpecDirs}} {{json .DiscoveredDevices}}")
	for _, want := range []string{`["` + specs + `"]`, `{"Source":"cdi","ID":"berth.test/thing=full"}`, `{"Source":"cdi","ID":"nvidia.com/gpu=all"}`} {
		if !strings.Contains(info, want) {
			t.Errorf("info has no %s: %s", want, info)
		}
	}

	// A broken file is told to whoever wants something that may be in it.
	write(t, filepath.Join(specs, "broken.json"), `{"cdiVersion":"0.6.0","kind":"x/y","devices":[{"name":"a"`)
	refused("broken.json", "--device", "x.test/y=a")
	e.Must("run", "--rm", "--network", "none", "--gpus", "all", "busybox", "true")
	if left := e.Must("ps", "-aq"); left != "" {
		t.Errorf("left: %s", left)
	}
}
