package supervisor

import (
	"encoding/json"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"berth/runtime"
)

// rehearse does what a waiting shim can do of its first request: half of what a start costs
// in a new process are the page faults of code that never ran and the tables by which
// encoding/json knows our types. It stops when the real request is there.
func rehearse(conn *net.UnixConn) {
	var req createRequest
	for _, act := range []func() error{
		func() error {
			data, err := encodeFrame(frame{ID: 1, Op: opCreate, Body: json.RawMessage(sampleRequest)}, nil)
			if err != nil {
				return err
			}
			var f frame
			if err = json.Unmarshal(data[4:], &f); err == nil {
				err = json.Unmarshal(f.Body, &req)
			}
			return err
		},
		func() error { return runtime.Rehearse(req.Config.config().Spec) },
		func() error {
			now := time.Now()
			for _, v := range []any{runState{StartedAt: now}, helloReply{Ports: req.Config.Network.Ports}, startReply{At: now},
				Event{Kind: EventExit, Exit: &ExitRecord{StartedAt: now, ExitedAt: now}}} {
				if _, err := encodeFrame(frame{}, v); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		if requested(conn) || act() != nil {
			return // what fails here fails again, and is told, when it is meant
		}
	}
}

func requested(conn *net.UnixConn) (yes bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) { yes = ready(int(fd), unix.POLLIN) })
	return yes || err != nil
}

// sampleRequest has something of every kind that an ordinary container has.
const sampleRequest = `{"config":{"id":"rehearsal","dir":"/","runDir":"/","volatile":true,"log":{},
"network":{"ports":[{"proto":"tcp","containerPort":80}],"target4":"192.0.2.1","dns":{"zones":["/"],"servers":["192.0.2.1"]}},
"wakeEngine":["berthd"],
"root":{"lower":["/"],"upper":"/","work":"/"},
"spec":{"ociVersion":"1.3.0","hostname":"rehearsal","root":{"path":"/"},
"process":{"user":{"uid":0,"gid":0,"additionalGids":[0]},"args":["true"],"env":["PATH=/usr/bin:/bin"],"cwd":"/","oomScoreAdj":0,
"capabilities":{"bounding":["CAP_CHOWN"],"effective":["CAP_CHOWN"],"permitted":["CAP_CHOWN"]}},
"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},
{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]},
{"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]},
{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["ro","nosuid","noexec","nodev"]},
{"destination":"/etc/hosts","type":"bind","source":"/","options":["rbind","rprivate"]}],
"linux":{"sysctl":{"net.ipv4.ip_unprivileged_port_start":"0"},"cgroupsPath":"/berth/rehearsal",
"resources":{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]},
"namespaces":[{"type":"mount"},{"type":"network"},{"type":"uts"},{"type":"pid"},{"type":"ipc"},{"type":"cgroup"}],
"maskedPaths":["/proc/kcore","/sys/firmware"],"readonlyPaths":["/proc/sys"],
"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
"syscalls":[{"names":["read","write","ipc"],"action":"SCMP_ACT_ALLOW"},
{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}}}},
"attach":[{"stdout":true,"stderr":true,"framed":true}]}`
