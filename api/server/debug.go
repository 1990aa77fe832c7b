package server

import (
	"expvar"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"

	"berth/fail"
)

// local lets a handler answer only clients of a unix socket.
func local(h func(*writer, *request) error) func(*writer, *request) error {
	return func(w *writer, r *request) error {
		addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if !ok || addr.Network() != "unix" {
			return fail.New(fail.Forbidden, "%s is served on the local socket only", r.URL.Path)
		}
		return h(w, r)
	}
}

func debugVars(w *writer, r *request) error {
	expvar.Handler().ServeHTTP(w, r.Request)
	return nil
}

func debugProfile(w *writer, r *request) error {
	switch name := r.path["name"]; name {
	case "cmdline":
		pprof.Cmdline(w, r.Request)
	case "profile":
		pprof.Profile(w, r.Request)
	case "symbol":
		pprof.Symbol(w, r.Request)
	case "trace":
		pprof.Trace(w, r.Request)
	case "":
		if !strings.HasSuffix(r.URL.Path, "/") {
			http.Redirect(w, r.Request, r.URL.Path+"/", http.StatusMovedPermanently)
			return nil
		}
		pprof.Index(w, r.Request)
	default:
		pprof.Handler(name).ServeHTTP(w, r.Request)
	}
	return nil
}
