package cli

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"berth/version"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// answersForGoldens is an engine at rest, with one of everything that lists show.
func answersForGoldens() map[string]http.HandlerFunc {
	a, b := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	twoHoursAgo := time.Now().Add(-2*time.Hour - time.Minute).Unix()
	threeDaysAgo := time.Now().Add(-73 * time.Hour).Unix()
	containers := []any{
		map[string]any{"Id": containerID, "Names": []string{"/web", "/other/link"}, "Image": "nginx:1.25@sha256:" + strings.Repeat("d", 64), "ImageID": a,
			"Command": "/docker-entrypoint.sh nginx -g 'daemon off;'", "Created": twoHoursAgo, "State": "running", "Status": "Up 2 hours",
			"Ports": []any{map[string]any{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, map[string]any{"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
				map[string]any{"PrivatePort": 443, "Type": "tcp"}, map[string]any{"PrivatePort": 444, "Type": "tcp"},
				map[string]any{"IP": "0.0.0.0", "PrivatePort": 9000, "PublicPort": 9000, "Type": "udp"}, map[string]any{"IP": "0.0.0.0", "PrivatePort": 9001, "PublicPort": 9001, "Type": "udp"}},
			"SizeRw": 1000, "SizeRootFs": 2000000, "Labels": map[string]string{"com.x.tier-name": "front", "a": "b<c>"}, "NetworkSettings": map[string]any{"Networks": map[string]any{"none": map[string]any{}}},
			"Mounts": []any{map[string]any{"Type": "bind", "Source": "/a/very/long/path/of/a/mount", "Destination": "/x"}, map[string]any{"Type": "volume", "Name": "data", "Driver": "local"}}},
		map[string]any{"Id": strings.Repeat("e", 64), "Names": []string{"/old"}, "Image": b, "ImageID": b, "Command": "true", "Created": threeDaysAgo, "State": "exited", "Status": "Exited (0) 3 days ago"},
	}
	images := []any{
		map[string]any{"Id": b, "Created": threeDaysAgo, "Size": 123, "SharedSize": -1, "Containers": -1, "RepoTags": []string{}, "RepoDigests": []string{}},
		map[string]any{"Id": a, "Created": twoHoursAgo, "Size": 8832000, "SharedSize": -1, "Containers": -1, "RepoTags": []string{"nginx:1.25", "localhost:5000/team/nginx:latest"}, "RepoDigests": []string{"nginx@sha256:" + strings.Repeat("d", 64)}},
	}
	details := map[string]string{"ApiVersion": "1.50", "Arch": "amd64", "BuildTime": "2026-01-02T03:04:05.000000000+00:00", "Experimental": "false", "GitCommit": "abcdef0", "GoVersion": "go1.26.0", "MinAPIVersion": "1.40", "Os": "linux"}
	return map[string]http.HandlerFunc{
		"GET /containers/json": answer(containers),
		"GET /images/json":     answer(images),
		"GET /images/nginx/history": answer([]any{
			map[string]any{"Id": a, "Created": twoHoursAgo, "CreatedBy": "/bin/sh -c #(nop)  CMD [\"/bin/sh\"]\tand a tail that is too long", "Size": 0, "Comment": "buildkit.dockerfile.v0"},
			map[string]any{"Id": "<missing>", "Created": threeDaysAgo, "CreatedBy": "ADD rootfs / # buildkit", "Size": 8832000}}),
		"GET /containers/web/json": answer(`{"Id":"` + containerID + `","Name":"/web","Config":{"Tty":false,"Labels":{"a":"<b>"}},"State":{"Status":"running","Running":true,"ExitCode":0},"NetworkSettings":{"IPAddress":"172.17.0.2","Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}],"443/tcp":null,"53/udp":[{"HostIp":"127.0.0.1","HostPort":"53"}]}}}`),
		"GET /images/nginx/json":   answer(`{"Id":"` + a + `","RepoTags":["nginx:1.25"],"Config":{"Env":["A=b"]}}`),
		"GET /containers/web/top":  answer(`{"Titles":["PID","USER","CMD"],"Processes":[["1","root","nginx: master process"],["23","www-data","nginx: worker"]]}`),
		"GET /containers/" + containerID + "/logs": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(frame(1, "line one\n"))
			_, _ = w.Write(frame(2, "to stderr\n"))
			_, _ = w.Write(frame(1, "no newline"))
		},
		"GET /version": answer(map[string]any{"Platform": map[string]string{"Name": "Berth Engine"}, "Version": "0.1.0", "ApiVersion": "1.50", "MinAPIVersion": "1.40", "Os": "linux", "Arch": "amd64",
			"Components": []any{map[string]any{"Name": "Engine", "Version": "0.1.0", "Details": details}, map[string]any{"Name": "berth-shim", "Version": "0.1.0", "Details": map[string]string{"GitCommit": "abcdef0"}}}}),
		"GET /info": answer(map[string]any{"ID": "7d0c", "Containers": 3, "ContainersRunning": 1, "ContainersPaused": 1, "ContainersStopped": 1, "Images": 2, "Driver": "overlay", "DriverStatus": [][2]string{{"Supports d_type", "true"}},
			"Plugins": map[string]any{"Volume": []string{"local"}, "Network": []string{"host", "none"}, "Log": []string{"json-file", "none"}}, "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs", "CgroupVersion": "1", "KernelVersion": "6.1.0",
			"OperatingSystem": "Debian GNU/Linux 12", "OSType": "linux", "Architecture": "x86_64", "NCPU": 2, "MemTotal": 25000000000, "DockerRootDir": "/var/lib/berth", "Name": "host1", "Labels": []string{"a=b"}, "ServerVersion": "0.1.0",
			"Runtimes": map[string]any{"berth": map[string]string{"path": "berth-shim"}}, "DefaultRuntime": "berth", "Swarm": map[string]string{"LocalNodeState": "inactive"}, "LiveRestoreEnabled": true,
			"SecurityOptions": []string{"name=seccomp,profile=builtin", "name=cgroupns"}, "Warnings": []string{"WARNING: No swap limit support"},
			"RegistryConfig": map[string]any{"InsecureRegistryCIDRs": []string{"127.0.0.0/8"}, "IndexConfigs": map[string]any{"localhost:5000": map[string]any{"Secure": false}}, "Mirrors": []string{"http://127.0.0.1:5000/"}}}),
		"GET /system/df": answer(map[string]any{"LayersSize": 8832123, "Images": images, "Containers": containers, "Volumes": []any{}, "BuildCache": []any{}}),
		"GET /events": answer(`{"Type":"container","Action":"die","Actor":{"ID":"` + containerID + `","Attributes":{"name":"web","exitCode":"3","image":"nginx"}},"scope":"local","time":1700000000,"timeNano":1700000000123456000}` + "\n" +
			`{"Type":"container","Action":"exec_create: sh -c","Actor":{"ID":"x","Attributes":{}},"time":1700000001}` + "\n"),
		"DELETE /images/nginx": answer(`[{"Untagged":"nginx:1.25"},{"Deleted":"` + a + `"}]`),
		"POST /images/load":    answer(`{"stream":"Loaded image: nginx:1.25\n"}` + "\n"),
		"POST /images/create": answer(`{"status":"Pulling from library/nginx","id":"1.25"}` + "\n" + `{"status":"Pulling fs layer","progressDetail":{},"id":"abc123"}` + "\n" + `{"status":"Downloading","progressDetail":{"current":5000,"total":10000},"id":"abc123"}` + "\n" +
			`{"status":"Pull complete","progressDetail":{},"id":"abc123"}` + "\n" + `{"status":"Digest: ` + a + `"}` + "\n" + `{"status":"Status: Downloaded newer image for nginx:1.25"}` + "\n"),
		"POST /containers/prune": answer(`{"ContainersDeleted":["` + containerID + `"],"SpaceReclaimed":1000}`),
		"POST /images/prune":     answer(`{"ImagesDeleted":[{"Untagged":"nginx:1.25"},{"Deleted":"` + a + `"}],"SpaceReclaimed":12345678}`),
		"GET /volumes": answer(map[string]any{"Volumes": []any{
			map[string]any{"Name": "vol10", "Driver": "local", "Mountpoint": "/v/vol10/_data", "Scope": "local", "Labels": map[string]any{"tier": "db"}, "CreatedAt": "2026-01-02T03:04:05Z"},
			map[string]any{"Name": "vol9", "Driver": "local", "Mountpoint": "/v/vol9/_data", "Scope": "local", "Labels": nil, "CreatedAt": "2026-01-02T03:04:05Z"}}}),
		"GET /volumes/vol9": answer(`{"CreatedAt":"2026-01-02T03:04:05Z","Driver":"local","Labels":null,"Mountpoint":"/v/vol9/_data","Name":"vol9","Options":{"type":"tmpfs"},"Scope":"local"}`), "GET /volumes/nope": refuse(404, "get nope: no such volume"),
		"POST /volumes/create": answer(map[string]any{"Name": "new"}), "DELETE /volumes/vol9": status(204), "DELETE /volumes/nope": refuse(404, "get nope: no such volume"),
		"DELETE /volumes/vol10": refuse(409, "remove vol10: volume is in use - [1]"), "POST /volumes/prune": answer(map[string]any{"VolumesDeleted": []string{"vol9"}, "SpaceReclaimed": 1234}),
		"POST /networks/prune": refuse(404, "page not found"),
		"GET /networks": answer([]any{
			map[string]any{"Name": "net10", "Id": a[7:], "Created": "2026-01-02T03:04:05.000006Z", "Driver": "bridge", "Scope": "local", "EnableIPv4": true, "EnableIPv6": true, "Internal": true, "Labels": map[string]string{"x": "y", "a": "b"}},
			map[string]any{"Name": "net9", "Id": b[7:], "Created": "2026-01-02T03:04:05Z", "Driver": "macvlan", "Scope": "local", "EnableIPv4": true},
			map[string]any{"Name": "bridge", "Id": strings.Repeat("c", 64), "Created": "2026-01-02T03:04:05Z", "Driver": "bridge", "Scope": "local", "EnableIPv4": true}}),
		"GET /networks/net9":    answer(`{"Name":"net9","Id":"` + b[7:] + `","Created":"2026-01-02T03:04:05Z","Scope":"local","Driver":"macvlan","IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"10.0.0.0/24","Gateway":"10.0.0.1"}]},"Containers":{"1":{"Name":"web","EndpointID":"e","MacAddress":"02:42:0a:00:00:02","IPv4Address":"10.0.0.2/24","IPv6Address":""}}}`),
		"POST /networks/create": answer(map[string]any{"Id": b[7:], "Warning": ""}), "DELETE /networks/net9": status(204), "DELETE /networks/net10": refuse(403, "network net10 has active endpoints"),
		"POST /networks/net9/connect": status(200), "POST /networks/net9/disconnect": status(200),
		"POST /build/prune":         refuse(501, "not implemented"),
		"POST /containers/web/wait": answer(`{"StatusCode":137}`),
		"POST /containers/web/stop": status(204), "POST /containers/web/start": status(204), "POST /containers/web/kill": status(204), "DELETE /containers/web": status(204),
	}
}

// goldenLines are command lines whose whole result is kept in testdata, the Docker way.
var goldenLines = map[string][]string{
	"ps":         {"ps", "ps -s", "ps -q", "ps -aq --no-trunc", "ps --no-trunc", "ps --format json", "ps --format table", "ps --format {{.ID}}:{{.Label\x00\"com.x.tier-name\"}}", "ps --format table\x00{{.Names}}\\t{{.Label\x00\"com.x.tier-name\"}}\\t{{.State\x00|\x00upper}}", "ps --format raw", "ps -q --format raw", "ps --format {{json\x00.}}", "ps --format {{.Nope}}", "ps --format {{", "container ls -q", "ps --format {{.Ports}}|{{.Mounts}}|{{.LocalVolumes}}|{{.Networks}}|{{truncate\x00.Names\x002}}|{{pad\x00.ID\x001\x001}}|{{join\x00(split\x00.Image\x00\":\")\x00\"/\"}}|{{title\x00.State}}"},
	"images":     {"images", "images --digests", "images -q", "images --no-trunc", "images --format json", "images --format {{.Repository}}:{{.Tag}}", "images nginx", "image ls -q --no-trunc", "history nginx", "history -q nginx", "history --no-trunc --human=false --format {{.ID}}|{{.Size}}|{{.CreatedBy}} nginx", "rmi nginx", "rmi nope", "rmi -f nope", "rmi nginx nope"},
	"inspect":    {"inspect web", "inspect web nginx", "inspect nope", "inspect web nope", "inspect -f {{.State.Status}} web", "inspect -f {{.ID}}|{{.Id}} web", "inspect -f {{.NetworkSettings.IPAddress}} web", "inspect -f {{json\x00.Config.Labels}} web", "inspect -f {{.Nope}} web", "inspect --type image web", "inspect --type nonsense web", "inspect -f json web nginx", "container inspect -s web", "image inspect nginx", "port web", "port web 80", "port web 53/udp", "port web 81"},
	"info":       {"version", "version --format {{.Server.Version}}", "info", "info --format {{.Driver}}", "system df", "system df -v", "system df --format json", "-v", "events --until 1700000002", "events --format json --until 1", "events --format {{.Status}}|{{.ID}}|{{.From}}|{{.Actor.Attributes.name}} --until 1"},
	"containers": {"top web", "logs web", "logs nope", "stop web", "stop web nope", "start web", "start nope", "rm web", "rm nope", "rm -f nope", "rm -f web nope", "kill -s HUP web", "wait web", "wait nope web", "attach nope"},
	"transfer":   {"pull nginx:1.25", "pull nginx", "pull -q nginx:1.25", "pull UPPER", "pull -a nginx:1.25", "load", "load -i /nonexistent/file", "save", "save -o /nonexistent/dir/x nginx", "tag a", "import /nonexistent/file"},
	"networks":   {"network ls", "network ls -q", "network ls --no-trunc", "network ls --format json", "network ls --format {{.Name}}|{{.IPv4}}|{{.IPv6}}|{{.Internal}}|{{.Labels}}|{{.CreatedAt}}", "network ls --format table\x00{{.Name}}\\t{{.Label\x00\"x\"}}", "network ls --format raw", "network ls -q --format raw", "network list -q --no-trunc", "network inspect net9", "network inspect -f {{.Driver}}|{{(index\x00.IPAM.Config\x000).Gateway}} net9", "network inspect net9 nope", "network create new", "network rm net9 net10 nope", "network rm -f nope", "network connect net9 web", "network disconnect net9 web", "network connect nope web", "network prune", "network prune -f", "inspect --type network net9", "inspect -f {{.Name}} net9", "network"},
	"volumes": {"volume ls", "volume ls -q", "volume list --format json", "volume ls --format {{.Name}}|{{.Labels}}|{{.Mountpoint}}|{{.Links}}|{{.Size}}|{{.Availability}}", "volume ls --format table\x00{{.Name}}\\t{{.Label\x00\"tier\"}}", "volume ls --format raw", "volume inspect vol9", "volume inspect -f {{.Options.type}} vol9 nope", "volume create", "volume create -o type=tmpfs --label a=b new",
		"volume rm vol9 vol10 nope", "volume remove -f nope vol9", "volume prune", "volume prune -f", "volume prune -a", "volume prune -af --filter all=1", "inspect --type volume vol9", "volume", "volume create a b"},
	"prune":    {"container prune -f", "image prune -f", "system prune -f", "container prune", "image prune -a", "system prune -a --volumes --filter label=x"},
	"mistakes": {"nope", "container nope", "rm", "rename a", "ps x", "run", "ps --nope", "-l nope ps", "build .", "compose up", "stop --time x web", "login -u a"},
}

// scrub takes the absolute times out, which go with the clock.
var scrub = regexp.MustCompile(`20[2-9][0-9]-[01][0-9]-[0-3][0-9] [0-9:]{8} \+0000 UTC`)

func TestGoldens(t *testing.T) {
	t.Setenv("TZ", "UTC")
	time.Local = time.UTC
	for name, lines := range goldenLines {
		t.Run(name, func(t *testing.T) {
			e := newFakeEngine(t, answersForGoldens())
			var got strings.Builder
			for _, line := range lines {
				// A NUL in a table's line is a space within one argument.
				args := strings.Fields(line)
				for i := range args {
					args[i] = strings.ReplaceAll(args[i], "\x00", " ")
				}
				r := e.berth(t, "", args...)
				fmt.Fprintf(&got, "$ berth %s\n%s", strings.Join(args, " "), r.out)
				if r.err != "" {
					fmt.Fprintf(&got, "stderr:\n%s", r.err)
				}
				fmt.Fprintf(&got, "[%d]\n\n", r.code)
			}
			path := filepath.Join("testdata", name+".golden")
			text := scrub.ReplaceAllString(got.String(), "TIME")
			text = strings.ReplaceAll(text, runtime.Version(), "GOVERSION")
			text = strings.ReplaceAll(text, version.Version, "VERSION")
			if *update {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), text); diff != "" {
				t.Errorf("-golden +got:\n%s", diff)
			}
		})
	}
}
