package testkit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Peer is another container tool of Debian's, with state of its own that goes with the
// test.
type Peer struct {
	Name string
	Dir  string
	Host string // the daemon's unix://…; empty: there is none
	// Pid is the daemon's, whose network namespace is its own; 0: there is none.
	Pid int

	t      testing.TB
	client []string // command line up to the subcommand
	run    []string // flags that run needs here
}

func newPeer(t testing.TB, name string) *Peer {
	t.Helper()
	Integration(t)
	dir, err := os.MkdirTemp("", "bp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var err error
		for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // its last processes may be writing still
			unmountBelow(dir)
			removeCgroups("/" + filepath.Base(dir))
			if err = os.RemoveAll(dir); err == nil || time.Now().After(deadline) {
				break
			}
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return &Peer{Name: name, Dir: dir, t: t}
}

// Podman is podman with runc. It skips the test where one of them is missing.
func Podman(t testing.TB) *Peer {
	t.Helper()
	program := NeedTool(t, "podman")
	NeedTool(t, "runc")
	p := newPeer(t, "podman")
	p.client = []string{program, "--root", filepath.Join(p.Dir, "d"), "--runroot", filepath.Join(p.Dir, "r"), "--tmpdir", filepath.Join(p.Dir, "t"),
		"--storage-driver", "overlay", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"}
	// Limits of podman's own need privileges that not every machine gives.
	p.run = []string{"--cgroup-parent", "/" + filepath.Base(p.Dir), "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--log-driver", "k8s-file"}
	return p
}

// Buildah is buildah. It skips the test where it is missing.
func Buildah(t testing.TB) *Peer {
	t.Helper()
	program := NeedTool(t, "buildah")
	p := newPeer(t, "buildah")
	p.client = []string{program, "--root", filepath.Join(p.Dir, "d"), "--runroot", filepath.Join(p.Dir, "r"), "--storage-driver", "overlay"}
	return p
}

// Dockerd is Debian's dockerd in a network namespace of its own, without a bridge: it
// neither sees nor changes the host's firewall. It skips the test where it is missing.
func Dockerd(t testing.TB) *Peer {
	t.Helper()
	NeedTool(t, "unshare")
	NeedTool(t, "ip")
	return dockerd(t, []string{"unshare", "--net", "sh", "-c", `ip link set lo up && exec "$@"`, "sh"}, "--bridge", "none", "--iptables=false")
}

// DockerdOn is Debian's dockerd with its own bridge and firewall rules on another machine.
func DockerdOn(t testing.TB, h *Host) *Peer {
	t.Helper()
	NeedTool(t, "iptables")
	return dockerd(t, h.Args())
}

func dockerd(t testing.TB, where []string, flags ...string) *Peer {
	t.Helper()
	for _, tool := range []string{"dockerd", "containerd"} {
		NeedTool(t, tool)
	}
	client := DockerCLI(t)
	p := newPeer(t, "dockerd")
	host := "unix://" + filepath.Join(p.Dir, "s")
	p.client, p.Host = []string{client, "-H", host}, host
	log, err := os.Create(filepath.Join(p.Dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	argv := slices.Concat(where, []string{"dockerd", "--data-root", filepath.Join(p.Dir, "d"), "--exec-root", filepath.Join(p.Dir, "r"), "-H", host,
		"--pidfile", filepath.Join(p.Dir, "pid"), "--cgroup-parent", "/" + filepath.Base(p.Dir),
		// With systemd's driver, its default on cgroup v2, the parent would have to be a slice.
		"--exec-opt", "native.cgroupdriver=cgroupfs"}, flags)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, p.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := startBound(t, cmd); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { // before the directory goes
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-ended
			t.Error("dockerd does not end")
		}
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("dockerd said:\n%s", lastLines(said, 10))
		}
	})
	for deadline := time.Now().Add(patience); p.Do("version").Code != 0; time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("dockerd ended: %v\n%s", err, lastLines(said, 10))
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("dockerd does not answer")
		}
	}
	p.Pid = cmd.Process.Pid
	return p
}

// For is the same peer for a sub-test, which fails instead of the test that it is part of.
func (p *Peer) For(t testing.TB) *Peer {
	of := *p
	of.t = t
	return &of
}

// Command is a command line of the peer's that has not been started.
func (p *Peer) Command(args ...string) *exec.Cmd {
	words := slices.Concat(p.client, args)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env, cmd.Dir = p.env(), p.Dir
	return cmd
}

// env is the machine's without what would lead to other engines or through proxies.
func (p *Peer) env() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(v, "DOCKER_") || strings.HasPrefix(v, "CONTAINER") || strings.HasPrefix(v, "XDG_") || strings.HasSuffix(strings.ToUpper(name), "_PROXY")
	})
	return append(env, "HOME="+p.Dir, "TMPDIR="+p.Dir)
}

// Do runs a subcommand.
func (p *Peer) Do(args ...string) Result {
	p.t.Helper()
	return p.Give("", args...)
}

// Give is Do with input.
func (p *Peer) Give(stdin string, args ...string) Result {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	words := slices.Concat(p.client, args)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env, cmd.Dir = p.env(), p.Dir
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("%s: %v", p.Name, err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// Must is Do that has to succeed; it returns standard output without its last newline.
func (p *Peer) Must(args ...string) string {
	p.t.Helper()
	r := p.Do(args...)
	if r.Code != 0 {
		p.t.Fatalf("%s %s: exit %d\nstdout: %s\nstderr: %s", p.Name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Flags is the beginning of a command line that makes a container, with the flags that it needs here.
func (p *Peer) Flags(command string, flags ...string) []string {
	return slices.Concat([]string{command}, p.run, flags)
}

// Run runs a container of the image without a network, to its end.
func (p *Peer) Run(image string, command ...string) string {
	p.t.Helper()
	return p.Must(slices.Concat([]string{"run", "--rm", "--network", "none"}, p.run, []string{image}, command)...)
}

// unmountBelow takes away what a peer left mounted, deepest first.
func unmountBelow(dir string) {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var all []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			all = append(all, f[4])
		}
	}
	for _, m := range slices.Backward(all) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
}

// removeCgroups removes a parent cgroup and what is empty below it, in all hierarchies.
func removeCgroups(parent string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
	for _, root := range append(roots, "/sys/fs/cgroup"+parent) {
		below, _ := filepath.Glob(root + "/*/")
		for _, dir := range append(below, root) {
			_ = os.Remove(dir)
		}
	}
}

// ServeIn makes the registry answer in the network namespace of process pid too, at the
// same address and with the same content.
func (r *RegistryServer) ServeIn(pid int) {
	r.t.Helper()
	cmd := exec.Command(NeedTool(r.t, "nsenter"), "-t", strconv.Itoa(pid), "-n", "docker-registry", "serve", r.conf)
	cmd.Stdout, cmd.Stderr = r.log, r.log
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := startBound(r.t, cmd); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
