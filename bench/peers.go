package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// peer is a program that does the same work as the others of its section, with state,
// cgroups and network of its own.
type peer struct {
	name   string
	dir    string
	client []string // command line up to the subcommand
	env    []string
	space  *space
	// outside is another host, for engines with networks; server a container's address there.
	outside *space
	server  string
	// runFlags follow the subcommand in run and create.
	runFlags []string
	// engine is the command line of its daemon, nil where it has none.
	engine []string
	live   *exec.Cmd
	ended  chan error
	// form turns a subcommand into this peer's words where they differ; nil leaves them.
	form func(verb string, args []string) []string
	// keepers are the names of the processes that stay with each container.
	keepers []string
}

// bench is a run: its directories and who takes part.
type bench struct {
	dir     string // all state; its base name is also the parent cgroup
	bin     string // where Berth's programs are
	engines []*peer
	notes   []string // who could not take part and why
}

func (b *bench) cgroup() string { return filepath.Base(b.dir) }

// openEngines readies the container engines that are installed, ours first.
func (b *bench) openEngines(ctx context.Context) error {
	for _, ready := range []func(context.Context) (*peer, error){b.berth, b.docker, b.podman} {
		p, err := ready(ctx)
		var missing *exec.Error
		if errors.As(err, &missing) {
			b.notes = append(b.notes, fmt.Sprintf("%s is not installed: no peer", missing.Name))
			continue
		}
		if err != nil {
			return err
		}
		b.engines = append(b.engines, p)
	}
	return nil
}

// newPeer makes a peer's directories and its network namespace. What is gone after a reboot
// lies on a tmpfs, as /run does on a distribution. Hidden directories are the machine's that
// it must not see or change.
func (b *bench) newPeer(ctx context.Context, name string, hidden ...string) (*peer, error) {
	p := &peer{name: name, dir: filepath.Join(b.dir, name)}
	for _, d := range []string{"r", "home"} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o711); err != nil {
			return nil, err
		}
	}
	if err := unix.Mount("tmpfs", filepath.Join(p.dir, "r"), "tmpfs", 0, "mode=0711"); err != nil {
		return nil, fmt.Errorf("mount a run directory: %w", err)
	}
	home := filepath.Join(p.dir, "home")
	p.env = slices.DeleteFunc(os.Environ(), func(v string) bool { // they would lead to other engines; podman minds empty ones, too
		return strings.HasPrefix(v, "DOCKER_") || strings.HasPrefix(v, "CONTAINER") || strings.HasPrefix(v, "XDG_")
	})
	p.env = append(p.env, "HOME="+home)
	var err error
	p.space, err = newSpace(ctx, hidden...)
	return p, err
}

func (b *bench) berth(ctx context.Context) (*peer, error) {
	p, err := b.newPeer(ctx, "berth")
	if err != nil {
		return nil, err
	}
	host, config := "unix://"+filepath.Join(p.dir, "r", "s"), filepath.Join(p.dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}\n"), 0o600); err != nil {
		return nil, err
	}
	p.client = []string{filepath.Join(b.bin, "berth"), "-H", host}
	p.engine = []string{filepath.Join(b.bin, "berthd"), "--data-root", filepath.Join(p.dir, "d"), "--exec-root", filepath.Join(p.dir, "r"),
		"-H", host, "--cgroup-parent", "/" + b.cgroup(), "--config-file", config}
	p.keepers = []string{"berth-shim", "berth-guardian"}
	return p, p.startEngine(ctx)
}

// docker is Debian's dockerd without a bridge: nothing that it need not do for containers
// without a network.
func (b *bench) docker(ctx context.Context) (*peer, error) {
	if _, err := exec.LookPath("dockerd"); err != nil {
		return nil, err
	}
	client, err := dockerClient()
	if err != nil {
		return nil, err
	}
	p, err := b.newPeer(ctx, "docker")
	if err != nil {
		return nil, err
	}
	host := "unix://" + filepath.Join(p.dir, "s")
	p.client = []string{client, "-H", host}
	p.engine = []string{"dockerd", "--data-root", filepath.Join(p.dir, "d"), "--exec-root", filepath.Join(p.dir, "r"), "-H", host,
		"--pidfile", filepath.Join(p.dir, "pid"), "--cgroup-parent", "/" + b.cgroup(), "--bridge", "none", "--iptables=false"}
	p.keepers = []string{"containerd-shim", "docker-proxy"}
	return p, p.startEngine(ctx)
}

