package server

import (
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"

	"berth/fail"
	berthregistry "berth/registry"
	berth "berth/version"
)

// ping answers what clients negotiate by. Builder-Version is 1, the classic builder,
// until BuildKit's API is served: then "docker build" ends with our own clear line from
// POST /build instead of a broken gRPC connection.
func ping(w *writer, r *request) error {
	h := w.Header()
	h.Set("Builder-Version", "1")
	h.Set("Swarm", "inactive")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := io.WriteString(w, "OK")
	return err
}

func getVersion(w *writer, r *request) error {
	kernel := kernelVersion()
	v := system.VersionResponse{
		Platform:      system.PlatformInfo{Name: "Berth"},
		Version:       berth.Version,
		APIVersion:    DefaultVersion,
		MinAPIVersion: MinVersion,
		GitCommit:     berth.Commit,
		GoVersion:     runtime.Version(),
		Os:            runtime.GOOS,
		Arch:          runtime.GOARCH,
		KernelVersion: kernel,
		BuildTime:     buildTime(),
	}
	v.Components = []system.ComponentVersion{
		{Name: "Engine", Version: berth.Version, Details: map[string]string{
			"ApiVersion":    DefaultVersion,
			"MinAPIVersion": MinVersion,
			"GitCommit":     berth.Commit,
			"GoVersion":     runtime.Version(),
			"Os":            runtime.GOOS,
			"Arch":          runtime.GOARCH,
			"KernelVersion": kernel,
			"Experimental":  "false",
			"BuildTime":     buildTime(),
		}},
		{Name: "berth-shim", Version: berth.Version, Details: map[string]string{"GitCommit": berth.Commit}},
		{Name: "berth-runtime", Version: berth.Version, Details: map[string]string{"GitCommit": berth.Commit}},
	}
	return writeJSON(w, http.StatusOK, v)
}

// buildTime is when the source revision was made, as far as the build recorded it, else when
// the program's file was.
var buildTime = sync.OnceValue(func() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				return s.Value
			}
		}
	}
	file, err := os.Stat("/proc/self/exe")
	if err != nil {
		return ""
	}
	return file.ModTime().UTC().Format(time.RFC3339)
})

// login checks credentials with their registry.
func login(w *writer, r *request) error {
	var a registry.AuthConfig
	if err := bodyJSON(w, r, &a, true); err != nil {
		return err
	}
	if strings.TrimSpace(a.Username) == "" && a.IdentityToken == "" && a.RegistryToken == "" {
		return fail.New(fail.Invalid, "login needs a user name or a token")
	}
	token, err := r.s.Registry.Login(r.Context(), berthregistry.Auth(a))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, registry.AuthResponse{Status: "Login Succeeded", IdentityToken: token})
}
