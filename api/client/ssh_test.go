package client

import (
	"strings"
	"testing"

	"berth/fail"
)

func TestSSHHostsAreRead(t *testing.T) {
	for text, want := range map[string]string{
		"ssh://box":                 "-- box",
		"ssh://me@box:22":           "-l me -p 22 -- box",
		"ssh://me@[::1]:22/run/a.s": "-l me -p 22 -- ::1",
		"ssh://box/":                "-- box",
	} {
		f, err := parseSSH(text)
		if err != nil || strings.Join(f.destination(), " ") != want {
			t.Errorf("%s: %v %v", text, f, err)
		}
	}
	for _, text := range []string{"ssh://", "ssh://a:b@c", "ssh://a?b", "ssh://a#b", "ssh://-a", "ssh://-a@b", "ssh:box", "ssh://a b"} {
		if f, err := parseSSH(text); !fail.Is(err, fail.Invalid) {
			t.Errorf("%s: %+v %v", text, f, err)
		}
	}
}

func TestASocketsPathIsOneWordOfTheFarShell(t *testing.T) {
	f, err := parseSSH("ssh://box/run/it's%20$(mine).sock")
	if err != nil {
		t.Fatal(err)
	}
	// Two shells unwrap it: the login shell, and sh.
	const inner = `'unix:///run/it'\''s $(mine).sock'`
	if want := quote(" --host " + inner); !strings.Contains(f.command(), want[1:len(want)-1]) {
		t.Error(f.command())
	}
}

func FuzzSSHHost(f *testing.F) {
	f.Add("ssh://me@box:22/run/x.sock")
	f.Add("ssh://-oProxyCommand=x")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parseSSH(text)
		if err != nil {
			if !fail.Is(err, fail.Invalid) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		args := h.destination()
		if args[len(args)-2] != "--" || strings.HasPrefix(h.name, "-") || strings.HasPrefix(h.user, "-") {
			t.Errorf("%q: %q", text, args)
		}
	})
}
