package server

import (
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"berth/engine"
	"berth/logs"
	berth "berth/version"
)

// infoResponse adds to moby's newest type what older versions answer.
type infoResponse struct {
	system.Info
	// Until 1.41.
	KernelMemory    *bool `json:"KernelMemory,omitempty"`
	KernelMemoryTCP *bool `json:"KernelMemoryTCP,omitempty"`
	// Until 1.49.
	BridgeNfIptables  *bool `json:"BridgeNfIptables,omitempty"`
	BridgeNfIP6tables *bool `json:"BridgeNfIp6tables,omitempty"`
	RegistryConfig    registryConfig
	ContainerdCommit  commit
	RuncCommit        commit
	InitCommit        commit
}

type registryConfig struct {
	// Until 1.46.
	AllowNondistributableArtifactsCIDRs     *[]string `json:"AllowNondistributableArtifactsCIDRs,omitempty"`
	AllowNondistributableArtifactsHostnames *[]string `json:"AllowNondistributableArtifactsHostnames,omitempty"`
	registry.ServiceConfig
}

// commit has the Expected field until 1.49.
type commit struct {
	ID       string
	Expected *string `json:"Expected,omitempty"`
}

func getInfo(w *writer, r *request) error {
	began := time.Now()
	info, err := r.s.info()
	r.s.infoTime.Since(began, "system_info")
	if err != nil {
		return err
	}
	out := infoResponse{Info: info, RegistryConfig: registryConfig{ServiceConfig: *info.RegistryConfig}}
	no, empty, none := false, "", []string{}
	if r.version < 42 {
		out.KernelMemory, out.KernelMemoryTCP = &no, &no
	}
	if r.version < 47 {
		out.RegistryConfig.AllowNondistributableArtifactsCIDRs = &none
		out.RegistryConfig.AllowNondistributableArtifactsHostnames = &none
	}
	if r.version < 49 {
		out.FirewallBackend = nil
	}
	if r.version < 50 {
		out.DiscoveredDevices = nil
		out.BridgeNfIptables, out.BridgeNfIP6tables = &no, &no
		for _, c := range []*commit{&out.ContainerdCommit, &out.RuncCommit, &out.InitCommit} {
			c.Expected = &empty
		}
	}
	out.ContainerdCommit.ID = info.ContainerdCommit.ID
	out.RuncCommit.ID = info.RuncCommit.ID
	out.InitCommit.ID = info.InitCommit.ID
	return writeJSON(w, http.StatusOK, out)
}

