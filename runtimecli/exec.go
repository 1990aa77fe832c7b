package runtimecli

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
	"berth/kernel"
	oci "berth/oci/bundle"
	"berth/runtime"
)

// execution are the flags of exec.
type execution struct {
	file, consoleSocket, pidfdSocket, cwd, user, pidFile string
	label, apparmor                                      string
	env, groups, caps, cgroups                           list
	tty, detach, noNewPrivs, ignorePaused                bool
	preserveFDs                                          int
}

func execFlags(f *flag.FlagSet) action {
	o := new(execution)
	text := func(p *string, about string, names ...string) {
		for _, n := range names {
			f.StringVar(p, n, "", about)
		}
	}
	yes := func(p *bool, about string, names ...string) {
		for _, n := range names {
			f.BoolVar(p, n, false, about)
		}
	}
	many := func(p *list, about string, names ...string) {
		for _, n := range names {
			f.Var(p, n, about)
		}
	}
	text(&o.file, "file with the process as JSON", "process", "p")
	text(&o.consoleSocket, "unix socket that receives the master of the terminal", "console-socket")
	text(&o.pidfdSocket, "unix socket that receives a descriptor of the process", "pidfd-socket")
	text(&o.cwd, "working directory", "cwd")
	text(&o.user, "`UID[:GID]`", "user", "u")
	text(&o.pidFile, "file to write the process id to", "pid-file")
	text(&o.label, "SELinux label", "process-label")
	text(&o.apparmor, "AppArmor profile", "apparmor")
	many(&o.env, "environment variable `NAME=VALUE`", "env", "e")
	many(&o.groups, "additional group id", "additional-gids", "g")
	many(&o.caps, "additional capability", "cap", "c")
	many(&o.cgroups, "existing group below the container's to run in, `[CONTROLLER[,...]:]PATH`", "cgroup")
	yes(&o.tty, "allocate a terminal", "tty", "t")
	yes(&o.detach, "do not wait for the process", "detach", "d")
	yes(&o.noNewPrivs, "let the process gain no privileges", "no-new-privs")
	yes(&o.ignorePaused, "wait until a paused container goes on", "ignore-paused")
	f.IntVar(&o.preserveFDs, "preserve-fds", 0, "pass on `N` further descriptors after standard error")
	return func(ctx context.Context, a *app, args []string) (int, error) {
		code, err := a.exec(ctx, o, args[0], args[1:])
		if err != nil {
			return 255, fmt.Errorf("exec failed: %w", err)
		}
		return code, nil
	}
}

