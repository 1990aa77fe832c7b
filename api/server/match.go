package server

import (
	"net/http"
	"strings"

	"berth/fail"
)

// route is one row of the table, ready for matching.
type route struct {
	method   string
	pattern  string
	segments []string
	wild     int // index of a {name...} segment, -1 without
	min, max version
	handle   func(*writer, *request) error
}

// endpoint is one row of the table as it is written. In a pattern {x} stands for one
// segment (or one with a leading slash, as container names may be given), {x...} for one
// or more, as image names have them. Percent-encoded slashes count as slashes.
type endpoint struct {
	method, pattern string
	handle          func(*writer, *request) error
	min, max        version // 0: no bound
}

// namesObject are the first segments of paths whose first wildcard is the name of an object. One
// with slashes is the name of nothing, and is told so, not that there is no such page.
var namesObject = map[string]bool{"containers": true, "exec": true, "volumes": true, "networks": true}

func compile(rows []endpoint) []route {
	out := make([]route, len(rows))
	for i, e := range rows {
		r := route{method: e.method, pattern: e.pattern, segments: split(e.pattern), wild: -1, min: e.min, max: e.max, handle: e.handle}
		for j, s := range r.segments {
			if strings.HasSuffix(s, "...}") || r.wild < 0 && strings.HasPrefix(s, "{") && namesObject[r.segments[0]] {
				r.wild = j
			}
		}
		out[i] = r
	}
	return out
}

func split(path string) []string { return strings.Split(strings.TrimPrefix(path, "/"), "/") }

// match reports whether the path's segments fit, and the values of the wildcards.
func (r *route) match(path []string) (map[string]string, bool) {
	if r.wild < 0 && len(path) != len(r.segments) {
		return nil, false
	}
	// Segments before the wildcard are matched from the left, those after it from the
	// right, and what is left between is its value.
	after := 0
	if r.wild >= 0 {
		after = len(r.segments) - r.wild - 1
		if len(path) < len(r.segments) {
			return nil, false
		}
	}
	var values map[string]string
	set := func(name, v string) bool {
		if v == "" {
			return false
		}
		if values == nil {
			values = make(map[string]string, 2)
		}
		values[name] = v
		return true
	}
	for i, s := range r.segments {
		var got string
		switch {
		case r.wild < 0 || i < r.wild:
			got = path[i]
		case i == r.wild:
			name := strings.TrimSuffix(strings.Trim(s, "{}"), "...")
			if !set(name, strings.Trim(strings.Join(path[r.wild:len(path)-after], "/"), "/")) {
				return nil, false
			}
			continue
		default:
			got = path[len(path)-len(r.segments)+i]
		}
		if strings.HasPrefix(s, "{") {
			if !set(strings.Trim(s, "{}"), got) {
				return nil, false
			}
		} else if s != got {
			return nil, false
		}
	}
	return values, true
}

// find returns the first route that fits. A path that exists for another method is not
// found either, as in Docker.
func (s *Server) find(method, path string, v version) (*route, map[string]string, error) {
	if method == http.MethodOptions {
		return &optionsRoute, nil, nil
	}
	if strings.ContainsAny(path, "\r\n") {
		return nil, nil, fail.New(fail.NotFound, "page not found") // no name has them, and no message shall
	}
	// "/containers//name/json": the empty segment is the name's leading slash.
	segments := split(strings.ReplaceAll(path, "//", "/"))
	for i := range s.routes {
		r := &s.routes[i]
		if r.method != method || (r.min != 0 && v < r.min) || (r.max != 0 && v > r.max) {
			continue
		}
		if values, ok := r.match(segments); ok {
			return r, values, nil
		}
	}
	return nil, nil, fail.New(fail.NotFound, "page not found")
}

var optionsRoute = route{handle: func(w *writer, _ *request) error {
	w.WriteHeader(http.StatusOK)
	return nil
}}
