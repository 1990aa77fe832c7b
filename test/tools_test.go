package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/testkit"
)

// What tools send that speak to Docker, as it was seen on the wire or as they type it.

// byName is the command line under the name docker, which most tools call.
type byName struct {
	*testing.T
	e      *testkit.Engine
	docker string
}

func newByName(t *testing.T) *byName {
	t.Helper()
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	return &byName{t, e, namedDocker(t, e)}
}

func (b *byName) do(args ...string) testkit.Result {
	b.Helper()
	return b.e.Run("", b.docker, args...)
}

func (b *byName) must(args ...string) string {
	b.Helper()
	r := b.do(args...)
	if r.Code != 0 {
		b.Fatalf("docker %s: exit %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// begin starts a command line whose streams are pipes.
func (b *byName) begin(args ...string) (in io.WriteCloser, out *bufio.Reader, cmd *exec.Cmd) {
	b.Helper()
	cmd = exec.Command(b.docker, args...)
	cmd.Env, cmd.Dir = b.e.Env(), b.e.Dir
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	b.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	go func() { _, _ = cmd.Process.Wait(); close(ended) }()
	return in, bufio.NewReader(stdout), cmd
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	text, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("read a line: %v (%q)", err, text)
	}
	return strings.TrimSuffix(text, "\n")
}

// fields asserts that text is one JSON object in each line, with these fields.
func fields(t *testing.T, text string, want ...string) (objects []map[string]any) {
	t.Helper()
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		var object map[string]any
		if err := json.Unmarshal([]byte(l), &object); err != nil {
			t.Fatalf("%v: %s", err, l)
		}
		for _, f := range want {
			if _, ok := object[f]; !ok {
				t.Errorf("there is no %s in %s", f, l)
			}
		}
		objects = append(objects, object)
	}
	return objects
}

// TestDevContainers is what the dev containers' command line does for up, exec, up once more and
// up --remove-existing-container.
func TestDevContainers(t *testing.T) {
	b := newByName(t)
	workspace := filepath.Join(b.e.Dir, "ws")
	if err := os.Mkdir(workspace, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(workspace, "file"), "of the host\n")
	folder, config := "devcontainer.local_folder="+workspace, "devcontainer.config_file="+workspace+"/.devcontainer/devcontainer.json"

	if r := b.do("buildx", "version"); r.Code == 0 {
		t.Errorf("there is no buildx, yet it says %q", r.Stdout)
	}
	if v := b.must("-v"); !regexp.MustCompile(`\b\d+\.\d+\.\d+`).MatchString(v) {
		t.Errorf("-v has no number: %s", v)
	}
	b.must("version", "--format", "{{.Server.Version}}")
	find := []string{"ps", "-q", "-a", "--filter", "label=" + folder, "--filter", "label=" + config}
	if found := b.must(find...); found != "" {
		t.Errorf("found %s", found)
	}
	var image []struct {
		ID     string `json:"Id"`
		Config struct{ Env, Cmd []string }
	}
	if err := json.Unmarshal([]byte(b.must("inspect", "--type", "image", "busybox")), &image); err != nil || len(image) != 1 {
		t.Fatalf("%v, %d images", err, len(image))
	}

	up := func() (id string) {
		t.Helper()
		before := listeners(t, b.e)
		_, events, _ := b.begin("events", "--format", "{{json .}}", "--filter", "event=start")
		testkit.Eventually(t, "somebody more listens to events", func() bool { return listeners(t, b.e) > before })
		_, said, _ := b.begin("run", "--sig-proxy=false", "-a", "STDOUT", "-a", "STDERR", "--mount", "type=bind,source="+workspace+",target=/workspaces/ws",
			"-l", folder, "-l", config, "-e", "A=b", "--init", "--entrypoint", "/bin/sh", "-l", `devcontainer.metadata=[{"postCreateCommand":"echo created > /created"}]`,
			"busybox", "-c", "echo Container started\ntrap \"exit 0\" 15\n\nexec \"$@\"\nwhile sleep 1 & wait $!; do :; done", "-")
		if l := line(t, said); l != "Container started" {
			t.Fatalf("run says %q", l)
		}
		var event struct {
			Status, ID, Type, Action string
			Actor                    struct {
				ID         string
				Attributes map[string]string
			}
		}
		if err := json.Unmarshal([]byte(line(t, events)), &event); err != nil {
			t.Fatal(err)
		}
		if event.Action != "start" || event.Status != "start" || event.ID != event.Actor.ID || event.Actor.Attributes["devcontainer.local_folder"] != workspace {
			t.Errorf("the event: %+v", event)
		}
		id = b.must(find...)
		if id != event.ID[:12] {
			t.Fatalf("found %q, started %s", id, event.ID)
		}
		return id
	}
	id := up()
	var details []struct {
		ID    string `json:"Id"`
		State struct {
			Status    string
			StartedAt string
		}
		Created string
		Config  struct {
			Labels map[string]string
			User   string
		}
		Mounts []struct{ Type, Source, Destination string }
	}
	if err := json.Unmarshal([]byte(b.must("inspect", "--type", "container", id)), &details); err != nil || len(details) != 1 {
		t.Fatal(err)
	}
	d := details[0]
	if d.State.Status != "running" || d.Config.Labels["devcontainer.metadata"] == "" || len(d.Mounts) != 1 || d.Mounts[0].Source != workspace {
		t.Errorf("inspect: %+v", d)
	}

	// One shell for all that is asked, each answer ended by a mark.
	in, out, _ := b.begin("exec", "-i", "-u", "root", "-e", "VSCODE_REMOTE_CONTAINERS_SESSION=s", d.ID, "/bin/sh")
	ask := func(command string) string {
		t.Helper()
		if _, err := fmt.Fprintf(in, "( %s ); echo -n mark$?; echo\n", command); err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for {
			l := line(t, out)
			if before, code, marked := strings.Cut(l, "mark"); marked {
				return all.String() + before + "=" + code
			}
			all.WriteString(l + "\n")
		}
	}
	for command, want := range map[string]string{
		"uname -s":                "Linux\n=0",
		"cat /workspaces/ws/file": "of the host\n=0",
		"test -f /nosuch":         "=1",
		"echo $A":                 "b\n=0",
	} {
		if got := ask(command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	if probe := b.must("exec", "-i", "-u", "root", d.ID, "/bin/sh", "-lic", "echo -n mark; cat /proc/self/environ; echo -n mark"); !regexp.MustCompile(`(?s)mark.*\x00?A=b\x00.*mark`).MatchString(probe) {
		t.Errorf("the environment: %q", probe)
	}
	b.must("exec", "-i", "-u", "root", "-e", "\nA line\n\nHOSTNAME=h", "-e", "A=b", "-w", "/workspaces/ws", d.ID, "/bin/sh", "-c", "echo created > /created; pwd > here")
	if got, err := os.ReadFile(filepath.Join(workspace, "here")); err != nil || string(got) != "/workspaces/ws\n" {
		t.Errorf("%q, %v", got, err)
	}
	// What "Clone in volume" and features do: a tar by standard input.
	in, out, cmd := b.begin("exec", "-i", "-u", "root", d.ID, "/bin/sh", "-c", "mkdir -p /srv && tar xf - -C /srv && cat /srv/x")
	if _, err := in.Write(layerTar(tarEntry{Header: fileHeader("x"), text: "unpacked\n"})); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if l := line(t, out); l != "unpacked" {
		t.Errorf("%v says %q", cmd.Args, l)
	}

	b.must("stop", "-t", "1", id)
	b.must("start", d.ID)
	if got := b.must("exec", "-i", "-u", "root", d.ID, "cat", "/created"); got != "created" {
		t.Errorf("after stop and start: %q", got)
	}
	b.must("rm", "-f", d.ID)
	if again := up(); again == id {
		t.Error("the new container is the old one")
	}
}

func listeners(t *testing.T, e *testkit.Engine) (n int) {
	t.Helper()
	_, _, body := ask(t, e, "GET", "/info", "")
	var info struct{ NEventsListener int }
	if err := json.Unmarshal([]byte(body), &info); err != nil {
		t.Fatal(err)
	}
	return info.NEventsListener
}

// TestEditorsAndDashboards is what VS Code's extension types, and what lazydocker and Portainer ask.
func TestEditorsAndDashboards(t *testing.T) {
	b := newByName(t)
	b.must("volume", "create", "--label", "com.docker.compose.project=p", "data")
	b.must("network", "create", "--label", "com.docker.compose.project=p", "net")
	id := b.must("run", "-d", "--name", "web", "--network", "net", "-v", "data:/data", "-p", "80", "--label", "com.docker.compose.project=p", "--label", "com.docker.compose.service=web",
		"busybox", "sh", "-c", "echo started; exec sleep 1000")

	t.Run("VS Code", func(t *testing.T) {
		fields(t, b.must("context", "ls", "--format", "{{json .}}"), "Name", "Current", "Description", "DockerEndpoint")
		c := fields(t, b.must("container", "ls", "--all", "--no-trunc", "--format", "{{json .}}"), "ID", "Names", "Image", "Ports", "Networks", "Labels", "CreatedAt", "State", "Status")[0]
		if c["ID"] != id || c["State"] != "running" || !strings.Contains(c["Labels"].(string), "com.docker.compose.service=web") || !strings.HasPrefix(c["Status"].(string), "Up ") {
			t.Errorf("container ls: %v", c)
		}
		fields(t, b.must("image", "ls", "--all", "--no-trunc", "--format", "{{json .}}"), "ID", "Repository", "Tag", "CreatedAt", "Size")
		fields(t, b.must("volume", "ls", "--format", "{{json .}}"), "Name", "Driver", "Labels", "Mountpoint", "Scope")
		fields(t, b.must("network", "ls", "--no-trunc", "--format", "{{json .}}"), "ID", "Name", "Driver", "Labels", "Scope", "IPv6", "CreatedAt", "Internal")
		for _, args := range [][]string{{"container", "inspect"}, {"inspect"}} {
			fields(t, b.must(append(args, "--format", "{{json .}}", "web")...), "Id", "Name", "Image", "Platform", "Created", "State", "Config", "HostConfig", "NetworkSettings", "Mounts")
		}
		fields(t, b.must("image", "inspect", "--format", "{{json .}}", "busybox"), "Id", "RepoTags", "Config", "RepoDigests", "Architecture", "Os", "Created", "Size")
		fields(t, b.must("network", "inspect", "--format", "{{json .}}", "net"), "Name", "Id", "Driver", "Created", "Scope", "Labels", "IPAM", "EnableIPv6", "Internal", "Attachable", "Ingress")
		fields(t, b.must("volume", "inspect", "--format", "{{json .}}", "data"), "Name", "Driver", "Mountpoint", "Scope", "Labels", "Options", "CreatedAt")
		fields(t, b.must("version", "--format", "{{json .}}"), "Client", "Server")
		fields(t, b.must("info", "--format", "{{json .}}"), "OperatingSystem", "OSType", "Name", "ServerVersion")
		if got := b.must("exec", "web", "sh", "-c", "ls -lA --full-time / >/dev/null 2>&1; echo $?"); got == "" {
			t.Error("exec says nothing")
		}
		testkit.Eventually(t, "the start is told", func() bool { // --until is of whole seconds
			told := b.must("events", "--since", "10m", "--until", "0s", "--filter", "type=container", "--filter", "event=create", "--filter", "event=start", "--format", "{{json .}}")
			return told != "" && len(fields(t, told, "Type", "Action", "Actor", "time")) == 2
		})
		testkit.Eventually(t, "its output is logged", func() bool { return b.must("logs", "--tail", "1000", "web") == "started" })
	})

	get := func(t *testing.T, path string, into any) {
		t.Helper()
		status, _, body := ask(t, b.e, "GET", path, "")
		if status != http.StatusOK {
			t.Fatalf("GET %s: %d %s", path, status, body)
		}
		if into == nil {
			return
		}
		if err := json.Unmarshal([]byte(body), into); err != nil {
			t.Fatalf("GET %s: %v\n%s", path, err, body)
		}
	}
	t.Run("lazydocker", func(t *testing.T) {
		var containers []struct{ ID, State, Status string }
		get(t, "/v1.44/containers/json?all=1", &containers)
		if len(containers) != 1 || containers[0].State != "running" {
			t.Errorf("%+v", containers)
		}
		get(t, "/v1.44/images/json", &[]struct{ ID string }{})
		var volumes struct{ Volumes []struct{ Name string } }
		get(t, "/v1.44/volumes", &volumes)
		get(t, "/v1.44/networks", &[]struct{ Name string }{})
		get(t, "/v1.44/images/busybox/history", &[]struct{ CreatedBy string }{})
		var top struct {
			Titles    []string
			Processes [][]string
		}
		get(t, "/v1.44/containers/web/top", &top)
		if len(top.Processes) != 1 || len(top.Titles) != len(top.Processes[0]) {
			t.Errorf("top: %+v", top)
		}
		var stats struct {
			CPU struct {
				Usage struct {
					Total uint64 `json:"total_usage"`
				} `json:"cpu_usage"`
				System uint64 `json:"system_cpu_usage"`
			} `json:"cpu_stats"`
			Memory struct{ Usage, Limit uint64 } `json:"memory_stats"`
			Pids   struct{ Current uint64 }      `json:"pids_stats"`
		}
		get(t, "/v1.44/containers/web/stats?stream=0", &stats)
		if stats.CPU.Usage.Total == 0 || stats.CPU.System == 0 || stats.Memory.Usage == 0 || stats.Memory.Limit == 0 || stats.Pids.Current == 0 {
			t.Errorf("stats: %+v", stats)
		}
	})
	t.Run("Portainer", func(t *testing.T) {
		var info struct {
			Swarm   struct{ LocalNodeState string }
			Plugins struct{ Volume, Network []string }
			NCPU    int
		}
		get(t, "/info", &info)
		if info.Swarm.LocalNodeState != "inactive" || info.NCPU == 0 || len(info.Plugins.Volume) == 0 {
			t.Errorf("info: %+v", info)
		}
		get(t, "/version", nil)
		get(t, "/system/df", nil)
		get(t, "/plugins", &[]any{})
		get(t, "/containers/json?all=1&size=1", nil)
		get(t, "/containers/json?all=1&filters=%7B%22label%22%3A%5B%22com.docker.compose.project%3Dp%22%5D%7D", nil)
		get(t, "/containers/json?all=1&filters=%7B%22volume%22%3A%7B%22data%22%3Atrue%7D%7D", nil) // a map, as the older form has it
		get(t, "/volumes?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D", nil)
		get(t, "/images/json?all=0", nil)
		for _, path := range []string{"/services", "/nodes", "/tasks", "/secrets", "/configs", "/swarm"} {
			if status, message, _ := ask(t, b.e, "GET", path, ""); status != http.StatusServiceUnavailable || !strings.HasPrefix(message, "This node is not a swarm manager") {
				t.Errorf("GET %s: %d %s", path, status, message)
			}
		}
		_, _, body := ask(t, b.e, "POST", "/containers/web/exec", `{"AttachStdin":true,"AttachStdout":true,"AttachStderr":true,"Tty":true,"Cmd":["sh"],"User":"","id":"web"}`)
		var made struct {
			ID string `json:"Id"`
		}
		if err := json.Unmarshal([]byte(body), &made); err != nil || made.ID == "" {
			t.Fatalf("exec: %s", body)
		}
		if status, message, _ := ask(t, b.e, "POST", "/containers/web/restart?t=0", ""); status != http.StatusNoContent {
			t.Errorf("restart: %d %s", status, message)
		}
		status, _, body := ask(t, b.e, "POST", "/containers/create?name=made", `{"Image":"busybox","Env":[],"ExposedPorts":{"80/tcp":{}},"Labels":{"io.portainer.accesscontrol.teams":"1"},"HostConfig":{"PublishAllPorts":false,`+
			`"PortBindings":{"80/tcp":[{"HostPort":""}]},"RestartPolicy":{"Name":"no"},"AutoRemove":false,"NetworkMode":"net","Privileged":false,"Runtime":null,"ExtraHosts":[],"Devices":[],"DeviceRequests":[],`+
			`"CapAdd":["AUDIT_WRITE"],"CapDrop":["SYS_ADMIN"],"Sysctls":{},"ShmSize":67108864,"Dns":[],"Binds":[],"LogConfig":{}},"NetworkingConfig":{"EndpointsConfig":{"net":{"IPAMConfig":{"IPv4Address":"","IPv6Address":""}}}},`+
			`"OpenStdin":false,"Tty":false,"Volumes":{},"MacAddress":"","Cmd":["sleep","1000"]}`)
		if status != http.StatusCreated {
			t.Errorf("create: %d %s", status, body)
		}
		for _, step := range []string{"POST /containers/made/start 204", "POST /containers/made/rename?name=renamed 204", "POST /networks/bridge/connect 200", "POST /containers/renamed/kill 204", "DELETE /containers/renamed?v=1&force=true 204"} {
			part := strings.Fields(step)
			body := ""
			if strings.Contains(step, "connect") {
				body = `{"Container":"renamed"}`
			}
			if status, message, _ := ask(t, b.e, part[0], part[1], body); itoa(status) != part[2] {
				t.Errorf("%s: %d %s", step, status, message)
			}
		}
	})
}

// TestJenkins is what the docker workflow plugin types for docker.image(…).inside.
func TestJenkins(t *testing.T) {
	b := newByName(t)
	ws := filepath.Join(b.e.Dir, "ws")
	b.must("version")
	if got := b.must("inspect", "-f", ".", "busybox"); got != "." {
		t.Errorf("inspect -f .: %q", got)
	}
	id := b.must("run", "-t", "-d", "-u", "1000:1000", "-w", ws, "-v", ws+":"+ws+":rw,z", "-v", ws+"@tmp:"+ws+"@tmp:rw,z", "-e", "BUILD_ID=7", "-e", "JENKINS_URL=", "busybox", "cat")
	if top := b.must("top", id, "-eo", "pid,comm"); !regexp.MustCompile(`(?m)^ *PID +COMMAND\n *\d+ +cat$`).MatchString(top) {
		t.Errorf("top: %q", top)
	}
	if got := b.must("inspect", "-f", "{{.Id}}", id); got != id {
		t.Errorf("inspect: %q", got)
	}
	if got := b.must("inspect", "-f", "{{range .Config.Env}}{{println .}}{{end}}", id); got != "BUILD_ID=7\nJENKINS_URL=\n" {
		t.Errorf("the environment: %q", got)
	}
	if got := b.must("exec", "--env", "STAGE=test", "--env", "EMPTY=", id, "env"); !strings.Contains(got, "STAGE=test\n") || !strings.Contains(got, "BUILD_ID=7\n") {
		t.Errorf("exec: %q", got)
	}
	if r := b.do("exec", id, "sh", "-c", "echo $$ > pid; exit 4"); r.Code != 4 && r.Code != 1 {
		t.Errorf("exec: %+v", r)
	}
	b.must("stop", "--time=1", id)
	b.must("rm", "-f", "--volumes", id)
	b.must("rm", "-f", id) // it is gone
}
