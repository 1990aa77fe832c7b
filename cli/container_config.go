package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"
)

// containerRequest is the body of a create: what parse makes of the flags.
type containerRequest struct {
	config  *container.Config
	host    *container.HostConfig
	network *network.NetworkingConfig
}

// parse turns the flags into the API's words. Every mistake a client can see is one error;
// what only the engine can judge (an unknown user, a missing subsystem) is left to it.
func (c *containerFlags) parse(flags *pflag.FlagSet) (*containerRequest, error) {
	attachStdin := c.attach.Get("stdin") || c.stdin
	attachStdout, attachStderr := c.attach.Get("stdout"), c.attach.Get("stderr")
	if c.attach.Len() == 0 {
		attachStdout, attachStderr = true, true
	}
	if c.stdin && c.attach.Len() > 0 && !c.attach.Get("stdin") {
		attachStdin = true
	}
	if c.swappiness != -1 && (c.swappiness < 0 || c.swappiness > 100) {
		return nil, fmt.Errorf("invalid value: %d: valid memory swappiness range is 0-100", c.swappiness)
	}
	if c.mac != "" {
		if _, err := net.ParseMAC(strings.TrimSpace(c.mac)); err != nil {
			return nil, fmt.Errorf("%s is not a valid mac address", c.mac)
		}
	}

	binds, anonymous, err := parseVolumes(c.volumes.GetSlice())
	if err != nil {
		return nil, err
	}
	tmpfs := map[string]string{}
	for _, t := range c.tmpfs.GetSlice() {
		path, options, _ := strings.Cut(t, ":")
		tmpfs[path] = options
	}
	exposed, bindings, err := parsePorts(c.publish.GetSlice(), c.expose.GetSlice())
	if err != nil {
		return nil, err
	}
	devices, deviceRequests, err := parseDevices(c.devices.GetSlice())
	if err != nil {
		return nil, err
	}
	env, err := opts.ReadKVEnvStrings(c.envFile.GetSlice(), lastOfEach(c.env.GetSlice()))
	if err != nil {
		return nil, err
	}
	labels, err := opts.ReadKVStrings(c.labelsFile.GetSlice(), c.labels.GetSlice())
	if err != nil {
		return nil, err
	}
	if err := c.checkNamespaces(); err != nil {
		return nil, err
	}
	restart, err := opts.ParseRestartPolicy(c.restart)
	if err != nil {
		return nil, err
	}
	if restart.Name != onUnhealthy { // which the engine checks
		if err := container.ValidateRestartPolicy(restart); err != nil {
			return nil, err
		}
	}
	for _, m := range c.mounts.Value() {
		if m.Target == "" {
			return nil, errors.New("invalid --mount: target is required")
		}
	}
	if c.autoRemove && !restart.IsNone() {
		return nil, errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	logConfig, err := parseLogConfig(c.logDriver, c.logOpts.GetSlice())
	if err != nil {
		return nil, err
	}
	security, err := parseSecurity(c.securityOpt.GetSlice())
	if err != nil {
		return nil, err
	}
	storage, err := parseStorageOpts(c.storageOpt.GetSlice())
	if err != nil {
		return nil, err
	}
	health, err := c.parseHealth()
	if err != nil {
		return nil, err
	}
	networking, err := c.parseNetworks()
	if err != nil {
		return nil, err
	}
	dns, err := parseAddresses(c.dns.GetSlice())
	if err != nil {
		return nil, err
	}

	config := &container.Config{
		Hostname:     c.hostname,
		Domainname:   c.domainname,
		ExposedPorts: exposed,
		User:         c.user,
		Tty:          c.tty,
		OpenStdin:    c.stdin,
		AttachStdin:  attachStdin,
		AttachStdout: attachStdout,
		AttachStderr: attachStderr,
		Env:          env,
		Image:        c.image,
		Volumes:      anonymous,
		Entrypoint:   c.parseEntrypoint(flags),
		WorkingDir:   c.workdir,
		Labels:       opts.ConvertKVStringsToMap(labels),
		StopSignal:   c.stopSignal,
		Healthcheck:  health,
	}
	if len(c.args) > 0 {
		config.Cmd = c.args
	}
	if flags.Changed("stop-timeout") {
		config.StopTimeout = &c.stopTimeout
	}
	// An attached client that goes away closes the input, as a hung-up terminal would.
	config.StdinOnce = config.OpenStdin && config.AttachStdin

	host := &container.HostConfig{
		Binds:           binds,
		ContainerIDFile: c.cidFile,
		OomScoreAdj:     c.oomScoreAdj,
		AutoRemove:      c.autoRemove,
		Privileged:      c.privileged,
		PortBindings:    bindings,
		Links:           c.links.GetSlice(),
		PublishAllPorts: c.publishAll,
		// Never nil: the wire wants a list.
		DNS:            dns,
		DNSSearch:      c.dnsSearch.GetAllOrEmpty(),
		DNSOptions:     c.dnsOptions.GetAllOrEmpty(),
		ExtraHosts:     c.extraHosts.GetSlice(),
		VolumesFrom:    c.volumesFrom.GetSlice(),
		IpcMode:        container.IpcMode(c.ipc),
		NetworkMode:    container.NetworkMode(c.network.NetworkMode()),
		PidMode:        container.PidMode(c.pid),
		UTSMode:        container.UTSMode(c.uts),
		UsernsMode:     container.UsernsMode(c.userns),
		CgroupnsMode:   container.CgroupnsMode(c.cgroupns),
		CapAdd:         c.capAdd.GetSlice(),
		CapDrop:        c.capDrop.GetSlice(),
		GroupAdd:       c.groupAdd.GetSlice(),
		RestartPolicy:  restart,
		SecurityOpt:    security.options,
		StorageOpt:     storage,
		ReadonlyRootfs: c.readOnly,
		LogConfig:      logConfig,
		VolumeDriver:   c.volumeDriver,
		Isolation:      container.Isolation(c.isolation),
		ShmSize:        c.shmSize.Value(),
		Resources:      c.resources(devices, deviceRequests),
		Tmpfs:          tmpfs,
		Sysctls:        c.sysctls.GetAll(),
		Runtime:        c.runtime,
		Mounts:         c.mounts.Value(),
		MaskedPaths:    security.maskedPaths,
		ReadonlyPaths:  security.readonlyPaths,
		Annotations:    c.annotations.GetAll(),
		Umask:          c.umask.Value(),
	}
	if flags.Changed("init") {
		host.Init = &c.init
	}
	return &containerRequest{config: config, host: host, network: networking}, nil
}

func (c *containerFlags) resources(devices []container.DeviceMapping, requests []container.DeviceRequest) container.Resources {
	return container.Resources{
		CgroupParent:         c.cgroupParent,
		Memory:               c.memory.Value(),
		MemoryReservation:    c.memoryReservation.Value(),
		MemorySwap:           c.memorySwap.Value(),
		MemorySwappiness:     &c.swappiness,
		OomKillDisable:       &c.oomKillDisable,
		NanoCPUs:             c.cpus.Value(),
		CPUCount:             c.cpuCount,
		CPUPercent:           c.cpuPercent,
		CPUShares:            c.cpuShares,
		CPUPeriod:            c.cpuPeriod,
		CPUQuota:             c.cpuQuota,
		CPURealtimePeriod:    c.cpuRTPeriod,
		CPURealtimeRuntime:   c.cpuRTRuntime,
		CpusetCpus:           c.cpusetCPUs,
		CpusetMems:           c.cpusetMems,
		PidsLimit:            &c.pidsLimit,
		BlkioWeight:          c.blkioWeight,
		BlkioWeightDevice:    c.blkioWeightDevice.GetList(),
		BlkioDeviceReadBps:   c.deviceReadBps.GetList(),
		BlkioDeviceWriteBps:  c.deviceWriteBps.GetList(),
		BlkioDeviceReadIOps:  c.deviceReadIOps.GetList(),
		BlkioDeviceWriteIOps: c.deviceWriteIOps.GetList(),
		IOMaximumIOps:        c.ioMaxIOps,
		IOMaximumBandwidth:   uint64(c.ioMaxBandwidth.Value()),
		Ulimits:              c.ulimits.GetList(),
		DeviceCgroupRules:    c.deviceCgroupRules.GetSlice(),
		Devices:              devices,
		DeviceRequests:       append(c.gpus.Value(), requests...),
	}
}

// parseEntrypoint: one word, never split; an explicit empty value resets the image's.
func (c *containerFlags) parseEntrypoint(flags *pflag.FlagSet) []string {
	if c.entrypoint != "" || flags.Changed("entrypoint") {
		return []string{c.entrypoint}
	}
	return nil
}

// lastOfEach drops the variables that are set again later on the command line.
func lastOfEach(env []string) []string {
	last := make(map[string]int, len(env))
	for i, e := range env {
		key, _, _ := strings.Cut(e, "=")
		last[key] = i
	}
	kept := make([]string, 0, len(last))
	for i, e := range env {
		if key, _, _ := strings.Cut(e, "="); last[key] == i {
			kept = append(kept, e)
		}
	}
	return kept
}

func (c *containerFlags) checkNamespaces() error {
	if !container.PidMode(c.pid).Valid() {
		return errors.New("--pid: invalid PID mode")
	}
	if !container.UTSMode(c.uts).Valid() {
		return errors.New("--uts: invalid UTS mode")
	}
	if !container.UsernsMode(c.userns).Valid() {
		return errors.New("--userns: invalid USER mode")
	}
	if !container.CgroupnsMode(c.cgroupns).Valid() {
		return errors.New("--cgroupns: invalid CGROUP mode")
	}
	return nil
}

func validateAttach(value string) (string, error) {
	lower := strings.ToLower(value)
	if slices.Contains([]string{"stdin", "stdout", "stderr"}, lower) {
		return lower, nil
	}
	return value, errors.New("valid streams are STDIN, STDOUT and STDERR")
}

func parseLogConfig(driver string, options []string) (container.LogConfig, error) {
	if driver == "none" && len(options) > 0 {
		return container.LogConfig{}, fmt.Errorf("invalid logging opts for driver %s", driver)
	}
	return container.LogConfig{Type: driver, Config: opts.ConvertKVStringsToMap(options)}, nil
}

func parseStorageOpts(options []string) (map[string]string, error) {
	parsed := map[string]string{}
	for _, option := range options {
		key, value, ok := strings.Cut(option, "=")
		if !ok {
			return nil, errors.New("invalid storage option")
		}
		parsed[key] = value
	}
	return parsed, nil
}

func parseAddresses(values []string) ([]netip.Addr, error) {
	addresses := make([]netip.Addr, 0, len(values))
	for _, v := range values {
		addr, err := netip.ParseAddr(v)
		if err != nil {
			return nil, fmt.Errorf("IP address is not correctly formatted: %s", v)
		}
		addresses = append(addresses, addr)
	}
	return addresses, nil
}
