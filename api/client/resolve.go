package client

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"berth/fail"
)

// endpoint is the engine that was chosen.
type endpoint struct {
	host      string
	tls       *tls.Config
	autostart bool // it is the default one of this user, which we may start
}

// DefaultSocket is the path of this user's engine's socket: /run/berth/berth.sock for
// root, in $XDG_RUNTIME_DIR for others.
func DefaultSocket(env func(string) string) string {
	return filepath.Join(defaultExecRoot(env, os.Geteuid()), "berth.sock")
}

func defaultExecRoot(env func(string) string, uid int) string {
	if uid == 0 {
		return "/run/berth"
	}
	if dir := env("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "berth")
	}
	return filepath.Join(os.TempDir(), "berth-"+strconv.Itoa(uid))
}

// resolve chooses: the host flag, the context flag, BERTH_HOST, DOCKER_HOST,
// DOCKER_CONTEXT, the current context of config.json, the default socket.
func resolve(o Options, env func(string) string) (endpoint, error) {
	if o.Host != "" && o.Context != "" {
		return endpoint{}, fail.New(fail.Invalid, "conflicting options: cannot specify both --host and --context")
	}
	host := o.Host
	if host == "" && o.Context == "" {
		for _, name := range []string{"BERTH_HOST", "DOCKER_HOST"} {
			if host = env(name); host != "" {
				break
			}
		}
	}
	if host != "" {
		return hostEndpoint(host, o, env)
	}
	name := o.Context
	if name == "" {
		name = env("DOCKER_CONTEXT")
	}
	if name == "" {
		var err error
		if name, err = currentContext(env); err != nil {
			return endpoint{}, err
		}
	}
	if name == "" || name == "default" {
		return endpoint{host: "unix://" + DefaultSocket(env), autostart: true}, nil
	}
	return contextEndpoint(name, o, env)
}

// hostEndpoint reads a -H value as docker does: a path or a bare host:port are taken
// for unix and tcp.
func hostEndpoint(host string, o Options, env func(string) string) (endpoint, error) {
	host = strings.TrimSpace(host)
	switch {
	case strings.HasPrefix(host, "/"):
		host = "unix://" + host
	case !strings.Contains(host, "://"):
		host = "tcp://" + host
	}
	scheme, addr, _ := strings.Cut(host, "://")
	e := endpoint{host: host}
	switch scheme {
	case "unix":
		if addr == "" {
			e.host = "unix://" + DefaultSocket(env)
		}
		e.autostart = strings.TrimPrefix(e.host, "unix://") == DefaultSocket(env)
	case "tcp", "http", "https":
		var err error
		if e.tls, err = tlsConfig(o, env); err != nil {
			return endpoint{}, err
		}
		if e.host, err = tcpHost(scheme, addr, e.tls != nil); err != nil {
			return endpoint{}, err
		}
	case "ssh":
	default:
		return endpoint{}, fail.New(fail.Invalid, "invalid host %q: use unix://, tcp:// or ssh://", host)
	}
	return e, nil
}

// tcpHost fills in Docker's ports: 2376 with TLS, 2375 without.
func tcpHost(scheme, addr string, secure bool) (string, error) {
	addr, path, _ := strings.Cut(addr, "/")
	if addr == "" {
		addr = "localhost"
	}
	if i := strings.LastIndex(addr, ":"); i < 0 || strings.HasSuffix(addr, "]") {
		port := "2375"
		if secure {
			port = "2376"
		}
		addr += ":" + port
	}
	if path != "" {
		addr += "/" + path
	}
	if scheme != "tcp" {
		return "tcp://" + addr, nil
	}
	return scheme + "://" + addr, nil
}

func configDir(env func(string) string) string {
	if dir := env("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	home := env("HOME")
	if home == "" {
		home, _ = os.UserHomeDir()
	}
	return filepath.Join(home, ".docker")
}

// currentContext reads currentContext of config.json. A missing file means none.
func currentContext(env func(string) string) (string, error) {
	path := filepath.Join(configDir(env), "config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var c struct {
		CurrentContext string `json:"currentContext"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return "", fail.New(fail.Invalid, "%s: %w", path, err)
	}
	return c.CurrentContext, nil
}

// contextMeta is <config>/contexts/meta/<sha256 of the name>/meta.json.
type contextMeta struct {
	Name      string
	Endpoints map[string]struct {
		Host          string
		SkipTLSVerify bool
	}
}

// contextEndpoint reads a context of docker's store.
func contextEndpoint(name string, o Options, env func(string) string) (endpoint, error) {
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:])
	store := filepath.Join(configDir(env), "contexts")
	data, err := os.ReadFile(filepath.Join(store, "meta", id, "meta.json"))
	if errors.Is(err, os.ErrNotExist) {
		return endpoint{}, fail.New(fail.NotFound, "context %q does not exist", name)
	}
	if err != nil {
		return endpoint{}, err
	}
	var m contextMeta
	if err := json.Unmarshal(data, &m); err != nil {
		return endpoint{}, fail.New(fail.Invalid, "context %q: %w", name, err)
	}
	ep, ok := m.Endpoints["docker"]
	if !ok || ep.Host == "" {
		return endpoint{}, fail.New(fail.Invalid, "context %q has no docker endpoint", name)
	}
	dir := filepath.Join(store, "tls", id, "docker")
	for _, f := range []struct {
		to   *string
		name string
	}{{&o.CAFile, "ca.pem"}, {&o.CertFile, "cert.pem"}, {&o.KeyFile, "key.pem"}} {
		path := filepath.Join(dir, f.name)
		if _, err := os.Stat(path); err == nil {
			*f.to = path
			o.TLS = true
			o.TLSVerify = !ep.SkipTLSVerify
		}
	}
	e, err := hostEndpoint(ep.Host, o, func(key string) string {
		if strings.HasPrefix(key, "DOCKER_TLS") || key == "DOCKER_CERT_PATH" {
			return "" // a context brings its own
		}
		return env(key)
	})
	if err != nil {
		return endpoint{}, fmt.Errorf("context %q: %w", name, err)
	}
	return e, nil
}
