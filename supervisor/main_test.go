package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/logs"
	oci "berth/oci/bundle"
)

// The test program is its own berth-shim: it is started without arguments by the
// launcher, and with --lost by a guardian, which passes no environment.
func TestMain(m *testing.M) {
	if os.Args[0] == "berth-shim" || len(os.Args) > 1 && os.Args[1] == "--lost" {
		os.Exit(Main(os.Args[1:]))
	}
	// The Go runtime's own descriptors are not leaks.
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
	os.Exit(m.Run())
}

// stage is where the containers of a test live.
type stage struct {
	t        *testing.T
	dir      string
	launcher *Launcher
	n        int
}

func newStage(t *testing.T, warm int) *stage {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes containers")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox (Debian: busybox-static)")
	}
	dir, err := os.MkdirTemp("", "bsup")
	if err != nil {
		t.Fatal(err)
	}
	before := stock()
	t.Cleanup(func() {
		os.RemoveAll(dir)
		checkLeaks(t, before)
	})
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "etc", "proc", "dev", "sys", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"), 0o644)
	os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nann:x:1000:\n"), 0o644)
	for _, name := range []string{"sh", "true", "false", "echo", "cat", "sleep", "head", "yes", "stty", "dd", "env", "id", "kill", "tail", "printf", "seq", "wc", "md5sum"} {
		os.Symlink("busybox", filepath.Join(root, "bin", name))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLauncher(LauncherConfig{ShimPath: self, Warm: warm})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &stage{t: t, dir: dir, launcher: l}
}

// config is a container that runs args.
func (s *stage) config(args ...string) Config {
	s.t.Helper()
	s.n++
	id := "bsup-" + filepath.Base(s.dir) + "-" + strconv.Itoa(s.n)
	dir := filepath.Join(s.dir, id)
	for _, d := range []string{"upper", "work", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	return Config{
		ID: id, Dir: dir, RunDir: filepath.Join(dir, "run"),
		Root:    oci.Rootfs{Lower: []string{filepath.Join(s.dir, "root")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")},
		LogPath: filepath.Join(dir, "log"),
		Spec: &oci.Spec{
			Version:  "1.2.0",
			Hostname: "box",
			Process:  &oci.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
			Root:     &specs.Root{Path: "unused"},
			Mounts: []oci.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
				{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			},
			Linux: &specs.Linux{
				CgroupsPath: "/berth-test/" + id,
				Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
					{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}},
			},
		},
	}
}

// client is a connection that was attached, and what it got.
type testClient struct {
	conn *net.UnixConn
	all  chan []byte
}

// attachment makes a pair of sockets, of which one is to be attached.
func (s *stage) attachment(o AttachOptions) (Attachment, *testClient) {
	s.t.Helper()
	a, b := wirePair(s.t)
	c := &testClient{conn: b.conn, all: make(chan []byte, 1)}
	return Attachment{AttachOptions: o, Conn: a.conn}, c
}

// collect reads to the end in the background.
func (c *testClient) collect() {
	go func() {
		data, err := io.ReadAll(c.conn)
		if err != nil {
			data = append(data, fmt.Sprintf("[%v]", err)...)
		}
		c.conn.Close()
		c.all <- data
	}()
}

func (c *testClient) expect(t *testing.T, want string) {
	t.Helper()
	got := make([]byte, 0, 4096)
	c.conn.SetReadDeadline(time.Now().Add(time.Minute))
	for !bytes.Contains(got, []byte(want)) {
		buf := make([]byte, 4096)
		n, err := c.conn.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			t.Fatalf("got %q while waiting for %q: %v", got, want, err)
		}
	}
	c.conn.SetReadDeadline(time.Time{})
}

func (s *stage) create(cfg Config, attach ...Attachment) *Shim {
	s.t.Helper()
	shim, err := s.launcher.Create(s.ctx(), cfg, attach)
	if err != nil {
		s.t.Fatal(err)
	}
	return shim
}

func (s *stage) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	s.t.Cleanup(cancel)
	return ctx
}

func (s *stage) start(cfg Config, attach ...Attachment) *Shim {
	s.t.Helper()
	shim := s.create(cfg, attach...)
	if _, _, err := shim.Start(s.ctx()); err != nil {
		s.t.Fatal(err)
	}
	return shim
}

// exit waits for the end of the container, and lets the shim go.
func (s *stage) exit(shim *Shim) ExitRecord {
	s.t.Helper()
	for {
		select {
		case e, ok := <-shim.Events():
			if !ok {
				s.t.Fatal("no exit event")
			}
			if e.Kind == EventExit {
				if _, more := <-shim.Events(); more {
					s.t.Fatal("an event after the exit")
				}
				shim.Close()
				return *e.Exit
			}
		case <-time.After(60 * time.Second):
			s.t.Fatal("the container did not end")
		}
	}
}

func (s *stage) logged(cfg Config) string {
	s.t.Helper()
	var all []byte
	err := logs.Read(s.ctx(), cfg.LogPath, cfg.Log, logs.ReadOptions{Stdout: true, Stderr: true, Tail: -1}, func(e logs.Entry) error {
		all = append(all, e.Line...)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(all)
}

// inventory is what a test must not leave more of.
type inventory struct {
	files   int
	mounts  int
	cgroups []string
}

func stock() inventory {
	fds, _ := os.ReadDir("/proc/self/fd")
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/berth-test/bsup*")
	more, _ := filepath.Glob("/sys/fs/cgroup/berth-test/bsup*")
	// Tests of other packages mount as well, at the same time.
	return inventory{len(fds), bytes.Count(mounts, []byte("bsup")), append(groups, more...)}
}

func checkLeaks(t *testing.T, before inventory) {
	t.Helper()
	eventually(t, "children are gone", func() bool { return len(children()) == 0 })
	eventually(t, "descriptors are closed", func() bool { return stock().files <= before.files })
	after := stock()
	if after.mounts > before.mounts {
		t.Errorf("%d mounts are left", after.mounts-before.mounts)
	}
	if len(after.cgroups) > len(before.cgroups) {
		t.Errorf("cgroups are left: %v", after.cgroups)
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/berth-test")
	for _, g := range groups {
		os.Remove(g)
	}
}

// children lists the processes whose program is this test's: shims, guardians.
func children() (pids []int) {
	self, _ := os.Stat("/proc/self/exe")
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		pid, _ := strconv.Atoi(filepath.Base(p))
		if exe, err := os.Stat(p + "/exe"); err == nil && os.SameFile(exe, self) && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// eventually polls, where there is no event to wait for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Errorf("in vain waited until %s", what)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func alive(pid int) bool {
	return unix.Kill(pid, 0) == nil && !strings.Contains(status(pid), "State:\tZ")
}

func status(pid int) string {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	return string(data)
}
