package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/testkit"
)

// Command lines, with files below DIR, of which both engines are asked what they have made of them.
var inspected = []string{
	`busybox`,
	`-it -e A=1 -e B= -l x=y -h web --domainname example.org -u app:50 -w /nowhere/yet --group-add 50 --group-add audio busybox sh -c true`,
	`--entrypoint /bin/sh --stop-signal INT --stop-timeout 3 --restart on-failure:4 --init busybox -c true`,
	`--entrypoint= --rm --read-only --tmpfs /t --tmpfs /u:size=1m,mode=700 --shm-size 8m busybox true`,
	`-m 64m --memory-reservation 32m --memory-swappiness 7 --oom-kill-disable --oom-score-adj 55 --cpus 0.5 --cpuset-cpus 0 --cpuset-mems 0 --pids-limit 77 busybox`,
	`-c 512 --cpu-period 50000 --cpu-quota 20000 -m 64m --memory-swap 96m busybox`,
	`-m 64m --memory-swap -1 --pids-limit -1 busybox`,
	`--blkio-weight 300 --blkio-weight-device /dev/null:200 --device-read-bps /dev/null:1mb --device-write-bps /dev/null:2mb --device-read-iops /dev/null:100 --device-write-iops /dev/null:200 busybox`,
	`--device /dev/null:/dev/foo:r --device /dev/zero --device-cgroup-rule c_1:3_rwm --ulimit nofile=100:200 --ulimit core=0 --sysctl net.core.somaxconn=100 --sysctl kernel.msgmax=9000 busybox`,
	`--cap-add SYS_TIME --cap-add net_admin --cap-drop ALL --cap-drop CAP_CHOWN --security-opt no-new-privileges --security-opt seccomp=unconfined busybox`,
	`--privileged busybox`,
	`--security-opt systempaths=unconfined --security-opt apparmor=unconfined --security-opt label=disable busybox`,
	`--security-opt no-new-privileges:false --security-opt seccomp=DIR/profile busybox`,
	`--pid host --ipc host --uts host --userns host --cgroupns host --network host busybox`,
	`--ipc none --cgroupns private busybox`,
	`--ipc shareable --network none busybox`,
	`--name donor --ipc shareable -v /data -v named:/n:ro -v DIR:/bound busybox`,
	`--pid container:donor --ipc container:donor --network container:donor busybox`,
	`--volumes-from donor:ro -v DIR:/again busybox`,
	`-v DIR:/a:ro,rslave -v DIR/new:/b:z -v named:/c:nocopy -v /d --volume-driver local busybox`,
	`--mount type=bind,src=DIR,dst=/a,readonly,bind-propagation=rslave --mount type=volume,dst=/b,volume-nocopy --mount type=volume,src=labelled,dst=/c,volume-label=a=b --mount type=tmpfs,dst=/d,tmpfs-size=1m,tmpfs-mode=700 busybox`,
	`-p 8080:80 -p 127.0.0.1::90/udp -p 1000-1001:1000-1001 --expose 70 --expose 71-72/udp busybox`,
	`-P --expose 80 --add-host a:1.2.3.4 --dns 1.1.1.1 --dns-search example.org --dns-option ndots:2 busybox`,
	`--health-cmd true --health-interval 5s --health-timeout 3s --health-retries 2 --health-start-period 1s busybox`,
	`--no-healthcheck --log-driver json-file --log-opt max-size=1m --log-opt max-file=2 --log-opt tag={{.Name}} busybox`,
	`--log-driver none -a stdout --env-file DIR/lines --label-file DIR/lines --cidfile DIR/cid busybox`,
	`--cgroup-parent /CGROUP/below --runtime runc --isolation default busybox`,
	`--network front --network-alias www --ip SUBNET.9 --link-local-ip 169.254.1.9 busybox`,
	`--link donor:other busybox`,
	`--name second --link donor busybox`,
}

