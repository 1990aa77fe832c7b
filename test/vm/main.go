// Command vm runs the tests in a virtual machine of the kind that people really have, and
// lets one look around in it.
//
//	vm test [-in DIR] [-profile NAME] [-run REGEXP] [-json FILE] PACKAGE[=REGEXP]...
//	vm shell [-profile NAME]
//	vm up DIR | ssh DIR [COMMAND] | reset DIR | down DIR
//
// Variables that tell tests how to run (BERTH_TEST_…) are passed on to the machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"berth/testkit/vm"
)

const usage = `usage:
  vm test [flags] PACKAGE[=REGEXP]...
                              run these packages' tests in a machine of their own
  vm platforms FILE...        docs/platforms.md from such results (-json), one file a machine
  vm shell [flags]            boot a machine with berthd running, and open a shell in it
  vm up [flags] DIR           boot a machine whose state is in DIR, and leave it running
  vm ssh DIR [COMMAND]        a shell, or a command, in it
  vm reset DIR                cut its power and boot it again
  vm down DIR                 end it
flags: vm test -h`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code, err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func command(ctx context.Context, args []string) (int, error) {
	if len(args) == 0 {
		return 2, errors.New(usage)
	}
	verb, args := args[0], args[1:]
	f := flag.NewFlagSet("vm "+verb, flag.ContinueOnError)
	var c vm.Config
	f.StringVar(&c.Profile, "profile", "", "kind of machine")
	f.IntVar(&c.Memory, "memory", 2048, "memory in MiB")
	disks := f.Int("disks", 0, "number of further blank disks of 4 GiB")
	var s suite
	f.StringVar(&s.in, "in", "", "use the machine in this directory (vm up)")
	f.StringVar(&s.run, "run", ".", "only tests that match this regular expression")
	f.StringVar(&s.skip, "skip", "", "not the tests that match this regular expression")
	f.StringVar(&s.json, "json", "", "append the results to this file, as go test -json writes them")
	f.DurationVar(&s.timeout, "timeout", 40*time.Minute, "how long one package may take")
	f.BoolVar(&s.host, "host", false, "run the tests on this machine instead")
	f.BoolVar(&s.verbose, "v", false, "show every test")
	if err := f.Parse(args); err != nil {
		return 2, nil
	}
	for range *disks {
		c.Disks = append(c.Disks, 4)
	}
	args = f.Args()
	if needs := map[string]int{"up": 1, "ssh": 1, "reset": 1, "down": 1, "test": 1, "platforms": 1}[verb]; len(args) < needs {
		return 2, errors.New(usage)
	}
	switch verb {
	case "test":
		return s.test(ctx, c, args)
	case "platforms":
		return 0, platforms(os.Stdout, args)
	case "shell":
		return shell(ctx, c)
	case "up":
		c.Stays = true
		m, err := vm.Start(ctx, args[0], c)
		if err != nil {
			return 1, err
		}
		return 0, m.InstallPrograms(ctx)
	case "ssh", "reset", "down":
		m, err := vm.Open(args[0])
		if err != nil {
			return 1, err
		}
		switch verb {
		case "ssh":
			return exit(m.Shell(ctx, strings.Join(args[1:], " ")).Run())
		case "reset":
			return 0, m.Reset(ctx)
		}
		m.Kill()
		return 0, nil
	}
	return 2, errors.New(usage)
}

// exit takes over the status of a command that ran.
func exit(err error) (int, error) {
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return ended.ExitCode(), nil
	}
	return 0, err
}

// shell boots a machine, starts an engine in it and opens a shell that knows it.
func shell(ctx context.Context, c vm.Config) (int, error) {
	dir, err := os.MkdirTemp("", "berth-vm-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	m, err := vm.Start(ctx, dir, c)
	if err != nil {
		return 1, err
	}
	defer m.Kill()
	if err := m.InstallPrograms(ctx); err != nil {
		return 1, err
	}
	start := "ln -sf " + vm.GuestBin + "/* /usr/local/bin/ && systemd-run -q --unit=berthd -p Delegate=yes -p KillMode=process berthd && berth --version"
	if code, err := exit(m.Shell(ctx, start).Run()); err != nil || code != 0 {
		return code, err
	}
	return exit(m.Shell(ctx, "").Run())
}
