package engine

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"berth/fail"
	"berth/supervisor"
)

// OwnRuntime is the name of the runtime that needs no program: the shim's own.
const OwnRuntime = "berth"

// stockRuntimes can be asked for without being registered, if they are in the PATH.
var stockRuntimes = []string{"crun", "runc", "runsc"}

// Runtime is an external OCI runtime: a program with runc's command line, and global
// options for it. Path is absolute, or a name to be found in the PATH.
type Runtime struct {
	Path string
	Args []string
}

// Runtimes are the runtimes that containers may name.
type Runtimes struct {
	Default    string // of containers that name none; empty: OwnRuntime
	Registered map[string]Runtime
}

// CheckRuntimes validates a configuration: names and paths, not whether the programs
// are there, which may be installed later.
func CheckRuntimes(r Runtimes) error {
	for name, rt := range r.Registered {
		switch {
		case name == OwnRuntime:
			return fail.New(fail.Invalid, "runtime name %q is reserved for the built-in runtime", name)
		case !nameForm.MatchString(name):
			return fail.New(fail.Invalid, "invalid runtime name %q: use letters, digits, '_', '.' and '-'", name)
		case rt.Path == "":
			return fail.New(fail.Invalid, "runtime %s has no path", name)
		case strings.Contains(rt.Path, "/") && !filepath.IsAbs(rt.Path):
			return fail.New(fail.Invalid, "runtime %s: %q is neither an absolute path nor the name of a program in the PATH", name, rt.Path)
		}
	}
	if d := r.Default; d != "" && d != OwnRuntime && !slices.Contains(stockRuntimes, d) {
		if _, ok := r.Registered[d]; !ok {
			return fail.New(fail.Invalid, "the default runtime %q is not known: register it with --add-runtime %s=PATH or in daemon.json", d, d)
		}
	}
	return nil
}

// runtimes finds runtimes by name. Its configuration may be replaced at any time;
// containers that run keep what made them.
type runtimes struct{ now atomic.Pointer[Runtimes] }

func newRuntimes(r Runtimes) *runtimes {
	out := new(runtimes)
	out.now.Store(&r)
	return out
}

func (r *runtimes) byDefault() string {
	if d := r.now.Load().Default; d != "" {
		return d
	}
	return OwnRuntime
}

// get returns the runtime of that name, nil for our own. A program that is not there is
// an error now rather than when the container is half made.
func (r *runtimes) get(name string) (*supervisor.Runtime, error) {
	if name == "" || name == OwnRuntime {
		return nil, nil
	}
	configured := r.now.Load()
	rt, registered := configured.Registered[name]
	if !registered {
		switch {
		case strings.Contains(name, "/"):
			return nil, fail.New(fail.Invalid, "unknown or invalid runtime name: %s: a program must be registered to be used: start berthd with --add-runtime NAME=%s, or name it under \"runtimes\" in daemon.json", name, name)
		case !slices.Contains(stockRuntimes, name):
			known := append(sortedKeys(configured.Registered), append([]string{OwnRuntime}, stockRuntimes...)...)
			return nil, fail.New(fail.Invalid, "unknown or invalid runtime name: %s (known here: %s; others are registered with --add-runtime NAME=PATH or in daemon.json)", name, strings.Join(slices.Compact(known), ", "))
		}
		rt = Runtime{Path: name}
	}
	out := &supervisor.Runtime{Name: name, Path: rt.Path, Args: rt.Args}
	if !filepath.IsAbs(rt.Path) {
		path, err := exec.LookPath(rt.Path)
		if err != nil {
			return nil, fail.New(fail.Invalid, "runtime %s: there is no program %s in the engine's PATH: install it, or give its place with --add-runtime %s=PATH or in daemon.json", name, rt.Path, name)
		}
		out.Path = path
	}
	return out, out.Check()
}

// SetRuntimes replaces the configured runtimes, for containers that start from now on.
func (e *Engine) SetRuntimes(r Runtimes) { e.life.runtimes.now.Store(&r) }

// Runtimes tells the default runtime and the programs that containers can name: all
// registered ones, and the stock ones that are installed.
func (e *Engine) Runtimes() Runtimes {
	r := e.life.runtimes
	out := Runtimes{Default: r.byDefault(), Registered: map[string]Runtime{}}
	for _, name := range stockRuntimes {
		if path, err := exec.LookPath(name); err == nil {
			out.Registered[name] = Runtime{Path: path}
		}
	}
	for name, rt := range r.now.Load().Registered {
		out.Registered[name] = rt
	}
	return out
}
