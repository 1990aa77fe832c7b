package test

import (
	"net/netip"
	"strings"
	"testing"

	"berth/kernel"
	"berth/testkit"
)

// within is a container of e's with Berth's programs and an image, in which an engine is to run.
func within(t *testing.T, e *testkit.Engine, flags ...string) []string {
	t.Helper()
	return append([]string{"run", "--name", "outer", "-v", e.Bin + ":/usr/local/bin:ro", "-v", testkit.BusyboxTar(t) + ":/busybox.tar:ro", "-v", "/var/lib/berth"}, flags...)
}

// nested runs commands of a shell in the outer container.
func nested(e *testkit.Engine, script string) string {
	return e.Must("exec", "outer", "sh", "-ec", script)
}

// awaitNested waits, for three minutes at most: in an emulated machine all of this takes its time.
func awaitNested(t *testing.T, e *testkit.Engine) {
	t.Helper()
	nested(e, "until test -S /run/berth/berth.sock; do sleep 0.1; done")
	nested(e, "berth import /busybox.tar busybox")
}

func TestBerthInBerth(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must(append(within(t, e, "-d", "--privileged", "-p", "127.0.0.1::8080"), "busybox", "berthd")...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(e.Berth("logs", "outer").Stderr)
		}
	})
	awaitNested(t, e)

	nested(e, `berth run -d --name web -m 32m --memory-swap 32m --restart always -p 8080:80 -v said:/said busybox sh -c '
		echo from within >/tmp/index.html; httpd -h /tmp; trap "echo TERM >>/said/last; exit" TERM; while :; do sleep 0.1; done'`)
	outer, _, _ := strings.Cut(e.Must("port", "outer", "8080"), "\n")
	testkit.Eventually(t, "the page is served", func() bool {
		return e.Run("", testkit.NeedTool(t, "curl"), "-s", "http://"+outer+"/").Stdout == "from within\n"
	})

	const limit = `cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes`
	if got := nested(e, `berth exec web sh -c '`+limit+`'`); got != "33554432" {
		t.Errorf("its limit of memory is %s", got)
	}
	if r := e.Berth("exec", "outer", "berth", "run", "--name", "greedy", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done"); r.Code != 137 {
		t.Errorf("one that takes more memory than it may: %+v", r)
	}
	if got := nested(e, "berth inspect -f '{{.State.OOMKilled}}' greedy; berth rm greedy"); !strings.HasPrefix(got, "true") {
		t.Errorf("that it was killed for memory: %s", got)
	}
	if got := nested(e, "berth info 2>&1"); strings.Contains(got, "WARNING: control groups") || strings.Contains(got, "WARNING: limits") || strings.Contains(got, "bridge networks") || !strings.Contains(got, "Storage Driver: overlay") {
		t.Errorf("info: %s", got)
	}
	const subnet = "'{{(index .IPAM.Config 0).Subnet}}'"
	mine, theirs := netip.MustParsePrefix(e.Must("network", "inspect", "-f", subnet[1:len(subnet)-1], "bridge")), netip.MustParsePrefix(nested(e, "berth network inspect -f "+subnet+" bridge"))
	if mine.Overlaps(theirs) {
		t.Errorf("the subnets %s and %s overlap", mine, theirs)
	}
	// With --network host they would be the machine's engine's.
	if links := nested(e, "ip -o link"); strings.Contains(links, "berth0") || !strings.Contains(links, "br-") {
		t.Errorf("interfaces: %s", links)
	}
	if first := nested(e, "cat /proc/1/cgroup"); testkit.UnifiedCgroups() && first != "0::/berth-init" {
		t.Errorf("the first process is in %q", first)
	}
	if got := nested(e, "ps -o pid,args,stat"); strings.Contains(got, "Z") || !strings.Contains(got, "    1 ") {
		t.Errorf("processes: %s", got)
	}

	// The container's end is like that of a machine: containers end in order, and come again by their policies.
	e.Must("stop", "-t", "20", "outer")
	if code := e.Must("inspect", "-f", "{{.State.ExitCode}}", "outer"); code != "0" {
		t.Errorf("stopped, it ended with %s\n%s", code, e.Berth("logs", "outer").Stderr)
	}
	for _, end := range []string{"stopped", "killed"} {
		e.Must("start", "outer")
		nested(e, "until berth exec web true; do sleep 0.1; done # its policy starts it, after its engine's container was "+end)
		if end == "stopped" {
			e.Must("kill", "outer")
		}
	}
	if got := nested(e, "berth exec web cat /said/last"); got != "TERM" {
		t.Errorf("of its ends it noticed %q", got)
	}
	e.Must("rm", "-f", "-v", "outer")
}

// The containers of an engine behind an init are ended before that ends; a client needs no engine there.
func TestBerthInBerthWithAnInit(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	// An engine that a client has started before makes room.
	e.Must(append(within(t, e, "-d", "--init", "--privileged"), "busybox", "sh", "-c", "berth ps && exec berthd")...)
	nested(e, "until ps -o args | grep -qx /usr/local/bin/berthd || ps -o args | grep -qx berthd; do sleep 0.1; done")
	awaitNested(t, e)
	nested(e, `berth run -d --network none -v said:/said busybox sh -c 'trap "echo TERM >/said/last; exit" TERM; while :; do sleep 0.1; done'`)
	e.Must("stop", "-t", "20", "outer")
	e.Must("start", "outer")
	if got := nested(e, "cat /var/lib/berth/volumes/said/_data/last"); got != "TERM" {
		t.Errorf("of its end it noticed %q", got)
	}
	e.Must("rm", "-f", "-v", "outer")

	r := e.Berth(append(within(t, e, "--rm", "--privileged"), "busybox", "sh", "-ec", "berth import /busybox.tar busybox >/dev/null; berth run -d --network none busybox sleep 1000 >/dev/null; berth run --rm -m 32m busybox echo on demand")...)
	if r.Code != 0 || r.Stdout != "on demand\n" {
		t.Errorf("without an engine: %+v", r)
	}
}

