package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"berth/engine"
	"berth/fail"
	"berth/registry"
)

// parse reads flags beside a configuration file with the given text.
func parse(t *testing.T, file string, args ...string) (*Settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return ParseSettings(append(args, "--config-file", path))
}

func TestFlagsAndFileAreRead(t *testing.T) {
	s, err := parse(t, `{"data-root":"/d","hosts":["unix:///a","/b"],"debug":true,"log-opts":{"max-size":"1m"},"insecure-registries":["r:5000"],
		"default-ulimits":{"nofile":{"Name":"x","Soft":1,"Hard":2}},"default-shm-size":"128M","labels":["a=b"],"cdi-spec-dirs":["/x","/y"],"shutdown-timeout":3,"idle-timeout":"1m","live-restore":true}`,
		"--exec-root", "/e", "-l", "warn", "--registry-mirror", "http://m")
	if err != nil {
		t.Fatal(err)
	}
	if s.DataRoot != "/d" || s.ExecRoot != "/e" || !reflect.DeepEqual(s.Hosts, []string{"unix:///a", "unix:///b"}) || !s.Debug || s.LogOpts["max-size"] != "1m" ||
		s.InsecureRegistries[0] != "r:5000" || s.DefaultShmSize != 128<<20 || s.Labels[0] != "a=b" || !reflect.DeepEqual(s.CDISpecDirs, []string{"/x", "/y"}) || s.ShutdownTimeout != 3 || s.IdleTimeout != time.Minute ||
		s.RegistryMirrors[0] != "http://m" || s.Pidfile != "/e/berthd.pid" {
		t.Errorf("%+v", s)
	}
}

func TestDirectoriesOfCDISpecifications(t *testing.T) {
	for _, c := range []struct {
		file string
		args []string
		want []string
	}{
		{`{}`, nil, engine.DefaultCDISpecDirs()},
		{`{}`, []string{"--cdi-spec-dir", "/a", "--cdi-spec-dir", "/b"}, []string{"/a", "/b"}},
		{`{"cdi-spec-dirs":[""]}`, nil, nil},
		{`{}`, []string{"--cdi-spec-dir", ""}, nil},
	} {
		if s, err := parse(t, c.file, c.args...); err != nil || !reflect.DeepEqual(s.CDISpecDirs, c.want) {
			t.Errorf("%s %q: %v", c.file, c.args, err)
		}
	}
	if _, err := parse(t, `{"cdi-spec-dirs":["cdi"]}`); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), `--cdi-spec-dir "cdi" is not an absolute path`) {
		t.Error(err)
	}
}

func TestWhatContainersGetThatSayNothing(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "profile.json")
	text := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file string
		want engine.Defaults
	}{
		{`{}`, engine.Defaults{CgroupnsMode: "private", IPCMode: "private"}},
		{`{"default-cgroupns-mode":"host","default-ipc-mode":"shareable","no-new-privileges":true,"seccomp-profile":"` + profile + `"}`, engine.Defaults{CgroupnsMode: "host", IPCMode: "shareable", NoNewPrivileges: true, Seccomp: text}},
		{`{"seccomp-profile":"unconfined"}`, engine.Defaults{CgroupnsMode: "private", IPCMode: "private", Seccomp: "unconfined"}},
		{`{"seccomp-profile":"builtin"}`, engine.Defaults{CgroupnsMode: "private", IPCMode: "private"}},
	} {
		if s, err := parse(t, c.file); err != nil || s.defaults() != c.want {
			t.Errorf("%s: %+v, %v", c.file, s, err)
		}
	}
}

func TestUlimitsOfTheFileAreNamedByTheirKey(t *testing.T) {
	s, err := parse(t, `{"default-ulimits":{"nofile":{"Name":"x","Soft":1,"Hard":2}}}`)
	if err != nil || s.DefaultUlimits["nofile"].Name != "nofile" || s.DefaultUlimits["nofile"].Hard != 2 {
		t.Fatal(s, err)
	}
}

