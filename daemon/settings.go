package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"berth/engine"
	"berth/fail"
	"berth/network"
	"berth/registry"
)

// Settings are all that can be configured: by flags with dockerd's names, and by the
// keys of a daemon.json.
type Settings struct {
	DataRoot, ExecRoot string
	Hosts              []string
	Group              string
	Pidfile            string
	ConfigFile         string
	CgroupParent       string // empty: as the engine has it
	ExecOpts           []string
	CgroupDriver       string // of ExecOpts
	StorageDriver      string // empty: what the data root's file system can

	Debug               bool
	LogLevel, LogFormat string // of the engine's own log

	InsecureRegistries, RegistryMirrors []string
	PushForeign                         []string // registries that take non-distributable layers
	RegistryHostsDirs                   []string
	RegistryStallTimeout                time.Duration
	MaxDownloadAttempts                 int
	MaxDownloads, MaxUploads            int
	CacheMax                            sizeValue // of what no image needs
	HTTPProxy, HTTPSProxy, NoProxy      string    // empty: as the environment has it

	Labels []string // of the engine

	ContainerSettings
	NetworkSettings
	networks     network.Config // from NetworkSettings
	dns          engine.DNS
	hostGateways []netip.Addr

	TLS, TLSVerify         bool
	TLSCA, TLSCert, TLSKey string

	MetricsAddr string // HOST:PORT; empty: none

	LiveRestore     bool          // containers live on without the engine: always
	ShutdownTimeout int           // seconds that requests under way may take when the engine ends
	IdleTimeout     time.Duration // 0: stay for ever
	ReadyFD         int           // -1: nobody waits
	OnDemand        bool          // started by a client or a shim
	Knock           string        // a socket to wake the engine of, and nothing else
	EndContainers   bool          // end what runs, and nothing else
	ShowVersion     bool

	listen []host          // Hosts
	inFile map[string]bool // keys of the configuration file
	flags  *pflag.FlagSet
	args   []string // the command line
}

// Where an engine of root keeps its things.
const (
	defaultDataRoot   = "/var/lib/berth"
	defaultExecRoot   = "/run/berth"
	defaultConfigFile = "/etc/berth/daemon.json"
	onDemandIdle      = 5 * time.Minute
	defaultCacheMax   = 10 << 30
)

// keys maps the keys of daemon.json to flags of another name. All other keys are
// flags' names.
var keys = map[string]string{
	"hosts":               "host",
	"labels":              "label",
	"insecure-registries": "insecure-registry",
	"registry-mirrors":    "registry-mirror",
	"registry-hosts-dirs": "registry-hosts-dir",
	"log-opts":            "log-opt",
	"default-ulimits":     "default-ulimit",
	"runtimes":            "add-runtime",
	"cdi-spec-dirs":       "cdi-spec-dir",
	"exec-opts":           "exec-opt",

	"default-address-pools": "default-address-pool",
	"default-network-opts":  "default-network-opt",
	"dns-opts":              "dns-opt",
	"host-gateway-ips":      "host-gateway-ip",
	"host-gateway-ip":       "host-gateway-ip", // dockerd's older form: one address
}

// flagOnly are flags that make no sense in a file.
var flagOnly = []string{"config-file", "ready-fd", "on-demand", "knock", "end-containers", "version", "help"}

// dockerKeys are keys of dockerd's that Berth does not serve (yet): they are refused by
// name, so that nobody thinks they took effect.
var dockerKeys = []string{
	"allow-direct-routing", "api-cors-header", "authorization-plugins", "bridge-accept-fwmark",
	"builder", "containerd", "containerd-namespace", "containerd-plugins-namespace", "cpu-rt-period", "cpu-rt-runtime", "data-path-port",
	"experimental", "features",
	"ip-forward-no-drop",
	"min-api-version", "network-control-plane-mtu", "node-generic-resources", "oom-score-adjust", "raw-logs",
	"registries", "storage-opts", "swarm-default-advertise-addr", "userland-proxy-path",
	"userns-remap", "validate",
}

