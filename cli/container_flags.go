package cli

import (
	"fmt"
	"time"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// containerFlags are the flags that `run` and `create` share: what the container shall be.
type containerFlags struct {
	attach            opts.ListOpts
	volumes           opts.ListOpts
	tmpfs             opts.ListOpts
	mounts            mountOpt
	blkioWeightDevice opts.WeightdeviceOpt
	deviceReadBps     opts.ThrottledeviceOpt
	deviceWriteBps    opts.ThrottledeviceOpt
	deviceReadIOps    opts.ThrottledeviceOpt
	deviceWriteIOps   opts.ThrottledeviceOpt
	links             opts.ListOpts
	aliases           opts.ListOpts
	linkLocalIPs      opts.ListOpts
	deviceCgroupRules opts.ListOpts
	devices           opts.ListOpts
	gpus              opts.GpuOpts
	ulimits           *opts.UlimitOpt
	sysctls           *opts.MapOpts
	annotations       *opts.MapOpts
	publish           opts.ListOpts
	expose            opts.ListOpts
	dns               opts.ListOpts
	dnsSearch         opts.ListOpts
	dnsOptions        opts.ListOpts
	extraHosts        opts.ListOpts
	volumesFrom       opts.ListOpts
	env               opts.ListOpts
	envFile           opts.ListOpts
	labels            opts.ListOpts
	labelsFile        opts.ListOpts
	capAdd            opts.ListOpts
	capDrop           opts.ListOpts
	groupAdd          opts.ListOpts
	securityOpt       opts.ListOpts
	storageOpt        opts.ListOpts
	logOpts           opts.ListOpts
	network           opts.NetworkOpt
	memory            opts.MemBytes
	memoryReservation opts.MemBytes
	memorySwap        opts.MemSwapBytes
	umask             opts.UmaskOpt
	shmSize           opts.MemBytes
	ioMaxBandwidth    opts.MemBytes
	cpus              opts.NanoCPUs

	privileged, publishAll, stdin, tty, oomKillDisable, readOnly, autoRemove, init, noHealthcheck bool

	pid, uts, userns, cgroupns, ipc, user, hostname, domainname, entrypoint, workdir string
	cidFile, cpusetCPUs, cpusetMems, cgroupParent, isolation, restart, volumeDriver  string
	stopSignal, ip, ip6, mac, runtime, logDriver, healthCmd                          string
	oomScoreAdj, stopTimeout, healthRetries                                          int
	cpuCount, cpuPercent, cpuShares, cpuPeriod, cpuQuota, cpuRTPeriod, cpuRTRuntime  int64
	swappiness, pidsLimit                                                            int64
	ioMaxIOps                                                                        uint64
	blkioWeight                                                                      uint16
	healthInterval, healthTimeout, healthStartPeriod, healthStartInterval            time.Duration

	image string
	args  []string
}

// registerKernelMemory adds the flag of a limit that kernels have dropped (see
// warnOfKernelMemory).
func registerKernelMemory(flags *pflag.FlagSet) {
	flags.Var(new(opts.MemBytes), "kernel-memory", "Kernel memory limit (deprecated)")
	_ = flags.MarkHidden("kernel-memory")
}

// warnOfKernelMemory tells who gives that flag that it does nothing.
func (a *app) warnOfKernelMemory(flags *pflag.FlagSet) {
	if flags.Changed("kernel-memory") {
		fmt.Fprintln(a.Err, "Flag --kernel-memory has been deprecated, and no longer supported by the kernel")
	}
}

// register adds the flags to a command's set and returns where their values will be.
func registerContainerFlags(flags *pflag.FlagSet) *containerFlags {
	ulimits := map[string]*container.Ulimit{}
	c := &containerFlags{
		attach:            opts.NewListOpts(validateAttach),
		volumes:           opts.NewListOpts(nil),
		tmpfs:             opts.NewListOpts(nil),
		blkioWeightDevice: opts.NewWeightdeviceOpt(opts.ValidateWeightDevice),
		deviceReadBps:     opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice),
		deviceWriteBps:    opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice),
		deviceReadIOps:    opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice),
		deviceWriteIOps:   opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice),
		links:             opts.NewListOpts(opts.ValidateLink),
		aliases:           opts.NewListOpts(nil),
		linkLocalIPs:      opts.NewListOpts(nil),
		deviceCgroupRules: opts.NewListOpts(validateDeviceCgroupRule),
		devices:           opts.NewListOpts(nil), // checked in parse, as Docker does
		ulimits:           opts.NewUlimitOpt(&ulimits),
		sysctls:           opts.NewMapOpts(nil, opts.ValidateSysctl),
		annotations:       opts.NewMapOpts(nil, nil),
		publish:           opts.NewListOpts(nil),
		expose:            opts.NewListOpts(nil),
		dns:               opts.NewListOpts(opts.ValidateIPAddress),
		dnsSearch:         opts.NewListOpts(opts.ValidateDNSSearch),
		dnsOptions:        opts.NewListOpts(nil),
		extraHosts:        opts.NewListOpts(opts.ValidateExtraHost),
		volumesFrom:       opts.NewListOpts(nil),
		env:               opts.NewListOpts(opts.ValidateEnv),
		envFile:           opts.NewListOpts(nil),
		labels:            opts.NewListOpts(opts.ValidateLabel),
		labelsFile:        opts.NewListOpts(nil),
		capAdd:            opts.NewListOpts(nil),
		capDrop:           opts.NewListOpts(nil),
		groupAdd:          opts.NewListOpts(nil),
		securityOpt:       opts.NewListOpts(nil),
		storageOpt:        opts.NewListOpts(nil),
		logOpts:           opts.NewListOpts(nil),
	}

	flags.VarP(&c.attach, "attach", "a", "Attach to STDIN, STDOUT or STDERR")
	flags.Var(&c.devices, "device", "Add a host device to the container")
	flags.Var(&c.deviceCgroupRules, "device-cgroup-rule", "Add a rule to the cgroup allowed devices list")
	flags.Var(&c.gpus, "gpus", "GPU devices to add to the container ('all' to pass all GPUs)")
	flags.VarP(&c.env, "env", "e", "Set environment variables")
	flags.Var(&c.envFile, "env-file", "Read in a file of environment variables")
	flags.StringVar(&c.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	flags.Var(&c.groupAdd, "group-add", "Add additional groups to join")
	flags.StringVarP(&c.hostname, "hostname", "h", "", "Container host name")
	flags.StringVar(&c.domainname, "domainname", "", "Container NIS domain name")
	flags.BoolVarP(&c.stdin, "interactive", "i", false, "Keep STDIN open even if not attached")
	flags.VarP(&c.labels, "label", "l", "Set meta data on a container")
	flags.Var(&c.labelsFile, "label-file", "Read in a line delimited file of labels")
	flags.BoolVar(&c.readOnly, "read-only", false, "Mount the container's root filesystem as read only")
	flags.StringVar(&c.restart, "restart", string(container.RestartPolicyDisabled), restartHelp)
	flags.StringVar(&c.stopSignal, "stop-signal", "", "Signal to stop the container")
	flags.IntVar(&c.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	flags.Var(c.sysctls, "sysctl", "Sysctl options")
	flags.BoolVarP(&c.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	flags.Var(c.ulimits, "ulimit", "Ulimit options")
	flags.StringVarP(&c.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	flags.StringVarP(&c.workdir, "workdir", "w", "", "Working directory inside the container")
	flags.BoolVar(&c.autoRemove, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")

	// Security.
	flags.Var(&c.capAdd, "cap-add", "Add Linux capabilities")
	flags.Var(&c.capDrop, "cap-drop", "Drop Linux capabilities")
	flags.BoolVar(&c.privileged, "privileged", false, "Give extended privileges to this container")
	flags.Var(&c.securityOpt, "security-opt", "Security Options")
	flags.StringVar(&c.userns, "userns", "", "User namespace to use")

	// Network.
	flags.Var(&c.extraHosts, "add-host", "Add a custom host-to-IP mapping (host:ip)")
	flags.Var(&c.dns, "dns", "Set custom DNS servers")
	flags.Var(&c.dnsOptions, "dns-opt", "Set DNS options")
	_ = flags.MarkHidden("dns-opt")
	flags.Var(&c.dnsOptions, "dns-option", "Set DNS options")
	flags.Var(&c.dnsSearch, "dns-search", "Set custom DNS search domains")
	flags.Var(&c.expose, "expose", "Expose a port or a range of ports")
	flags.StringVar(&c.ip, "ip", "", "IPv4 address (e.g., 172.30.100.104)")
	flags.StringVar(&c.ip6, "ip6", "", "IPv6 address (e.g., 2001:db8::33)")
	flags.Var(&c.links, "link", "Add link to another container")
	flags.Var(&c.linkLocalIPs, "link-local-ip", "Container IPv4/IPv6 link-local addresses")
	flags.StringVar(&c.mac, "mac-address", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)")
	flags.VarP(&c.publish, "publish", "p", "Publish a container's port(s) to the host")
	flags.BoolVarP(&c.publishAll, "publish-all", "P", false, "Publish all exposed ports to random ports")
	flags.Var(&c.network, "network", "Connect a container to a network")
	flags.Var(&c.network, "net", "Connect a container to a network")
	_ = flags.MarkHidden("net")
	flags.Var(&c.aliases, "network-alias", "Add network-scoped alias for the container")
	flags.Var(&c.aliases, "net-alias", "Add network-scoped alias for the container")
	_ = flags.MarkHidden("net-alias")

	// Logging and storage.
	flags.StringVar(&c.logDriver, "log-driver", "", "Logging driver for the container")
	flags.Var(&c.logOpts, "log-opt", "Log driver options")
	flags.Var(&c.storageOpt, "storage-opt", "Storage driver options for the container")
	flags.Var(&c.tmpfs, "tmpfs", "Mount a tmpfs directory")
	flags.Var(&c.volumesFrom, "volumes-from", "Mount volumes from the specified container(s)")
	flags.VarP(&c.volumes, "volume", "v", "Bind mount a volume; a host path may have the option idmap (its owner and the container's user own each other's files) or idmap=uids=DISK-SEEN-COUNT[#...][;gids=...]")
	flags.StringVar(&c.volumeDriver, "volume-driver", "", "Optional volume driver for the container")
	flags.Var(&c.mounts, "mount", "Attach a filesystem mount to the container (for type=bind also idmap, as with --volume)")

	// Health.
	flags.StringVar(&c.healthCmd, "health-cmd", "", "Command to run to check health")
	flags.DurationVar(&c.healthInterval, "health-interval", 0, "Time between running the check (ms|s|m|h) (default 0s)")
	flags.IntVar(&c.healthRetries, "health-retries", 0, "Consecutive failures needed to report unhealthy")
	flags.DurationVar(&c.healthTimeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h) (default 0s)")
	flags.DurationVar(&c.healthStartPeriod, "health-start-period", 0, "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)")
	flags.DurationVar(&c.healthStartInterval, "health-start-interval", 0, "Time between running the check during the start period (ms|s|m|h) (default 0s)")
	flags.BoolVar(&c.noHealthcheck, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")

	// Resources.
	flags.Uint16Var(&c.blkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	flags.Var(&c.blkioWeightDevice, "blkio-weight-device", "Block IO weight (relative device weight)")
	flags.StringVar(&c.cidFile, "cidfile", "", "Write the container ID to the file")
	flags.StringVar(&c.cpusetCPUs, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	flags.StringVar(&c.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	flags.Int64Var(&c.cpuCount, "cpu-count", 0, "CPU count (Windows only)")
	flags.Int64Var(&c.cpuPercent, "cpu-percent", 0, "CPU percent (Windows only)")
	flags.Int64Var(&c.cpuPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	flags.Int64Var(&c.cpuQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	flags.Int64Var(&c.cpuRTPeriod, "cpu-rt-period", 0, "Limit CPU real-time period in microseconds")
	flags.Int64Var(&c.cpuRTRuntime, "cpu-rt-runtime", 0, "Limit CPU real-time runtime in microseconds")
	flags.Int64VarP(&c.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	flags.Var(&c.cpus, "cpus", "Number of CPUs")
	flags.Var(&c.deviceReadBps, "device-read-bps", "Limit read rate (bytes per second) from a device")
	flags.Var(&c.deviceReadIOps, "device-read-iops", "Limit read rate (IO per second) from a device")
	flags.Var(&c.deviceWriteBps, "device-write-bps", "Limit write rate (bytes per second) to a device")
	flags.Var(&c.deviceWriteIOps, "device-write-iops", "Limit write rate (IO per second) to a device")
	flags.Var(&c.ioMaxBandwidth, "io-maxbandwidth", "Maximum IO bandwidth limit for the system drive (Windows only)")
	flags.Uint64Var(&c.ioMaxIOps, "io-maxiops", 0, "Maximum IOps limit for the system drive (Windows only)")
	registerKernelMemory(flags)
	flags.VarP(&c.memory, "memory", "m", "Memory limit")
	flags.Var(&c.memoryReservation, "memory-reservation", "Memory soft limit")
	flags.Var(&c.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	flags.Int64Var(&c.swappiness, "memory-swappiness", -1, "Tune container memory swappiness (0 to 100)")
	flags.BoolVar(&c.oomKillDisable, "oom-kill-disable", false, "Disable OOM Killer")
	flags.IntVar(&c.oomScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	flags.Int64Var(&c.pidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	for _, name := range []string{"cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"} {
		_ = flags.MarkHidden(name)
	}

	// Low level.
	flags.StringVar(&c.cgroupParent, "cgroup-parent", "", "Optional parent cgroup for the container")
	flags.StringVar(&c.cgroupns, "cgroupns", "", "Cgroup namespace to use (host|private)")
	flags.StringVar(&c.ipc, "ipc", "", "IPC mode to use")
	flags.StringVar(&c.isolation, "isolation", "", "Container isolation technology")
	flags.StringVar(&c.pid, "pid", "", "PID namespace to use")
	flags.Var(&c.shmSize, "shm-size", "Size of /dev/shm")
	flags.Var(&c.umask, "umask", "Set umask for the container")
	flags.StringVar(&c.uts, "uts", "", "UTS namespace to use")
	flags.StringVar(&c.runtime, "runtime", "", "Runtime to use for this container")
	flags.BoolVar(&c.init, "init", false, "Run an init inside the container that forwards signals and reaps processes")
	flags.Var(c.annotations, "annotation", "Add an annotation to the container (passed through to the OCI runtime)")
	return c
}
