package test

import (
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/testkit"
)

// knownShapes are answers of ours that differ from those of Debian's dockerd, which is of
// 20.10, and why they do.
var knownShapes = []struct{ path, at, why string }{
	{"/", `\.GraphDriver\.Data.*`, "directories of Docker's own storage"},
	{"/containers/plain/json", `\.ExecIDs.*`, "we list running ones only"},
	{"/images/", `\[\]\.RepoDigests`, "[] since 25"},
	{"/system/df", `\.Images\[\]\.RepoDigests`, "[] since 25"},
	{"/system/df", `\.Volumes\[\]\.Labels`, "anonymous volumes have a label since 23"},
	{"/system/df", `\.BuildCache`, "[] since 23"},
	{"/images/made:1/json", `\.ContainerConfig.*`, "empty since 26"},
	{"/images/made:1/json", `\.Config\.StopTimeout`, "not a field of images any more since 28"},
	{"/images/made:1/history", `\[\]\.Tags`, "only the top row has an image"},
	{"/volumes", `\.Volumes\[\]\.Labels`, "anonymous volumes have a label since 23"},
	{"/info", `\.Runtimes\.io\.containerd.*`, "of containerd's shims"},
	{"/version", `\.BuildTime`, "a build that does not know it says nothing"},
	{"/networks/prune", `\.NetworksDeleted`, "[] rather than null"},
	{"/containers/idle/changes", ``, "[] rather than null"},
	{"/build/prune", `\.CachesDeleted`, "[] rather than null"},
	{"/containers/plain/stats", `\.blkio_stats\..*`, "who ran the program first read it from the disk"},
	{"/containers/", `\.HostConfig\.OomKillDisable`, "on cgroup v2, which has no such thing, null from the first start on"},
	{"/info", `\.Warnings(\[\])?`, "20.10 misses some of cgroup v2"},
	{"/containers/plain/stats", `\.memory_stats\.stats\..*`, "as the kernel counts"},
}