// dockerDrivers are Docker's names of storage drivers for what ours do.
var dockerDrivers = map[string]string{"overlay2": "overlay", "vfs": "copy"}

// ParseSettings reads a command line (without the program's name) and the
// configuration file.
func ParseSettings(args []string) (*Settings, error) {
	s := newSettings()
	if err := s.flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil, err
		}
		return nil, fail.New(fail.Invalid, "%w (see berthd --help)", err)
	}
	if extra := s.flags.Args(); len(extra) > 0 {
		return nil, fail.New(fail.Invalid, "berthd takes no arguments: %q", extra[0])
	}
	s.args = args
	if err := s.readFile(); err != nil {
		return nil, err
	}
	return s, s.complete()
}

// Usage describes the flags.
func Usage() string {
	return "Usage: berthd [OPTIONS]\n\nThe engine of Berth: runs containers and serves the Docker Engine API.\n\nOptions:\n" + newSettings().flags.FlagUsages()
}

// Flags are the engine's, for who writes their documentation.
func Flags() *pflag.FlagSet { return newSettings().flags }

func newSettings() *Settings {
	s := &Settings{}
	f := pflag.NewFlagSet("berthd", pflag.ContinueOnError)
	f.Usage = func() {}
	f.SortFlags = true
	s.flags = f
	f.StringVar(&s.DataRoot, "data-root", defaultDataRoot, "Root directory of persistent state")
	f.StringVar(&s.ExecRoot, "exec-root", defaultExecRoot, "Root directory of state that a reboot may forget")
	f.StringArrayVarP(&s.Hosts, "host", "H", nil, "Socket to serve the API on: unix://PATH, fd://[NAME], tcp://HOST:PORT with --tlsverify (default: the sockets that systemd passes, else unix://<exec-root>/berth.sock); with ?ro behind it the socket is read-only, with ?group=NAME it is that group's")
	f.StringVarP(&s.Group, "group", "G", "", "Group of the unix socket (default \"berth\" if it exists)")
	f.StringVarP(&s.Pidfile, "pidfile", "p", "", "File to write the process ID to (default <exec-root>/berthd.pid)")
	f.StringVar(&s.ConfigFile, "config-file", defaultConfigFile, "Configuration file with dockerd's keys")
	f.StringVar(&s.CgroupParent, "cgroup-parent", "", "Parent cgroup of all containers (default \"/berth\", in a container that sees the host's groups below that container's; with the driver systemd a slice, default \"system.slice\")")
	f.StringArrayVar(&s.ExecOpts, "exec-opt", nil, "Option of how containers are run, key=value: native.cgroupdriver=cgroupfs (default) or =systemd, which makes each container's cgroup a scope of systemd's")
	f.StringVarP(&s.StorageDriver, "storage-driver", "s", "", "How root file systems are made of layers: overlay, or copy where the file system cannot (default: what it can)")
	f.BoolVarP(&s.Debug, "debug", "D", false, "Log at level debug")
	f.StringVarP(&s.LogLevel, "log-level", "l", "info", "Level of the engine's log: debug, info, warn, error or fatal")
	f.StringVar(&s.LogFormat, "log-format", "text", "Format of the engine's log: text or json")
	f.StringArrayVar(&s.InsecureRegistries, "insecure-registry", nil, "Registry (host or CIDR) that may be used without verified TLS")
	f.StringArrayVar(&s.PushForeign, "allow-nondistributable-artifacts", nil, "Registry (host or CIDR) that non-distributable layers are pushed to")
	f.StringArrayVar(&s.RegistryMirrors, "registry-mirror", nil, "Base URL of a mirror to ask before docker.io")
	f.StringArrayVar(&s.RegistryHostsDirs, "registry-hosts-dir", nil, "Directory with hosts.toml or certificates of registries, in <host:port>/ each (default /etc/berth/certs.d and /etc/docker/certs.d)")
	f.StringVar(&s.HTTPProxy, "http-proxy", "", "HTTP proxy on the way to registries")
	f.StringVar(&s.HTTPSProxy, "https-proxy", "", "HTTPS proxy on the way to registries")
	f.StringVar(&s.NoProxy, "no-proxy", "", "Comma-separated hosts or networks that are reached without a proxy")
	s.CacheMax = defaultCacheMax
	f.Var(&s.CacheMax, "cache-max-size", "How much is kept on disk that no image needs: partial downloads, layers packed for a push")
	f.IntVar(&s.MaxDownloads, "max-concurrent-downloads", 4, "Layers of one pull that are fetched at the same time")
	f.IntVar(&s.MaxUploads, "max-concurrent-uploads", 5, "Layers of one push that are sent at the same time")
	f.IntVar(&s.MaxDownloadAttempts, "max-download-attempts", 5, "How often a registry is asked for what may come the next time")
	f.DurationVar(&s.RegistryStallTimeout, "registry-stall-timeout", time.Minute, "Begin a transfer anew that stands still for this time")
	f.StringArrayVar(&s.Labels, "label", nil, "Label of the engine, key=value")
	s.ContainerSettings.register(f)
	s.NetworkSettings.register(f)
	f.BoolVar(&s.TLS, "tls", false, "Use TLS; implied by --tlsverify")
	f.BoolVar(&s.TLSVerify, "tlsverify", false, "Use TLS and verify the client")
	f.StringVar(&s.TLSCA, "tlscacert", "", "Certificates that clients must be signed by (default ~/.docker/ca.pem)")
	f.StringVar(&s.TLSCert, "tlscert", "", "Certificate of the engine (default ~/.docker/cert.pem)")
	f.StringVar(&s.TLSKey, "tlskey", "", "Key of the engine (default ~/.docker/key.pem)")
	f.StringVar(&s.MetricsAddr, "metrics-addr", "", "HOST:PORT to serve Prometheus's metrics on, at /metrics")
	f.BoolVar(&s.LiveRestore, "live-restore", true, "Containers live on when the engine ends; there is no other way")
	f.IntVar(&s.ShutdownTimeout, "shutdown-timeout", 15, "Seconds that requests under way may take when the engine ends (containers live on)")
	f.DurationVar(&s.IdleTimeout, "idle-timeout", 0, "End after this time with nothing running and nobody connected (0: never; 5m with --on-demand)")
	f.BoolVar(&s.OnDemand, "on-demand", false, "Started by a client or a shim: wait for an engine that is leaving, and end at once if one lives")
	f.IntVar(&s.ReadyFD, "ready-fd", -1, "Descriptor on which to tell readiness: a newline, or the reason of a failed start")
	f.StringVar(&s.Knock, "knock", "", "Connect to this socket once and end (wakes an engine behind systemd's socket)")
	f.BoolVar(&s.EndContainers, "end-containers", false, "End all running containers in order, an engine that serves too, and end; restart policies apply at the next boot")
	f.BoolVarP(&s.ShowVersion, "version", "v", false, "Print version and end")
	return s
}

