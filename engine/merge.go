package engine

import (
	"encoding/json"
	"path"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"berth/fail"
	"berth/images"
)

// imageExtras are the fields of an image's configuration that the OCI specification
// does not know.
type imageExtras struct {
	Config struct {
		Healthcheck *container.HealthConfig
		OnBuild     []string
		Shell       []string
	} `json:"config"`
}

// mergeImage fills cfg with what the image says and the request does not. cfg is
// changed; the image is not.
func mergeImage(cfg *container.Config, img images.Image) error {
	ic := img.Config.Config
	var extra imageExtras
	if len(img.RawConfig) > 0 {
		if err := json.Unmarshal(img.RawConfig, &extra); err != nil {
			return fail.New(fail.Invalid, "the configuration of image %s is malformed: %w", cfg.Image, err)
		}
	}
	if cfg.User == "" {
		cfg.User = ic.User
	}
	if cfg.WorkingDir == "" {
		cfg.WorkingDir = ic.WorkingDir
	}
	if cfg.StopSignal == "" {
		cfg.StopSignal = ic.StopSignal
	}
	if cfg.Shell == nil {
		cfg.Shell = extra.Config.Shell
	}
	if cfg.OnBuild == nil {
		cfg.OnBuild = extra.Config.OnBuild
	}
	for p := range ic.ExposedPorts {
		port, err := network.ParsePort(p)
		if err != nil {
			return fail.New(fail.Invalid, "image %s exposes %q: %w", cfg.Image, p, err)
		}
		if cfg.ExposedPorts == nil {
			cfg.ExposedPorts = network.PortSet{}
		}
		cfg.ExposedPorts[port] = struct{}{}
	}
	cfg.Env = mergeEnv(cfg.Env, ic.Env)
	if cfg.Labels = fillMap(cfg.Labels, ic.Labels); cfg.Labels == nil {
		cfg.Labels = map[string]string{}
	}
	if cfg.Volumes = fillMap(cfg.Volumes, ic.Volumes); len(cfg.Volumes) == 0 {
		cfg.Volumes = nil // {} and null are the same question, and one answer
	}
	cfg.Healthcheck = mergeHealth(cfg.Healthcheck, extra.Config.Healthcheck)

	// An ENTRYPOINT of the request makes the image's CMD meaningless; [""] takes the
	// image's ENTRYPOINT away.
	if len(cfg.Entrypoint) == 0 {
		if len(cfg.Cmd) == 0 {
			cfg.Cmd = ic.Cmd
		}
		if cfg.Entrypoint == nil {
			cfg.Entrypoint = ic.Entrypoint
		}
	}
	if len(cfg.Entrypoint) == 1 && cfg.Entrypoint[0] == "" {
		cfg.Entrypoint = nil
	}
	return nil
}

// mergeEnv appends the image's variables that the request does not name.
func mergeEnv(own, image []string) []string {
	named := map[string]bool{}
	for _, e := range own {
		k, _, _ := strings.Cut(e, "=")
		named[k] = true
	}
	for _, e := range image {
		if k, _, _ := strings.Cut(e, "="); !named[k] {
			own = append(own, e)
		}
	}
	return own
}

func fillMap[V any](own, image map[string]V) map[string]V {
	for k, v := range image {
		if own == nil {
			own = map[string]V{}
		}
		if _, ok := own[k]; !ok {
			own[k] = v
		}
	}
	return own
}

// mergeHealth takes from the image each part of a health check that the request leaves
// out.
func mergeHealth(own, image *container.HealthConfig) *container.HealthConfig {
	if own == nil || image == nil {
		if own == nil {
			return image
		}
		return own
	}
	merged := *own
	if len(merged.Test) == 0 {
		merged.Test = image.Test
	}
	for _, f := range []struct{ own, image *int64 }{
		{(*int64)(&merged.Interval), (*int64)(&image.Interval)},
		{(*int64)(&merged.Timeout), (*int64)(&image.Timeout)},
		{(*int64)(&merged.StartPeriod), (*int64)(&image.StartPeriod)},
		{(*int64)(&merged.StartInterval), (*int64)(&image.StartInterval)},
	} {
		if *f.own == 0 {
			*f.own = *f.image
		}
	}
	if merged.Retries == 0 {
		merged.Retries = image.Retries
	}
	return &merged
}

// checkConfig validates a merged configuration and cleans its paths.
func checkConfig(cfg *container.Config) error {
	if len(cfg.Entrypoint) == 0 && len(cfg.Cmd) == 0 {
		return fail.New(fail.Invalid, "No command specified")
	}
	if first := commandOf(cfg)[0]; first == "" {
		return fail.New(fail.Invalid, "No command specified: the program's name is empty")
	}
	for _, s := range commandOf(cfg) {
		if strings.ContainsRune(s, 0) {
			return fail.New(fail.Invalid, "the command contains a NUL byte")
		}
	}
	if cfg.WorkingDir != "" {
		if !path.IsAbs(cfg.WorkingDir) {
			return fail.New(fail.Invalid, "the working directory '%s' is invalid, it needs to be an absolute path", cfg.WorkingDir)
		}
		cfg.WorkingDir = path.Clean(cfg.WorkingDir)
	}
	for _, e := range cfg.Env {
		if k, _, _ := strings.Cut(e, "="); k == "" || strings.ContainsRune(e, 0) {
			return fail.New(fail.Invalid, "invalid environment variable: %s", e)
		}
	}
	if cfg.StopSignal != "" {
		if _, err := parseSignal(cfg.StopSignal); err != nil {
			return err
		}
	}
	for v := range cfg.Volumes {
		if !path.IsAbs(v) || path.Clean(v) == "/" {
			return fail.New(fail.Invalid, "invalid volume specification: '%s'", v)
		}
	}
	if err := checkHealth(cfg.Healthcheck); err != nil {
		return err
	}
	return checkHostname(cfg)
}

func commandOf(cfg *container.Config) []string {
	return append(append([]string{}, cfg.Entrypoint...), cfg.Cmd...)
}

// checkHostname holds host and domain name to what sethostname(2) takes.
func checkHostname(cfg *container.Config) error {
	const longest = 64 // HOST_NAME_MAX
	if len(cfg.Hostname) > longest || len(cfg.Domainname) > longest ||
		strings.ContainsAny(cfg.Hostname+cfg.Domainname, " \t\n\x00/") {
		return fail.New(fail.Invalid, "invalid hostname %q or domain name %q", cfg.Hostname, cfg.Domainname)
	}
	return nil
}

// environment is what the process sees: the engine's own variables first, then the
// container's. An entry without "=" removes the variable.
func environment(cfg *container.Config, more []string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + cfg.Hostname}
	if cfg.Tty {
		env = append(env, "TERM=xterm")
	}
	return replaceEnv(replaceEnv(env, cfg.Env), more)
}

// replaceEnv puts each entry of changes in the place of the one it replaces.
func replaceEnv(env, changes []string) []string {
	at := make(map[string]int, len(env)+len(changes))
	for n, e := range env {
		k, _, _ := strings.Cut(e, "=")
		at[k] = n
	}
	for _, e := range changes {
		k, _, set := strings.Cut(e, "=")
		n, known := at[k]
		switch {
		case set && known:
			env[n] = e
		case set:
			at[k] = len(env)
			env = append(env, e)
		case known:
			env[n] = ""
			delete(at, k)
		}
	}
	kept := env[:0]
	for _, e := range env {
		if e != "" {
			kept = append(kept, e)
		}
	}
	return kept
}
