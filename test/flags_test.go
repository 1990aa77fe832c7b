package test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/testkit"
)

// What a flag of run becomes. Either the engine's record of the container shows it, or the
// command is refused with one line; nothing is parsed and ignored.
var runFlags = []struct {
	args  string
	shown string // in inspect's JSON without its spaces; a regular expression
	why   string // in the refusal
}{
	{"--add-host a:1.2.3.4", `"ExtraHosts":\["a:1.2.3.4"\]`, ``},
	{"--annotation a=b", `"Annotations":{"a":"b"}`, ``},
	{"--attach stdout", `"AttachStdin":false,"AttachStdout":true,"AttachStderr":false`, ``},
	{"--blkio-weight 300", `"BlkioWeight":300`, ``},
	{"--blkio-weight-device /dev/null:300", `"BlkioWeightDevice":\[{"Path":"/dev/null","Weight":300}\]`, ``},
	{"--cap-add SYS_TIME", `"CapAdd":\["CAP_SYS_TIME"\]`, ``},
	{"--cap-drop CHOWN", `"CapDrop":\["CAP_CHOWN"\]`, ``},
	{"--cgroup-parent /elsewhere", `"CgroupParent":"/elsewhere"`, ``},
	{"--cgroupns host", `"CgroupnsMode":"host"`, ``},
	{"--cidfile DIR/cid", `"ContainerIDFile":".*/cid"`, ``},
	{"--cpu-period 50000", `"CpuPeriod":50000`, ``},
	{"--cpu-quota 20000", `"CpuQuota":20000`, ``},
	{"--cpu-rt-period 1000000", `"CpuRealtimePeriod":1000000`, ``},
	{"--cpu-rt-runtime 1000", `"CpuRealtimeRuntime":1000`, ``},
	{"--cpu-shares 512", `"CpuShares":512`, ``},
	{"--cpus 0.5", `"NanoCpus":500000000`, ``},
	{"--cpuset-cpus 0", `"CpusetCpus":"0"`, ``},
	{"--cpuset-mems 0", `"CpusetMems":"0"`, ``},
	{"--cpu-count 1", ``, `Windows only`},
	{"--cpu-percent 1", ``, `Windows only`},
	{"--device /dev/null:/dev/foo", `"PathInContainer":"/dev/foo"`, ``},
	{"--device-cgroup-rule c_1:3_rwm", `"DeviceCgroupRules":\["c1:3rwm"\]`, ``},
	{"--device-read-bps /dev/null:1mb", `"BlkioDeviceReadBps":\[{"Path":"/dev/null","Rate":1048576}\]`, ``},
	{"--device-read-iops /dev/null:100", `"BlkioDeviceReadIOps":\[{"Path":"/dev/null","Rate":100}\]`, ``},
	{"--device-write-bps /dev/null:1mb", `"BlkioDeviceWriteBps":\[{"Path":"/dev/null","Rate":1048576}\]`, ``},
	{"--device-write-iops /dev/null:100", `"BlkioDeviceWriteIOps":\[{"Path":"/dev/null","Rate":100}\]`, ``},
	{"--dns 1.1.1.1", `"Dns":\["1.1.1.1"\]`, ``},
	{"--dns-option ndots:2", `"DnsOptions":\["ndots:2"\]`, ``},
	{"--dns-search example.org", `"DnsSearch":\["example.org"\]`, ``},
	{"--domainname example.org", `"Domainname":"example.org"`, ``},
	{"--entrypoint /bin/sh", `"Entrypoint":\["/bin/sh"\]`, ``},
	{"--env A=B", `"Env":\["A=B"`, ``},
	{"--env-file DIR/lines", `"Env":\["l=1"`, ``},
	{"--expose 80", `"ExposedPorts":{"80/tcp":{}}`, ``},
	{"--gpus all", `"DeviceRequests":\[{"Driver":"","Count":-1,"DeviceIDs":null,"Capabilities":\[\["gpu"\]\],"Options":{}}\]`, ``},
	{"--gpus count=2,device=0", ``, `cannot set both Count and DeviceIDs`},
	{"--device vendor.test/class=name", `"DeviceRequests":\[{"Driver":"cdi","Count":0,"DeviceIDs":\["vendor.test/class=name"\]`, ``},
	{"--device vendor.test/class.=name", ``, `invalid device request`},
	{"--group-add 50", `"GroupAdd":\["50"\]`, ``},
	{"--health-cmd true", `"Healthcheck":{"Test":\["CMD-SHELL","true"\]}`, ``},
	{"--health-interval 1s", `"Healthcheck":{"Interval":1000000000}`, ``},
	{"--health-retries 3", `"Healthcheck":{"Retries":3}`, ``},
	{"--health-start-interval 1s", `"Healthcheck":{"StartInterval":1000000000}`, ``},
	{"--health-start-period 1s", `"Healthcheck":{"StartPeriod":1000000000}`, ``},
	{"--health-timeout 1s", `"Healthcheck":{"Timeout":1000000000}`, ``},
	{"--hostname h", `"Hostname":"h"`, ``},
	{"--init", `"Init":true`, ``},
	{"--interactive", `"OpenStdin":true`, ``},
	{"--io-maxbandwidth 1m", ``, `Windows only`},
	{"--io-maxiops 1", ``, `Windows only`},
	{"--ip 1.2.3.4", ``, `supported on user defined networks only`},
	{"--ip6 ::5", ``, `supported on user defined networks only`},
	{"--ipc shareable", `"IpcMode":"shareable"`, ``},
	{"--isolation hyperv", ``, `invalid isolation`},
	{"--label a=b", `"Labels":{"a":"b"}`, ``},
	{"--label-file DIR/lines", `"Labels":{"l":"1"}`, ``},
	{"--link other", ``, `could not get container for other`},
	{"--link-local-ip 169.254.1.1", `"IPAMConfig":{"LinkLocalIPs":\["169.254.1.1"\]}`, ``},
	{"--log-driver none", `"LogConfig":{"Type":"none",`, ``},
	{"--log-driver syslog", `"LogConfig":{"Type":"syslog",`, ``},
	{"--log-driver nosuch", ``, `no log driver named 'nosuch'|nosuch`},
	{"--log-opt max-size=1m", `"max-size":"1m"`, ``},
	{"--log-opt foo=bar", ``, `unknown log opt 'foo'`},
	{"--mac-address 02:42:ac:11:00:02", `"MacAddress":"02:42:ac:11:00:02"`, ``},
	{"--memory 64m", `"Memory":67108864,`, ``},
	{"--memory-reservation 32m", `"MemoryReservation":33554432`, ``},
	{"--memory 64m --memory-swap 128m", `"MemorySwap":134217728`, ``},
	{"--memory-swappiness 10", `"MemorySwappiness":10`, ``},
	{"--mount type=bind,src=/tmp,dst=/x,readonly", `"Destination":"/x","Mode":"","RW":false,"Propagation":"rprivate"`, ``},
	{"--mount type=volume,src=vv,dst=/x", `"Name":"vv","Source":"[^"]*/volumes/vv/_data","Destination":"/x","Driver":"local","Mode":"z","RW":true,"Propagation":""`, ``},
	{"--mount type=volume,src=v,dst=/x", ``, `volume name is too short`},
	{"--mount type=bind,src=/tmp,dst=/x,idmap", `"Consistency":"idmap"`, ``},
	{"--name named", `"Name":"/named"`, ``},
	{"--network host", `"NetworkMode":"host"`, ``},
	{"--network bridge", `"NetworkMode":"bridge"`, ``},
	{"--network-alias foo", ``, `user-defined networks`},
	{"--no-healthcheck", `"Healthcheck":{"Test":\["NONE"\]}`, ``},
	{"--oom-kill-disable --memory 64m", `"OomKillDisable":true`, ``},
	{"--oom-score-adj 100", `"OomScoreAdj":100`, ``},
	{"--pid host", `"PidMode":"host"`, ``},
	{"--pids-limit 100", `"PidsLimit":100`, ``},
	{"--platform linux/arm64", ``, `does not match the specified platform`},
	{"--privileged", `"Privileged":true`, ``},
	{"--publish 8080:80", `"PortBindings":{"80/tcp":\[{"HostIp":"","HostPort":"8080"}\]}`, ``},
	{"--publish-all", `"PublishAllPorts":true`, ``},
	{"--pull sometimes", ``, `invalid pull option`},
	{"--read-only", `"ReadonlyRootfs":true`, ``},
	{"--restart on-failure:3", `"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3}`, ``},
	{"--rm", `"AutoRemove":true`, ``},
	{"--runtime berth", `"Runtime":"berth"`, ``},
	{"--runtime runc", `"Runtime":"runc"`, ``},
	{"--runtime /usr/sbin/runc", ``, `a program must be registered to be used`},
	{"--runtime nosuch", ``, `unknown or invalid runtime name: nosuch`},
	{"--security-opt no-new-privileges", `"SecurityOpt":\["no-new-privileges"\]`, ``},
	{"--security-opt foo=bar", ``, `invalid --security-opt`},
	{"--shm-size 8m", `"ShmSize":8388608`, ``},
	{"--stop-signal INT", `"StopSignal":"INT"`, ``},
	{"--stop-timeout 5", `"StopTimeout":5`, ``},
	{"--storage-opt speed=1G", ``, `unknown storage option "speed"`},
	{"--storage-opt size=big", ``, `invalid storage option size: "big"`},
	{"--security-opt writable-cgroups=true", `"SecurityOpt":\["writable-cgroups=true"\]`, ``},
	{"--security-opt writable-cgroups=true --cgroupns host", ``, `could write all of the host's groups`},
	{"--security-opt writable-cgroups=true --cgroupns host --privileged", `"CgroupnsMode":"host"`, ``},
	{"--security-opt writable-cgroups=false --cgroupns host", `"CgroupnsMode":"host"`, ``},
	{"--security-opt writable-cgroups=perhaps", ``, `invalid --security-opt`},
	{"--sysctl net.core.somaxconn=100", `"Sysctls":{"net.core.somaxconn":"100"}`, ``},
	{"--tmpfs /t:size=1m", `"Tmpfs":{"/t":"size=1m"}`, ``},
	{"--tty", `"Tty":true`, ``},
	{"--ulimit nofile=100:200", `{"Name":"nofile","Hard":200,"Soft":100}`, ``},
	{"--use-api-socket", `"Mounts":\[{"Type":"bind","Source":"[^"]*/berth.sock","Target":"/var/run/docker.sock","BindOptions":{}}\]`, ``},
	{"--user app", `"User":"app"`, ``},
	{"--userns host", `"UsernsMode":"host"`, ``},
	{"--uts host", `"UTSMode":"host"`, ``},
	{"--volume /tmp:/x:ro", `"Binds":\["/tmp:/x:ro"\]`, ``},
	{"--volume named:/x", `"Name":"named","Source":"[^"]*/volumes/named/_data","Destination":"/x","Driver":"local","Mode":"z","RW":true`, ``},
	{"--volume-driver local --volume named:/x", `"VolumeDriver":"local"`, ``},
	{"--volume-driver nosuch --volume other:/x", ``, `error looking up volume plugin nosuch: plugin "nosuch" not found`},
	{"--volumes-from other", ``, `No such container: other`},
	{"--workdir /tmp", `"WorkingDir":"/tmp"`, ``},
	{"--kernel-memory 10m", `"Memory":0,`, ``}, // and a line that says that it does nothing
	{"--umask 0027", `"Umask":23`, ``},

	// limits that contradict each other, or that no kernel takes
	{"--cpus 1 --cpu-quota 20000", ``, `Nano CPUs and CPU Quota cannot both be set`},
	{"--cpus 1 --cpu-period 20000", ``, `Nano CPUs and CPU Period cannot both be set`},
	{"--cpus 4000", ``, `Range of CPUs is from 0.01 to`},
	{"--cpu-period 10", ``, `CPU cfs period can not be less than 1ms`},
	{"--cpu-quota 10", ``, `CPU cfs quota can not be less than 1ms`},
	{"--cpu-rt-runtime 10 --cpu-rt-period 5", ``, `real-time runtime cannot be higher than cpu real-time period|does not support CPU real-time`},
	{"--cpuset-cpus 4000", ``, `Requested CPUs are not available - requested 4000, available: `},
	{"--cpuset-cpus 1-0", ``, `Invalid value 1-0 for cpuset cpus`},
	{"--cpuset-mems 4000", ``, `Requested memory nodes are not available|Invalid value`},
	{"--memory 1m", ``, `Minimum memory limit allowed is 6MB`},
	{"--memory-swap 64m", ``, `You should always set the Memory limit when using Memoryswap limit`},
	{"--memory 64m --memory-swap 32m", ``, `Minimum memoryswap limit should be larger than memory limit`},
	{"--memory 32m --memory-reservation 64m", ``, `Minimum memory limit can not be less than memory reservation limit`},
	{"--memory-reservation 1m", ``, `Minimum memory reservation allowed is 6MB`},
	{"--memory-swappiness 200", ``, `valid memory swappiness range is 0-100`},
	{"--oom-score-adj 2000", ``, `range for oom score adj is \[-1000, 1000\]`},
	{"--blkio-weight 5", ``, `Range of blkio weight is from 10 to 1000`},
	{"--device-cgroup-rule d_1:3_rwm", ``, `invalid device cgroup format`},
	{"--ulimit foo=1", ``, `invalid ulimit type: foo`},
	{"--ulimit nofile=200:100", ``, `ulimit soft limit must be less than or equal to hard limit`},
	{"--cgroup-parent user.slice", ``, `slice of systemd`},
	{"--cgroup-parent ../x", ``, `invalid cgroup parent`},
	{"--security-opt seccomp=/no/such", ``, `opening seccomp profile \(/no/such\) failed`},
	{"--security-opt systempaths=closed", ``, `invalid --security-opt: "systempaths=closed"`},
	{"--security-opt label=foo:bar", ``, `invalid --security-opt: "label=foo:bar"`},
	{"--security-opt no-new-privileges:perhaps", ``, `invalid --security-opt: "no-new-privileges:perhaps"`},
	{"--security-opt systempaths=unconfined", `"MaskedPaths":\[\],"ReadonlyPaths":\[\]`, ``},
	{"--cgroupns other", ``, `invalid CGROUP mode`},
	{"--ipc other", ``, `invalid IPC mode`},
	{"--pid other", ``, `invalid PID mode`},
	{"--userns other", ``, `invalid USER mode`},
	{"--uts other", ``, `invalid UTS mode`},
	{"--uts host --hostname h", ``, `conflicting options: hostname and the UTS mode`},
	{"--sysctl kernel.panic=1", ``, `is not allowed`},
	{"--shm-size -1", ``, `invalid`},
}

