package runtimecli

import (
	"flag"
	"os/exec"
	"regexp"
	"testing"
)

// unbuilt are commands of runc that we do not have: containers are not checkpointed.
var unbuilt = map[string]bool{"checkpoint": true, "restore": true, "help": true}

var (
	helpCommand = regexp.MustCompile(`(?m)^   ([a-z]+)(?:, [a-z])?  +\S`)
	helpFlag    = regexp.MustCompile(`(?m)^ +--([a-z][a-z0-9-]*)(?: value)?(?:, -([a-z])\b)?`)
)

// flagsOf are the names of the flags in one of runc's help texts.
func flagsOf(help string) (names []string) {
	for _, m := range helpFlag.FindAllStringSubmatch(help, -1) {
		for _, name := range m[1:] {
			if name != "" && name != "help" && name != "h" {
				names = append(names, name)
			}
		}
	}
	return names
}

func TestEveryCommandAndFlagOfRuncIsThere(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("runc is not installed")
	}
	help := func(args ...string) string {
		out, err := exec.Command(runc, append(args, "--help")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	global := help()
	if len(flagsOf(global)) < 5 || len(helpCommand.FindAllString(global, -1)) < 12 {
		t.Fatalf("this help is not understood:\n%s", global)
	}
	status, _, _ := inside("--root", t.TempDir(), "--log", "", "--log-format", "text", "--criu", "x", "--rootless", "false", "--debug", "list")
	if status != 0 {
		t.Error("global flags are refused")
	}
	f := newFlags(program)
	globalFlags(f)
	for _, name := range flagsOf(global) {
		if f.Lookup(name) == nil {
			t.Errorf("there is no --%s", name)
		}
	}
	ours := map[string]command{}
	for _, c := range commands {
		ours[c.name] = c
	}
	for _, m := range helpCommand.FindAllStringSubmatch(global, -1) {
		name := m[1]
		if unbuilt[name] {
			continue
		}
		c, ok := ours[name]
		if !ok {
			t.Errorf("there is no command %s", name)
			continue
		}
		f := flag.NewFlagSet(name, flag.ContinueOnError)
		c.flags(f)
		for _, flagName := range flagsOf(help(name)) {
			if f.Lookup(flagName) == nil {
				t.Errorf("%s has no --%s", name, flagName)
			}
		}
	}
}
