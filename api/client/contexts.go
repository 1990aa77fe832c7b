package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"berth/api/client/contexts"
	"berth/fail"
)

// Contexts are the user's contexts.
func Contexts(o Options) *contexts.Store { return contexts.At(configDir(o, os.Getenv)) }

// CurrentContext is the name of the context that New would use: "default" if the host comes
// from elsewhere. It may not exist.
func CurrentContext(o Options) (string, error) { return currentContext(o, os.Getenv) }

// HostVariable is the environment variable that overrides the current context; empty: none does.
func HostVariable() string { return hostVariable(os.Getenv) }

// DefaultContext is the context "default", which is not kept: the engine of flags and
// environment, else this user's own.
func DefaultContext(o Options) (*contexts.Context, error) {
	e, err := hostEndpoint(defaultHost(o, os.Getenv), o, os.Getenv)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	if e.tls != nil {
		t, err := tlsFiles(o, os.Getenv)
		if err != nil {
			return nil, err
		}
		for name, path := range map[string]string{contexts.CAFile: t.CAFile, contexts.CertFile: t.CertFile, contexts.KeyFile: t.KeyFile} {
			if path == "" {
				continue
			}
			if files[name], err = os.ReadFile(path); err != nil {
				return nil, err
			}
		}
	}
	c := &contexts.Context{Name: contexts.Default}
	c.SetEndpoint(contexts.Endpoint{Host: e.host, SkipTLSVerify: e.tls != nil && e.tls.InsecureSkipVerify}, files)
	return c, nil
}

// CheckContext tells whether a client could be made from the context: its host can be read and
// its TLS files fit together.
func CheckContext(c *contexts.Context) error {
	ep, err := c.Endpoint()
	if err != nil {
		return err
	}
	if ep.Host == "" {
		return nil // this user's own engine
	}
	dir, err := os.MkdirTemp("", "berth-context-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, data := range c.TLS[contexts.Engine] {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	e, err := storedEndpoint(ep, dir, os.Getenv)
	if err != nil {
		return err
	}
	_, err = connector(e)
	return err
}

func configDir(o Options, env func(string) string) string {
	if o.ConfigDir != "" {
		return o.ConfigDir
	}
	if dir := env("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	home := env("HOME")
	if home == "" {
		home, _ = os.UserHomeDir()
	}
	return filepath.Join(home, ".docker")
}

func currentContext(o Options, env func(string) string) (string, error) {
	name := o.Context
	if name == "" && (o.Host != "" || hostVariable(env) != "") {
		return contexts.Default, nil
	}
	if name == "" {
		name = env("DOCKER_CONTEXT")
	}
	if name == "" {
		var err error
		if name, err = configuredContext(configDir(o, env)); err != nil {
			return "", err
		}
	}
	if name == "" {
		return contexts.Default, nil
	}
	return name, nil
}

// configuredContext reads currentContext of config.json. A missing file means none.
func configuredContext(dir string) (string, error) {
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || len(data) == 0 && err == nil {
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

// contextEndpoint is the engine of a kept context.
func contextEndpoint(name string, o Options, env func(string) string) (endpoint, error) {
	store := contexts.At(configDir(o, env))
	c, err := store.Meta(name)
	if err != nil {
		return endpoint{}, err
	}
	ep, err := c.Endpoint()
	if err == nil {
		var e endpoint
		if e, err = storedEndpoint(ep, filepath.Join(store.TLSDir(name), contexts.Engine), env); err == nil {
			return e, nil
		}
	}
	return endpoint{}, fmt.Errorf("context %q: %w", name, err)
}

// storedEndpoint reads a context's engine. What flags and environment say of TLS is about
// other hosts: a context brings its own, in dir.
func storedEndpoint(ep contexts.Endpoint, dir string, env func(string) string) (endpoint, error) {
	if ep.Host == "" {
		ep.Host = "unix://" + DefaultSocket(env)
	}
	var o Options
	for _, f := range []struct {
		to   *string
		name string
	}{{&o.CAFile, contexts.CAFile}, {&o.CertFile, contexts.CertFile}, {&o.KeyFile, contexts.KeyFile}} {
		path := filepath.Join(dir, f.name)
		if _, err := os.Stat(path); err == nil {
			*f.to, o.TLS, o.TLSVerify = path, true, !ep.SkipTLSVerify
		}
	}
	o.TLS = o.TLS || ep.SkipTLSVerify
	o.onlyGiven = true
	return hostEndpoint(ep.Host, o, func(key string) string {
		if strings.HasPrefix(key, "DOCKER_TLS") || key == "DOCKER_CERT_PATH" {
			return ""
		}
		return env(key)
	})
}
