package daemon

import (
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"berth/engine"
	"berth/events"
)

// reload reads the configuration file again, on SIGHUP. What can change while we run
// does; for the rest the log says that it waits for a restart. A file that is wrong
// changes nothing.
func (d *daemon) reload() {
	next, err := ParseSettings(d.set.args)
	if err != nil {
		d.log.Error("the configuration was not reloaded", "error", err)
		return
	}
	d.level.Set(next.level())
	d.live.Store(next)
	d.setRuntimes(next.runtimes())
	d.registry.Configure(next.InsecureRegistries, next.RegistryMirrors)
	for _, s := range []struct {
		name     string
		old, new any
	}{
		{"data-root", d.set.DataRoot, next.DataRoot},
		{"exec-root", d.set.ExecRoot, next.ExecRoot},
		{"hosts", d.set.Hosts, next.Hosts},
		{"group", d.set.Group, next.Group},
		{"pidfile", d.set.Pidfile, next.Pidfile},
		{"exec-opts", d.set.ExecOpts, next.ExecOpts},
		{"cgroup-parent", d.set.CgroupParent, next.CgroupParent},
		{"allow-nondistributable-artifacts", d.set.PushForeign, next.PushForeign},
		{"registry-hosts-dirs", d.set.RegistryHostsDirs, next.RegistryHostsDirs},
		{"proxies", []string{d.set.HTTPProxy, d.set.HTTPSProxy, d.set.NoProxy}, []string{next.HTTPProxy, next.HTTPSProxy, next.NoProxy}},
		{"max-concurrent-downloads", d.set.MaxDownloads, next.MaxDownloads},
		{"max-concurrent-uploads", d.set.MaxUploads, next.MaxUploads},
		{"max-download-attempts", d.set.MaxDownloadAttempts, next.MaxDownloadAttempts},
		{"cache-max-size", d.set.CacheMax, next.CacheMax},
		{"registry-stall-timeout", d.set.RegistryStallTimeout, next.RegistryStallTimeout},
		{"log-driver", d.set.LogDriver, next.LogDriver},
		{"log-opts", d.set.LogOpts, next.LogOpts},
		{"log-format", d.set.LogFormat, next.LogFormat},
		{"default-ulimits", d.set.DefaultUlimits, next.DefaultUlimits},
		{"cdi-spec-dirs", d.set.CDISpecDirs, next.CDISpecDirs},
		{"default-shm-size", d.set.DefaultShmSize, next.DefaultShmSize},
		{"default-cgroupns-mode, default-ipc-mode, no-new-privileges or seccomp-profile", d.set.defaults(), next.defaults()},
		{"selinux-enabled", d.set.SELinux, next.SELinux},
		{"init", d.set.Init, next.Init},
		{"init-path", d.set.InitPath, next.InitPath},
		{"metrics-addr", d.set.MetricsAddr, next.MetricsAddr},
		{"idle-timeout", d.set.IdleTimeout, next.IdleTimeout},
		{"tls", []any{d.set.TLS, d.set.TLSVerify, d.set.TLSCA, d.set.TLSCert, d.set.TLSKey}, []any{next.TLS, next.TLSVerify, next.TLSCA, next.TLSCert, next.TLSKey}},
	} {
		if !reflect.DeepEqual(s.old, s.new) {
			d.log.Warn("changed in the configuration: restart the engine to use it", "directive", s.name)
		}
	}
	for i, now := range next.NetworkSettings.directives() {
		if !reflect.DeepEqual(d.set.NetworkSettings.directives()[i].value, now.value) {
			d.log.Warn("changed in the configuration: restart the engine to use it", "directive", now.name)
		}
	}
	d.tellReload(next)
	d.log.Info("configuration reloaded", "level", d.level.Level(), "labels", next.Labels, "runtimes", slices.Sorted(maps.Keys(next.Runtimes)), "default-runtime", next.DefaultRuntime)
}

// reloadEvent tells of the configuration in Docker's words, as far as a reload changes it.
func reloadEvent(engineID string, s *Settings) events.Event {
	host, _ := os.Hostname()
	list := func(words []string) string {
		text, _ := json.Marshal(slices.Concat([]string{}, words)) // strings always encode
		return string(text)
	}
	runtimes := []string{engine.OwnRuntime}
	for name, r := range s.Runtimes {
		runtimes = append(runtimes, name+":"+r.Path)
	}
	slices.Sort(runtimes)
	return events.Event{Type: "daemon", Action: "reload", ID: engineID, Attrs: map[string]string{
		"name":                host,
		"debug":               strconv.FormatBool(s.level() <= slog.LevelDebug),
		"labels":              list(s.Labels),
		"insecure-registries": list(s.InsecureRegistries),
		"registry-mirrors":    list(s.RegistryMirrors),
		"default-runtime":     s.DefaultRuntime,
		"runtimes":            strings.Join(runtimes, " "),
		"live-restore":        "true",
		"shutdown-timeout":    strconv.Itoa(s.ShutdownTimeout),
	}}
}

// directive is a setting by its key in daemon.json.
type directive struct {
	name  string
	value any
}

// levels are dockerd's names of log levels.
var levels = map[string]slog.Level{
	"debug": slog.LevelDebug,
	"info":  slog.LevelInfo,
	"warn":  slog.LevelWarn,
	"error": slog.LevelError,
	"fatal": slog.LevelError + 4,
}

func (s *Settings) level() slog.Level {
	if s.Debug {
		return slog.LevelDebug
	}
	return levels[s.LogLevel]
}