// readFile merges the configuration file. A missing one is an error only if it was
// asked for.
func (s *Settings) readFile() error {
	data, err := os.ReadFile(s.ConfigFile)
	if errors.Is(err, os.ErrNotExist) && !s.flags.Changed("config-file") {
		return nil
	}
	if err != nil {
		return fail.New(fail.Invalid, "unable to configure the engine: %w", err)
	}
	if err := s.merge(data); err != nil {
		return fmt.Errorf("unable to configure the engine with file %s: %w", s.ConfigFile, err)
	}
	return nil
}

// merge takes the keys of a daemon.json. What is also given by flag, unknown or not
// supported is an error that names all such keys.
func (s *Settings) merge(data []byte) error {
	if len(strings.TrimSpace(string(data))) == 0 {
		return nil
	}
	var file map[string]json.RawMessage
	if err := json.Unmarshal(data, &file); err != nil {
		return fail.New(fail.Invalid, "not a JSON object: %w", err)
	}
	if err := s.mergeProxies(file); err != nil {
		return err
	}
	var unknown, unsupported, conflicts []string
	for _, key := range slices.Sorted(maps.Keys(file)) {
		name := key
		if n, ok := keys[key]; ok {
			name = n
		} else if slices.Contains(slices.Collect(maps.Values(keys)), key) {
			unknown = append(unknown, key) // "host": the key is "hosts"
			continue
		}
		f := s.flags.Lookup(name)
		switch {
		case f == nil && slices.Contains(dockerKeys, key):
			unsupported = append(unsupported, key)
		case f == nil || slices.Contains(flagOnly, name) || slices.Contains(proxyFlags, name):
			unknown = append(unknown, key)
		case f.Changed:
			conflicts = append(conflicts, fmt.Sprintf("%s: (from flag: %s, from file: %s)", key, f.Value, file[key]))
		}
	}
	switch {
	case len(unknown) > 0:
		return fail.New(fail.Invalid, "the following directives don't match any configuration option: %s", strings.Join(unknown, ", "))
	case len(unsupported) > 0:
		return fail.New(fail.Invalid, "the following directives are not supported by this version of Berth: %s", strings.Join(unsupported, ", "))
	case len(conflicts) > 0:
		return fail.New(fail.Invalid, "the following directives are specified both as a flag and in the configuration file: %s", strings.Join(conflicts, ", "))
	}
	s.inFile = map[string]bool{}
	for key, raw := range file {
		if err := s.set(key, raw); err != nil {
			return fail.New(fail.Invalid, "%s: %w", key, err)
		}
		s.inFile[key] = true
	}
	return nil
}

