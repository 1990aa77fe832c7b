package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"

	"berth/fail"
)

// Door is what the server has to know of the socket that a request came by.
type Door struct {
	ReadOnly bool // requests that change something, or that give files away, are refused
	Network  bool // not a unix socket: whoever is there may be a web page's script
	// Loopback is set of a network socket that only this machine reaches and that asks for no
	// certificate. Its clients call it by a name of loopback or by an address.
	Loopback bool
}

type doorKey struct{}

// Through gives the base context of a socket's requests.
func Through(ctx context.Context, d Door) context.Context {
	return context.WithValue(ctx, doorKey{}, d)
}

func doorOf(r *http.Request) Door {
	d, _ := r.Context().Value(doorKey{}).(Door)
	return d
}

// readable are the routes that a read-only socket answers: those that change nothing, hand out
// no file of a container or image, and make the engine speak to nobody else. Every other one is refused,
// also one that somebody adds without thinking of this.
var readable = []string{
	"GET /_ping", "HEAD /_ping",
	"GET /version", "GET /info", "GET /events", "GET /system/df",
	"GET /containers/json", "GET /containers/{id}/json", "GET /containers/{id}/logs", "GET /containers/{id}/top",
	"GET /containers/{id}/stats", "GET /containers/{id}/changes", "GET /containers/{id}/checkpoints", "GET /exec/{id}/json",
	"GET /images/json", "GET /images/{name...}/json", "GET /images/{name...}/attestations",
	"GET /volumes", "GET /volumes/{name}", "GET /networks", "GET /networks/{id}", "GET /berth/df",
	// Clients learn from these that there is no such thing.
	"GET /plugins", "GET /plugins/{name...}/json",
	"GET /swarm", "GET /swarm/{verb}", "GET /nodes", "GET /nodes/{id}", "GET /services", "GET /services/{id}", "GET /services/{id}/logs",
	"GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/logs", "GET /secrets", "GET /secrets/{id}", "GET /configs", "GET /configs/{id}",
}

// withheld are the routes that are read by their method and refused all the same.
var withheld = map[string]string{
	"GET /containers/{id}/attach/ws":       "it takes input",
	"GET /containers/{id}/export":          "files",
	"HEAD /containers/{id}/archive":        "names of files, and where links lead",
	"GET /containers/{id}/archive":         "files",
	"GET /images/get":                      "files",
	"GET /images/{name...}/get":            "files",
	"GET /images/{name...}/history":        "the lines of its build, with what ENV and ARG were given",
	"GET /images/search":                   "the engine asks a registry of the client's choice",
	"GET /distribution/{name...}/json":     "the engine asks a registry of the client's choice",
	"GET /distribution/{name...}/manifest": "the engine asks a registry of the client's choice",
	"GET /plugins/privileges":              "Docker asks a registry for them",
	"GET /debug/vars":                      "the engine's memory",
	"GET /debug/pprof":                     "the engine's memory",
	"GET /debug/pprof/{name...}":           "the engine's memory",
}

// admit refuses what may not come by the request's socket.
func admit(rt *route, r *http.Request) error {
	d := doorOf(r)
	if d.ReadOnly && rt.pattern != "" && !slices.Contains(readable, rt.method+" "+rt.pattern) {
		return fail.New(fail.Forbidden, "this socket is read-only: %s %s is not answered here", r.Method, r.URL.Path)
	}
	return nil
}

// fromBrowser refuses requests that a web page has sent by a browser that reaches a network socket:
// those to another origin, which carry theirs, and those to a name that its owner has pointed
// here (DNS rebinding). No client of the API sends an Origin.
func fromBrowser(r *http.Request) error {
	d := doorOf(r)
	if !d.Network {
		return nil
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		return fail.New(fail.Forbidden, "requests of web pages are not answered (origin %q)", origin)
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "none" {
		return fail.New(fail.Forbidden, "requests of web pages are not answered (%s)", site)
	}
	if d.Loopback && !localName(r.Host) {
		return fail.New(fail.Forbidden, "this machine is not called %q: use localhost or an address", r.Host)
	}
	return nil
}

// localName tells whether a Host header is one that nobody else can point here.
func localName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if _, err := netip.ParseAddr(host); err == nil || host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true // also the clients' own stand-in, api.moby.localhost
	}
	own, err := os.Hostname()
	return host == "docker" || err == nil && strings.EqualFold(host, own)
}

// veil takes the secrets out of an answer on a read-only socket: the values of environment
// variables, and the mount options of volumes, which may hold passwords.
func veil(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var plain any
	if err := decoder.Decode(&plain); err != nil {
		return nil, err
	}
	veilIn(plain)
	return plain, nil
}

const hidden = "***"

func veilIn(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			veilIn(e)
		}
	case map[string]any:
		for key, e := range v {
			if list, ok := e.([]any); ok && key == "Env" {
				veilValues(list)
				continue
			}
			if options, ok := e.(map[string]any); ok && (key == "Options" || key == "DriverOpts") && options["o"] != nil {
				options["o"] = hidden
			}
			veilIn(e)
		}
	}
}

func veilValues(env []any) {
	for i, e := range env {
		if s, ok := e.(string); ok {
			if name, _, has := strings.Cut(s, "="); has {
				env[i] = name + "=" + hidden
			}
		}
	}
}