func (a *app) exec(ctx context.Context, o *execution, id string, args []string) (int, error) {
	c, st, status, err := a.find(id)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	switch {
	case status == stopped:
		return 0, fail.New(fail.Conflict, "cannot exec in a stopped container")
	case status == paused && !o.ignorePaused:
		return 0, fail.New(fail.Conflict, "cannot exec in a paused container (use --ignore-paused to override)")
	}
	proc, err := o.process(st.Spec.Process, args)
	if err != nil {
		return 0, err
	}
	if err := checkConsole(proc, o.consoleSocket, o.detach); err != nil {
		return 0, err
	}
	proc.Env = withHome(proc, c.Root())
	extra, err := preserved(o.preserveFDs)
	if err != nil {
		return 0, err
	}
	groups, err := subgroups(o.cgroups)
	if err != nil {
		return 0, err
	}
	var caught *caughtSignals
	if !o.detach {
		caught = catchSignals()
		defer caught.release()
	}
	p, err := c.Exec(ctx, runtime.ExecConfig{Process: proc, Extra: extra, Groups: groups, Leave: o.detach, Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		if cl := fail.Of(err); cl == fail.NotFound || cl == fail.Forbidden {
			err = fmt.Errorf("unable to start container process: %w", err)
		}
		return 0, err
	}
	defer p.Release()
	if err := o.announce(p); err != nil {
		p.Signal(killSignal)
		p.Wait()
		return 0, err
	}
	if o.detach {
		return 0, nil
	}
	return a.foreground(p, caught, func() error { return nil })
}

func (o *execution) announce(p *runtime.Process) error {
	if o.consoleSocket != "" {
		if err := sendFile(o.consoleSocket, p.Console()); err != nil {
			return fmt.Errorf("send the terminal: %w", err)
		}
	}
	if o.pidfdSocket != "" {
		if err := sendPidfd(o.pidfdSocket, p.Pid()); err != nil {
			return err
		}
	}
	return writePidFile(o.pidFile, p.Pid())
}

// process is what to execute: the one in the file, or the container's own with the
// changes that the flags ask for.
func (o *execution) process(base *oci.Process, args []string) (*oci.Process, error) {
	if o.file != "" {
		text, err := os.ReadFile(o.file)
		if err != nil {
			return nil, err
		}
		p := new(oci.Process)
		if err := json.Unmarshal(text, p); err != nil {
			return nil, fail.New(fail.Invalid, "%s: %w", o.file, err)
		}
		return p, nil
	}
	if len(args) == 0 {
		return nil, fail.New(fail.Invalid, "process args cannot be empty")
	}
	p := *base
	p.Args, p.Terminal, p.ConsoleSize = args, o.tty, nil
	p.Env = append(slices.Clone(base.Env), o.env...)
	if o.cwd != "" {
		p.Cwd = o.cwd
	}
	if o.label != "" {
		p.SelinuxLabel = o.label
	}
	if o.apparmor != "" {
		p.ApparmorProfile = o.apparmor
	}
	p.NoNewPrivileges = p.NoNewPrivileges || o.noNewPrivs
	if len(o.caps) > 0 {
		caps, err := withCapabilities(base.Capabilities, o.caps)
		if err != nil {
			return nil, err
		}
		p.Capabilities = caps
	}
	return &p, o.setUser(&p.User)
}

// subgroups reads --cgroup: one path for all controllers, or some for each of them.
func subgroups(list []string) (map[string]string, error) {
	groups := map[string]string{}
	for _, text := range list {
		controllers, path, named := strings.Cut(text, ":")
		if !named {
			controllers, path = "", text
		}
		if path == "" {
			return nil, fail.New(fail.Invalid, "invalid --cgroup %q: must be [CONTROLLER[,...]:]PATH", text)
		}
		for name := range strings.SplitSeq(controllers, ",") {
			if _, twice := groups[name]; twice {
				return nil, fail.New(fail.Invalid, "--cgroup %q: a control group is given twice", text)
			}
			groups[name] = path
		}
	}
	return groups, nil
}

func withCapabilities(base *specs.LinuxCapabilities, names []string) (*specs.LinuxCapabilities, error) {
	caps := new(specs.LinuxCapabilities)
	if base != nil {
		*caps = *base
	}
	for _, name := range names {
		c, ok := kernel.ParseCapability(name)
		if !ok {
			return nil, fail.New(fail.Invalid, "unknown capability %q", name)
		}
		for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
			if !slices.Contains(*set, c.String()) {
				*set = append(slices.Clone(*set), c.String())
			}
		}
	}
	return caps, nil
}

func (o *execution) setUser(u *oci.User) error {
	number := func(what, s string) (uint32, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return 0, fail.New(fail.Invalid, "invalid %s %q: must be a number", what, s)
		}
		return uint32(n), nil
	}
	if o.user != "" {
		uid, gid, both := strings.Cut(o.user, ":")
		n, err := number("user", uid)
		if err != nil {
			return err
		}
		u.UID = n
		if both {
			if u.GID, err = number("group", gid); err != nil {
				return err
			}
		}
	}
	u.AdditionalGids = slices.Clone(u.AdditionalGids)
	for _, g := range o.groups {
		n, err := number("group", g)
		if err != nil {
			return err
		}
		u.AdditionalGids = append(u.AdditionalGids, n)
	}
	return nil
}
