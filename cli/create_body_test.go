package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// createLines are command lines of `create IMAGE …` whose bodies must be what Docker's own
// client sends. FILES/ is replaced by a directory with the files of createFiles.
var createLines = map[string][]string{
	"nothing":              {},
	"command":              {"--", "IMAGE", "echo", "a b", "-x"},
	"interactive terminal": {"-it"},
	"stdin only":           {"-i"},
	"attach":               {"-a", "STDOUT", "-a", "stderr", "-i"},
	"attach stdin":         {"-a", "stdin"},
	"environment":          {"-e", "A=b", "-e", "EMPTY=", "-e", "FROM_CLIENT", "-e", "NOT_SET_ANYWHERE", "-e", "A=c=d"},
	"environment file":     {"--env-file", "FILES/env", "-e", "LAST=1"},
	"labels":               {"-l", "a=b", "-l", "c", "--label", "d=e=f", "--label-file", "FILES/labels"},
	"entrypoint":           {"--entrypoint", "/bin/sh -c"},
	"entrypoint reset":     {"--entrypoint", ""},
	"user and dir":         {"-u", "1000:100", "-w", "/a b", "-h", "host1", "--domainname", "example.org"},
	"volumes":              {"-v", "name:/a", "-v", "/host:/b:ro", "-v", "/anon", "-v", "./rel:/c", "-v", "/x:/y:rw,z,rslave"},
	"dot volume":           {"-v", ".:/c"},
	"tmpfs":                {"--tmpfs", "/t", "--tmpfs", "/u:size=10m,mode=1777"},
	"mount bind":           {"--mount", "type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave"},
	"mount bind recursive": {"--mount", "type=bind,source=/a,target=/b,bind-recursive=disabled"},
	"mount volume":         {"--mount", `type=volume,source=v,destination=/d,volume-driver=local,volume-label=a=b,volume-nocopy,"volume-opt=o=a,b"`, "--mount", "dst=/anon2"},
	"mount tmpfs":          {"--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700"},
	"mount image":          {"--mount", "type=image,source=alpine,target=/i,image-subpath=etc"},
	"mount subpath":        {"--mount", "type=volume,src=v,dst=/v,volume-subpath=a/b"},
	"ports":                {"-p", "80", "-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "-p", "[::1]:81:81", "-p", "9000-9002:9000-9002", "-P", "--expose", "70-72/udp", "--expose", "443"},
	"long publish":         {"-p", "target=80,published=8080,protocol=udp"},
	"network none":         {"--network", "none"},
	"network host":         {"--net", "host"},
	"network container":    {"--network", "container:web"},
	"network by name":      {"--network", "front", "--network-alias", "a", "--net-alias", "b", "--ip", "172.30.1.2", "--ip6", "2001:db8::2", "--link-local-ip", "169.254.1.1", "--mac-address", "92:d0:c6:0a:29:33"},
	"network long":         {"--network", "name=front,alias=a,alias=b,ip=172.30.1.3,driver-opt=x=y,mac-address=92:d0:c6:0a:29:34,gw-priority=7", "--network", "back"},
	"links":                {"--link", "db:database", "--link", "cache"},
	"dns":                  {"--dns", "1.1.1.1", "--dns-search", "example.org", "--dns-opt", "ndots:1", "--dns-option", "timeout:2"},
	"hosts":                {"--add-host", "a:1.2.3.4", "--add-host", "b=::1", "--add-host", "h:host-gateway"},
	"restart":              {"--restart", "on-failure:5"},
	"restart always":       {"--restart", "always"},
	"remove":               {"--rm"},
	"health":               {"--health-cmd", "curl -f x", "--health-interval", "5s", "--health-timeout", "1m", "--health-retries", "3", "--health-start-period", "2s", "--health-start-interval", "1s"},
	"no health":            {"--no-healthcheck"},
	"memory":               {"-m", "64m", "--memory-reservation", "32M", "--memory-swap", "-1", "--memory-swappiness", "10", "--shm-size", "1g", "--oom-kill-disable", "--oom-score-adj", "-5"},
	"cpu":                  {"--cpus", "1.5", "-c", "512", "--cpuset-cpus", "0-1", "--cpuset-mems", "0", "--cpu-period", "1000", "--cpu-quota", "2000", "--cpu-rt-period", "3000", "--cpu-rt-runtime", "4000"},
	"pids":                 {"--pids-limit", "-1"},
	"block io":             {"--blkio-weight", "300", "--blkio-weight-device", "/dev/sda:100", "--device-read-bps", "/dev/sda:1mb", "--device-write-bps", "/dev/sda:2m", "--device-read-iops", "/dev/sda:100", "--device-write-iops", "/dev/sda:200"},
	"devices":              {"--device", "/dev/null", "--device", "/dev/zero:/dev/x", "--device", "/dev/full:r", "--device", "/dev/tty:/dev/y:rw", "--device-cgroup-rule", "c 1:* rwm"},
	"cdi device":           {"--device", "vendor.com/gpu=all"},
	"gpus":                 {"--gpus", "all"},
	"gpus by id":           {"--gpus", `"device=0,1","capabilities=utility,compute"`},
	"capabilities":         {"--cap-add", "net_admin", "--cap-add", "ALL", "--cap-drop", "CAP_CHOWN"},
	"security":             {"--security-opt", "no-new-privileges", "--security-opt", "apparmor=unconfined", "--security-opt", "label=disable", "--security-opt", "seccomp=FILES/seccomp.json", "--security-opt", "systempaths=unconfined"},
	"seccomp unconfined":   {"--security-opt", "seccomp=unconfined", "--privileged", "--read-only", "--group-add", "audio", "--group-add", "44"},
	"namespaces":           {"--pid", "host", "--uts", "host", "--ipc", "container:x", "--userns", "host", "--cgroupns", "private", "--cgroup-parent", "/a"},
	"ulimits":              {"--ulimit", "nofile=1024:2048", "--ulimit", "core=0"},
	"sysctls":              {"--sysctl", "net.ipv4.ip_forward=1", "--annotation", "a=b"},
	"logging":              {"--log-driver", "json-file", "--log-opt", "max-size=1m", "--log-opt", "tag={{.Name}}"},
	"stopping":             {"--stop-signal", "SIGUSR1", "--stop-timeout", "0"},
	"stop timeout":         {"--stop-timeout", "7"},
	"init":                 {"--init"},
	"no init":              {"--init=false"},
	"runtime":              {"--runtime", "crun", "--isolation", "default", "--volume-driver", "local", "--volumes-from", "a:ro", "--storage-opt", "size=1G"},
	"named":                {"--name", "web1", "--platform", "linux/arm64/v8"},
}

var createFiles = map[string]string{
	"env":          "# comment\n\nA=1\nB= spaced \nQUOTED=\"x\"\nFROM_CLIENT\nNOT_SET_ANYWHERE\n  LEAD=1\nURL=a#b$c\n",
	"labels":       "l1=v1\n# no\nl2\n",
	"seccomp.json": "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\",\n  \"syscalls\": [ ]\n}\n",
}

func createArgs(t *testing.T, line []string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range createFiles {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"create"}
	hasImage := slices.Contains(line, "IMAGE")
	for _, word := range line {
		if word == "IMAGE" {
			word = "alpine:3.19"
		}
		args = append(args, strings.ReplaceAll(word, "FILES/", dir+"/"))
	}
	if !hasImage {
		args = append(args, "alpine:3.19", "sleep", "5")
	}
	return args
}

func createdBody(t *testing.T, e *fakeEngine) (map[string]any, string) {
	t.Helper()
	asked := e.asked("POST /containers/create")
	if len(asked) != 1 {
		t.Fatalf("%d create requests, want 1", len(asked))
	}
	var body map[string]any
	if err := json.Unmarshal(asked[0].Body, &body); err != nil {
		t.Fatal(err)
	}
	return body, asked[0].Query
}

func TestCreateSendsWhatDockerSends(t *testing.T) {
	docker := dockerOfToday(t)
	t.Setenv("FROM_CLIENT", "client value")
	routes := map[string]http.HandlerFunc{"POST /containers/create": answer(map[string]any{"Id": strings.Repeat("c", 64), "Warnings": []string{}})}
	for name, line := range createLines {
		t.Run(name, func(t *testing.T) {
			args := createArgs(t, line)
			theirs, ours := newFakeEngine(t, routes), newFakeEngine(t, routes)
			if out, err := exec.Command(docker, append([]string{"-H", theirs.host()}, args...)...).CombinedOutput(); err != nil {
				t.Fatalf("docker: %v: %s", err, out)
			}
			if r := ours.berth(t, "", args...); r.code != 0 {
				t.Fatalf("berth: %d: %s", r.code, r.err)
			}
			want, wantQuery := createdBody(t, theirs)
			got, gotQuery := createdBody(t, ours)
			if diff := cmp.Diff(normalize(want), normalize(got)); diff != "" {
				t.Errorf("body differs from Docker's (-docker +berth):\n%s", diff)
			}
			if wantQuery != gotQuery {
				t.Errorf("query %q, Docker's %q", gotQuery, wantQuery)
			}
		})
	}
}

// unordered are the lists that Docker's client keeps in a map on their way to the wire.
var unordered = map[string]bool{"Binds": true, "Env": true}

// normalize drops what newer API types leave out or spell otherwise without another meaning:
// null, empty and zero values, and the order of capabilities.
func normalize(v any) any {
	switch v := v.(type) {
	case map[string]any:
		kept := map[string]any{}
		for key, value := range v {
			n := normalize(value)
			if list, ok := n.([]any); ok && unordered[key] {
				slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
			}
			if n != nil {
				kept[key] = n
			}
		}
		if len(kept) == 0 {
			return nil
		}
		return kept
	case []any:
		if len(v) == 0 {
			return nil
		}
		list := make([]any, len(v))
		empty := true
		for i := range v {
			list[i] = normalize(v[i])
			empty = empty && list[i] == nil
		}
		if empty {
			return nil
		}
		return list
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	case float64:
		if v == 0 {
			return nil
		}
	}
	return v
}