// mergeProxies takes the key proxies, whose own keys are flags' names, out of a file.
func (s *Settings) mergeProxies(file map[string]json.RawMessage) error {
	raw, ok := file["proxies"]
	if !ok {
		return nil
	}
	delete(file, "proxies")
	var proxies map[string]string
	if err := json.Unmarshal(raw, &proxies); err != nil {
		return fail.New(fail.Invalid, "proxies: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(proxies)) {
		if !slices.Contains(proxyFlags, key) {
			return fail.New(fail.Invalid, "the following directives don't match any configuration option: proxies.%s", key)
		}
		f := s.flags.Lookup(key)
		if f.Changed {
			return fail.New(fail.Invalid, "the following directives are specified both as a flag and in the configuration file: proxies.%s", key)
		}
		if err := f.Value.Set(proxies[key]); err != nil {
			return fail.New(fail.Invalid, "proxies.%s: %w", key, err)
		}
	}
	return nil
}

// proxyFlags are in a file below the key proxies.
var proxyFlags = []string{"http-proxy", "https-proxy", "no-proxy"}

// applyProxies puts the proxies where everything that speaks HTTP looks for them. It must
// happen before the first request.
func (s *Settings) applyProxies() error {
	for name, value := range map[string]string{"HTTP_PROXY": s.HTTPProxy, "HTTPS_PROXY": s.HTTPSProxy, "NO_PROXY": s.NoProxy} {
		if value == "" {
			continue
		}
		for _, n := range []string{name, strings.ToLower(name)} {
			if err := os.Setenv(n, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// set takes one key's value: maps and lists as JSON has them, all else in the words of
// the flag.
func (s *Settings) set(key string, raw json.RawMessage) error {
	switch key {
	case "hosts":
		return json.Unmarshal(raw, &s.Hosts)
	case "exec-opts":
		return json.Unmarshal(raw, &s.ExecOpts)
	case "labels":
		return json.Unmarshal(raw, &s.Labels)
	case "insecure-registries":
		return json.Unmarshal(raw, &s.InsecureRegistries)
	case "allow-nondistributable-artifacts":
		return json.Unmarshal(raw, &s.PushForeign)
	case "registry-mirrors":
		return json.Unmarshal(raw, &s.RegistryMirrors)
	case "registry-hosts-dirs":
		return json.Unmarshal(raw, &s.RegistryHostsDirs)
	}
	if ok, err := s.ContainerSettings.setKey(key, raw); ok {
		return err
	}
	if ok, err := s.NetworkSettings.setKey(key, raw); ok {
		return err
	}
	word := string(raw)
	if strings.HasPrefix(word, `"`) {
		if err := json.Unmarshal(raw, &word); err != nil {
			return err
		}
	}
	return s.flags.Lookup(key).Value.Set(word)
}

// complete fills in what follows from other settings, and checks them.
func (s *Settings) complete() error {
	if path, err := inheritedPath(); err == nil && len(s.inheritedHosts(path)) == 0 {
		s.Hosts = append(s.Hosts, "fd://") // nobody else would answer who connects there
	}
	if len(s.Hosts) == 0 {
		s.Hosts = []string{"unix://" + s.ExecRoot + "/berth.sock"}
	}
	if s.Pidfile == "" {
		s.Pidfile = s.ExecRoot + "/berthd.pid"
	}
	tcp := slices.ContainsFunc(s.Hosts, func(h string) bool { return strings.HasPrefix(h, "tcp://") })
	if err := checkMetricsAddr(s.MetricsAddr); err != nil {
		return err
	}
	if s.OnDemand && !tcp && s.MetricsAddr == "" && s.IdleTimeout == 0 && !s.flags.Changed("idle-timeout") {
		s.IdleTimeout = onDemandIdle
	}
	for _, dir := range []struct{ flag, path string }{{"data-root", s.DataRoot}, {"exec-root", s.ExecRoot}} {
		if !strings.HasPrefix(dir.path, "/") {
			return fail.New(fail.Invalid, "--%s %q is not an absolute path", dir.flag, dir.path)
		}
	}
	if _, ok := levels[s.LogLevel]; !ok {
		return fail.New(fail.Invalid, "invalid log level %q: use debug, info, warn, error or fatal", s.LogLevel)
	}
	if s.LogFormat != "text" && s.LogFormat != "json" {
		return fail.New(fail.Invalid, "invalid log format %q: use text or json", s.LogFormat)
	}
	if own, ok := dockerDrivers[s.StorageDriver]; ok {
		s.StorageDriver = own
	}
	if d := s.StorageDriver; d != "" && d != "overlay" && d != "copy" {
		return fail.New(fail.Invalid, "unknown storage driver %q: use overlay or copy", d)
	}
	if err := s.completeExecOpts(); err != nil {
		return err
	}
	if err := s.ContainerSettings.complete(); err != nil {
		return err
	}
	var err error
	if s.networks, err = s.NetworkSettings.config(s.flags); err != nil {
		return err
	}
	if s.dns, err = s.NetworkSettings.resolver(); err != nil {
		return err
	}
	if s.hostGateways, err = parseAddrs("host-gateway-ip", s.HostGateways); err != nil {
		return err
	}
	for _, l := range s.Labels {
		if k, _, ok := strings.Cut(l, "="); !ok || k == "" {
			return fail.New(fail.Invalid, "label %q is not key=value", l)
		}
	}
	for flag, value := range map[string]string{"http-proxy": s.HTTPProxy, "https-proxy": s.HTTPSProxy} {
		if u, err := url.Parse(value); value != "" && (err != nil || u.Host == "" && strings.Contains(value, "://")) {
			return fail.New(fail.Invalid, "--%s is not the URL of a proxy", flag) // without it: it may hold a password
		}
	}
	for _, m := range s.RegistryMirrors {
		if err := registry.CheckMirror(m); err != nil {
			return fail.New(fail.Invalid, "registry mirror %w", err)
		}
	}
	for _, h := range s.InsecureRegistries {
		if err := registry.CheckInsecure(h); err != nil {
			return fail.New(fail.Invalid, "insecure registry %w", err)
		}
	}
	if s.MaxDownloads < 1 || s.MaxUploads < 1 {
		return fail.New(fail.Invalid, "at least one layer must be fetched and sent at a time")
	}
	if s.MaxDownloadAttempts < 1 {
		return fail.New(fail.Invalid, "invalid max download attempts: %d", s.MaxDownloadAttempts)
	}
	if s.RegistryStallTimeout <= 0 {
		return fail.New(fail.Invalid, "--registry-stall-timeout must be more than nothing")
	}
	if !s.LiveRestore {
		return fail.New(fail.Invalid, "live-restore cannot be false: Berth's containers belong to processes of their own, so they always live on when the engine ends")
	}
	if s.ShutdownTimeout < 0 || s.IdleTimeout < 0 {
		return fail.New(fail.Invalid, "timeouts cannot be negative")
	}
	return s.completeHosts()
}

// The ways of making control groups, in dockerd's words.
const driverCgroupfs, driverSystemd = "cgroupfs", "systemd"

// completeExecOpts reads dockerd's options of execution, of which there is one for Linux.
func (s *Settings) completeExecOpts() error {
	s.CgroupDriver = driverCgroupfs
	for _, o := range s.ExecOpts {
		key, value, ok := strings.Cut(o, "=")
		switch {
		case !ok || !strings.EqualFold(key, "native.cgroupdriver"):
			return fail.New(fail.Invalid, "invalid exec-opt %q: there is native.cgroupdriver=cgroupfs or =systemd", o)
		case value != driverCgroupfs && value != driverSystemd:
			return fail.New(fail.Invalid, "native.cgroupdriver option %s is not supported: use cgroupfs or systemd", value)
		}
		s.CgroupDriver = value
	}
	return nil
}

// inheritedHosts are those of the hosts that mean a socket that systemd passed to us; one that
// is given by the path is made to.
func (s *Settings) inheritedHosts(path string) (all []string) {
	for i, text := range s.Hosts {
		if text == path || text == "unix://"+path {
			s.Hosts[i] = "fd://"
		}
		if strings.HasPrefix(s.Hosts[i], "fd://") {
			all = append(all, s.Hosts[i])
		}
	}
	return all
}

// completeHosts reads the hosts. An API that asks nobody for a certificate is served only to
// those who have said that this is what they want.
func (s *Settings) completeHosts() error {
	for i, text := range s.Hosts {
		h, err := parseHost(text, s.TLS || s.TLSVerify)
		if err != nil {
			return err
		}
		if h.scheme == "tcp" {
			if danger := h.unguarded(s); danger != "" && !s.openAPI() {
				return fail.New(fail.Invalid, "%s needs --tlsverify with certificates: %s (--tlsverify=false serves it nevertheless)", h.text, danger)
			}
			if s.IdleTimeout > 0 {
				return fail.New(fail.Invalid, "--idle-timeout cannot be combined with %s: nobody could start the engine again", h.text)
			}
		}
		if slices.ContainsFunc(s.listen, func(o host) bool { return o.scheme == h.scheme && o.addr == h.addr }) {
			return fail.New(fail.Invalid, "host %s is given twice", h.text)
		}
		s.Hosts[i], s.listen = h.text, append(s.listen, h)
	}
	return nil
}

// openAPI tells whether somebody has said, by flag or file, that clients need no certificates.
func (s *Settings) openAPI() bool {
	return !s.TLSVerify && (s.flags.Changed("tlsverify") || s.inFile["tlsverify"] || !s.TLS && (s.flags.Changed("tls") || s.inFile["tls"]))
}

// dangers are the warnings of info about hosts that are open.
func (s *Settings) dangers() (all []string) {
	for _, h := range s.listen {
		if danger := h.unguarded(s); danger != "" {
			all = append(all, "WARNING: "+danger)
		}
	}
	return all
}

// wakeArgs is the command line by which a shim starts this engine again: the same flags,
// on demand.
func (s *Settings) wakeArgs() []string {
	var out []string
	s.flags.Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		switch v := f.Value.(type) {
		case mapValue:
			values = values[:0]
			for _, k := range slices.Sorted(maps.Keys(v.m)) {
				values = append(values, k+"="+v.m[k])
			}
		case runtimeValue:
			values = v.words()
		case poolsValue:
			values = v.words()
		case optionsValue:
			values = v.words()
		case ulimitValue:
			values = strings.Fields(v.String())
		case pflag.SliceValue:
			values = v.GetSlice()
		}
		switch f.Name {
		case "ready-fd", "on-demand", "knock", "end-containers", "version", "help":
			return
		case "config-file":
			if abs, err := filepath.Abs(values[0]); err == nil {
				values[0] = abs
			}
		}
		for _, v := range values {
			out = append(out, "--"+f.Name+"="+v)
		}
	})
	return append(out, "--on-demand")
}
