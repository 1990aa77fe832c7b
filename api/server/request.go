package server

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"berth/fail"
	"berth/oci"
	"berth/registry"
)

// maxBody bounds JSON request bodies; the largest honest ones (a container's labels
// and environment) are far below.
const maxBody = 8 << 20

// boolean reads a query value as Docker does: absent, "", 0, no, false and none are
// false, anything else is true.
func (r *request) boolean(name string) bool { return truthy(r.query(name)) }

func truthy(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

func (r *request) booleanOr(name string, otherwise bool) bool {
	if !r.has(name) {
		return otherwise
	}
	return r.boolean(name)
}

// query returns a parameter of the URL. Form bodies are not read: no endpoint has one.
func (r *request) query(name string) string { return r.values()[name].first() }

func (r *request) has(name string) bool { return len(r.values()[name]) > 0 }

func (r *request) list(name string) []string { return r.values()[name] }

type values []string

func (v values) first() string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

func (r *request) values() map[string]values {
	q := r.URL.Query()
	out := make(map[string]values, len(q))
	for k, v := range q {
		out[k] = v
	}
	return out
}

// number reads an optional integer.
func (r *request) number(name string) (n int, given bool, err error) {
	s := r.query(name)
	if s == "" {
		return 0, false, nil
	}
	n, err = strconv.Atoi(s)
	if err != nil {
		return 0, false, fail.New(fail.Invalid, "invalid value %q for %s: not a number", s, name)
	}
	return n, true, nil
}

// size reads a terminal's size from h and w.
func (r *request) size() (rows, cols uint16, err error) {
	h, err := strconv.ParseUint(r.query("h"), 10, 16)
	if err != nil {
		return 0, 0, fail.New(fail.Invalid, "invalid resize height %q", r.query("h"))
	}
	w, err := strconv.ParseUint(r.query("w"), 10, 16)
	if err != nil {
		return 0, 0, fail.New(fail.Invalid, "invalid resize width %q", r.query("w"))
	}
	return uint16(h), uint16(w), nil
}

// timestamp reads unix seconds with an optional fraction, as the docker CLI sends
// them, or RFC 3339. Empty and "0" are the zero time.
func timestamp(name, s string) (time.Time, error) {
	if s == "" || s == "0" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	secs, frac, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(secs, 10, 64)
	if err != nil {
		return time.Time{}, fail.New(fail.Invalid, "invalid value %q for %s: neither seconds since 1970 nor an RFC 3339 time", s, name)
	}
	var nano int64
	if frac != "" {
		frac = (frac + "000000000")[:9]
		if nano, err = strconv.ParseInt(frac, 10, 64); err != nil || nano < 0 {
			return time.Time{}, fail.New(fail.Invalid, "invalid value %q for %s: the fraction is no number", s, name)
		}
	}
	if sec < 0 {
		nano = -nano
	}
	return time.Unix(sec, nano), nil
}

// bodyJSON decodes a JSON body into v. Unknown fields are tolerated, as the API's open
// schema asks. With required unset an empty body leaves v alone.
func bodyJSON(w http.ResponseWriter, r *request, v any, required bool) error {
	if r.ContentLength == 0 && !required {
		return nil
	}
	if r.ContentLength != 0 || r.Header.Get("Content-Type") != "" {
		if err := jsonContent(r); err != nil {
			return err
		}
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	err := dec.Decode(v)
	var tooBig *http.MaxBytesError
	switch {
	case err == io.EOF && !required:
		return nil
	case err == io.EOF:
		return fail.New(fail.Invalid, "invalid JSON: got EOF while reading request body")
	case errors.As(err, &tooBig):
		return fail.New(fail.Invalid, "request body is larger than %d bytes", maxBody)
	case err != nil && !isJSONError(err):
		return fail.New(fail.Invalid, "invalid value in the request body: %w", err) // an address, a port …
	case err != nil:
		return fail.New(fail.Invalid, "invalid JSON: %w", err)
	}
	if dec.More() {
		return fail.New(fail.Invalid, "unexpected content after JSON")
	}
	return nil
}

// isJSONError tells JSON that cannot be read from values in it that a type of the API does not take.
func isJSONError(err error) bool {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	return errors.As(err, &syntax) || errors.As(err, &kind) || errors.Is(err, io.ErrUnexpectedEOF)
}

func jsonContent(r *request) error {
	ct := r.Header.Get("Content-Type")
	if t, _, err := mime.ParseMediaType(ct); err == nil && t == "application/json" {
		return nil
	}
	return fail.New(fail.Invalid, "unsupported media type %q: must be 'application/json'", ct)
}

// auth decodes X-Registry-Auth: base64 (URL or standard alphabet, padded or not) of
// JSON. An absent header, "" and "{}" mean anonymous.
func (r *request) auth() (*registry.Auth, error) {
	return parseAuth(r.Header.Get("X-Registry-Auth"))
}

func parseAuth(header string) (*registry.Auth, error) {
	if header == "" {
		return nil, nil
	}
	data, err := decodeBase64(header)
	if err != nil {
		return nil, fail.New(fail.Invalid, "invalid X-Registry-Auth header: not base64")
	}
	var a registry.Auth
	if len(data) > 0 {
		if err := json.Unmarshal(data, &a); err != nil {
			return nil, fail.New(fail.Invalid, "invalid X-Registry-Auth header: not the JSON of credentials")
		}
	}
	if a == (registry.Auth{}) || a == (registry.Auth{ServerAddress: a.ServerAddress}) {
		return nil, nil
	}
	return &a, nil
}

func decodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(s), "=")
	return base64.RawURLEncoding.DecodeString(s)
}

// platform reads a platform parameter: "linux/arm64/v8", or JSON as newer clients send.
func parsePlatform(s string) (*oci.Platform, error) {
	if s == "" {
		return nil, nil
	}
	if strings.HasPrefix(s, "{") {
		var p oci.Platform
		if err := json.Unmarshal([]byte(s), &p); err != nil || p.OS == "" || p.Architecture == "" {
			return nil, fail.New(fail.Invalid, "invalid platform %q", s)
		}
		return &p, nil
	}
	p, err := platformFromString(s)
	if err != nil {
		return nil, fail.New(fail.Invalid, "invalid platform %q: %w", s, err)
	}
	return &p, nil
}

// platforms reads a list of platforms.
func (r *request) platforms(name string) (all []oci.Platform, err error) {
	for _, s := range r.list(name) {
		p, err := parsePlatform(s)
		if err != nil {
			return nil, err
		}
		if p != nil {
			all = append(all, *p)
		}
	}
	return all, nil
}