// What cgroup v2 does not have is refused, or discarded with a warning, as dockerd does.
var onUnified = map[string]struct{ shown, why string }{
	"--cpu-rt-period 1000000":         {why: `does not support CPU real-time scheduler`},
	"--cpu-rt-runtime 1000":           {why: `does not support CPU real-time scheduler`},
	"--memory-swappiness 10":          {shown: `"MemorySwappiness":null`},
	"--oom-kill-disable --memory 64m": {shown: `"OomKillDisable":(null|false)`},
}

// These are the client's own; other tests see what they do.
const clientsFlags = " --detach --detach-keys --sig-proxy --quiet --help "

func TestNoFlagOfRunIsIgnored(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	write(t, filepath.Join(e.Dir, "lines"), "l=1\n")
	inTable := map[string]bool{}
	for _, f := range runFlags {
		if other, ok := onUnified[f.args]; ok && testkit.UnifiedCgroups() {
			f.shown, f.why = other.shown, other.why
		}
		if e.Systemd && strings.HasPrefix(f.args, "--cgroup-parent") {
			f.why = `should be a valid slice named as "xxx.slice": got "/elsewhere"`
		}
		t.Run(f.args, func(t *testing.T) {
			var args []string
			for _, a := range strings.Fields(f.args) {
				if strings.HasPrefix(a, "--") {
					inTable[a] = true
				}
				a = strings.ReplaceAll(a, "DIR", e.Dir)
				if strings.HasPrefix(a, "c_") || strings.HasPrefix(a, "d_") {
					a = strings.ReplaceAll(a, "_", " ")
				}
				args = append(args, a)
			}
			r := e.Berth(append(append([]string{"create"}, args...), "busybox", "true")...)
			if f.why != "" {
				said := strings.Split(strings.TrimSpace(r.Stderr), "\n")
				if len(said) == 2 && strings.HasPrefix(said[1], "See 'berth create") {
					said = said[:1]
				}
				if r.Code == 0 || len(said) != 1 || !regexp.MustCompile(f.why).MatchString(said[0]) {
					t.Errorf("exit %d, %q (want one line like %s)", r.Code, r.Stderr, f.why)
				}
				return
			}
			if r.Code != 0 {
				t.Fatalf("exit %d, %s", r.Code, r.Stderr)
			}
			id := strings.TrimSpace(r.Stdout)
			json := strings.Join(strings.Fields(e.Must("inspect", "-f", "{{json .}}", id)), "")
			if !regexp.MustCompile(f.shown).MatchString(json) {
				t.Errorf("inspect does not show %s: %s", f.shown, json)
			}
			e.Must("rm", id)
		})
	}
	for _, flag := range regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z0-9-]+)`).FindAllStringSubmatch(e.Must("run", "--help"), -1) {
		if !inTable[flag[1]] && !strings.Contains(clientsFlags, " "+flag[1]+" ") {
			t.Errorf("%s is a flag of run, and not in the table", flag[1])
		}
	}
	if left := e.Must("ps", "-aq"); left != "" {
		t.Errorf("refused flags left containers: %s", left)
	}
}