func TestWrongConfigurationsAreOneClearLine(t *testing.T) {
	for _, c := range []struct {
		name, file string
		args       []string
		want       string
	}{
		{"both places", `{"hosts":["unix:///a"]}`, []string{"-H", "unix:///b"}, "are specified both as a flag and in the configuration file: hosts: (from flag: [unix:///b], from file: [\"unix:///a\"])"},
		{"unknown key", `{"colour":"red"}`, nil, "don't match any configuration option: colour"},
		{"a flag's name for the key", `{"host":["unix:///a"]}`, nil, "don't match any configuration option: host"},
		{"a flag that is none for files", `{"ready-fd":3}`, nil, "don't match any configuration option: ready-fd"},
		{"a cgroup namespace of no kind", `{"default-cgroupns-mode":"shared"}`, nil, `invalid default cgroup namespace "shared": use private or host`},
		{"an IPC mode that is no default", `{"default-ipc-mode":"host"}`, nil, `invalid default IPC mode "host": use private or shareable`},
		{"a seccomp profile somewhere", `{"seccomp-profile":"p.json"}`, nil, `--seccomp-profile "p.json" is not an absolute path, nor unconfined or builtin`},
		{"no seccomp profile", `{"seccomp-profile":"/nowhere"}`, nil, "--seccomp-profile: open /nowhere: no such file"},
		{"a seccomp profile that is none", `{"seccomp-profile":"/etc/passwd"}`, nil, "--seccomp-profile /etc/passwd: seccomp profile is not valid JSON"},
		{"not built yet", `{"userns-remap":"default"}`, nil, "not supported by this version of Berth: userns-remap"},
		{"containers that end with the engine", `{"live-restore":false}`, nil, "live-restore cannot be false"},
		{"the same by flag", `{}`, []string{"--live-restore=false"}, "live-restore cannot be false"},
		{"not JSON", `{`, nil, "not a JSON object"},
		{"wrong type", `{"debug":"perhaps"}`, nil, "debug"},
		{"no downloads at all", `{"max-concurrent-downloads":0}`, nil, "at least one layer must be fetched and sent at a time"},
		{"proxy that is none", `{"proxies":{"http-proxy":"http://"}}`, nil, "--http-proxy is not the URL of a proxy"},
		{"unknown proxy", `{"proxies":{"ftp-proxy":"x"}}`, nil, "don't match any configuration option: proxies.ftp-proxy"},
		{"proxy in both places", `{"proxies":{"no-proxy":"x"}}`, []string{"--no-proxy", "y"}, "specified both as a flag and in the configuration file: proxies.no-proxy"},
		{"proxy outside of proxies", `{"no-proxy":"x"}`, nil, "don't match any configuration option: no-proxy"},
		{"mirror that is none", `{"registry-mirrors":["ftp://m"]}`, nil, `registry mirror "ftp://m": a registry is reached by http or https`},
		{"insecure registry with a path", `{"insecure-registries":["h:5000/x"]}`, nil, `insecure registry "h:5000/x" is neither host[:port] nor a network`},
		{"unknown flag", `{}`, []string{"--colour"}, "unknown flag: --colour"},
		{"argument", `{}`, []string{"now"}, "takes no arguments"},
		{"open tcp", `{}`, []string{"-H", "tcp://0.0.0.0:2375"}, "needs --tlsverify"},
		{"tcp that leaves", `{}`, []string{"-H", "tcp://0.0.0.0:2376", "--tlsverify", "--idle-timeout", "1m"}, "cannot be combined"},
		{"unknown scheme", `{}`, []string{"-H", "npipe:////./x"}, "invalid host"},
		{"relative root", `{}`, []string{"--data-root", "x"}, "not an absolute path"},
		{"level", `{}`, []string{"-l", "loud"}, "invalid log level"},
		{"storage driver", `{}`, []string{"-s", "zfs"}, `unknown storage driver "zfs": use overlay or copy`},
		{"format", `{"log-format":"xml"}`, nil, "invalid log format"},
		{"label", `{"labels":["x"]}`, nil, "is not key=value"},
		{"ulimit", `{}`, []string{"--default-ulimit", "nofile=x"}, "nofile=x"},
		{"shm", `{}`, []string{"--default-shm-size", "-1"}, "-1"},
		{"negative time", `{}`, []string{"--idle-timeout", "-1s"}, "negative"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(t, c.file, c.args...)
			if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := ParseSettings([]string{"--config-file", "/does/not/exist"}); !fail.Is(err, fail.Invalid) {
		t.Errorf("a file that was asked for and is missing: %v", err)
	}
}

func TestOnDemandEnginesLeaveWhenIdle(t *testing.T) {
	for _, c := range []struct {
		args []string
		want time.Duration
	}{
		{nil, 0},
		{[]string{"--on-demand"}, onDemandIdle},
		{[]string{"--on-demand", "--idle-timeout", "0"}, 0},
		{[]string{"--on-demand", "--idle-timeout", "7s"}, 7 * time.Second},
		{[]string{"--on-demand", "-H", "tcp://x:1", "--tlsverify"}, 0},
	} {
		if s, err := parse(t, `{}`, c.args...); err != nil || s.IdleTimeout != c.want {
			t.Errorf("%v: %v %v", c.args, s, err)
		}
	}
}

func TestAShimStartsTheSameEngineAgain(t *testing.T) {
	s, err := parse(t, `{"labels":["from=file"]}`, "--data-root", "/d", "-H", "unix:///a", "-H", "unix:///b,c", "--log-opt", "max-size=1m", "--default-ulimit", "nofile=1:2", "--ready-fd", "3", "-D", "--default-shm-size", "64m",
		"--bip", "10.9.0.1/24", "--icc=false", "--default-address-pool", "base=10.0.0.0/8,size=24", "--default-address-pool", "base=fd00::/48,size=64", "--default-network-opt", "bridge=com.docker.network.driver.mtu=1400",
		"--dns", "1.1.1.1", "--dns-search", "example.org", "--dns-opt", "ndots:2", "--firewall-backend", "none", "--host-gateway-ip", "10.9.0.7", "--mtu", "1400", "--ipv6", "--ip", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	args := s.wakeArgs()
	again, err := ParseSettings(args)
	if err != nil {
		t.Fatal(args, err)
	}
	if !again.OnDemand || again.ReadyFD != -1 {
		t.Errorf("%v", args)
	}
	for _, set := range []*Settings{s, again} {
		set.flags, set.args, set.OnDemand, set.ReadyFD, set.IdleTimeout = nil, nil, false, 0, 0
	}
	if !reflect.DeepEqual(s, again) {
		t.Errorf("%v:\n%+v\n%+v", args, s, again)
	}
}

func TestAReloadTakesWhatCanChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"labels":["a=1"]}`)
	set, err := ParseSettings([]string{"--config-file", path})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	d := &daemon{set: set, level: new(slog.LevelVar), registry: registry.New(registry.Config{}), tellReload: func(*Settings) {}}
	d.log = newLog(set, d.level, &out)
	d.live.Store(set)
	var got engine.Runtimes
	d.setRuntimes = func(r engine.Runtimes) { got = r }
	d.tellReload = func(*Settings) {}
	write(`{"labels":["a=2"],"debug":true,"log-driver":"none","mtu":1400,"default-runtime":"mine","runtimes":{"mine":{"path":"/bin/mine","runtimeArgs":["--flag"]}}}`)
	d.reload()
	if want := (engine.Runtimes{Default: "mine", Registered: map[string]engine.Runtime{"mine": {Path: "/bin/mine", Args: []string{"--flag"}}}}); !reflect.DeepEqual(got, want) {
		t.Errorf("runtimes %+v", got)
	}
	if d.live.Load().Labels[0] != "a=2" || d.level.Level() != slog.LevelDebug {
		t.Errorf("%+v %v", d.live.Load(), d.level)
	}
	if !strings.Contains(out.String(), "directive=log-driver") || !strings.Contains(out.String(), "directive=mtu") || strings.Contains(out.String(), "directive=hosts") {
		t.Errorf("log %s", out.String())
	}
	write(`{"labels":["wrong"]}`)
	d.reload()
	if d.live.Load().Labels[0] != "a=2" || !strings.Contains(out.String(), "was not reloaded") {
		t.Errorf("a wrong file: %+v %s", d.live.Load(), out.String())
	}
}

func FuzzConfigurationFile(f *testing.F) {
	for _, s := range []string{"", "{}", `{"hosts":["a"]}`, `{"log-opts":null}`, `{"default-ulimits":{"a":null}}`, `{"debug":1}`, `{"labels":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newSettings()
		if s.merge(data) == nil {
			_ = s.complete()
		}
	})
}

func TestMetricsHaveAnAddress(t *testing.T) {
	s, err := parse(t, `{"metrics-addr":"127.0.0.1:9323"}`, "--on-demand")
	if err != nil || s.MetricsAddr != "127.0.0.1:9323" {
		t.Fatalf("%+v %v", s, err)
	}
	if s.IdleTimeout != 0 {
		t.Errorf("an engine that is scraped ends after %v of idleness", s.IdleTimeout)
	}
	if _, err := parse(t, `{}`, "--metrics-addr", "9323"); err == nil || !strings.Contains(err.Error(), "HOST:PORT") {
		t.Errorf("a port alone: %v", err)
	}
}
