package supervisor

import (
	"bytes"
	"testing"

	"berth/fail"
)

func TestDetachKeysAreReadAsDockerWritesThem(t *testing.T) {
	for text, want := range map[string]string{
		"":              "",
		"ctrl-p,ctrl-q": "\x10\x11",
		"a":             "a",
		"ctrl-A,b,ctrl-_,ctrl-[,ctrl-@,ctrl-\\,ctrl-],ctrl-^": "\x01b\x1f\x1b\x00\x1c\x1d\x1e",
	} {
		if got, err := parseDetachKeys(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-1", "ctrl-pp", "ab", ",", "a,", "é"} {
		if keys, err := parseDetachKeys(text); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q is taken as %q, %v", text, keys, err)
		}
	}
}

func TestDetachKeysAreHeldBackUntilTheyAreClear(t *testing.T) {
	for name, test := range map[string]struct {
		keys, in, out string
		done          bool
	}{
		"nothing of them":         {"pq", "hello", "hello", false},
		"complete":                {"pq", "apq", "a", true},
		"what follows is dropped": {"pq", "apqb", "a", true},
		"half of them":            {"pq", "ap", "a", false},
		"broken off":              {"pq", "apx", "apx", false},
		"begun twice":             {"pq", "appq", "ap", true},
		"one inside a false one":  {"aab", "aaab", "a", true},
		"a long false one":        {"abab", "abaab", "aba", false},
		"no keys":                 {"", "pq", "pq", false},
	} {
		// All at once, and byte by byte.
		for _, step := range []int{len(test.in), 1} {
			d := detacher{keys: []byte(test.keys)}
			var out []byte
			done := false
			for in := []byte(test.in); len(in) > 0 && !done; {
				n := min(step, len(in))
				var passed []byte
				passed, done = d.pass(in[:n])
				out = append(out, passed...)
				in = in[n:]
			}
			if string(out) != test.out || done != test.done {
				t.Errorf("%s, %d at a time: %q, %v; want %q, %v", name, step, out, done, test.out, test.done)
			}
		}
	}
}

func FuzzInputWithoutTheDetachKeysPassesUnchanged(f *testing.F) {
	f.Add([]byte("aab"), []byte("aaaaaab"))
	f.Fuzz(func(t *testing.T, keys, in []byte) {
		if len(keys) == 0 || len(keys) > 8 {
			return
		}
		d := detacher{keys: keys}
		out, done := d.pass(in)
		if at := bytes.Index(in, keys); at >= 0 {
			if !done || !bytes.Equal(out, in[:at]) {
				t.Fatalf("keys %q in %q: %q, %v", keys, in, out, done)
			}
			return
		}
		if done || !bytes.Equal(append(out, keys[:d.held]...), in) {
			t.Fatalf("keys %q not in %q: %q + %d, %v", keys, in, out, d.held, done)
		}
	})
}