// TestAnswersHaveDockersShape asks dockerd and us for the same things, in the version of the
// API that Debian's dockerd speaks. What it says we say too, as the same kind of value, null,
// [] and {} included. Networks have a test of their own.
func TestAnswersHaveDockersShape(t *testing.T) {
	d := testkit.Dockerd(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	tar := testkit.BusyboxTar(t)
	d.Must("import", "--change", `CMD ["sh"]`, tar, "busybox:latest")
	e.Busybox()
	sockets := []string{filepath.Join(d.Dir, "s"), strings.TrimPrefix(e.Host, "unix://")}
	t.Cleanup(func() { d.Must("rm", "-f", "plain") }) // dockerd would wait for it
	var execs [2]string
	for i, s := range sockets {
		for _, step := range []struct{ path, body string }{
			{"/containers/create?name=plain", `{"Image":"busybox","Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"host"}}`},
			{"/containers/plain/start", ``},
			{"/containers/create?name=full", `{"Image":"busybox","Cmd":["sh","-c","echo out; exit 3"],"Env":["A=1"],"Labels":{"l":"1"},"Volumes":{"/anon":{}},"ExposedPorts":{"80/tcp":{}},
				"Healthcheck":{"Test":["NONE"]},"StopSignal":"SIGINT","StopTimeout":3,
				"HostConfig":{"NetworkMode":"none","Binds":["named:/named:ro","/tmp:/host"],"Tmpfs":{"/t":""},"Mounts":[{"Type":"volume","Source":"other","Target":"/other"}],"CapAdd":["NET_ADMIN"],"CapDrop":["KILL"],
				"RestartPolicy":{"Name":"no"},"Memory":33554432,"Sysctls":{"net.ipv4.ip_forward":"1"},"Ulimits":[{"Name":"nofile","Soft":100,"Hard":100}],"Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/dev/n","CgroupPermissions":"rwm"}],
				"LogConfig":{"Type":"json-file","Config":{"max-size":"1m"}},"SecurityOpt":["no-new-privileges"],"GroupAdd":["1"],"PidsLimit":50,"Init":true}}`},
			{"/containers/create?name=idle", `{"Image":"busybox","HostConfig":{"NetworkMode":"none"}}`},
			{"/containers/create?name=nulls", `{"Image":"busybox","Cmd":null,"Entrypoint":null,"Env":null,"Labels":null,"Volumes":null,"HostConfig":{"NetworkMode":"none","Binds":[],"CapAdd":[],"CapDrop":[],"Dns":[],"ExtraHosts":[],"SecurityOpt":[],"Devices":[],"PortBindings":{},"Links":[],"Ulimits":[],"GroupAdd":[],"VolumesFrom":[],"DeviceCgroupRules":[],"DeviceRequests":[]}}`},
			{"/containers/full/start", ``},
			{"/containers/full/wait", ``},
			{"/volumes/create", `{"Name":"vol","Labels":{"a":"b"}}`},
			{"/volumes/create", `{"Name":"bare"}`},
			{"/commit?container=full&repo=made&tag=1&comment=why&author=me&changes=" + url.QueryEscape("ENV B=2"), ``},
		} {
			if code, v := api(t, s, "POST", step.path, step.body); code >= 300 {
				t.Fatalf("%s: POST %s: %d %v", s, step.path, code, v)
			}
		}
		_, v := api(t, s, "POST", "/containers/plain/exec", `{"Cmd":["true"],"AttachStdout":true}`)
		execs[i] = v.(map[string]any)["Id"].(string)
	}
	filters := func(s string) string { return "?filters=" + url.QueryEscape(s) }
	for _, q := range []struct{ method, path, body string }{
		{"GET", "/containers/plain/json", ""}, {"GET", "/containers/full/json", ""}, {"GET", "/containers/full/json?size=1", ""}, {"GET", "/containers/idle/json", ""}, {"GET", "/containers/nulls/json", ""},
		{"GET", "/containers/json?all=1", ""}, {"GET", "/containers/json?all=1&size=1", ""}, {"GET", "/containers/json" + filters(`{"name":["nobody"]}`), ""},
		{"GET", "/containers/plain/top", ""}, {"GET", "/containers/full/changes", ""}, {"GET", "/containers/idle/changes", ""},
		{"GET", "/containers/plain/stats?stream=0", ""}, {"GET", "/containers/idle/stats?stream=0", ""}, {"GET", "/containers/plain/stats?stream=0&one-shot=1", ""},
		{"GET", "/images/json", ""}, {"GET", "/images/json?all=1&digests=1", ""}, {"GET", "/images/busybox/json", ""}, {"GET", "/images/made:1/json", ""},
		{"GET", "/images/busybox/history", ""}, {"GET", "/images/made:1/history", ""},
		{"GET", "/volumes", ""}, {"GET", "/volumes/vol", ""}, {"GET", "/volumes/bare", ""}, {"GET", "/volumes" + filters(`{"name":["nothing"]}`), ""},
		{"GET", "/info", ""}, {"GET", "/version", ""}, {"GET", "/system/df", ""},
		{"GET", "/exec/EXEC/json", ""},
		{"POST", "/containers/idle/update", `{"Memory":67108864}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none"}}`},
		{"POST", "/containers/full/wait", ""}, {"POST", "/containers/full/wait?condition=not-running", ""},
		{"POST", "/containers/prune" + filters(`{"label":["nothing"]}`), ""}, {"POST", "/images/prune" + filters(`{"label":["nothing"]}`), ""}, {"POST", "/volumes/prune" + filters(`{"label":["nothing"]}`), ""},
		{"POST", "/networks/prune" + filters(`{"label":["nothing"]}`), ""}, {"POST", "/build/prune", ""},
		{"POST", "/containers/prune", ""}, {"POST", "/volumes/prune", ""},
		{"POST", "/images/busybox/tag?repo=again", ""}, {"DELETE", "/images/again", ""}, {"DELETE", "/images/made:1", ""},
		{"GET", "/containers/json", ""}, {"GET", "/events?since=0&until=1", ""},
		{"GET", "/nosuch", ""}, {"GET", "/containers/nosuch/json", ""},
	} {
		var shapes []map[string]string
		var codes []int
		for i, s := range sockets {
			code, v := api(t, s, q.method, strings.Replace(q.path, "EXEC", execs[i], 1), q.body)
			codes = append(codes, code)
			shapes = append(shapes, shape(v))
		}
		var differ []string
		if codes[0] != codes[1] {
			differ = append(differ, fmt.Sprintf("status %d, dockerd %d", codes[1], codes[0]))
		}
	fields:
		for at, kind := range shapes[0] {
			if shapes[1][at] == kind {
				continue
			}
			for _, k := range knownShapes {
				if strings.HasPrefix(q.path, k.path) && regexp.MustCompile("^"+k.at+"$").MatchString(at) {
					continue fields
				}
			}
			differ = append(differ, fmt.Sprintf("%s: %q, dockerd %q", at, shapes[1][at], kind))
		}
		slices.Sort(differ)
		if len(differ) > 0 {
			t.Errorf("%s %s:\n%s", q.method, q.path, strings.Join(differ, "\n"))
		}
	}
}
