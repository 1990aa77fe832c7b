package server

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"berth/fail"
)

// filters are what a list request narrows its answer by: for each key, the wanted
// values. An absent key accepts everything.
type filters map[string][]string

// filters reads the filters parameter, {"key":["value"]} or the older
// {"key":{"value":true}}, and refuses keys that are not among allowed.
func (r *request) filters(allowed ...string) (filters, error) {
	f, err := parseFilters(r.query("filters"))
	if err != nil {
		return nil, err
	}
	for key := range f {
		if !slices.Contains(allowed, key) {
			return nil, fail.New(fail.Invalid, "invalid filter '%s'", key)
		}
	}
	return f, nil
}

func parseFilters(s string) (filters, error) {
	f := filters{}
	if s == "" {
		return f, nil
	}
	if json.Unmarshal([]byte(s), &f) == nil {
		return f, nil
	}
	var old map[string]map[string]bool
	if err := json.Unmarshal([]byte(s), &old); err != nil {
		return nil, fail.New(fail.Invalid, "invalid filter: not a JSON object of lists")
	}
	f = filters{}
	for key, vals := range old {
		for v := range vals {
			f[key] = append(f[key], v)
		}
		slices.Sort(f[key])
	}
	return f, nil
}

// exact reports whether one of key's values is v; true without the key.
func (f filters) exact(key, v string) bool {
	return len(f[key]) == 0 || slices.Contains(f[key], v)
}

// any reports whether accept takes one of key's values; true without the key.
func (f filters) any(key string, accept func(want string) bool) bool {
	return len(f[key]) == 0 || slices.ContainsFunc(f[key], accept)
}

// labels reports whether m has all of key's labels, given as "name" or "name=value".
func (f filters) labels(key string, m map[string]string) bool {
	for _, want := range f[key] {
		name, value, hasValue := strings.Cut(want, "=")
		got, ok := m[name]
		if !ok || (hasValue && got != value) {
			return false
		}
	}
	return true
}

// boolean reads a filter that is true or false; otherwise stands in for its absence.
func (f filters) boolean(key string, otherwise bool) (bool, error) {
	vals := f[key]
	if len(vals) == 0 {
		return otherwise, nil
	}
	var out bool
	for i, v := range vals {
		var b bool
		switch strings.ToLower(v) {
		case "1", "true", "t":
			b = true
		case "0", "false", "f":
		default:
			return false, fail.New(fail.Invalid, "invalid filter '%s=%v'", key, vals)
		}
		if i > 0 && b != out {
			return false, fail.New(fail.Invalid, "invalid filter '%s=%v'", key, vals)
		}
		out = b
	}
	return out, nil
}

// until reads the one value of the until filter of prune: a time, or a duration before
// now. The zero time means no bound.
func (f filters) until(now time.Time) (time.Time, error) {
	vals := f["until"]
	switch len(vals) {
	case 0:
		return time.Time{}, nil
	case 1:
	default:
		return time.Time{}, fail.New(fail.Invalid, "more than one until filter specified")
	}
	if d, err := time.ParseDuration(vals[0]); err == nil {
		return now.Add(-d), nil
	}
	return timestamp("until", vals[0])
}

// matchReference reports whether a familiar reference fits a pattern of the reference
// filter: with wildcards as in a shell, against the whole or the part without tag.
func matchReference(pattern, ref string) bool {
	if ok, err := path.Match(pattern, ref); err == nil && ok {
		return true
	}
	name := ref
	if i := strings.LastIndex(ref, "@"); i >= 0 {
		name = ref[:i]
	} else if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		name = ref[:i]
	}
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

func humanAgo(d time.Duration) string { return units.HumanDuration(d) + " ago" }
