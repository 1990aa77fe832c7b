// Package server is the Docker dialect of Berth: it serves the Docker Engine API,
// versions 1.40 to 1.55, over the engine.
//
// Every endpoint is a row of the table in routes.go. A handler reads the request,
// calls the engine, and shapes the answer for the version the client speaks: answers
// are structs of ours that embed the newest types of moby/api and add what older
// versions must have. Errors carry a class (package fail), which errors.go alone turns
// into a status.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	mobynet "github.com/moby/moby/api/types/network"

	"berth/engine"
	"berth/events"
	"berth/fail"
	"berth/images"
	"berth/logs"
	"berth/metrics"
	"berth/oci"
	"berth/registry"
	berth "berth/version"
)

// Containers is what the API needs of *engine.Containers.
type Containers interface {
	Create(ctx context.Context, r engine.CreateRequest) (id string, warnings []string, err error)
	Start(ctx context.Context, ref string) error
	Stop(ctx context.Context, ref string, o engine.StopOptions) error
	Restart(ctx context.Context, ref string, o engine.StopOptions) error
	Kill(ctx context.Context, ref, signal string) error
	Wait(ctx context.Context, ref string, cond engine.WaitCondition) (<-chan engine.WaitResult, error)
	Remove(ctx context.Context, ref string, o engine.RemoveOptions) error
	RemoveLink(ctx context.Context, name string) error
	Rename(ctx context.Context, ref, name string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Update(ctx context.Context, ref string, r engine.UpdateRequest) (warnings []string, err error)
	Commit(ctx context.Context, ref string, r engine.CommitRequest) (image oci.Digest, err error)
	Files(ctx context.Context, ref string) (*engine.Files, error)
	Changes(ctx context.Context, ref string) ([]images.Change, error)
	Export(ctx context.Context, ref string, begin func(interrupted <-chan struct{}) io.Writer) error
	Get(ref string) (engine.Container, error)
	List() []engine.Container
	Size(ctx context.Context, ref string) (rw, rootfs int64, err error)
	LogSize(ref string) int64
	Logs(ctx context.Context, ref string, o logs.ReadOptions, fn func(logs.Entry) error) error
	Attach(ctx context.Context, ref string, o engine.AttachOptions, hijack engine.Hijack) error
	Resize(ctx context.Context, ref string, rows, cols uint16) error
	Top(ctx context.Context, ref, psArgs string) (titles []string, processes [][]string, err error)
	HealthChecks() (total, failed uint64)
	Stats(ctx context.Context, ref string, o engine.StatsOptions, fn func(engine.Stats) error) error
	Using(image oci.Digest) (all, running []string)
	Prune(ctx context.Context, keep func(engine.Container) bool) (ids []string, freed int64, err error)
	Connect(ctx context.Context, ref, network string, cfg *mobynet.EndpointSettings) error
	Disconnect(ctx context.Context, ref, network string, force bool) error
}

// Execs is what the API needs of *engine.Execs.
type Execs interface {
	Create(ctx context.Context, container string, r engine.ExecRequest) (id string, err error)
	Start(ctx context.Context, id string, o engine.ExecStart, hijack engine.Hijack) error
	Get(ctx context.Context, id string) (engine.Exec, error)
	Resize(ctx context.Context, id string, rows, cols uint16) error
}

// Images is what the API needs of *images.Store.
type Images interface {
	Pull(ctx context.Context, ref reference.Named, platform *oci.Platform, auth *registry.Auth, report images.Progress) (images.Image, error)
	Push(ctx context.Context, ref reference.Named, o images.PushOptions, auth *registry.Auth, report images.Progress) error
	Get(name string) (images.Image, error)
	GetExact(name string, platform *oci.Platform) (images.Image, error)
	Manifests(id oci.Digest) ([]images.Part, error)
	List() ([]images.Image, error)
	Tag(source string, target reference.Named) error
	Remove(ctx context.Context, name string, o images.RemoveOptions) ([]images.Removal, error)
	History(name string, platform *oci.Platform) ([]images.HistoryEntry, error)
	CanSave(names []string, o images.SaveOptions) error
	Save(ctx context.Context, names []string, o images.SaveOptions, w io.Writer) error
	Load(ctx context.Context, r io.Reader, o images.LoadOptions, report images.Progress) ([]string, error)
	Import(ctx context.Context, r io.Reader, o images.ImportOptions) (oci.Digest, error)
	GraphDriver() string
	DriverFacts() [][2]string
	DiskUse(inUse func(oci.Digest) bool) (images.DiskUse, error)
	IsUnpacked(path string) bool
	Usage() (int64, error)
	Collect(ctx context.Context, inUse func(oci.Digest) bool) (int64, error)
	Check(ctx context.Context, o images.CheckOptions) (images.CheckSummary, error)
}

// Registry is what the API needs of *registry.Client.
type Registry interface {
	Login(ctx context.Context, a registry.Auth) (identityToken string, err error)
	Repository(ref reference.Named, auth *registry.Auth) *registry.Repository
	Search(ctx context.Context, term string, limit int, auth *registry.Auth) ([]registry.Found, error)
}

// Facts are what the daemon tells about itself for info and version.
type Facts struct {
	ID                 string // of this engine, stable over restarts
	DataRoot           string
	LogDriver          string
	CgroupDriver       string
	Labels             func() []string
	Debug              func() bool
	InsecureRegistries func() []string
	Mirrors            func() []string
	ShimPath           string
	Runtimes           func() engine.Runtimes
	// CDIDevices tells of directories with specifications of devices, and of the devices.
	CDIDevices      func() (dirs, names []string)
	InitPath        string   // of containers' init; empty: our own
	Warnings        []string // of info, about how the engine is configured
	SELinux         bool     // containers get labels
	SeccompProfile  string   // of containers that name none: a file, "unconfined", or "builtin", which is also the empty one
	NoNewPrivileges bool     // containers' default
	DefaultShmSize  int64    // bytes, for containers that ask for none; 0: the engine's own default
}

// Config is what a Server is made of.
type Config struct {
	Containers Containers
	Execs      Execs
	Images     Images
	Volumes    Volumes
	Registry   Registry
	Networks   Networks
	Events     *events.Bus
	Facts      Facts
	Log        *slog.Logger
	// Metrics takes what the server has to tell; nil: nobody asks.
	Metrics *metrics.Registry
	// Streams ends when the engine does: waits, events and logs that are followed end
	// then, other requests finish. Nil: never.
	Streams context.Context
}

// Server answers the Engine API. It is an http.Handler.
type Server struct {
	Config
	routes     []route
	layersUsed fixedUsage
	pruning    pruning
	infoTime   *metrics.Timer
}

// New makes a Server.
func New(c Config) *Server {
	s := &Server{Config: c}
	s.routes = compile(routes)
	if c.Metrics != nil {
		s.describe(c.Metrics)
	}
	return s
}

// request is what a handler gets: the HTTP request, the values of the path's wildcards
// and the version the client speaks.
type request struct {
	*http.Request
	path    map[string]string
	version version
	s       *Server
}

// stream is the context of an answer that has no end of its own. It ends with the client
// and with the engine.
func (r *request) stream() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	if r.s.Streams == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(r.s.Streams, cancel)
	return ctx, func() { stop(); cancel() }
}

