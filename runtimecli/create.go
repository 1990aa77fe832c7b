package runtimecli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/kernel"
	"berth/kernel/cgroup"
	oci "berth/oci/bundle"
	"berth/runtime"
)

// creation are the flags that create and run share.
type creation struct {
	bundle, pidFile, consoleSocket, pidfdSocket string
	noPivot, noNewKeyring                       bool
	preserveFDs                                 int
}

func creationFlags(f *flag.FlagSet) *creation {
	o := new(creation)
	for _, name := range []string{"bundle", "b"} {
		f.StringVar(&o.bundle, name, "", "directory with config.json (default: the working directory)")
	}
	f.StringVar(&o.pidFile, "pid-file", "", "file to write the process id to")
	f.StringVar(&o.consoleSocket, "console-socket", "", "unix socket that receives the master of the terminal")
	f.StringVar(&o.pidfdSocket, "pidfd-socket", "", "unix socket that receives a descriptor of the process")
	f.BoolVar(&o.noPivot, "no-pivot", false, "enter the root with chroot (for a host that runs from a ramdisk)")
	f.BoolVar(&o.noNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	f.IntVar(&o.preserveFDs, "preserve-fds", 0, "pass on `N` further descriptors after standard error")
	return o
}

func createFlags(f *flag.FlagSet) action {
	o := creationFlags(f)
	return func(ctx context.Context, a *app, args []string) (int, error) {
		c, err := a.create(ctx, args[0], o, true, true)
		if err != nil {
			return 1, failed("create", err)
		}
		c.Release()
		return 0, nil
	}
}

// failed words the error of a start, as far as runc's words are known to callers.
func failed(verb string, err error) error {
	if errors.Is(err, errExists) {
		return err
	}
	// These two are the classes of a program that is missing or cannot be executed.
	if c := fail.Of(err); c == fail.NotFound || c == fail.Forbidden {
		err = fmt.Errorf("unable to start container process: %w", err)
	}
	return fmt.Errorf("%s %s failed: %w", program, verb, err)
}

// create makes a container and everything that is kept of it, or nothing. With wait its
// process waits for start; detached says that this program will not stay.
func (a *app) create(ctx context.Context, id string, o *creation, wait, detached bool) (_ *runtime.Container, err error) {
	if err := kernel.CheckRelease(); err != nil {
		return nil, err
	}
	bundle, err := filepath.Abs(o.bundle)
	if err != nil {
		return nil, err
	}
	spec, err := readSpec(bundle)
	if err != nil {
		return nil, err
	}
	if err := a.placeGroup(id, spec); err != nil {
		return nil, err
	}
	if err := checkConsole(spec.Process, o.consoleSocket, detached); err != nil {
		return nil, err
	}
	extra, err := o.descriptors(spec.Process)
	if err != nil {
		return nil, err
	}
	if err := a.reserve(id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(a.dir(id))
		}
	}()
	if err := a.prepareNotify(id, spec); err != nil {
		return nil, err
	}
	cfg := runtime.Config{ID: id, Bundle: bundle, Spec: spec, Extra: extra, NoNewKeyring: o.noNewKeyring, NoPivot: o.noPivot,
		Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}}
	if wait {
		if err := a.makeFifo(id); err != nil {
			return nil, err
		}
		cfg.ExecFifo = a.fifo(id)
	}
	// The home is this user's: exec's process, whose environment is made of what is kept, may be another's.
	env := spec.Process.Env
	cfg.Prepare = func(root *os.File) error {
		spec.Process.Env = withHome(spec.Process, root)
		return nil
	}
	c, err := runtime.Create(ctx, cfg)
	if err != nil {
		return nil, err
	}
	spec.Process.Env = env
	a.warn(c.Warnings())
	if err := a.announce(c, o); err != nil {
		return nil, errors.Join(err, a.destroy(id, c))
	}
	return c, nil
}

// withHome is the environment of a process with HOME, which callers leave to the runtime, as runc does:
// the home of its user by the container's own passwd(5), "/" if that does not tell.
func withHome(p *oci.Process, root *os.File) []string {
	const name = "HOME="
	env := slices.DeleteFunc(slices.Clone(p.Env), func(e string) bool { return e == name })
	if root == nil || slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name) }) {
		return env
	}
	_, home, err := runtime.ResolveUser(root, strconv.FormatUint(uint64(p.User.UID), 10), nil)
	if err != nil || strings.IndexByte(home, 0) >= 0 {
		home = "/"
	}
	return append(env, name+home)
}

// announce makes a new container known to everybody who waits for it.
func (a *app) announce(c *runtime.Container, o *creation) error {
	if o.consoleSocket != "" {
		if err := sendFile(o.consoleSocket, c.Console()); err != nil {
			return fmt.Errorf("send the terminal: %w", err)
		}
	}
	if o.pidfdSocket != "" {
		if err := sendPidfd(o.pidfdSocket, c.Pid()); err != nil {
			return err
		}
	}
	if err := a.save(c); err != nil {
		return err
	}
	return writePidFile(o.pidFile, c.Pid())
}

