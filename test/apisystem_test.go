package test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"berth/testkit"

	"github.com/moby/moby/api/types/events"
	mobyclient "github.com/moby/moby/client"
)

var apiSystem = []apiCase{
	{row: "GET /_ping", test: func(a *apiTest) { a.ping("GET", "OK") }},
	{row: "HEAD /_ping", test: func(a *apiTest) { a.ping("HEAD", "") }},
	{row: "GET /version", test: func(a *apiTest) {
		version, err := a.sdk.ServerVersion(a.Context(), mobyclient.ServerVersionOptions{})
		a.must(err)
		if version.APIVersion == "" || version.MinAPIVersion != "1.40" || len(version.Components) == 0 {
			a.Errorf("%+v", version)
		}
		for _, m := range everyVersion {
			a.ask(200, "GET", v(m, "/version"), "").shape(`
				.: Platform o Components l Version s ApiVersion s MinAPIVersion s GitCommit s GoVersion s Os s Arch s KernelVersion s Experimental b? BuildTime s?
				Platform: Name s
				Components[]: Name s Version s Details o0?`)
		}
	}},
	{row: "GET /info", test: func(a *apiTest) {
		info, err := a.sdk.Info(a.Context(), mobyclient.InfoOptions{})
		a.must(err)
		if info.Info.Swarm.LocalNodeState != "inactive" || info.Info.DockerRootDir != a.e.DataRoot || info.Info.OSType != "linux" {
			a.Errorf("%+v", info.Info)
		}
		for _, m := range everyVersion {
			a.ask(200, "GET", v(m, "/info"), "").shape(`
				.: ID s Containers n ContainersRunning n ContainersPaused n ContainersStopped n Images n Driver s DriverStatus l Plugins o MemoryLimit b SwapLimit b CpuCfsPeriod b CpuCfsQuota b CPUShares b CPUSet b PidsLimit b IPv4Forwarding b Debug b NFd n OomKillDisable b NGoroutines n SystemTime s LoggingDriver s CgroupDriver s CgroupVersion s NEventsListener n KernelVersion s OperatingSystem s OSVersion s OSType s Architecture s IndexServerAddress s RegistryConfig o NCPU n MemTotal n GenericResources 0 DockerRootDir s HttpProxy s HttpsProxy s NoProxy s Name s Labels l ExperimentalBuild b ServerVersion s Runtimes o DefaultRuntime s Swarm o LiveRestoreEnabled b Isolation s InitBinary s ContainerdCommit o RuncCommit o InitCommit o SecurityOptions l DefaultAddressPools l? CDISpecDirs l Warnings l0 ` +
				until(42, m, "KernelMemory b KernelMemoryTCP b ", "") + until(49, m, "FirewallBackend - ", "FirewallBackend o ") + until(50, m, "DiscoveredDevices - BridgeNfIptables b BridgeNfIp6tables b", "DiscoveredDevices l? BridgeNfIptables - BridgeNfIp6tables -") + ` Containerd - ProductLicense -
				Plugins: Volume l Network l Authorization l0 Log l
				Swarm: NodeID s NodeAddr s LocalNodeState s ControlAvailable b Error s RemoteManagers l0
				RegistryConfig: InsecureRegistryCIDRs l IndexConfigs o Mirrors l ` + until(47, m, "AllowNondistributableArtifactsCIDRs l AllowNondistributableArtifactsHostnames l", "") + `
				RegistryConfig.IndexConfigs{}: Name s Mirrors l Secure b Official b
				Runtimes{}: path s? …
				RuncCommit: ID s ` + until(50, m, "Expected s", ""))
		}
	}},
	{row: "POST /auth", never: []int{204}, test: func(a *apiTest) {
		// 204 is what Docker's document says of a registry that gives no token; engines answer 200.
		locked := testkit.Registry(a, testkit.RegistryOptions{Auth: true})
		login := func(password string) (mobyclient.RegistryLoginResult, error) {
			return a.sdk.RegistryLogin(a.Context(), mobyclient.RegistryLoginOptions{Username: testkit.RegistryUser, Password: password, ServerAddress: locked.Addr})
		}
		in, err := login(testkit.RegistryPassword)
		a.must(err)
		if in.Auth.Status != "Login Succeeded" {
			a.Errorf("%+v", in)
		}
		if _, err := login("wrong"); err == nil {
			a.Error("a wrong password is taken")
		}
		body := func(password string) string {
			return fmt.Sprintf(`{"username":%q,"password":%q,"serveraddress":%q}`, testkit.RegistryUser, password, locked.Addr)
		}
		a.ask(200, "POST", "/auth", body(testkit.RegistryPassword)).shape(`.: Status s IdentityToken s?`)
		a.ask(401, "POST", "/auth", body("wrong"))
		a.ask(400, "POST", "/auth", "{")
	}},
	{row: "GET /events", test: func(a *apiTest) {
		start := time.Now().Add(-time.Second)
		id := a.create("watched", `"Labels":{"kind":"event"},"HostConfig":{"NetworkMode":"none"}`)
		filters := make(mobyclient.Filters).Add("container", id).Add("type", "container")
		since := fmt.Sprintf("%d.%09d", start.Unix(), start.Nanosecond())
		now := time.Now()
		end := fmt.Sprintf("%d.%09d", now.Unix(), now.Nanosecond())
		past := a.sdk.Events(a.Context(), mobyclient.EventsListOptions{Since: since, Until: end, Filters: filters})
		select {
		case m := <-past.Messages:
			if m.Action != events.ActionCreate || m.Actor.ID != id || m.Actor.Attributes["kind"] != "event" || m.Actor.Attributes["name"] != "watched" || m.TimeNano == 0 {
				a.Errorf("%+v", m)
			}
		case err := <-past.Err:
			a.Fatal(err)
		}
		ctx, cancel := context.WithCancel(a.Context())
		live := a.sdk.Events(ctx, mobyclient.EventsListOptions{Filters: filters})
		testkit.Eventually(a, "a listener", func() bool { return a.ask(200, "GET", "/info", "").at("NEventsListener") != 0.0 })
		a.ask(204, "POST", "/containers/watched/rename?name=seen", "")
		select {
		case m := <-live.Messages:
			if m.Action != events.ActionRename || m.Actor.Attributes["oldName"] != "/watched" {
				a.Errorf("%+v", m)
			}
		case err := <-live.Err:
			a.Error(err)
		}
		cancel()
		for _, m := range everyVersion {
			r := a.ask(200, "GET", v(m, fmt.Sprintf(`/events?since=%s&until=%s&filters={"container":["%s"],"event":["create"]}`, since, end, id)), "")
			line, _, _ := strings.Cut(r.body, "\n")
			if err := json.Unmarshal([]byte(line), &r.v); err != nil {
				a.Fatalf("%v: %q", err, r.body)
			}
			r.shape(`
				.: Type s Action s Actor o scope s time n timeNano n ` + until(52, m, "status s id s from s", "") + `
				Actor: ID s Attributes o
				Actor.Attributes: image s name s kind s`)
			want := until(52, m, "application/json", "application/jsonl")
			if got := r.header.Get("Content-Type"); got != want {
				a.Errorf("1.%d: the stream is %q, want %q", m, got, want)
			}
		}
		for accept, want := range map[string]string{"application/json-seq": "application/json-seq", "application/x-ndjson": "application/x-ndjson", "application/jsonl": "application/jsonl"} {
			r := a.ask(200, "GET", "/v1.52/events?since=1&until=2", "", "Accept", accept)
			if got := r.header.Get("Content-Type"); got != want {
				a.Errorf("asked for %s: %s", accept, got)
			}
		}
		a.ask(400, "GET", "/events?since=yesterday&until=1", "")
		a.ask(400, "GET", "/events?since=10&until=5", "").says("until")
		a.ask(400, "GET", `/events?until=1&filters={"colour":["red"]}`, "").says("invalid filter 'colour'")
		a.ask(400, "GET", `/events?until=1&filters=x`, "")
	}},
	{row: "GET /system/df", test: func(a *apiTest) {
		a.create("counted", `"HostConfig":{"NetworkMode":"none","Binds":["counted-vol:/v"]}`)
		df, err := a.sdk.DiskUsage(a.Context(), mobyclient.DiskUsageOptions{Containers: true, Images: true, Volumes: true, BuildCache: true, Verbose: true})
		a.must(err)
		if df.Containers.TotalCount == 0 || df.Images.TotalSize == 0 || df.Volumes.ActiveCount == 0 || len(df.Volumes.Items) == 0 || df.Volumes.Items[0].UsageData == nil {
			a.Errorf("%+v", df)
		}
		for _, m := range everyVersion {
			r := a.ask(200, "GET", v(m, "/system/df"), "")
			if m < 53 {
				r.shape(`.: LayersSize n Images l Containers l Volumes l BuildCache l …
					Images[]: Id s ParentId s RepoTags l RepoDigests l Created n Size n SharedSize n Labels o0 Containers n …
					Containers[]: Id s Names l Image s ImageID s SizeRw n? SizeRootFs n? State s …
					Volumes[]: Name s Driver s Mountpoint s Scope s Labels o0 Options o0 CreatedAt s UsageData o
					Volumes[].UsageData: Size n RefCount n`)
			}
			if m >= 52 {
				r.shape(`.: ImageUsage o ContainerUsage o VolumeUsage o BuildCacheUsage o ` + until(53, m, "…", "") + `
					ImageUsage: ActiveCount n TotalCount n Reclaimable n? TotalSize n
					VolumeUsage: ActiveCount n TotalCount n Reclaimable n? TotalSize n? Items -`)
				a.ask(200, "GET", v(m, "/system/df?verbose=1&type=volume"), "").shape(`VolumeUsage: ActiveCount n TotalCount n Reclaimable n? TotalSize n? Items l`)
			}
			a.ask(200, "GET", v(m, "/system/df?type=image&type=container"), "")
		}
		a.ask(400, "GET", "/system/df?type=hopes", "").says("unknown object type: hopes")
	}},
}

