package client

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"berth/api/client/contexts"
	"berth/fail"
)

// endpoint is the engine that was chosen.
type endpoint struct {
	host      string
	tls       *tls.Config
	autostart bool // it is the default one of this user, which we may start
}

// machineSocket is the socket of the engine that root runs.
const machineSocket = "/run/berth/berth.sock"

// DefaultSocket is the path of this user's engine's socket: the machine's for root, one in
// $XDG_RUNTIME_DIR for others. Who has none there uses the machine's if there is one, as a
// member of its group may.
func DefaultSocket(env func(string) string) string {
	return defaultSocket(env, os.Geteuid(), func(path string) bool { _, err := os.Stat(path); return err == nil },
		func(dir string) bool { err := ours(dir); return err == nil || errors.Is(err, fs.ErrNotExist) })
}

// A directory that somebody else has made in /tmp first is not this user's, nor is the engine in it.
func defaultSocket(env func(string) string, uid int, exists, trusted func(string) bool) string {
	dir := defaultExecRoot(env, uid)
	own := filepath.Join(dir, "berth.sock")
	if own == machineSocket || trusted(dir) && (exists(own) || !exists(machineSocket)) {
		return own
	}
	return machineSocket
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

// resolve chooses: the host flag or the context flag, BERTH_HOST, DOCKER_HOST,
// DOCKER_CONTEXT, the current context of config.json, the default socket.
func resolve(o Options, env func(string) string) (endpoint, error) {
	if o.Host != "" && o.Context != "" {
		return endpoint{}, fail.New(fail.Invalid, "conflicting options: either specify --host or --context, not both")
	}
	name, err := currentContext(o, env)
	if err != nil {
		return endpoint{}, err
	}
	if name != contexts.Default {
		return contextEndpoint(name, o, env)
	}
	return hostEndpoint(defaultHost(o, env), o, env)
}

// defaultHost is the host of the default context.
func defaultHost(o Options, env func(string) string) string {
	if o.Host != "" {
		return o.Host
	}
	if name := hostVariable(env); name != "" {
		return env(name)
	}
	if wantsTLS(o, env) {
		return "tcp://localhost:2376" // as Docker: TLS is for nothing else
	}
	return "unix://" + DefaultSocket(env)
}

// hostVariable is the environment variable that names the host; empty if none does.
func hostVariable(env func(string) string) string {
	for _, name := range []string{"BERTH_HOST", "DOCKER_HOST"} {
		if env(name) != "" {
			return name
		}
	}
	return ""
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
		path := strings.TrimPrefix(e.host, "unix://")
		e.autostart = path == DefaultSocket(env) && (path != machineSocket || os.Geteuid() == 0)
	case "tcp", "http", "https":
		if scheme == "https" && !wantsTLS(o, env) {
			o.TLS, o.TLSVerify = true, true
		}
		var err error
		if e.tls, err = tlsConfig(o, env); err != nil {
			return endpoint{}, err
		}
		if e.host, err = tcpHost(scheme, addr, e.tls != nil); err != nil {
			return endpoint{}, err
		}
	case "ssh":
		if _, err := parseSSH(host); err != nil {
			return endpoint{}, err
		}
	default:
		return endpoint{}, fail.New(fail.Invalid, "invalid host %q: use unix://PATH, tcp://HOST:PORT or ssh://[USER@]HOST[:PORT]", host)
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
