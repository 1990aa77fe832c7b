// Package cli is Berth's command line: Docker's names, flags, output and exit codes, spoken to
// any engine that serves the Docker Engine API.
//
// Main is its one door. Each command lives in a file of its own and is built by a function
// taking the app, which connects lazily: a command that needs no engine never dials one.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"berth/api/client"
	"berth/version"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	mobyclient "github.com/moby/moby/client"
	"github.com/moby/term"
)

// Streams are the standard streams of one invocation. A stream that is an *os.File on a
// terminal gets a terminal's treatment (raw mode, progress bars, prompts).
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// app is what every command shares: the streams, the global options, and the engine and the
// configuration once somebody asks for them.
type app struct {
	Streams
	name          string // of the program, in its own words: "berth", or "docker" under that name
	understood    bool   // the global options were
	engineOptions client.Options
	debug         bool
	logLevel      string
	words         []string // the command line from the command's name on
	connect       func(client.Options) (*mobyclient.Client, error)

	// stopCancelOnSignal gives SIGINT and SIGTERM back to the default action, for the commands
	// that forward signals to a container instead of being cancelled by them.
	stopCancelOnSignal func()
	forwardingSignals  atomic.Bool

	engineOnce sync.Once
	engineConn *mobyclient.Client
	engineErr  error
	met        chan struct{} // closed when meetEngine is done; nil: it was not called

	configOnce sync.Once
	configFile *configfile.ConfigFile
}

// Main runs one command line (args[0] is the program) and returns its exit code. It never
// calls os.Exit, so terminals are always restored by the deferred calls below it.
func Main(args []string, streams Streams) int {
	return run(args, streams, client.New)
}

func run(args []string, streams Streams, connect func(client.Options) (*mobyclient.Client, error)) int {
	a := &app{Streams: streams, name: programName(args[0]), connect: connect}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	a.stopCancelOnSignal = func() { signal.Stop(interrupted) }
	go func() {
		select {
		case <-interrupted:
			// The next one has its default action: a command that does not heed ctx dies of it.
			signal.Stop(interrupted)
			cancel()
		case <-ctx.Done():
		}
	}()

	root := newRoot(a, args[1:])
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	if a.engineConn != nil {
		defer a.engineConn.Close()
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return 128 + int(syscall.SIGINT)
	}
	if !a.understood && err != nil && !errors.As(err, new(usageError)) && !errors.As(err, new(statusError)) {
		// An option before the command, where cobra does not ask the root how to tell it.
		err = usageError{code: 125, command: a.name, message: err.Error()}
	}
	return a.report(err)
}

// programName is what the program calls itself. A link named docker makes it take that name in
// help and errors, for people and scripts that know no other.
func programName(path string) string {
	if filepath.Base(path) == "docker" {
		return "docker"
	}
	return "berth"
}

// engine returns the connection to the engine, made on first use.
func (a *app) engine() (*mobyclient.Client, error) {
	if a.met != nil {
		<-a.met
	}
	return a.dialEngine()
}

func (a *app) dialEngine() (*mobyclient.Client, error) {
	a.engineOnce.Do(func() {
		o := a.engineOptions
		if o.UserAgent == "" {
			o.UserAgent = "Berth-Client/" + version.Version + " (linux)"
		}
		a.engineConn, a.engineErr = a.connect(o)
	})
	return a.engineConn, a.engineErr
}

// meetEngine begins to connect and to agree on a version while the command still reads its
// flags and files; engine waits for it. What fails here fails again, and is told, at the
// first request.
func (a *app) meetEngine(ctx context.Context) {
	a.met = make(chan struct{})
	go func() {
		defer close(a.met)
		if engine, err := a.dialEngine(); err == nil {
			_, _ = engine.Ping(ctx, mobyclient.PingOptions{NegotiateAPIVersion: true})
		}
	}()
}

// config returns config.json, read on first use. An unreadable file is reported once and
// treated as empty, so that a broken one cannot stop `berth ps`.
func (a *app) config() *configfile.ConfigFile {
	a.configOnce.Do(func() {
		file, err := config.Load(config.Dir())
		if err != nil {
			fmt.Fprintf(a.Err, "WARNING: Error loading config file: %v\n", err)
		}
		if file == nil {
			file = configfile.New("")
		}
		a.configFile = file
	})
	return a.configFile
}

// detachKeys is the sequence that leaves a container running: the flag, else config.json,
// else the engine's default (empty).
func (a *app) detachKeys(flag string) string {
	if flag != "" {
		return flag
	}
	return a.config().DetachKeys
}

// terminalOf returns the descriptor behind a stream and whether it is a terminal.
func terminalOf(stream any) (fd uintptr, ok bool) {
	f, isFile := stream.(*os.File)
	if !isFile || f == nil {
		return 0, false
	}
	return f.Fd(), term.IsTerminal(f.Fd())
}

// statusError ends the command with an exit code. An empty message prints nothing: the code
// is the container's own.
type statusError struct {
	code    int
	message string
	named   bool // the program's name comes before the message
}

func (e statusError) Error() string { return e.message }

// usageError is a mistake in how the command was typed.
type usageError struct {
	code    int
	message string
	command string // "berth run"
}

func (e usageError) Error() string { return e.message }

// report prints err the way Docker's users expect it and returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	var status statusError
	if errors.As(err, &status) {
		switch {
		case status.named:
			fmt.Fprintf(a.Err, "%s: %s\n", a.name, status.message)
		case status.message != "":
			fmt.Fprintln(a.Err, status.message)
		}
		return status.code
	}
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(a.Err, "%s: %s\nSee '%s --help'.\n", a.name, usage.message, usage.command)
		return usage.code
	}
	fmt.Fprintln(a.Err, explain(err))
	return 1
}

// explain words an error for the user: a failed connection names the engine it looked for,
// everything else speaks for itself.
func explain(err error) string {
	var far *client.UnreachableError
	if errors.As(err, &far) {
		return far.Error()
	}
	if mobyclient.IsErrConnectionFailed(err) {
		if text := replaceDaemonWords(err.Error()); text != "" {
			return text
		}
	}
	return err.Error()
}