// dockerClient is the one that `make tools` builds, or the machine's.
func dockerClient() (string, error) {
	if built, err := filepath.Abs("bin/tools/docker"); err == nil {
		if _, err := os.Stat(built); err == nil {
			return built, nil
		}
	}
	return exec.LookPath("docker")
}

// podman uses runc, so that its runtime is the same as docker's. The limits it sets by
// itself need privileges that not every machine gives.
func (b *bench) podman(ctx context.Context) (*peer, error) {
	program, err := exec.LookPath("podman")
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, err
	}
	p, err := b.newPeer(ctx, "podman")
	if err != nil {
		return nil, err
	}
	p.client = []string{program, "--root", filepath.Join(p.dir, "d"), "--runroot", filepath.Join(p.dir, "r"), "--tmpdir", filepath.Join(p.dir, "tmp"),
		"--storage-driver", "overlay", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"}
	p.runFlags = []string{"--cgroup-parent", "/" + b.cgroup(), "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--log-driver", "k8s-file"}
	p.keepers = []string{"conmon"}
	p.form = func(verb string, args []string) []string {
		switch {
		case verb == "pull" || verb == "push":
			args = slices.Insert(slices.Clone(args), 0, "--tls-verify=false")
		case verb == "rm" && args[0] == "-f":
			args = slices.Insert(slices.Clone(args), 0, "--time", "0") // as the others, which do not ask first
		}
		return append([]string{verb}, args...)
	}
	return p, nil
}

// command is the peer's command line for a subcommand.
func (p *peer) command(verb string, args ...string) []string {
	if verb == "run" || verb == "create" {
		args = slices.Concat(p.runFlags, args)
	}
	words := append([]string{verb}, args...)
	if p.form != nil {
		words = p.form(verb, args)
	}
	return slices.Concat(p.client, words)
}

// do runs a subcommand and says how long it took.
func (p *peer) do(ctx context.Context, verb string, args ...string) (time.Duration, error) {
	_, took, err := p.space.run(ctx, p.env, p.command(verb, args...)...)
	return took, err
}

// ask runs a subcommand and returns its answer.
func (p *peer) ask(ctx context.Context, verb string, args ...string) (string, error) {
	out, _, err := p.space.run(ctx, p.env, p.command(verb, args...)...)
	return strings.TrimSpace(out), err
}

// startEngine starts the daemon, if there is one, and waits until it answers.
func (p *peer) startEngine(ctx context.Context) error {
	if p.engine == nil {
		return nil
	}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.engine[0], p.engine[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.space.start(ctx, cmd); err != nil {
		return err
	}
	p.live, p.ended = cmd, make(chan error, 1)
	go func() { p.ended <- wait(cmd) }()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err = p.do(ctx, "version"); err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		select {
		case err := <-p.ended:
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%s ended: %v: %s", p.engine[0], err, lastLine(string(said)))
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w", p.engine[0], err)
		}
	}
}

// stopEngine ends the daemon, if there is one; containers go on.
func (p *peer) stopEngine(ctx context.Context) error {
	if p.live == nil {
		return nil
	}
	_ = p.live.Process.Signal(unix.SIGTERM)
	select {
	case <-p.ended:
		p.live = nil
		return nil
	case <-time.After(60 * time.Second):
		return fmt.Errorf("%s does not end", p.engine[0])
	case <-ctx.Done():
		return ctx.Err()
	}
}

// restartEngine replaces the daemon by a fresh one with the same state.
func (p *peer) restartEngine(ctx context.Context) error {
	if err := p.stopEngine(ctx); err != nil {
		return err
	}
	return p.startEngine(ctx)
}

// version is what the peer says of itself in one line.
func (p *peer) version(ctx context.Context) string {
	out, _, err := p.space.run(ctx, p.env, p.client[0], "--version")
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if p.engine != nil && p.name != "berth" {
		if out, _, err := p.space.run(ctx, p.env, p.engine[0], "--version"); err == nil {
			line = strings.TrimSpace(out) + "; client: " + line
		}
	}
	return line
}

// close ends everything that was started and removes what it made. It works after an error
// and after ^C as well.
func (b *bench) close() error {
	failed := endAll()
	for _, step := range []func() error{
		func() error { return unmountBelow(b.dir) },
		func() error { return removeCgroups(b.cgroup()) },
		func() error { return os.RemoveAll(b.dir) },
	} {
		if err := step(); failed == nil {
			failed = err
		}
	}
	return failed
}
