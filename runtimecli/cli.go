// Package runtimecli is runc's command line in front of package runtime, so that
// containerd, podman, CRI-O and scripts can use Berth's runtime: the commands, flags, JSON
// forms and error words that they rely on.
//
// A container's state is a directory <root>/<id> with state.json (runtime.State) and, from
// create to start, the exec fifo. Nobody supervises the container: the caller, or whoever
// adopts orphans there, is the parent of its first process once the command has returned.
//
// Flags are parsed by the standard library, which takes -flag and --flag alike and costs
// nothing at start.
package runtimecli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/version"
)

const program = "berth-runtime"

// app is one run of the program.
type app struct {
	store
	stdout, stderr io.Writer
	log            string
	logJSON        bool
	systemd        bool         // has to make control groups
	protect        func() error // called before this program is exposed to a container
}

// action is what a command does once its flags are parsed. It returns the exit status.
type action func(ctx context.Context, a *app, args []string) (int, error)

// command is one verb. flags defines its flags and returns its action. min and max bound
// the number of arguments; max < 0: no bound.
type command struct {
	name, usage string
	about       string
	min, max    int
	literal     bool // flags end at the first argument: the rest belongs to another program
	exposed     bool // processes in a container can see this program, see protect
	flags       func(f *flag.FlagSet) action
}

var commands = []command{
	{"create", "[options] ID", "create a container from a bundle", 1, 1, false, true, createFlags},
	{"start", "ID", "let a created container's process execute", 1, 1, false, false, plain(start)},
	{"run", "[options] ID", "create and start a container, and wait for it", 1, 1, false, true, runFlags},
	{"state", "ID", "print a container's state", 1, 1, false, false, plain(state)},
	{"kill", "[options] ID [SIGNAL]", "send a signal (default SIGTERM) to a container", 1, 2, false, false, killFlags},
	{"delete", "[options] ID", "remove what is held of a container", 1, 1, false, false, deleteFlags},
	{"exec", "[options] ID COMMAND [ARG...]", "execute a further process in a container", 1, -1, true, true, execFlags},
	{"ps", "[options] ID [PS-OPTION...]", "list a container's processes", 1, -1, true, false, psFlags},
	{"list", "[options]", "list containers", 0, 0, false, false, listFlags},
	{"pause", "ID", "freeze a container", 1, 1, false, false, plain(pause)},
	{"resume", "ID", "let a paused container go on", 1, 1, false, false, plain(resume)},
	{"update", "[options] ID", "change a container's limits", 1, 1, false, false, updateFlags},
	{"events", "[options] ID", "print statistics and out-of-memory events as they come", 1, 1, false, false, eventsFlags},
	{"spec", "[options]", "write a configuration to start from", 0, 0, false, false, specFlags},
	{"features", "", "print what this runtime can do, as JSON", 0, 0, false, false, plain(features)},
}

func plain(do action) func(*flag.FlagSet) action {
	return func(*flag.FlagSet) action { return do }
}

// Main runs one command and returns the program's exit status.
func Main(args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr, protect: protect}
	return a.execute(args)
}

func (a *app) execute(args []string) int {
	status, err := a.main(args)
	if err == nil {
		return status
	}
	if status == 0 {
		status = 1
	}
	a.complain(err)
	return status
}

// globals are the flags that stand before the command.
type globals struct {
	root, log, format, rootless *string
	systemd, version            *bool
}

func globalFlags(f *flag.FlagSet) *globals {
	g := &globals{
		root:     f.String("root", defaultRoot(), "directory for the state of containers"),
		log:      f.String("log", "", "file for error messages, besides standard error"),
		format:   f.String("log-format", "text", "text or json"),
		rootless: f.String("rootless", "auto", "true, false or auto; control groups that cannot be written are left out in any case"),
		systemd:  f.Bool("systemd-cgroup", false, "have systemd make control groups: cgroupsPath is \"slice:prefix:name\""),
		version:  both(f.BoolVar, f, "version", "v", false, "print the version"),
	}
	f.String("criu", "criu", "accepted for the sake of callers: containers are not checkpointed")
	f.Bool("debug", false, "accepted for the sake of callers: there are no debug messages")
	return g
}