// Requests that no command line makes.
var inspectedBodies = []string{
	`{"Image":"busybox"}`,
	`{"Image":"busybox","Cmd":"true","Entrypoint":"/bin/env","Env":null,"Labels":null,"Volumes":{"/v/":{}},"ExposedPorts":{"80/tcp":{}}}`,
	`{"Image":"busybox","Cmd":[],"Entrypoint":[],"AttachStdout":true,"Tty":true,"StdinOnce":true,"Shell":["/bin/ash","-c"],"OnBuild":["RUN true"],"ArgsEscaped":true,"MacAddress":"02:42:0a:00:00:09"}`,
	`{"Image":"busybox","NetworkDisabled":true}`,
	`{"Image":"busybox","Hostname":"a.b.c","Domainname":"d","HostConfig":{"ConsoleSize":[10,20],"ContainerIDFile":"/some/file","Isolation":"default","MaskedPaths":["/a"],"ReadonlyPaths":[],"Annotations":null,"Init":null,"AutoRemove":true}}`,
	`{"Image":"busybox","HostConfig":{"Binds":["/usr:/x"],"CapAdd":["ALL"],"CapDrop":["cap_chown"],"GroupAdd":["1"],"SecurityOpt":["label=user:u","label=type:t"],"DeviceCgroupRules":null,"Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"r"}],"RestartPolicy":{"Name":""},"PidsLimit":0,"KernelMemory":0}}`,
	`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/tmp","Target":"/a","ReadOnly":true,"Consistency":"cached","BindOptions":{"Propagation":"rslave","NonRecursive":true}},{"Type":"volume","Target":"/b","VolumeOptions":{"NoCopy":true,"Labels":{"a":"b"},"DriverConfig":{"Name":"local","Options":{"type":"tmpfs","device":"tmpfs","o":"size=1m"}}}},{"Type":"tmpfs","Target":"/c","TmpfsOptions":{"SizeBytes":1048576,"Mode":448}}]}}`,
	`{"Image":"busybox","Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Timeout":1000000000,"Retries":3,"StartPeriod":1000000000},"StopSignal":"9","StopTimeout":0}`,
	`{"Image":"busybox","Healthcheck":{}}`,
	`{"Image":"busybox","HostConfig":{"Privileged":true,"IpcMode":"host","SecurityOpt":["seccomp=unconfined"],"MaskedPaths":["/a"],"OomKillDisable":null,"MemorySwappiness":-1,"ShmSize":0,"LogConfig":{"Type":"","Config":{"max-size":"1m"}}}}`,
}

// deliberate are values of ours that are not 20.10's, by regular expressions of command line and
// path: those of later versions of Docker, or such as we mean to have.
var deliberate = []struct{ command, at, ours, why string }{
	{``, `Name|Created`, `.*`, "made up, or the time"},
	{``, `Driver|GraphDriver\..*`, `.*`, "our storage driver has another name, and mounts that no path leads to"},
	{``, `HostConfig\.Runtime`, `"berth"`, "our own runtime is the default"},
	{``, `HostConfig\.CgroupnsMode`, `"private"`, "20.10 has another default on cgroup v1; ours is the safer one that it has on v2"},
	{``, `HostConfig\.NetworkMode`, `"bridge"`, "since 26.0 the default network goes by its name"},
	{``, `HostConfig\.MaskedPaths`, `\[.*"/proc/interrupts".*"/sys/devices/virtual/powercap".*`, "since 25.0 and 28.0 more is hidden"},
	{``, `NetworkSettings\.Networks\.[a-z]+\.NetworkID`, `"HEX"`, "it is known before the start"},
	{`--blkio-weight`, `HostConfig\.BlkioWeight`, `300`, "the weight of BFQ is one too"},
	{`--network container`, `Config\.Hostname`, `"[0-9a-f]{12}"`, "the donor's name, which is its short ID"},
	{`MacAddress`, `NetworkSettings\.Networks\.bridge\.MacAddress`, `"02:42:0a:00:00:09"`, "since 25.0 it is told before the start"},
	{`-e .* -e`, `Config\.Env`, `\["B=","A=1"\]|\["A=1","B="\]`, "the client sends them in any order"},
	{``, `Mounts\[\d\]\.Source`, `".*/d/volumes/.*"`, "each engine has its own directory"},
}