func writePidFile(path string, pid int) error {
	if path == "" {
		return nil
	}
	return durable.WriteFileVolatile(path, []byte(strconv.Itoa(pid)), 0o644)
}

func readSpec(bundle string) (*oci.Spec, error) {
	path := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fail.New(fail.Invalid, "JSON specification file config.json not found in %s", bundle)
	}
	if err != nil {
		return nil, err
	}
	var spec oci.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fail.New(fail.Invalid, "%s: %w", path, err)
	}
	if spec.Process == nil {
		return nil, fail.New(fail.Invalid, "%s: process property must not be empty", path)
	}
	return &spec, nil
}

// placeGroup holds the specification to --systemd-cgroup.
func (a *app) placeGroup(id string, spec *oci.Spec) error {
	if !a.systemd || spec.Linux == nil {
		return nil
	}
	if spec.Linux.CgroupsPath == "" {
		spec.Linux.CgroupsPath = cgroup.Scope("", "berth", id)
	}
	if p := spec.Linux.CgroupsPath; !cgroup.IsScope(p) {
		return fail.New(fail.Invalid, "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got %q instead", p)
	}
	return nil
}

// checkConsole refuses a terminal that nobody would hold, and a receiver of none.
func checkConsole(p *oci.Process, socket string, detached bool) error {
	switch {
	case p.Terminal && detached && socket == "":
		return fail.New(fail.Invalid, "cannot allocate tty if %s will detach without setting console socket", program)
	case (!p.Terminal || !detached) && socket != "":
		return fail.New(fail.Invalid, "cannot use console socket if %s will not detach or allocate tty", program)
	}
	return nil
}

// descriptors are those that the caller hands through to the container: sockets of a
// service manager (sd_listen_fds(3)) and then the ones of --preserve-fds, all from 3 on.
func (o *creation) descriptors(p *oci.Process) ([]*os.File, error) {
	listen, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid := os.Getenv("LISTEN_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) || listen < 0 {
		listen = 0
	}
	if listen > 0 {
		p.Env = append(p.Env, "LISTEN_FDS="+strconv.Itoa(listen), "LISTEN_PID=1")
	}
	return preserved(listen + o.preserveFDs)
}

func preserved(n int) ([]*os.File, error) {
	if n < 0 {
		return nil, fail.New(fail.Invalid, "invalid number of descriptors %d", n)
	}
	var files []*os.File
	for fd := 3; fd < 3+n; fd++ {
		// What this program has opened itself is closed on exec, what it was given is not.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			return nil, fail.New(fail.Invalid, "cannot preserve descriptor %d: it is not open", fd)
		}
		files = append(files, os.NewFile(uintptr(fd), "fd "+strconv.Itoa(fd)))
	}
	return files, nil
}

func start(ctx context.Context, a *app, args []string) (int, error) {
	c, _, status, err := a.find(args[0])
	if err != nil {
		return 1, err
	}
	defer c.Release()
	switch status {
	case created:
		notify, err := a.listenNotify(args[0])
		if err != nil {
			return 1, err
		}
		defer notify.close()
		if err := c.Start(ctx); err != nil {
			if failed := (*runtime.HookError)(nil); errors.As(err, &failed) {
				err = errors.Join(err, a.destroy(args[0], c))
			}
			return 1, err
		}
		return 0, notify.relay(ctx, c)
	case stopped:
		return 1, fail.New(fail.Conflict, "cannot start a container that has stopped")
	}
	return 1, fail.New(fail.Conflict, "cannot start an already running container")
}

func runFlags(f *flag.FlagSet) action {
	o := creationFlags(f)
	detach := both(f.BoolVar, f, "detach", "d", false, "do not wait for the container")
	keep := f.Bool("keep", false, "do not remove the container when its process has ended")
	f.Bool("no-subreaper", false, "accepted for the sake of callers: orphans are never collected here")
	return func(ctx context.Context, a *app, args []string) (int, error) {
		var caught *caughtSignals
		if !*detach {
			caught = catchSignals()
			defer caught.release()
		}
		c, err := a.create(ctx, args[0], o, false, *detach)
		if err != nil {
			return 1, failed("run", err)
		}
		notify, err := a.listenNotify(args[0])
		if err != nil {
			return 1, failed("run", errors.Join(err, a.destroy(args[0], c)))
		}
		defer notify.close()
		if *detach {
			err := c.Start(ctx)
			if err == nil {
				err = notify.relay(ctx, c)
			}
			if err != nil {
				return 1, failed("run", errors.Join(err, a.destroy(args[0], c)))
			}
			c.Release()
			return 0, nil
		}
		ready, told := context.WithCancel(ctx)
		var relay sync.WaitGroup
		relay.Go(func() {
			if err := notify.relay(ready, c); err != nil && ready.Err() == nil {
				a.warn([]string{"notify: " + err.Error()})
			}
		})
		defer relay.Wait()
		defer told()
		code, err := a.foreground(&c.Process, caught, func() error { return c.Start(ctx) })
		if err != nil {
			return 1, failed("run", errors.Join(err, a.destroy(args[0], c)))
		}
		if *keep {
			c.Release()
			return code, nil
		}
		return code, a.destroy(args[0], c)
	}
}