// What an engine in a container needs is said in one line.
func TestWhatAnEngineInAContainerLacksIsSaid(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	if r := e.Berth(append(within(t, e, "--rm"), "busybox", "berthd")...); r.Code != 1 || strings.TrimSpace(r.Stderr) != "berthd: berthd lacks the capability CAP_SYS_ADMIN, without which it can make no container: if it runs in a container, start that with --privileged" {
		t.Errorf("without privileges: %+v", r)
	}
	e.Must(append(within(t, e, "-d", "--cap-add", "SYS_ADMIN"), "busybox", "berthd")...)
	awaitNested(t, e)
	info := nested(e, "berth info 2>&1")
	for _, want := range []string{"WARNING: control groups are read-only at /sys/fs/cgroup", "WARNING: berthd lacks the capability CAP_NET_ADMIN, so there are no bridge networks"} {
		if strings.Count(info, want) != 1 {
			t.Errorf("info does not say once %q: %s", want, info)
		}
	}
	e.Must("rm", "-f", "-v", "outer")

	// Where data root is what the container's layers are made of there is a way out, and that is told.
	e.Must("run", "-d", "--name", "outer", "--privileged", "-v", e.Bin+":/usr/local/bin:ro", "-v", testkit.BusyboxTar(t)+":/busybox.tar:ro", "busybox", "berthd")
	awaitNested(t, e)
	if got := nested(e, "berth info 2>&1; berth run --rm -m 32m busybox echo it runs"); !strings.Contains(got, "a volume can, mounted at the data root") || !strings.HasSuffix(got, "it runs") {
		t.Errorf("on the container's own layer: %s", got)
	}
	e.Must("rm", "-f", "-v", "outer")
}

// An engine that sees the host's control groups keeps to those of its container.
func TestBerthInBerthWithTheHostsControlGroups(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must(append(within(t, e, "-d", "--privileged", "--cgroupns", "host"), "busybox", "berthd")...)
	awaitNested(t, e)
	nested(e, "berth run -d --name inner -m 32m --network none busybox sleep 1000")
	pid := e.Must("top", "outer", "-eo", "pid,args")
	found := false
	for line := range strings.Lines(pid) {
		if p, args, _ := strings.Cut(strings.TrimSpace(line), " "); strings.TrimSpace(args) == "sleep 1000" {
			found = true
			groups := e.Run("", "cat", "/proc/"+p+"/cgroup").Stdout
			for group := range strings.Lines(groups) {
				// On a machine with v1, groups are made in v2 for few limits only.
				if !strings.Contains(group, id+"/berth/") && (testkit.UnifiedCgroups() || !strings.HasPrefix(group, "0::")) {
					t.Errorf("it is in %s", group)
				}
			}
		}
	}
	if !found {
		t.Errorf("it is not there: %s", pid)
	}
	e.Must("rm", "-f", "-v", "outer")
}

// Nothing of Berth is around it here.
func TestBerthInOthers(t *testing.T) {
	bin, tar := testkit.Binaries(t), testkit.BusyboxTar(t)
	for name, start := range map[string]func(testing.TB) *testkit.Peer{"dockerd": testkit.Dockerd, "podman": testkit.Podman} {
		t.Run(name, func(t *testing.T) {
			if name == "dockerd" && kernel.BoundingCapabilities() != kernel.KnownCapabilities() {
				t.Skip("this machine withholds capabilities, of which Docker gives a privileged container all")
			}
			p := start(t)
			p.Must("import", tar, "busybox")
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(p.Do("logs", "outer").Stderr)
				}
				p.Do("rm", "-f", "-v", "outer")
			})
			p.Must(append(p.Flags("run", "-d", "--name", "outer", "--privileged", "--network", "none", "-v", bin+":/usr/local/bin:ro", "-v", tar+":/busybox.tar:ro", "-v", "/var/lib/berth"), "busybox", "berthd")...)
			p.Must("exec", "outer", "sh", "-c", "until test -S /run/berth/berth.sock; do sleep 0.1; done")
			p.Must("exec", "outer", "berth", "import", "/busybox.tar", "busybox")
			if r := p.Do("exec", "outer", "berth", "run", "--rm", "-m", "32m", "busybox", "sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; ip -o addr show eth0 | grep -c 'inet '"); r.Stdout != "33554432\n1\n" {
				t.Errorf("got %+v", r)
			}
			if r := p.Do("exec", "outer", "berth", "info"); strings.Contains(r.Stderr, "control groups") || strings.Contains(r.Stderr, "limits of containers") {
				t.Errorf("info: %s", r.Stderr)
			}
			if r := p.Do("stop", "-t", "20", "outer"); r.Code != 0 || strings.TrimSpace(p.Must("inspect", "-f", "{{.State.ExitCode}}", "outer")) != "0" {
				t.Errorf("it does not stop in order: %+v", r)
			}
		})
	}
}
