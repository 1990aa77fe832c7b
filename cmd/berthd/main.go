// Command berthd is the engine of Berth.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"berth/daemon"
	"berth/fail"
	"berth/version"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == daemon.LogRelayCommand {
		if err := daemon.LogRelay(os.Args[2:]); err != nil {
			die(err)
		}
		return
	}
	set, err := daemon.ParseSettings(os.Args[1:])
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Print(daemon.Usage())
		return
	case err != nil:
		die(err)
	case set.ShowVersion:
		fmt.Printf("Berth version %s, build %s\n", version.Version, version.Commit)
		return
	}
	if err := daemon.Run(set); err != nil {
		die(err)
	}
}

func die(err error) {
	fmt.Fprintln(os.Stderr, "berthd: "+err.Error())
	if fail.Is(err, fail.Invalid) {
		os.Exit(2)
	}
	os.Exit(1)
}