func TestInspectSaysOfManyFlagsWhatDockerSays(t *testing.T) {
	d := testkit.DockerdOn(t, testkit.NewHost(t))
	d.Must("import", "--change", `CMD ["sh"]`, testkit.BusyboxTar(t), "busybox")
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.MustDocker("import", "--change", `CMD ["sh"]`, testkit.BusyboxTar(t), "busybox")
	subnet := someSubnet(e, "front")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "lines"), "# a comment\nl=1\nquoted=\"a b\"\n")
	write(t, filepath.Join(dir, "profile"), `{"defaultAction": "SCMP_ACT_ALLOW"}`)
	sockets := []string{filepath.Join(d.Dir, "s"), strings.TrimPrefix(e.Host, "unix://")}
	ours := func(args ...string) testkit.Result { // as it speaks to 20.10
		return e.Run("", "env", append([]string{"DOCKER_API_VERSION=1.41", testkit.DockerCLI(t)}, args...)...)
	}
	for _, run := range []func(...string) testkit.Result{d.Do, ours} {
		if r := run("network", "create", "--subnet", subnet+".0/24", "front"); r.Code != 0 {
			t.Fatal(r.Stderr)
		}
	}
	for _, line := range slices.Concat(inspected, inspectedBodies) {
		var values []map[string]string
		for n, run := range []func(...string) testkit.Result{d.Do, ours} {
			if strings.HasPrefix(line, "{") {
				run = func(...string) testkit.Result {
					code, answer := api(t, sockets[n], "POST", "/containers/create", line)
					id, _ := answer.(map[string]any)["Id"].(string)
					return testkit.Result{Stdout: id, Stderr: fmt.Sprint(answer), Code: code / 300}
				}
			}
			args := []string{"create"}
			for _, a := range strings.Fields(line) {
				if strings.HasPrefix(a, "c_") {
					a = strings.ReplaceAll(a, "_", " ")
				}
				a = strings.NewReplacer("DIR/cid", filepath.Join(dir, fmt.Sprint("cid", n)), "DIR", dir, "SUBNET", subnet, "CGROUP", "berth-inspect").Replace(a)
				args = append(args, a)
			}
			r := run(args...)
			if r.Code != 0 {
				t.Errorf("%d: %s: exit %d: %s", n, line, r.Code, r.Stderr)
				break
			}
			id := strings.TrimSpace(r.Stdout)
			_, answer := api(t, sockets[n], "GET", "/containers/"+id+"/json", "")
			v := leaves(answer)
			name := strings.Trim(v["Name"], `"/`)
			for at, text := range v {
				text = strings.NewReplacer(id, "ID", id[:12], "SHORT", fmt.Sprint(dir, "/cid", n), "CID", "/"+name+"/", "/NAME/").Replace(text)
				v[at] = regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAllString(text, "HEX")
			}
			values = append(values, v)
		}
		if len(values) < 2 {
			continue
		}
		var differ []string
		for _, at := range slices.Sorted(maps.Keys(values[0])) {
			if ours, there := values[1][at]; ours == values[0][at] || !there && values[0][at] == "[]" || meant(line, at, values[1][at]) {
				continue
			}
			differ = append(differ, fmt.Sprintf("%s: %s, dockerd %s", at, values[1][at], values[0][at]))
		}
		if len(differ) > 0 {
			t.Errorf("%s\n%s", line, strings.Join(differ, "\n"))
		}
	}
}

func meant(line, at, ours string) bool {
	return slices.ContainsFunc(deliberate, func(d struct{ command, at, ours, why string }) bool {
		return regexp.MustCompile(d.command).MatchString(line) && regexp.MustCompile("^(?:"+d.at+")$").MatchString(at) && regexp.MustCompile("^(?:"+d.ours+")$").MatchString(ours)
	})
}

// leaves are the values of an answer, as JSON, by path.
func leaves(v any) map[string]string {
	out := map[string]string{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(strings.TrimPrefix(at+"."+k, "."), e)
			}
			if len(v) == 0 {
				out[at] = "{}"
			}
		case []any:
			if len(v) > 0 {
				if _, composed := v[0].(map[string]any); composed {
					slices.SortFunc(v, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
					for n, e := range v {
						walk(fmt.Sprintf("%s[%d]", at, n), e)
					}
					return
				}
			}
			if strings.HasSuffix(at, ".Binds") { // the client sends them in any order
				slices.SortFunc(v, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
			text, _ := json.Marshal(v)
			out[at] = string(text)
		default:
			text, _ := json.Marshal(v)
			out[at] = string(text)
		}
	}
	walk("", v)
	return out
}
