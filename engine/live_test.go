package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"

	"berth/durable"
	"berth/events"
	"berth/fail"
	"berth/images"
	"berth/logs"
	"berth/supervisor"
	"berth/testkit"
	"berth/volumes"
)

// importBusybox opens an image store at root and puts busybox into it.
func importBusybox(t testing.TB, root string, db *durable.DB) *images.Store {
	t.Helper()
	store, err := images.Open(images.Config{Root: root, DB: db, Events: events.NewBus(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Get("busybox"); err == nil {
		return store
	}
	f, err := os.Open(testkit.BusyboxTar(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ref, err := reference.ParseNormalizedNamed("busybox:latest")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Import(t.Context(), f, images.ImportOptions{Ref: ref, Changes: []string{"ENV PATH=/bin", "CMD sh"}}); err != nil {
		t.Fatal(err)
	}
	return store
}

func openVolumes(t testing.TB, root string, db *durable.DB) *volumes.Store {
	t.Helper()
	s, err := volumes.Open(volumes.Config{Root: root, DB: db})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// live is an engine with real shims.
type live struct {
	t *testing.T
	Options
	*Engine
}

func newLive(t *testing.T) *live {
	t.Helper()
	testkit.Integration(t)
	dir, err := os.MkdirTemp("", "be")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db, err := durable.OpenDB(filepath.Join(dir, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	shims, err := supervisor.NewLauncher(supervisor.LauncherConfig{ShimPath: filepath.Join(testkit.Binaries(t), "berth-shim"), Warm: 1})
	if err != nil {
		t.Fatal(err)
	}
	l := &live{t: t, Options: Options{
		Networks: newFakeNetworks(),
		DataRoot: filepath.Join(dir, "d"), ExecRoot: filepath.Join(dir, "r"), DB: db, Shims: shims, Events: events.NewBus(),
		CgroupParent: "/berth-test-" + filepath.Base(dir),
	}}
	l.open()
	t.Cleanup(func() {
		for _, c := range l.Containers.List() {
			if err := l.Containers.Remove(context.Background(), c.ID, RemoveOptions{Force: true}); err != nil && !fail.Is(err, fail.NotFound) && !fail.Is(err, fail.Conflict) {
				t.Error(err)
			}
		}
		eventually(t, "the engine is idle", func() bool { return !l.Busy() && len(l.Containers.List()) == 0 })
		l.Engine.Close()
		shims.Close()
		l.DB.Close()
		for _, pattern := range []string{"/sys/fs/cgroup/*" + l.CgroupParent, "/sys/fs/cgroup" + l.CgroupParent} {
			groups, _ := filepath.Glob(pattern)
			for _, g := range groups {
				eventually(t, "no control group is left below "+g, func() bool { return os.Remove(g) == nil })
			}
		}
	})
	return l
}

func (l *live) open() {
	l.t.Helper()
	l.Images = importBusybox(l.t, l.DataRoot, l.DB)
	l.Volumes = openVolumes(l.t, l.DataRoot, l.DB)
	e, err := Open(l.t.Context(), l.Options)
	if err != nil {
		l.t.Fatal(err)
	}
	l.Engine = e
}

func (l *live) create(name, script string, change func(*CreateRequest)) string {
	l.t.Helper()
	r := CreateRequest{Name: name, Config: &container.Config{Image: "busybox", Cmd: []string{"sh", "-c", script}},
		HostConfig: &container.HostConfig{NetworkMode: "none"}}
	if change != nil {
		change(&r)
	}
	id, _, err := l.Containers.Create(l.t.Context(), r)
	if err != nil {
		l.t.Fatal(err)
	}
	return id
}

// run runs a script to its end and returns what it wrote.
func (l *live) run(script string, change func(*CreateRequest)) (out string, code int) {
	l.t.Helper()
	id := l.create("", script, change)
	w, err := l.Containers.Wait(l.t.Context(), id, WaitNextExit)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.Containers.Start(l.t.Context(), id); err != nil {
		l.t.Fatal(err)
	}
	r := receive(l.t, w)
	return l.logOf(id), r.ExitCode
}

func (l *live) logOf(id string) string {
	l.t.Helper()
	var b bytes.Buffer
	err := l.Containers.Logs(l.t.Context(), id, logs.ReadOptions{Stdout: true, Stderr: true, Tail: -1}, func(e logs.Entry) error {
		b.Write(e.Line)
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return b.String()
}

func (l *live) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func TestRealContainersRunAsAsked(t *testing.T) {
	l := newLive(t)
	host := t.TempDir()
	for _, c := range []struct {
		name, script string
		change       func(*CreateRequest)
		want         string
		code         int
	}{
		{"exit code and output", "echo hello; exit 7", nil, "hello\n", 7},
		{"default capabilities and no new ones", "grep -E 'Cap(Inh|Eff|Bnd)' /proc/self/status", nil,
			"CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n", 0},
		{"a user has no effective capabilities", "id -u; id -g; grep CapEff /proc/self/status; echo $HOME", func(r *CreateRequest) { r.Config.User = "app" },
			"1001\n1002\nCapEff:\t0000000000000000\n/home/app\n", 0},
		{"host name and files", "hostname; cat /etc/hostname; grep -c localhost /etc/hosts", func(r *CreateRequest) { r.Config.Hostname = "box" }, "box\nbox\n2\n", 0},
		{"working directory is made", "pwd; stat -c %u /made/here", func(r *CreateRequest) { r.Config.WorkingDir = "/made/here" }, "/made/here\n0\n", 0},
		{"read-only root", "touch /x 2>/dev/null || echo no; touch /dev/shm/x /t/x && echo yes", func(r *CreateRequest) {
			r.HostConfig.ReadonlyRootfs, r.HostConfig.Tmpfs = true, map[string]string{"/t": ""}
		}, "no\nyes\n", 0},
		{"binds", "echo in > /b/f; touch /r/g 2>/dev/null || echo no; cat /r/f", func(r *CreateRequest) {
			r.HostConfig.Binds = []string{host + ":/b", host + ":/r:ro"}
		}, "no\nin\n", 0},
		{"loopback only", "ip -o link | wc -l; ip -o addr show lo | grep -c 127.0.0.1", nil, "1\n1\n", 0},
		{"shared memory of the size asked for", "df -k /dev/shm | awk 'NR==2{print $2}'", func(r *CreateRequest) { r.HostConfig.ShmSize = 1 << 20 }, "1024\n", 0},
		{"masked and read-only paths", "ls /sys/firmware | wc -l; echo 1 2>/dev/null > /proc/sys/kernel/panic || echo ro", nil, "0\nro\n", 0},
		{"devices", "echo x > /dev/null && head -c 3 /dev/zero | wc -c; [ -e /dev/kmsg ] || echo none", nil, "3\nnone\n", 0},
		{"a device mapped", "head -c 2 /dev/mine | wc -c", func(r *CreateRequest) {
			r.HostConfig.Devices = []container.DeviceMapping{{PathOnHost: "/dev/zero", PathInContainer: "/dev/mine", CgroupPermissions: "r"}}
		}, "2\n", 0},
		{"limits", "ulimit -n; cat /proc/self/oom_score_adj", func(r *CreateRequest) {
			r.HostConfig.Ulimits, r.HostConfig.OomScoreAdj = []*container.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}}, 100
		}, "100\n100\n", 0},
		{"sysctls", "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start", func(r *CreateRequest) {
			r.HostConfig.Sysctls = map[string]string{"kernel.msgmax": "9000"}
		}, "9000\n0\n", 0},
		{"seccomp and no_new_privs", "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status", func(r *CreateRequest) {
			r.HostConfig.SecurityOpt = []string{"no-new-privileges"}
		}, "NoNewPrivs:\t1\nSeccomp:\t2\n", 0},
		{"the host's network", "ip -o link | wc -l | grep -qv '^1$' && echo more; hostname", func(r *CreateRequest) { r.HostConfig.NetworkMode = "host" },
			"more\n" + hostName(t) + "\n", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.t = t
			out, code := l.run(c.script, c.change)
			if out != c.want || code != c.code {
				t.Errorf("exit %d, wrote\n%s, want\n%s", code, out, c.want)
			}
		})
	}
	l.t = t
}

func hostName(t *testing.T) string {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRealFailedStarts(t *testing.T) {
	l := newLive(t)
	for _, c := range []struct {
		name   string
		change func(*CreateRequest)
		code   int
		text   string
		class  fail.Class
	}{
		{"not found", func(r *CreateRequest) { r.Config.Cmd = []string{"nope"} }, 127, "executable file not found", fail.Invalid},
		{"no such file", func(r *CreateRequest) { r.Config.Cmd = []string{"/no/such"} }, 127, "no such file or directory", fail.Invalid},
		{"not executable", func(r *CreateRequest) { r.Config.Cmd = []string{"/etc/passwd"} }, 126, "permission denied", fail.Invalid},
		{"unknown user", func(r *CreateRequest) { r.Config.User = "nobodyhere" }, 128, "unable to find user nobodyhere: no matching entries in passwd file", fail.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := l.create("", "", c.change)
			err := l.Containers.Start(t.Context(), id)
			if !fail.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v (%v)", err, fail.Of(err))
			}
			if got, _ := l.Containers.Get(id); got.State.Status != created || got.State.ExitCode != c.code {
				t.Errorf("%+v", got.State)
			}
		})
	}
}

// pipe gives a hijack and the client's end of its connection.
func pipe(t *testing.T) (Hijack, net.Conn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return func() (net.Conn, []byte, error) { return server, nil, nil }, client
}

func TestRealAttachBeforeStartMissesNothing(t *testing.T) {
	l := newLive(t)
	id := l.create("", "echo first; cat; echo last >&2", func(r *CreateRequest) {
		r.Config.OpenStdin, r.Config.StdinOnce, r.HostConfig.AutoRemove = true, true, true
	})
	hijack, client := pipe(t)
	l.must(l.Containers.Attach(t.Context(), id, AttachOptions{Stdin: true, Stdout: true, Stderr: true, Stream: true}, hijack))
	gone, err := l.Containers.Wait(t.Context(), id, WaitRemoved)
	l.must(err)
	l.must(l.Containers.Start(t.Context(), id))
	fmt.Fprint(client, "middle\n")
	l.must(client.(*net.UnixConn).CloseWrite())
	got, err := io.ReadAll(client)
	l.must(err)
	// The two streams are two pipes: only the order within each is certain.
	streams := map[byte]string{}
	for rest := got; len(rest) >= 8; {
		n := 8 + int(binary.BigEndian.Uint32(rest[4:]))
		streams[rest[0]] += string(rest[8:n])
		rest = rest[n:]
	}
	if streams[1] != "first\nmiddle\n" || streams[2] != "last\n" {
		t.Errorf("%q", got)
	}
	if r := receive(t, gone); r.ExitCode != 0 || r.Err != nil {
		t.Errorf("%+v", r)
	}
	if _, err := l.Containers.Get(id); !fail.Is(err, fail.NotFound) {
		t.Errorf("%v", err)
	}
}

func TestRealExecs(t *testing.T) {
	l := newLive(t)
	id := l.create("", "trap 'exit 9' TERM; sleep 1000 & wait", func(r *CreateRequest) {
		r.Config.User, r.Config.Env = "app", []string{"A=1"}
	})
	l.must(l.Containers.Start(t.Context(), id))
	exec := func(r ExecRequest) (string, int) {
		t.Helper()
		r.AttachStdout, r.AttachStderr = true, true
		x, err := l.Execs.Create(t.Context(), id, r)
		l.must(err)
		hijack, client := pipe(t)
		l.must(l.Execs.Start(t.Context(), x, ExecStart{}, hijack))
		out, err := io.ReadAll(client)
		l.must(err)
		e, err := l.Execs.Get(t.Context(), x)
		l.must(err)
		if e.ExitCode == nil {
			t.Fatalf("%+v", e)
		}
		if len(out) > 8 {
			out = out[8:]
		}
		return string(out), *e.ExitCode
	}
	if out, code := exec(ExecRequest{Cmd: []string{"sh", "-c", "id -u; echo $A $B; exit 3"}, Env: []string{"B=2"}}); !strings.HasSuffix(out, "1 2\n") || code != 3 {
		t.Errorf("%q %d", out, code)
	}
	if out, code := exec(ExecRequest{Cmd: []string{"nope"}}); !strings.Contains(out, "executable file not found") || code != 127 {
		t.Errorf("%q %d", out, code)
	}
	if out, code := exec(ExecRequest{Cmd: []string{"/etc/passwd"}}); !strings.Contains(out, "permission denied") || code != 126 {
		t.Errorf("%q %d", out, code)
	}
	if out, code := exec(ExecRequest{Cmd: []string{"grep", "CapEff", "/proc/self/status"}, User: "0", Privileged: true}); strings.Contains(out, "a80425fb") || code != 0 {
		t.Errorf("privileged: %q %d", out, code)
	}
	titles, rows, err := l.Containers.Top(t.Context(), id, "-o pid,args")
	if err != nil || len(rows) != 2 || titles[1] != "COMMAND" {
		t.Errorf("%v %v %v", titles, rows, err)
	}
	l.must(l.Containers.Pause(t.Context(), id))
	if _, err := l.Execs.Create(t.Context(), id, ExecRequest{Cmd: []string{"x"}}); !fail.Is(err, fail.Conflict) {
		t.Errorf("%v", err)
	}
	l.must(l.Containers.Unpause(t.Context(), id))
	begin := time.Now()
	l.must(l.Containers.Stop(t.Context(), id, StopOptions{}))
	if c, _ := l.Containers.Get(id); c.State.ExitCode != 9 {
		t.Errorf("%+v after %v", c.State, time.Since(begin))
	}
	l.must(l.Containers.Start(t.Context(), id)) // the same root again, with the old upper
}

func TestRealContainersShareNamespaces(t *testing.T) {
	l := newLive(t)
	donor := l.create("donor", "sleep 1000", func(r *CreateRequest) { r.HostConfig.IpcMode = "shareable" })
	l.must(l.Containers.Start(t.Context(), donor))
	x, err := l.Execs.Create(t.Context(), donor, ExecRequest{Cmd: []string{"sh", "-c", "echo mine > /dev/shm/f"}})
	l.must(err)
	l.must(l.Execs.Start(t.Context(), x, ExecStart{Detach: true}, nil))
	eventually(t, "the exec has ended", func() bool { e, err := l.Execs.Get(t.Context(), x); return err == nil && e.ExitCode != nil })
	c, _ := l.Containers.Get(donor)
	out, code := l.run("readlink /proc/self/ns/net; readlink /proc/self/ns/pid; cat /dev/shm/f; hostname", func(r *CreateRequest) {
		r.HostConfig.NetworkMode, r.HostConfig.PidMode, r.HostConfig.IpcMode = "container:donor", "container:donor", "container:donor"
	})
	want := ""
	for _, ns := range []string{"net", "pid"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.State.Pid, ns))
		l.must(err)
		want += link + "\n"
	}
	want += "mine\n" + donor[:12] + "\n"
	if out != want || code != 0 {
		t.Errorf("exit %d, wrote\n%s, want\n%s", code, out, want)
	}
	if box, err := l.Containers.Sandbox("donor"); err != nil || len(box.Containers) != 2 || box.ID != donor {
		t.Errorf("%+v %v", box, err)
	}
}

func TestRealContainersOutliveTheirEngine(t *testing.T) {
	l := newLive(t)
	up := l.create("up", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done", nil)
	ends := l.create("ends", "sleep 0.3; exit 5", nil)
	rm := l.create("rm", "sleep 0.3", autoRemove)
	for _, id := range []string{up, ends, rm} {
		l.must(l.Containers.Start(t.Context(), id))
	}
	before, _ := l.Containers.Get(up)
	old := l.Engine
	t.Cleanup(func() { old.Close() })
	l.Options.DB.Close() // the old engine can record nothing any more
	db, err := durable.OpenDB(filepath.Join(filepath.Dir(l.DataRoot), "berth.db"))
	l.must(err)
	l.Options.DB = db
	l.open()
	if c, _ := l.Containers.Get(up); c.State.Status != running || c.State.Pid != before.State.Pid {
		t.Errorf("%+v", c.State)
	}
	eventually(t, "both have ended", func() bool {
		c, err := l.Containers.Get(ends)
		_, gone := l.Containers.Get(rm)
		return err == nil && c.State.Status == exited && fail.Is(gone, fail.NotFound)
	})
	if c, _ := l.Containers.Get(ends); c.State.ExitCode != 5 {
		t.Errorf("%+v", c.State)
	}
	l.must(l.Containers.Kill(t.Context(), up, "KILL"))
	for n, line := range strings.Fields(l.logOf(up)) {
		if line != fmt.Sprint(n) {
			t.Fatalf("line %d of the log is %q", n, line)
		}
	}
}

func TestRealOutOfMemoryIsTold(t *testing.T) {
	l := newLive(t)
	begin := time.Now()
	id := l.create("", "tail /dev/zero", func(r *CreateRequest) { r.HostConfig.Memory, r.HostConfig.MemorySwap = 16<<20, 16<<20 })
	w, err := l.Containers.Wait(t.Context(), id, WaitNextExit)
	l.must(err)
	l.must(l.Containers.Start(t.Context(), id))
	r := receive(t, w)
	if c, _ := l.Containers.Get(id); r.ExitCode != 137 || !c.State.OOMKilled {
		t.Errorf("%+v %+v", r, c.State)
	}
	ctx := t.Context()
	var seen []string
	for _, e := range l.Events.Subscribe(ctx, begin, nil).History {
		seen = append(seen, e.Action)
	}
	if !slices.Contains(seen, "oom") {
		t.Errorf("events %v", seen)
	}
}
