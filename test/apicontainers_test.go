package test

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"berth/testkit"

	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
)

// legacyAddresses are those of the default bridge. Docker leaves them out since 1.52; many
// scripts read them still.
const legacyAddresses = "Bridge s HairpinMode b LinkLocalIPv6Address s LinkLocalIPv6PrefixLen n SecondaryIPAddresses l0 SecondaryIPv6Addresses l0 EndpointID s Gateway s GlobalIPv6Address s GlobalIPv6PrefixLen n IPAddress s IPPrefixLen n IPv6Gateway s MacAddress s"

// inspectShape is a container's inspection as a version of the API tells it.
func inspectShape(m int) string {
	return `
	.: Id s Created s Path s Args l State o Image s ResolvConfPath s HostnamePath s HostsPath s LogPath s Name s RestartCount n Driver s Platform s MountLabel s ProcessLabel s AppArmorProfile s ExecIDs l0 HostConfig o GraphDriver o? Storage o? Mounts l Config o NetworkSettings o SizeRw n? SizeRootFs n? ImageManifestDescriptor o?
	State: Status s Running b Paused b Restarting b OOMKilled b Dead b Pid n ExitCode n Error s StartedAt s FinishedAt s Health o?
	HostConfig: Binds l0 ContainerIDFile s LogConfig o NetworkMode s PortBindings o0 RestartPolicy o AutoRemove b VolumeDriver s VolumesFrom l0 CapAdd l0 CapDrop l0 CgroupnsMode s Dns l0 DnsOptions l0 DnsSearch l0 ExtraHosts l0 GroupAdd l0 IpcMode s Cgroup s Links l0 OomScoreAdj n PidMode s Privileged b PublishAllPorts b ReadonlyRootfs b SecurityOpt l0 UTSMode s UsernsMode s ShmSize n Runtime s ConsoleSize l Isolation s CpuShares n Memory n NanoCpus n CgroupParent s BlkioWeight n BlkioWeightDevice l0 BlkioDeviceReadBps l0 BlkioDeviceWriteBps l0 BlkioDeviceReadIOps l0 BlkioDeviceWriteIOps l0 CpuPeriod n CpuQuota n CpuRealtimePeriod n CpuRealtimeRuntime n CpusetCpus s CpusetMems s Devices l0 DeviceCgroupRules l0 DeviceRequests l0 MemoryReservation n MemorySwap n MemorySwappiness n0 OomKillDisable b0 PidsLimit n0 Ulimits l0 CpuCount n CpuPercent n IOMaximumIOps n IOMaximumBandwidth n MaskedPaths l0 ReadonlyPaths l0 Init b? Mounts l? Annotations o? StorageOpt o? Tmpfs o? Sysctls o? ` + until(42, m, "KernelMemory n KernelMemoryTCP n", "") + `
	HostConfig.LogConfig: Type s Config o
	HostConfig.RestartPolicy: Name s MaximumRetryCount n
	Config: Hostname s Domainname s User s AttachStdin b AttachStdout b AttachStderr b ExposedPorts o? Tty b OpenStdin b StdinOnce b Env l0 Cmd l0 Healthcheck o? ArgsEscaped b? Image s Volumes o0 WorkingDir s Entrypoint l0 NetworkDisabled b? Labels o StopSignal s? StopTimeout n? Shell l? ` + until(44, m, "MacAddress s? ", "") + until(52, m, "OnBuild l0", "OnBuild l?") + `
	NetworkSettings: SandboxID s SandboxKey s Ports o Networks o ` + legacyAddresses + `
	NetworkSettings.Networks{}: IPAMConfig o0 Links l0 Aliases l0 NetworkID s EndpointID s Gateway s IPAddress s IPPrefixLen n IPv6Gateway s GlobalIPv6Address s GlobalIPv6PrefixLen n MacAddress s DriverOpts o0 GwPriority n? DNSNames l0?`
}

