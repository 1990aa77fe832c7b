package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"
	"unicode/utf8"
)

var errNoEntry = errors.New("not a log entry")

// decode reads one line of the file, without or with its newline. Line may point into
// data or into *scratch.
func decode(data []byte, scratch *[]byte) (Entry, error) {
	data = bytes.TrimRight(data, "\r\n")
	if e, ok := decodeFast(data, scratch); ok {
		return e, nil
	}
	var slow struct {
		Log    *string           `json:"log"`
		Stream string            `json:"stream"`
		Attrs  map[string]string `json:"attrs"`
		Time   time.Time         `json:"time"`
	}
	if err := json.Unmarshal(data, &slow); err != nil {
		return Entry{}, err
	}
	if slow.Log == nil {
		return Entry{}, errNoEntry
	}
	return Entry{Stream: slow.Stream, Time: slow.Time, Line: []byte(*slow.Log), Attrs: slow.Attrs}, nil
}

// decodeFast understands what our writer and Docker's produce, and leaves everything
// unusual to encoding/json.
func decodeFast(data []byte, scratch *[]byte) (e Entry, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"log":"`))
	if !ok {
		return e, false
	}
	if e.Line, rest, ok = unquote(rest, scratch); !ok {
		return e, false
	}
	switch {
	case bytes.HasPrefix(rest, []byte(`,"stream":"stdout"`)):
		e.Stream = Stdout
	case bytes.HasPrefix(rest, []byte(`,"stream":"stderr"`)):
		e.Stream = Stderr
	default:
		return e, false
	}
	rest = rest[len(`,"stream":"stdout"`):]
	if attrs, found := bytes.CutPrefix(rest, []byte(`,"attrs":`)); found {
		end := bytes.LastIndex(attrs, []byte(`,"time":"`))
		if end < 0 || json.Unmarshal(attrs[:end], &e.Attrs) != nil {
			return e, false
		}
		rest = attrs[end:]
	}
	rest, ok = bytes.CutPrefix(rest, []byte(`,"time":"`))
	if !ok {
		return e, false
	}
	stamp, ok := bytes.CutSuffix(rest, []byte(`"}`))
	if !ok {
		return e, false
	}
	e.Time, ok = parseTime(stamp)
	return e, ok
}

// unquote reads a JSON string whose opening quote is already gone, and returns what
// comes after the closing one.
func unquote(s []byte, scratch *[]byte) (text, rest []byte, ok bool) {
	n := 0
	for n < len(s) && plain[s[n]] {
		n++
	}
	if n < len(s) && s[n] == '"' {
		return s[:n], s[n+1:], true
	}
	out := append((*scratch)[:0], s[:n]...)
	defer func() { *scratch = out[:0] }()
	s = s[n:]
	for len(s) > 0 {
		switch c := s[0]; {
		case c == '"':
			return out, s[1:], true
		case c == '\\':
			if len(s) < 2 {
				return nil, nil, false
			}
			if s[1] == 'u' {
				r, valid := hex4(s[2:])
				if !valid || r >= 0xd800 && r < 0xe000 { // surrogates: not written by us
					return nil, nil, false
				}
				out = utf8.AppendRune(out, r)
				s = s[6:]
				continue
			}
			to := unescaped[s[1]]
			if to == 0 {
				return nil, nil, false
			}
			out = append(out, to)
			s = s[2:]
		case c < 0x20:
			return nil, nil, false
		case c < utf8.RuneSelf:
			n := 1
			for n < len(s) && plain[s[n]] {
				n++
			}
			out = append(out, s[:n]...)
			s = s[n:]
		default:
			r, size := utf8.DecodeRune(s)
			if r == utf8.RuneError && size == 1 {
				return nil, nil, false
			}
			out = append(out, s[:size]...)
			s = s[size:]
		}
	}
	return nil, nil, false
}

var unescaped = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func hex4(s []byte) (r rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for _, c := range s[:4] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// parseTime reads RFC 3339 in UTC without the costs of time.Parse; anything unusual
// is left to the slow decoder.
func parseTime(s []byte) (t time.Time, ok bool) {
	const shape = "2006-01-02T15:04:05"
	if len(s) < len(shape)+1 || s[len(s)-1] != 'Z' {
		return t, false
	}
	var v [6]int
	for i, field := range [6]struct{ from, to int }{{0, 4}, {5, 7}, {8, 10}, {11, 13}, {14, 16}, {17, 19}} {
		for _, c := range s[field.from:field.to] {
			if c < '0' || c > '9' {
				return t, false
			}
			v[i] = v[i]*10 + int(c-'0')
		}
		if i < 5 && s[field.to] != shape[field.to] {
			return t, false
		}
	}
	nanos := 0
	if frac := s[len(shape) : len(s)-1]; len(frac) > 0 {
		if frac[0] != '.' || len(frac) < 2 || len(frac) > 10 {
			return t, false
		}
		for i := 1; i < 10; i++ {
			nanos *= 10
			if i < len(frac) {
				if frac[i] < '0' || frac[i] > '9' {
					return t, false
				}
				nanos += int(frac[i] - '0')
			}
		}
	}
	t = time.Date(v[0], time.Month(v[1]), v[2], v[3], v[4], v[5], nanos, time.UTC)
	// Date normalises what is out of range; a real date comes back as it was.
	y, m, d := t.Date()
	return t, y == v[0] && int(m) == v[1] && d == v[2] && v[3] < 24 && v[4] < 60 && v[5] < 60
}