// ServeHTTP finds the route and answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Api-Version", DefaultVersion)
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", "linux")
	h.Set("Server", "Berth/"+berth.Version+" (linux)")
	tracked := &writer{ResponseWriter: w, veiled: doorOf(r).ReadOnly}
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			s.Log.Error("a handler panicked; please report this", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if tracked.wrote {
				panic(http.ErrAbortHandler) // the client must not take a cut answer for a whole one
			}
			writeError(tracked, fmt.Errorf("internal error: %v", p))
		}
	}()
	body := &clientBody{ReadCloser: r.Body}
	r.Body = body
	if err := s.serve(tracked, r); err != nil {
		if body.broken.Load() && fail.Of(err) == fail.Internal {
			err = fail.New(fail.Invalid, "%w", err) // it broke off: no fault of ours
		}
		if tracked.wrote {
			s.Log.Debug("answer was cut", "method", r.Method, "path", r.URL.Path, "error", err)
			panic(http.ErrAbortHandler)
		}
		if fail.Of(err) == fail.Internal {
			s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		writeError(tracked, err)
	}
}

func (s *Server) serve(w *writer, r *http.Request) error {
	if err := fromBrowser(r); err != nil {
		return err
	}
	v, path, err := splitVersion(r.URL.Path)
	if err != nil {
		return err
	}
	rt, values, err := s.find(r.Method, path, v)
	if err != nil {
		return err
	}
	if err := admit(rt, r); err != nil {
		return err
	}
	return rt.handle(w, &request{Request: r, path: values, version: v, s: s})
}

// clientBody remembers whether a request's body broke off.
type clientBody struct {
	io.ReadCloser
	broken atomic.Bool
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.broken.Store(true)
	}
	return n, err
}

// writer remembers whether an answer has begun, so that errors after that are not
// answered with a second head.
type writer struct {
	http.ResponseWriter
	wrote  bool
	veiled bool // secrets are left out of answers
}

func (w *writer) WriteHeader(status int) {
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(p []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) flush() error {
	w.wrote = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// readWhileWriting lets progress be told while the body is still coming. Without it
// net/http takes the beginning of an answer for the end of the request.
func (w *writer) readWhileWriting() error {
	err := http.NewResponseController(w.ResponseWriter).EnableFullDuplex()
	if errors.Is(err, http.ErrNotSupported) {
		return nil // HTTP/2, and recorders in tests, are so anyway
	}
	return err
}

// writeJSON answers with v.
func writeJSON(w *writer, status int, v any) error {
	if w.veiled {
		var err error
		if v, err = veil(v); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// since tells how long ago t was, for status texts; a clock that went back counts as now.
func since(t, now time.Time) time.Duration { return max(now.Sub(t), 0) }
