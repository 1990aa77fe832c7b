package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// The default roots belong to the machine, so these tests see other ones in a mount
// namespace of their own.
func inPrivateRoots(t *testing.T, e *testkit.Engine, script string) testkit.Result {
	t.Helper()
	unshare := testkit.NeedTool(t, "unshare")
	file := filepath.Join(e.Dir, "script.sh")
	text := `set -e
mount -t tmpfs run /run
mount --bind ` + e.DataRoot + ` /mnt
mount -t tmpfs lib /var/lib
mkdir -p /var/lib/berth
mount --bind /mnt /var/lib/berth
unset DOCKER_HOST
trap '[ ! -s /run/berth/berthd.lock ] || kill $(engine) 2>/dev/null || true' EXIT
engine() { sed 's/.*pid \([0-9]*\).*/\1/' /run/berth/berthd.lock; }
# An engine's child is one by its program too until it executes its own: it does not count.
is_engine() { [ "$(readlink /proc/$1/exe)" = "` + e.Bin + `/berthd" ]; }
engines() {
	n=0
	for p in /proc/[0-9]*; do
		is_engine "${p#/proc/}" || continue
		parent=$(sed -n 's/^PPid:\s*//p' "$p/status" 2>/dev/null) || continue
		is_engine "${parent:-0}" || n=$((n+1))
	done
	echo $n; [ $n -gt 0 ]
}
` + script
	if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return e.Run("", unshare, "--mount", "--propagation", "private", "sh", file)
}

func TestManyClientsStartOneEngine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	r := inPrivateRoots(t, e, `
for i in 1 2 3 4 5 6; do berth version --format '{{.Server.Version}}' & done; wait
berth import `+testkit.BusyboxTar(t)+` busybox >/dev/null
berth run --rm --network none busybox echo ran
engines
id=$(berth run -d --network none --name stays busybox sleep 1000)
kill -9 $(engine)
berth inspect -f '{{.State.Status}} after' stays
# With the engine dead, a --rm container that ends is removed.
berth run -d --rm --network none --name goes busybox sh -c 'while [ ! -e /tmp/end ]; do sleep 0.05; done' >/dev/null
pid=$(berth inspect -f '{{.State.Pid}}' goes)
kill -9 $(engine)
touch /proc/$pid/root/tmp/end
n=0; while [ -e /var/lib/berth/containers/$(ls /var/lib/berth/containers | grep -v $id || echo none) ]; do n=$((n+1)); [ $n -lt 1800 ] || { echo "never removed"; exit 1; }; sleep 0.05; done
berth ps -a --format '{{.Names}}'
berth rm -f stays
kill $(engine); while engines >/dev/null; do sleep 0.05; done
`)
	want := []string{"0.1.0", "ran", "1", "running after", "stays"}
	if r.Code != 0 {
		t.Fatalf("exit %d\n%s\n%s", r.Code, r.Stdout, r.Stderr)
	}
	if n := strings.Count(r.Stdout, "0.1.0"); n != 6 {
		t.Errorf("%d of 6 clients were answered:\n%s", n, r.Stdout)
	}
	rest := r.Stdout
	for _, w := range want {
		_, after, found := strings.Cut(rest, w)
		if !found {
			t.Fatalf("%q is missing from\n%s\n%s", w, r.Stdout, r.Stderr)
		}
		rest = after
	}
	if strings.Contains(rest, "goes") {
		t.Errorf("the --rm container is still listed:\n%s", r.Stdout)
	}
}

func TestIdleEngineEndsByItself(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--idle-timeout", "5s"}})
	if code := e.Await(); code != 0 {
		t.Errorf("exit %d:\n%s", code, e.Log())
	}
	e.Start()
	e.Busybox()
	e.Must("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
	busy := e.Pid()
	e.Must("run", "--rm", "busybox", "sleep", "6") // more than the timeout passes
	if _, err := os.Stat(filepath.Join("/proc", itoa(busy))); err != nil {
		t.Fatal("the engine ended although a container runs")
	}
	e.Must("rm", "-f", "busy")
	if code := e.Await(); code != 0 {
		t.Errorf("exit %d:\n%s", code, e.Log())
	}
}