func (a *apiTest) ping(method, body string) {
	p, err := a.client("").Ping(a.Context(), mobyclient.PingOptions{NegotiateAPIVersion: true, ForceNegotiate: true})
	a.must(err)
	if p.OSType != "linux" || p.APIVersion == "" || p.Experimental {
		a.Errorf("%+v", p)
	}
	for _, path := range []string{"/_ping", "/v1.40/_ping", "/v1.55/_ping"} {
		r := a.ask(200, method, path, "")
		if r.body != body {
			a.Errorf("%s says %q", path, r.body)
		}
		for name, want := range map[string]string{
			"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache", "Ostype": "linux", "Docker-Experimental": "false",
			"Swarm": "inactive", "Content-Type": "text/plain; charset=utf-8",
		} {
			if got := r.header.Get(name); got != want {
				a.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if r.header.Get("Api-Version") == "" || !strings.HasPrefix(r.header.Get("Server"), "Berth/") {
			a.Errorf("%s: %v", path, r.header)
		}
		if _, there := r.header["Builder-Version"]; !there {
			a.Errorf("%s: no Builder-Version", path)
		}
	}
}

var apiBuilds = []apiCase{
	{row: "POST /build", test: noBuilder("/build?t=x"), never: []int{200, 400}},
	{row: "POST /session", test: noBuilder("/session"), never: []int{101, 400}},
	{row: "POST /grpc", test: noBuilder("/grpc"), never: []int{101, 400}},
	{row: "POST /build/prune", test: func(a *apiTest) {
		out, err := a.sdk.BuildCachePrune(a.Context(), mobyclient.BuildCachePruneOptions{All: true})
		a.must(err)
		if len(out.Report.CachesDeleted) != 0 {
			a.Errorf("%+v", out)
		}
		a.ask(200, "POST", `/build/prune?all=1&filters={"until":["24h"]}`, "").shape(`.: CachesDeleted l SpaceReclaimed n`)
		a.ask(400, "POST", `/build/prune?filters={"colour":["red"]}`, "").says("invalid filter 'colour'")
	}},
}

func noBuilder(path string) func(*apiTest) {
	return func(a *apiTest) {
		a.ask(501, "POST", path, "").says("building images is not supported by this version of Berth")
	}
}

// apiOutside is swarm mode and managed plugins: Docker's answers where there are none.
var apiOutside = func() (out []apiCase) {
	for _, row := range []string{
		"GET /nodes", "GET /nodes/{id}", "DELETE /nodes/{id}", "POST /nodes/{id}/update", "GET /swarm", "POST /swarm/update", "GET /swarm/unlockkey", "POST /swarm/unlock",
		"GET /services", "POST /services/create", "GET /services/{id}", "DELETE /services/{id}", "POST /services/{id}/update", "GET /services/{id}/logs",
		"GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/logs", "GET /secrets", "POST /secrets/create", "GET /secrets/{id}", "DELETE /secrets/{id}", "POST /secrets/{id}/update",
		"GET /configs", "POST /configs/create", "GET /configs/{id}", "DELETE /configs/{id}", "POST /configs/{id}/update", "PUT /volumes/{name}",
	} {
		out = append(out, apiCase{row: row, test: func(a *apiTest) {
			method, path, _ := strings.Cut(row, " ")
			path = strings.NewReplacer("{id}", "x", "{name}", "x").Replace(path)
			a.ask(503, method, path, "{}").says("This node is not a swarm manager")
		}})
	}
	for _, row := range []string{"POST /swarm/init", "POST /swarm/join"} {
		out = append(out, apiCase{row: row, test: func(a *apiTest) {
			a.ask(501, "POST", strings.TrimPrefix(row, "POST "), "{}").says("Berth has no swarm mode")
		}})
	}
	out = append(out, apiCase{row: "POST /swarm/leave", test: func(a *apiTest) {
		a.ask(503, "POST", "/swarm/leave", "").says("This node is not part of a swarm")
	}})
	out = append(out, apiCase{row: "GET /plugins", test: func(a *apiTest) {
		if list, err := a.sdk.PluginList(a.Context(), mobyclient.PluginListOptions{}); err != nil || len(list.Items) != 0 {
			a.Errorf("%+v, %v", list, err)
		}
		if r := a.ask(200, "GET", "/plugins", ""); strings.TrimSpace(r.body) != "[]" {
			a.Errorf("%q", r.body)
		}
	}})
	for _, row := range []string{"GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create"} {
		out = append(out, apiCase{row: row, test: func(a *apiTest) {
			method, path, _ := strings.Cut(row, " ")
			a.ask(501, method, path+"?remote=x&name=x", "").says("Berth has no managed plugins")
		}})
	}
	for _, row := range []string{"GET /plugins/{name}/json", "DELETE /plugins/{name}", "POST /plugins/{name}/enable", "POST /plugins/{name}/disable", "POST /plugins/{name}/upgrade", "POST /plugins/{name}/push", "POST /plugins/{name}/set"} {
		out = append(out, apiCase{row: row, test: func(a *apiTest) {
			method, path, _ := strings.Cut(row, " ")
			a.ask(404, method, strings.Replace(path, "{name}", "some/plugin:1", 1), "").says(`plugin "some/plugin:1" not found`)
		}})
	}
	return out
}()

// registryAuth is the header that clients send their credentials in.
func registryAuth(user, password string) string {
	return base64.URLEncoding.EncodeToString(fmt.Appendf(nil, `{"username":%q,"password":%q}`, user, password))
}
