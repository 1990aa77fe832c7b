package cli

import (
	"io"
	"strings"
	"testing"
)

// BenchmarkNewRoot is what every start pays before its first useful instruction.
func BenchmarkNewRoot(b *testing.B) {
	for range b.N {
		newRoot(&app{name: "berth", Streams: Streams{Out: io.Discard, Err: io.Discard}}, []string{"version"})
	}
}

func TestTheTablesNameTheCommandsTheyBuild(t *testing.T) {
	a := &app{name: "berth", Streams: Streams{Out: io.Discard, Err: io.Discard}}
	for _, e := range topLevel() {
		if cmd := e.build(a); cmd.Name() != e.name {
			t.Errorf("entry %q builds %q", e.name, cmd.Name())
		}
	}
	for _, group := range []string{"container", "image", "network", "system"} {
		all := newRoot(&app{name: "berth", Streams: a.Streams}, []string{group, "no such"})
		cmd, _, err := all.Find([]string{group})
		if err != nil {
			t.Fatal(err)
		}
		for _, child := range cmd.Commands() {
			for _, name := range append([]string{child.Name()}, child.Aliases...) {
				one := newRoot(&app{name: "berth", Streams: a.Streams}, []string{group, name})
				if found, _, err := one.Find([]string{group, name}); err != nil || found.Name() != child.Name() {
					t.Errorf("%s %s finds %v, %v", group, name, found, err)
				}
			}
		}
	}
}

func TestCommandWordsPassesGlobalOptions(t *testing.T) {
	for line, want := range map[string]string{
		"ps -a":                          "ps -a",
		"-H unix:///x ps":                "ps",
		"-Hunix:///x ps":                 "ps",
		"-DH unix:///x ps":               "ps",
		"-D --host unix:///x --tls ps":   "ps",
		"--host=unix:///x container ls":  "container ls",
		"-c build version":               "version",
		"--config images -l debug run x": "run x",
		"-v":                             "",
		"-- ps":                          "",
	} {
		if got := strings.Join(commandWords(strings.Fields(line)), " "); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