var apiContainers = []apiCase{
	{row: "GET /containers/json", test: func(a *apiTest) {
		old := a.create("listed-old", `"Labels":{"l":"1"},"HostConfig":{"NetworkMode":"none","Binds":["listed:/v"]}`)
		id := a.sleeper("listed")
		list, err := a.sdk.ContainerList(a.Context(), mobyclient.ContainerListOptions{All: true, Filters: make(mobyclient.Filters).Add("name", "listed")})
		a.must(err)
		if len(list.Items) != 2 || list.Items[0].ID != id || list.Items[1].ID != old || list.Items[0].Names[0] != "/listed" || list.Items[0].State != "running" || !strings.HasPrefix(list.Items[0].Status, "Up ") || list.Items[1].Status != "Created" || list.Items[0].Command != "sleep 1000" {
			a.Errorf("%+v", list.Items)
		}
		for _, m := range everyVersion {
			a.ask(200, "GET", v(m, `/containers/json?all=1&filters={"name":["listed"]}`), "").shape(`
				[]: Id s Names l Image s ImageID s Command s Created n Ports l Labels o State s Status s HostConfig o NetworkSettings o Mounts l ImageManifestDescriptor o? Health o? SizeRw - SizeRootFs -
				[].HostConfig: NetworkMode s Annotations o?
				[].NetworkSettings: Networks o`)
		}
		count := func(query string) int { return len(a.ask(200, "GET", "/containers/json?"+query, "").v.([]any)) }
		only := func(filters string) string { return `filters=` + filters }
		for query, want := range map[string]int{
			only(`{"name":["listed"]}`):                                           1,
			"all=true&" + only(`{"name":["listed"]}`):                             2,
			"all=0&" + only(`{"name":["listed"]}`):                                1,
			"all=False&" + only(`{"name":["listed"]}`):                            1,
			"all=no&" + only(`{"name":["listed"]}`):                               1,
			"all=none&" + only(`{"name":["listed"]}`):                             1,
			"all=maybe&" + only(`{"name":["listed"]}`):                            2,
			"limit=1&" + only(`{"name":["listed-old"]}`):                          1, // a limit implies all
			"all=1&limit=1&" + only(`{"name":["listed"]}`):                        1,
			only(`{"name":{"listed":true}}`):                                      1, // as clients of long ago write it
			only(`{"name":["^/?listed$"]}`):                                       1,
			only(`{"status":["created"],"name":["listed"]}`):                      1, // a status implies all
			"all=1&" + only(`{"label":["l=1"]}`):                                  1,
			"all=1&" + only(`{"label":["l"],"name":["listed"]}`):                  1,
			"all=1&" + only(`{"label":["l=2"]}`):                                  0,
			"all=1&" + only(`{"id":["`+id[:12]+`"]}`):                             1,
			"all=1&" + only(`{"volume":["listed"]}`):                              1,
			"all=1&" + only(`{"before":["listed"],"name":["listed"]}`):            1,
			"all=1&" + only(`{"since":["listed-old"],"name":["listed"]}`):         1,
			"all=1&" + only(`{"ancestor":["busybox"],"name":["listed"]}`):         2,
			"all=1&" + only(`{"network":["none"],"name":["listed"]}`):             2,
			"all=1&" + only(`{"is-task":["true"]}`):                               0,
			"all=1&" + only(`{"exited":["0"],"name":["listed"]}`):                 0,
			"all=1&" + only(`{"publish":["80"],"name":["listed"]}`):               0,
			"all=1&" + only(`{"expose":["80"],"name":["listed"]}`):                0,
			"all=1&" + only(`{"health":["none"],"name":["listed"]}`):              2,
			"all=1&" + only(`{"status":["running","created"],"name":["listed"]}`): 2,
		} {
			if got := count(query); got != want {
				a.Errorf("%s: %d, want %d", query, got, want)
			}
		}
		a.ask(200, "GET", `/containers/json?all=1&size=1&filters={"id":["`+old+`"]}`, "").shape(`[]: SizeRootFs n …`)
		a.ask(400, "GET", `/containers/json?filters={"nope":["x"]}`, "").says("invalid filter 'nope'")
		a.ask(400, "GET", `/containers/json?filters=[1]`, "")
		a.ask(400, "GET", `/containers/json?limit=x`, "")
		a.ask(400, "GET", `/containers/json?filters={"status":["sleepy"]}`, "")
		a.ask(400, "GET", `/containers/json?filters={"exited":["x"]}`, "")
	}},
	{row: "POST /containers/create", test: func(a *apiTest) {
		made, err := a.sdk.ContainerCreate(a.Context(), mobyclient.ContainerCreateOptions{Name: "made", Config: &container.Config{Image: "busybox", Env: []string{"A=1"}}, HostConfig: &container.HostConfig{NetworkMode: "none"}})
		a.must(err)
		a.Cleanup(func() { a.e.Must("rm", "-f", made.ID) })
		a.ask(200, "GET", "/containers/made/json", "").is(made.ID, "Id").is("A=1", "Config", "Env", "0")
		for _, m := range everyVersion {
			r := a.ask(201, "POST", v(m, "/containers/create"), `{"Image":"busybox","Unknown":{"x":1},"HostConfig":{"NetworkMode":"none"},"NetworkingConfig":null}`).shape(`.: Id s Warnings l`)
			name := a.ask(200, "GET", v(m, "/containers/"+r.at("Id").(string)+"/json"), "").at("Name").(string)
			if !regexp.MustCompile(`^/[a-z]+_[a-z]+[0-9]?$`).MatchString(name) {
				a.Errorf("a name of ours is %q", name)
			}
			a.e.Must("rm", r.at("Id").(string))
		}
		r := a.ask(201, "POST", "/containers/create", `{"Image":"busybox","Volumes":{"/anon":{}},"HostConfig":{"NetworkMode":"none"}}`)
		a.ask(200, "GET", "/containers/"+r.at("Id").(string)+"/json", "").is("volume", "Mounts", "0", "Type") // made at create
		a.e.Must("rm", "-v", r.at("Id").(string))
		a.ask(409, "POST", "/containers/create?name=made", `{"Image":"busybox"}`).says(`Conflict. The container name "/made" is already in use by container "` + made.ID)
		a.ask(404, "POST", "/containers/create", `{"Image":"nosuch:9"}`).says("No such image: nosuch:9")
		a.ask(404, "POST", "/containers/create?platform=linux/s390x", `{"Image":"busybox"}`)
		for body, want := range map[string]string{
			``: "", `{`: "", `[]`: "", `{"Image":7}`: "", `{"Image":""}`: "", `{"Image":"busybox","Cmd":7}`: "",
			`{"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"often"}}}`:                                             "restart policy",
			`{"Image":"busybox","HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}}`:                          "can't create 'AutoRemove' container with restart policy",
			`{"Image":"busybox","HostConfig":{"Memory":1024}}`:                                                                "Minimum memory limit",
			`{"Image":"busybox","HostConfig":{"Binds":["/a:/b:/c:/d"]}}`:                                                      "invalid",
			`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/no/such/dir","Target":"/x"}]}}`:             "bind source path does not exist: /no/such/dir",
			`{"Image":"busybox","HostConfig":{"PortBindings":{"x/tcp":[]}}}`:                                                  "",
			`{"Image":"busybox","HostConfig":{"NetworkMode":"container:made","PortBindings":{"80/tcp":[{"HostPort":"81"}]}}}`: "",
			`{"Image":"busybox","WorkingDir":"relative","HostConfig":{"NetworkMode":"none"}}`:                                 "relative",
			`{"Image":"busybox","StopSignal":"SIGNOPE","HostConfig":{"NetworkMode":"none"}}`:                                  "SIGNOPE",
			`{"Image":"busybox","HostConfig":{"LogConfig":{"Type":"smoke-signals"},"NetworkMode":"none"}}`:                    "smoke-signals",
			`{"Image":"busybox","Healthcheck":{"Test":["CMD","true"],"Interval":1},"HostConfig":{"NetworkMode":"none"}}`:      "Interval",
		} {
			a.ask(400, "POST", "/containers/create", body).says(want)
		}
		a.ask(400, "POST", "/containers/create?name=a/b", `{"Image":"busybox"}`).says("Invalid container name (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
		a.ask(400, "POST", "/containers/create", `{"Image":"busybox"}`, "Content-Type", "text/plain").says("text/plain")
		if left := a.e.Must("ps", "-a", "--filter", "name=made", "--format", "{{.Names}}"); left != "made" {
			a.Errorf("refused creates left %q", left)
		}
	}},
	{row: "GET /containers/{id}/json", test: func(a *apiTest) {
		id := a.sleeper("inspected")
		one, err := a.sdk.ContainerInspect(a.Context(), "inspected", mobyclient.ContainerInspectOptions{Size: true})
		a.must(err)
		if one.Container.ID != id || !one.Container.State.Running || one.Container.State.Pid == 0 || one.Container.SizeRootFs == nil {
			a.Errorf("%+v", one)
		}
		for _, m := range everyVersion {
			for _, ref := range []string{id, id[:12], "inspected", "%2Finspected"} {
				r := a.ask(200, "GET", v(m, "/containers/"+ref+"/json"), "").is(id, "Id")
				if ref == id {
					r.shape(inspectShape(m))
				}
			}
		}
		r := a.ask(200, "GET", "/containers/inspected/json", "")
		for _, keys := range [][]string{{"Created"}, {"State", "StartedAt"}} {
			if at, err := time.Parse(time.RFC3339Nano, r.at(keys...).(string)); err != nil || at.Location() != time.UTC || at.Year() < 2020 {
				a.Errorf("%v: %v %v", keys, at, err)
			}
		}
		r.is("0001-01-01T00:00:00Z", "State", "FinishedAt").is("/inspected", "Name")
		// A name beats a prefix of another's id, and a whole id beats a name.
		named := a.create(id[:10], "")
		a.ask(200, "GET", "/containers/"+id[:10]+"/json", "").is(named, "Id")
		a.ask(404, "GET", "/containers/nosuch/json", "").says("No such container: nosuch")
		a.ask(404, "GET", "/containers/"+strings.Repeat("0", 64)+"/json", "").says("No such container: " + strings.Repeat("0", 64))
	}},
	{row: "GET /containers/{id}/top", test: func(a *apiTest) {
		a.sleeper("topped")
		top, err := a.sdk.ContainerTop(a.Context(), "topped", mobyclient.ContainerTopOptions{Arguments: []string{"-eo", "pid,comm"}})
		a.must(err)
		if fmt.Sprint(top.Titles) != "[PID COMMAND]" || len(top.Processes) != 1 || top.Processes[0][1] != "sleep" {
			a.Errorf("%+v", top)
		}
		pid := a.ask(200, "GET", "/containers/topped/json", "").at("State", "Pid")
		if top.Processes[0][0] != fmt.Sprint(pid) {
			a.Errorf("top says %s, inspect %v: ids are the host's", top.Processes[0][0], pid)
		}
		a.ask(200, "GET", "/containers/topped/top", "").shape(`.: Titles l Processes l`).is("CMD", "Titles", "7")
		a.ask(404, "GET", "/containers/nosuch/top", "")
		a.create("untopped", "")
		a.ask(409, "GET", "/containers/untopped/top", "").says("is not running")
	}},
	{row: "POST /containers/{id}/start", test: func(a *apiTest) {
		id := a.create("started", `"Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"none"}`)
		_, err := a.sdk.ContainerStart(a.Context(), id, mobyclient.ContainerStartOptions{})
		a.must(err)
		if r := a.ask(304, "POST", "/containers/"+id+"/start", ""); r.body != "" {
			a.Errorf("304 with a body: %q", r.body)
		}
		a.ask(404, "POST", "/containers/nosuch/start", "").says("No such container: nosuch")
		a.create("misstarted", `"Cmd":["nosuchprogram"],"HostConfig":{"NetworkMode":"none"}`)
		a.ask(400, "POST", "/containers/misstarted/start", "").says(`exec: "nosuchprogram": executable file not found in $PATH`)
		a.ask(200, "GET", "/containers/misstarted/json", "").is(127, "State", "ExitCode").is("created", "State", "Status")
		a.create("deniedstart", `"Cmd":["/etc/passwd"],"HostConfig":{"NetworkMode":"none"}`)
		a.ask(400, "POST", "/containers/deniedstart/start", "").says("permission denied")
		a.ask(200, "GET", "/containers/deniedstart/json", "").is(126, "State", "ExitCode")
	}},
	{row: "POST /containers/{id}/stop", test: func(a *apiTest) {
		id := a.sleeper("stopped")
		zero := 0
		_, err := a.sdk.ContainerStop(a.Context(), id, mobyclient.ContainerStopOptions{Timeout: &zero})
		a.must(err)
		a.ask(200, "GET", "/containers/stopped/json", "").is("exited", "State", "Status").is(137, "State", "ExitCode")
		a.ask(304, "POST", "/containers/stopped/stop", "")
		a.ask(404, "POST", "/containers/nosuch/stop", "")
		a.ask(204, "POST", "/containers/stopped/start", "")
		a.ask(400, "POST", "/containers/stopped/stop?signal=NOPE", "").says("nvalid signal: NOPE")
		a.ask(400, "POST", "/containers/stopped/stop?t=soon", "")
		a.ask(204, "POST", "/containers/stopped/stop?signal=KILL&t=-1", "")
	}},
	{row: "POST /containers/{id}/restart", test: func(a *apiTest) {
		id := a.sleeper("restarted")
		pid := a.ask(200, "GET", "/containers/restarted/json", "").at("State", "Pid")
		zero := 0
		_, err := a.sdk.ContainerRestart(a.Context(), id, mobyclient.ContainerRestartOptions{Timeout: &zero})
		a.must(err)
		r := a.ask(200, "GET", "/containers/restarted/json", "").is("running", "State", "Status").is(0, "RestartCount")
		if r.at("State", "Pid") == pid {
			a.Error("it is the same process")
		}
		a.ask(204, "POST", "/containers/restarted/stop?t=0", "")
		a.ask(204, "POST", "/containers/restarted/restart?t=0&signal=KILL", "") // starts what is stopped
		a.ask(200, "GET", "/containers/restarted/json", "").is("running", "State", "Status")
		a.ask(404, "POST", "/containers/nosuch/restart", "")
		a.ask(400, "POST", "/containers/restarted/restart?signal=NOPE", "")
	}},
	{row: "POST /containers/{id}/kill", test: func(a *apiTest) {
		id := a.create("killed", `"Cmd":["sh","-c","trap 'echo got' USR1; while :; do sleep 0.05; done"],"HostConfig":{"NetworkMode":"none"}`)
		a.ask(204, "POST", "/containers/killed/start", "")
		testkit.Eventually(a, "the signal is taken", func() bool {
			a.ask(204, "POST", "/containers/killed/kill?signal=SIGUSR1", "")
			return strings.Contains(a.e.Must("logs", "killed"), "got")
		})
		a.ask(204, "POST", "/containers/killed/kill?signal=10", "")
		a.ask(400, "POST", "/containers/killed/kill?signal=NOPE", "").says("nvalid signal: NOPE")
		_, err := a.sdk.ContainerKill(a.Context(), id, mobyclient.ContainerKillOptions{})
		a.must(err)
		a.ask(200, "GET", "/containers/killed/json", "").is(137, "State", "ExitCode").is("exited", "State", "Status") // it waits for SIGKILL's effect
		a.ask(409, "POST", "/containers/killed/kill", "").says("is not running")
		a.ask(404, "POST", "/containers/nosuch/kill", "")
	}},
	{row: "POST /containers/{id}/update", test: func(a *apiTest) {
		id := a.sleeper("updated")
		out, err := a.sdk.ContainerUpdate(a.Context(), id, mobyclient.ContainerUpdateOptions{Resources: &container.Resources{Memory: 64 << 20, MemorySwap: 128 << 20}, RestartPolicy: &container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}})
		a.must(err)
		if len(out.Warnings) > 1 {
			a.Errorf("%+v", out)
		}
		a.ask(200, "GET", "/containers/updated/json", "").is(64<<20, "HostConfig", "Memory").is("on-failure", "HostConfig", "RestartPolicy", "Name").is(3, "HostConfig", "RestartPolicy", "MaximumRetryCount")
		a.ask(200, "POST", "/containers/updated/update", `{"CpuShares":512}`).shape(`.: Warnings l0`)
		a.ask(404, "POST", "/containers/nosuch/update", `{"CpuShares":512}`)
		a.ask(400, "POST", "/containers/updated/update", `{"RestartPolicy":{"Name":"often"}}`)
		a.ask(400, "POST", "/containers/updated/update", `{"Memory":1024}`).says("Minimum memory limit")
		a.ask(400, "POST", "/containers/updated/update", `{`)
		a.create("once", `"HostConfig":{"NetworkMode":"none","AutoRemove":true}`)
		a.ask(409, "POST", "/containers/once/update", `{"RestartPolicy":{"Name":"always"}}`).says("Restart policy cannot be updated because AutoRemove is enabled")
	}},
	{row: "POST /containers/{id}/rename", test: func(a *apiTest) {
		id := a.create("before", "")
		a.create("occupied", "")
		_, err := a.sdk.ContainerRename(a.Context(), id, mobyclient.ContainerRenameOptions{NewName: "after"})
		a.must(err)
		a.ask(200, "GET", "/containers/after/json", "").is("/after", "Name")
		a.ask(404, "POST", "/containers/before/rename?name=x1", "").says("No such container: before")
		a.ask(409, "POST", "/containers/after/rename?name=occupied", "").says(`"/occupied" is already in use`)
		a.ask(400, "POST", "/containers/after/rename?name=", "")
		a.ask(400, "POST", "/containers/after/rename?name=a*b", "")
		a.ask(400, "POST", "/containers/after/rename?name=after", "")
	}},
	{row: "POST /containers/{id}/pause", test: func(a *apiTest) {
		id := a.sleeper("paused")
		_, err := a.sdk.ContainerPause(a.Context(), id, mobyclient.ContainerPauseOptions{})
		a.must(err)
		a.ask(200, "GET", "/containers/paused/json", "").is("paused", "State", "Status").is(true, "State", "Paused").is(true, "State", "Running")
		a.ask(409, "POST", "/containers/paused/pause", "").says("is already paused")
		a.ask(404, "POST", "/containers/nosuch/pause", "")
		a.create("unpausable", "")
		a.ask(409, "POST", "/containers/unpausable/pause", "").says("is not running")
	}},
	{row: "POST /containers/{id}/unpause", test: func(a *apiTest) {
		id := a.sleeper("resumed")
		a.ask(204, "POST", "/containers/resumed/pause", "")
		_, err := a.sdk.ContainerUnpause(a.Context(), id, mobyclient.ContainerUnpauseOptions{})
		a.must(err)
		a.ask(200, "GET", "/containers/resumed/json", "").is("running", "State", "Status")
		a.ask(404, "POST", "/containers/nosuch/unpause", "")
		a.ask(409, "POST", "/containers/resumed/unpause", "").says("is not paused")
	}},
	{row: "POST /containers/{id}/wait", test: func(a *apiTest) {
		id := a.create("awaited", `"Cmd":["sh","-c","exit 7"],"HostConfig":{"NetworkMode":"none"}`)
		next := a.sdk.ContainerWait(a.Context(), id, mobyclient.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
		gone := a.sdk.ContainerWait(a.Context(), id, mobyclient.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
		a.ask(200, "POST", "/containers/awaited/wait", "").is(0, "StatusCode") // it does not run
		a.ask(204, "POST", "/containers/awaited/start", "")
		end := func(w mobyclient.ContainerWaitResult) int64 {
			select {
			case r := <-w.Result:
				return r.StatusCode
			case err := <-w.Error:
				a.Fatal(err)
			}
			return -1
		}
		if code := end(next); code != 7 {
			a.Errorf("next-exit: %d", code)
		}
		for _, m := range everyVersion {
			a.ask(200, "POST", v(m, "/containers/awaited/wait?condition=not-running"), "").is(7, "StatusCode").shape(`.: StatusCode n Error o0?`)
		}
		a.ask(204, "DELETE", "/containers/awaited", "")
		if code := end(gone); code != 7 {
			a.Errorf("removed: %d", code)
		}
		a.ask(404, "POST", "/containers/awaited/wait", "")
		a.create("unawaited", "")
		a.ask(400, "POST", "/containers/unawaited/wait?condition=tired", "").says(`invalid condition: "tired"`)
	}},
	{row: "DELETE /containers/{id}", test: func(a *apiTest) {
		a.create("removed", `"Volumes":{"/anon":{}},"HostConfig":{"NetworkMode":"none","Binds":["removed-named:/n"]}`)
		anonymous := func() string { return a.e.Must("volume", "ls", "-q", "--filter", "label=com.docker.volume.anonymous") }
		had := anonymous()
		_, err := a.sdk.ContainerRemove(a.Context(), "removed", mobyclient.ContainerRemoveOptions{RemoveVolumes: true})
		a.must(err)
		if had == "" || anonymous() != "" || a.e.Must("volume", "ls", "-q", "--filter", "name=removed-named") == "" {
			a.Error("v=1 removes anonymous volumes and no others")
		}
		a.ask(404, "DELETE", "/containers/removed", "").says("No such container: removed")
		a.ask(404, "DELETE", "/containers/removed?force=1", "")
		a.sleeper("running")
		a.ask(409, "DELETE", "/containers/running", "").says("container is running: stop the container before removing or force remove")
		ids := map[byte]string{}
		for {
			id := a.create("", "")
			if ids[id[0]] != "" {
				a.ask(400, "DELETE", "/containers/"+id[:1], "").says("multiple IDs found with provided prefix: " + id[:1])
				break
			}
			ids[id[0]] = id
		}
		a.ask(409, "DELETE", "/containers/running?link=1", "").says("cannot remove the default link name")
		a.ask(204, "DELETE", "/containers/running?force=true", "")
	}},
	{row: "POST /containers/prune", test: func(a *apiTest) {
		keep := a.create("kept", `"Labels":{"keep":"1"},"HostConfig":{"NetworkMode":"none"}`)
		gone := a.create("pruned", `"Labels":{"mine":"1"},"HostConfig":{"NetworkMode":"none"}`)
		for _, m := range everyVersion {
			a.ask(200, "POST", v(m, `/containers/prune?filters={"label":["nobody"]}`), "").shape(`.: ContainersDeleted l0 SpaceReclaimed n`)
		}
		a.ask(200, "POST", `/containers/prune?filters={"label":["mine"],"until":["24h"]}`, "").is("<nil>", "ContainersDeleted")
		out, err := a.sdk.ContainerPrune(a.Context(), mobyclient.ContainerPruneOptions{Filters: make(mobyclient.Filters).Add("label", "mine").Add("label!", "keep")})
		a.must(err)
		if len(out.Report.ContainersDeleted) != 1 || out.Report.ContainersDeleted[0] != gone {
			a.Errorf("%+v", out)
		}
		a.ask(200, "GET", "/containers/"+keep+"/json", "")
		a.ask(400, "POST", `/containers/prune?filters={"colour":["red"]}`, "").says("invalid filter 'colour'")
		a.ask(400, "POST", `/containers/prune?filters={"until":["soon"]}`, "")
	}},
	{row: "GET /containers/{id}/stats", test: func(a *apiTest) {
		id := a.sleeper("measured")
		one, err := a.sdk.ContainerStats(a.Context(), id, mobyclient.ContainerStatsOptions{})
		if text := a.drain(one.Body, err); !strings.Contains(text, `"memory_stats"`) || strings.Count(strings.TrimSpace(text), "\n") != 0 {
			a.Errorf("one sample: %q", text)
		}
		for _, m := range []int{40, 41, 55} {
			r := a.ask(200, "GET", v(m, "/containers/measured/stats?stream=false&one-shot=true"), "").is(id, "id").is("/measured", "name")
			r.shape(`
				.: id s name s read s preread s pids_stats o blkio_stats o num_procs n storage_stats o cpu_stats o precpu_stats o memory_stats o networks o? os_type s?
				pids_stats: current n limit n?
				blkio_stats: io_service_bytes_recursive l0 io_serviced_recursive l0 io_queue_recursive l0 io_service_time_recursive l0 io_wait_time_recursive l0 io_merged_recursive l0 io_time_recursive l0 sectors_recursive l0
				cpu_stats: cpu_usage o system_cpu_usage n online_cpus n throttling_data o
				cpu_stats.cpu_usage: total_usage n percpu_usage l? usage_in_kernelmode n usage_in_usermode n
				cpu_stats.throttling_data: periods n throttled_periods n throttled_time n
				memory_stats: usage n stats o limit n max_usage n? failcnt n?`)
			if read, err := time.Parse(time.RFC3339Nano, r.at("read").(string)); err != nil || read.Year() < 2020 {
				a.Errorf("read: %v, %v", read, err)
			}
		}
		a.create("unmeasured", "")
		a.ask(200, "GET", "/containers/unmeasured/stats?stream=0", "").is("0001-01-01T00:00:00Z", "read").is(0, "cpu_stats", "cpu_usage", "total_usage")
		a.ask(404, "GET", "/containers/nosuch/stats?stream=0", "")
	}},
}