func (a *app) main(args []string) (int, error) {
	f := newFlags(program)
	g := globalFlags(f)
	if err := f.Parse(args); err != nil {
		return a.helpOr(err, func() { a.usage(f) })
	}
	a.systemd = *g.systemd
	a.root, a.log, a.logJSON = *g.root, *g.log, *g.format == "json"
	args = f.Args()
	switch {
	case *g.format != "text" && *g.format != "json":
		return 1, fail.New(fail.Invalid, "invalid log format %q: must be text or json", *g.format)
	case *g.rootless != "auto" && *g.rootless != "true" && *g.rootless != "false":
		return 1, fail.New(fail.Invalid, "invalid value %q for --rootless: must be true, false or auto", *g.rootless)
	case *g.version:
		fmt.Fprintf(a.stdout, "%s version %s\ncommit: %s\nspec: %s\ngo: %s\n", program, version.Version, version.Commit, specs.Version, runtime.Version())
		return 0, nil
	case len(args) == 0 || args[0] == "help":
		a.usage(f)
		return 0, nil
	}
	for _, c := range commands {
		if c.name == args[0] {
			return a.run(&c, args[1:])
		}
	}
	return 1, fail.New(fail.Invalid, "unknown command %q: see %s --help", args[0], program)
}

func (a *app) run(c *command, args []string) (int, error) {
	f := newFlags(c.name)
	do := c.flags(f)
	var rest []string
	for {
		if err := f.Parse(args); err != nil {
			return a.helpOr(err, func() {
				fmt.Fprintf(a.stdout, "Usage: %s %s %s\n\n%s\n\n", program, c.name, c.usage, c.about)
				f.SetOutput(a.stdout)
				f.PrintDefaults()
			})
		}
		args = f.Args()
		if c.literal || len(args) == 0 {
			rest = append(rest, args...)
			break
		}
		// Flags may follow arguments.
		rest, args = append(rest, args[0]), args[1:]
	}
	if len(rest) < c.min || c.max >= 0 && len(rest) > c.max {
		return 1, fail.New(fail.Invalid, "usage: %s %s %s", program, c.name, c.usage)
	}
	if c.min > 0 {
		if err := checkID(rest[0]); err != nil {
			return 1, err
		}
	}
	if c.exposed {
		if err := a.protect(); err != nil {
			return 1, err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	// Each signal given back costs two thread switches, and mostly the program ends first.
	defer func() { go stop() }()
	return do(ctx, a, rest)
}

// protect starts this program again, from where no container can change it.
func protect() error {
	if kernel.IsProtected() {
		// The kernel knows us by the descriptor we were executed by; this is for ps(1).
		_ = os.WriteFile("/proc/self/comm", []byte(program), 0)
		return nil
	}
	f, err := kernel.ProtectedProgram("/proc/self/exe")
	if err != nil {
		return err
	}
	defer f.Close()
	return fmt.Errorf("start %s again from a protected place: %w", program, unix.Exec(kernel.ExecPath(f), os.Args, os.Environ()))
}

func newFlags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

func (a *app) helpOr(err error, help func()) (int, error) {
	if errors.Is(err, flag.ErrHelp) {
		help()
		return 0, nil
	}
	return 1, fail.Mark(fail.Invalid, err)
}

func (a *app) usage(f *flag.FlagSet) {
	fmt.Fprintf(a.stdout, "Usage: %s [options] COMMAND\n\nCommands:\n", program)
	for _, c := range commands {
		fmt.Fprintf(a.stdout, "  %-10s%s\n", c.name, c.about)
	}
	fmt.Fprintln(a.stdout, "\nOptions:")
	f.SetOutput(a.stdout)
	f.PrintDefaults()
}

// both defines a flag under its long and its short name.
func both[T any](define func(*T, string, T, string), f *flag.FlagSet, long, short string, value T, about string) *T {
	p := new(T)
	define(p, long, value, about)
	define(p, short, value, "short for --"+long)
	return p
}

// list is a flag that can be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// complain reports the error that ends the program. Callers such as containerd's shim take
// the last line of level "error" in the log file as the reason.
func (a *app) complain(err error) {
	text := strings.TrimSpace(err.Error())
	fmt.Fprintln(a.stderr, text)
	a.record("error", text)
}

func (a *app) record(level, text string) {
	if a.log == "" {
		return
	}
	f, err := os.OpenFile(a.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_CLOEXEC, 0o644)
	if err != nil {
		fmt.Fprintln(a.stderr, err)
		return
	}
	defer f.Close()
	now := time.Now().Format(time.RFC3339)
	if !a.logJSON {
		fmt.Fprintf(f, "time=%q level=%s msg=%q\n", now, level, text)
		return
	}
	json.NewEncoder(f).Encode(struct {
		Level string `json:"level"`
		Msg   string `json:"msg"`
		Time  string `json:"time"`
	}{level, text, now})
}

// warn reports what is not as it should be, and no reason to stop.
func (a *app) warn(texts []string) {
	for _, t := range texts {
		if a.log == "" {
			fmt.Fprintln(a.stderr, "warning: "+t)
		}
		a.record("warning", t)
	}
}
