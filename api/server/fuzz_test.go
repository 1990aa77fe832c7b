package server

import (
	"bytes"
	"testing"
	"time"
)

func FuzzFilters(f *testing.F) {
	for _, s := range []string{"", `{"a":["b"]}`, `{"a":{"b":true}}`, `[]`, `{"until":["10m"]}`, "{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseFilters(s)
		if err != nil {
			return
		}
		_, _ = got.boolean("a", true)
		_, _ = got.until(time.Now())
		got.labels("a", map[string]string{"b": "c"})
	})
}

func FuzzAuthHeader(f *testing.F) {
	for _, s := range []string{"", "e30=", "e30", "eyJ1c2VybmFtZSI6InUifQ==", "%%%", "bnVsbA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := parseAuth(s); err != nil && a != nil {
			t.Fatal("credentials with an error")
		}
	})
}

func FuzzTimestamp(f *testing.F) {
	f.Add("1.5")
	f.Add("2026-01-01T00:00:00Z")
	f.Fuzz(func(t *testing.T, s string) { _, _ = timestamp("since", s) })
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/v1.41/containers//x/json", "/images/a/b/json", "/", "", "/v1.", "//"} {
		f.Add(s)
	}
	s := New(Config{})
	f.Fuzz(func(t *testing.T, path string) {
		v, rest, err := splitVersion(path)
		if err != nil {
			return
		}
		_, values, _ := s.find("GET", rest, v)
		for k, got := range values {
			if got == "" {
				t.Fatalf("%q: %s is empty", path, k)
			}
		}
	})
}

func FuzzWebSocketFrame(f *testing.F) {
	f.Add([]byte{0x82, 0x83, 1, 2, 3, 4, 'a', 'b', 'c'})
	f.Add([]byte{0x81, 0xFE, 0xFF, 0xFF})
	f.Add([]byte{0x88, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, payload, err := readFrame(bytes.NewReader(data))
		if err == nil && len(payload) > len(data) {
			t.Fatal("more came out than went in")
		}
	})
}
