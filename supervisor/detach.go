package supervisor

import (
	"bytes"
	"strings"

	"berth/fail"
)

// parseDetachKeys reads Docker's syntax: keys separated by commas, each of them one
// ASCII character or ctrl- with a letter or one of @ [ \ ] ^ _. An empty text means no keys.
func parseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	var keys []byte
	for _, key := range strings.Split(text, ",") {
		name, ctrl := strings.CutPrefix(key, "ctrl-")
		if !ctrl && len(key) == 1 && key[0] < 0x80 {
			keys = append(keys, key[0])
			continue
		}
		if ctrl && len(name) == 1 {
			switch c := name[0] | 0x20; {
			case 'a' <= c && c <= 'z':
				keys = append(keys, c-'a'+1)
				continue
			case strings.IndexByte(`@[\]^_`, name[0]) >= 0:
				keys = append(keys, name[0]-'@')
				continue
			}
		}
		return nil, fail.New(fail.Invalid, "invalid detach keys %q: a key is one character or ctrl- with one of a-z @ [ \\ ] ^ _", text)
	}
	return keys, nil
}

// detacher finds the detach keys in a client's input.
type detacher struct {
	keys []byte
	held int // so many of keys have been typed and not passed on
}

// pass returns the input that goes to the process. The start of a sequence is held back
// until it is clear whether it is one; done tells that it was complete.
func (d *detacher) pass(in []byte) (out []byte, done bool) {
	if len(d.keys) == 0 {
		return in, false
	}
	if d.held == 0 && bytes.IndexByte(in, d.keys[0]) < 0 {
		return in, false
	}
	for _, c := range in {
		// The longest end of what was typed that is a start of the keys, as in a search
		// for a string: a sequence may begin inside of a false one.
		for d.held > 0 && c != d.keys[d.held] {
			shorter := d.held - 1
			for shorter > 0 && string(d.keys[d.held-shorter:d.held]) != string(d.keys[:shorter]) {
				shorter--
			}
			out = append(out, d.keys[:d.held-shorter]...)
			d.held = shorter
		}
		if c != d.keys[d.held] {
			out = append(out, c)
			continue
		}
		if d.held++; d.held == len(d.keys) {
			d.held = 0
			return out, true
		}
	}
	return out, false
}