// info gathers what the engine and the machine are.
func (s *Server) info() (system.Info, error) {
	all, err := s.Images.List()
	if err != nil {
		return system.Info{}, err
	}
	f, nets := s.Facts, s.Networks.Facts()
	lim := cgroupLimits()
	pretty, osVersion := osRelease()
	hostname, _ := os.Hostname()
	info := system.Info{
		ID:                 f.ID,
		Images:             len(all),
		Driver:             s.Images.GraphDriver(),
		DriverStatus:       append(s.Images.DriverFacts(), [2]string{"Content store", "OCI image layout"}),
		Plugins:            system.PluginsInfo{Volume: []string{"local"}, Network: slices.Sorted(slices.Values(nets.Drivers)), Log: logs.Drivers()},
		MemoryLimit:        lim.memory,
		SwapLimit:          lim.swap,
		CPUCfsPeriod:       lim.cpuQuota,
		CPUCfsQuota:        lim.cpuQuota,
		CPUShares:          lim.cpuShares,
		CPUSet:             lim.cpuset,
		PidsLimit:          lim.pids,
		OomKillDisable:     lim.oomKillDisable,
		IPv4Forwarding:     nets.IPv4Forwarding,
		Debug:              f.Debug(),
		NFd:                openFiles(),
		NGoroutines:        runtime.NumGoroutine(),
		SystemTime:         time.Now().Format(time.RFC3339Nano),
		LoggingDriver:      f.LogDriver,
		CgroupDriver:       f.CgroupDriver,
		CgroupVersion:      strconv.Itoa(lim.version),
		NEventsListener:    s.Events.Subscribers(),
		KernelVersion:      kernelVersion(),
		OperatingSystem:    pretty,
		OSVersion:          osVersion,
		OSType:             "linux",
		Architecture:       machine(),
		IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig:     s.registryConfig(),
		NCPU:               runtime.NumCPU(),
		MemTotal:           memTotal(),
		DockerRootDir:      f.DataRoot,
		HTTPProxy:          proxy("HTTP_PROXY", "http_proxy"),
		HTTPSProxy:         proxy("HTTPS_PROXY", "https_proxy"),
		NoProxy:            proxy("NO_PROXY", "no_proxy"),
		Name:               hostname,
		Labels:             f.Labels(),
		ServerVersion:      berth.Version,
		Runtimes:           map[string]system.RuntimeWithStatus{engine.OwnRuntime: {Runtime: system.Runtime{Path: f.ShimPath}}},
		Swarm:              swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: true, // containers never depend on the engine
		SecurityOptions:    securityOptions(lim.version, f),
		// Where Docker tells of the programs that it stands on, ours that do their work.
		ContainerdCommit: system.Commit{ID: "berth-shim " + berth.Version},
		RuncCommit:       system.Commit{ID: "berth-runtime " + berth.Version},
		InitCommit:       system.Commit{ID: "berth-shim " + berth.Version},
	}
	if fs := backingFilesystem(f.DataRoot); fs != "" {
		info.DriverStatus = append([][2]string{{"Backing Filesystem", fs}}, info.DriverStatus...)
	}
	if info.InitBinary = f.InitPath; info.InitBinary == "" {
		info.InitBinary = "docker-init"
	}
	info.CDISpecDirs, info.DiscoveredDevices = cdiDevices(f)
	known := f.Runtimes()
	info.DefaultRuntime = known.Default
	for name, rt := range known.Registered {
		info.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: rt.Path, Args: rt.Args}}
	}
	if info.Labels == nil {
		info.Labels = []string{}
	}
	n := countStates(s.Containers.List())
	info.Containers, info.ContainersRunning, info.ContainersPaused, info.ContainersStopped = n.all, n.running, n.paused, n.stopped
	for _, p := range nets.Pools {
		info.DefaultAddressPools = append(info.DefaultAddressPools, system.NetworkAddressPool{Base: p.Base, Size: p.Size})
	}
	info.FirewallBackend = &system.FirewallInfo{Driver: nets.Firewall}
	if nets.FirewallVersion != "" {
		info.FirewallBackend.Info = [][2]string{{"Version", nets.FirewallVersion}}
	}
	info.Warnings = append(warnings(lim), s.Facts.Warnings...)
	for _, hint := range nets.Hints {
		info.Warnings = append(info.Warnings, "WARNING: "+hint)
	}
	return info, nil
}

// cdiDevices are where specifications of devices are looked for, and what they hold.
func cdiDevices(f Facts) (dirs []string, found []system.DeviceInfo) {
	dirs, names := []string{}, []string(nil)
	if f.CDIDevices != nil {
		more, all := f.CDIDevices()
		dirs, names = append(dirs, more...), all
	}
	for _, name := range names {
		found = append(found, system.DeviceInfo{Source: "cdi", ID: name})
	}
	return dirs, found
}

// proxy tells a proxy setting of our environment without the password in it.
func proxy(names ...string) string {
	for _, n := range names {
		if v := os.Getenv(n); v != "" {
			return maskCredentials(v)
		}
	}
	return ""
}

func warnings(l limits) []string {
	var out []string
	for _, c := range []struct {
		ok   bool
		text string
	}{
		{l.memory, "WARNING: No memory limit support"},
		{l.swap, "WARNING: No swap limit support"},
		{l.oomKillDisable || l.version == 2, "WARNING: No oom kill disable support"},
		{l.cpuQuota, "WARNING: No cpu cfs quota support"},
		{l.cpuQuota, "WARNING: No cpu cfs period support"},
		{l.cpuShares, "WARNING: No cpu shares support"},
		{l.cpuset, "WARNING: No cpuset support"},
		{l.pids, "WARNING: No pids limit support"},
		{l.blockIO || l.version == 2, "WARNING: No blkio throttle support"},
		{l.blockIO || l.version == 1, "WARNING: No io.max support"},
	} {
		if !c.ok {
			out = append(out, c.text)
		}
	}
	return out
}

func (s *Server) registryConfig() *registry.ServiceConfig {
	c := &registry.ServiceConfig{
		InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")},
		IndexConfigs:          map[string]*registry.IndexInfo{},
		Mirrors:               s.Facts.Mirrors(),
	}
	if c.Mirrors == nil {
		c.Mirrors = []string{}
	}
	for _, host := range s.Facts.InsecureRegistries() {
		if p, err := netip.ParsePrefix(host); err == nil {
			c.InsecureRegistryCIDRs = append(c.InsecureRegistryCIDRs, p)
			continue
		}
		c.IndexConfigs[host] = &registry.IndexInfo{Name: host, Mirrors: []string{}}
	}
	c.IndexConfigs["docker.io"] = &registry.IndexInfo{Name: "docker.io", Mirrors: c.Mirrors, Secure: true, Official: true}
	return c
}
