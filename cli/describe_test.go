package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestGivenTellsCommandAndOptions(t *testing.T) {
	for line, want := range map[string]string{
		"run -it --rm -e A=1 busybox ls -la":   "run: env interactive rm tty;",
		"-H unix:///x container ps -aq":        "container ls: all quiet; host",
		"exec box sh -c true":                  "exec: ;",
		"network create --subnet=10.0.0.0/8 n": "network create: subnet;",
		"--version":                            ": ; version",
	} {
		c, global, err := Given(strings.Fields(line))
		if got := c.Path + ": " + strings.Join(c.Options, " ") + "; " + strings.Join(global, " "); err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%q: %q, %v, want %q", line, got, err, want)
		}
	}
	for _, line := range []string{"run --nosuch busybox", "ps --all=maybe"} {
		if c, _, err := Given(strings.Fields(line)); err == nil {
			t.Errorf("%q parses: %+v", line, c)
		}
	}
}

func TestCommandsAreTheWholeTree(t *testing.T) {
	all := Commands()
	for _, want := range []string{"", "run", "container run", "network create", "volume rm", "system df"} {
		i := slices.IndexFunc(all, func(c Command) bool { return c.Path == want })
		if i < 0 {
			t.Errorf("%q is missing", want)
		} else if want == "run" && !slices.Contains(all[i].Options, "health-cmd") {
			t.Errorf("run has %q", all[i].Options)
		}
	}
}
