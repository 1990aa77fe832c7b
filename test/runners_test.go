package test

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	mobyclient "github.com/moby/moby/client"

	"berth/testkit"
)

// runner is a program that runs jobs in containers by the Go client, over one connection that
// it keeps.
type runner struct {
	*testing.T
	api *mobyclient.Client
}

func newRunner(t *testing.T, e *testkit.Engine) *runner {
	t.Helper()
	api, err := mobyclient.New(mobyclient.WithHost(e.Host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	return &runner{t, api}
}

func (r *runner) check(what string, err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("%s: %v", what, err)
	}
}

func (r *runner) start(name string, c *container.Config, h *container.HostConfig, n *network.NetworkingConfig) (id string) {
	r.Helper()
	made, err := r.api.ContainerCreate(r.Context(), mobyclient.ContainerCreateOptions{Name: name, Config: c, HostConfig: h, NetworkingConfig: n})
	r.check("create "+name, err)
	_, err = r.api.ContainerStart(r.Context(), made.ID, mobyclient.ContainerStartOptions{})
	r.check("start "+name, err)
	return made.ID
}

// exec runs a command and returns its outputs and exit code.
func (r *runner) exec(id, dir string, env []string, command ...string) (out string, code int) {
	r.Helper()
	made, err := r.api.ExecCreate(r.Context(), id, mobyclient.ExecCreateOptions{AttachStdout: true, AttachStderr: true, Env: env, WorkingDir: dir, Cmd: command})
	r.check("exec create", err)
	stream, err := r.api.ExecAttach(r.Context(), made.ID, mobyclient.ExecAttachOptions{})
	r.check("exec start", err)
	defer stream.Close()
	var both bytes.Buffer
	_, err = stdcopy.StdCopy(&both, &both, stream.Reader)
	r.check("read the output", err)
	state, err := r.api.ExecInspect(r.Context(), made.ID, mobyclient.ExecInspectOptions{})
	r.check("exec inspect", err)
	if state.Running {
		r.Error("its output has ended, and it runs still")
	}
	return both.String(), state.ExitCode
}

// read is one file of a container's.
func (r *runner) read(id, path string) string {
	r.Helper()
	got, err := r.api.CopyFromContainer(r.Context(), id, mobyclient.CopyFromContainerOptions{SourcePath: path})
	r.check("copy "+path, err)
	defer got.Content.Close()
	t := tar.NewReader(got.Content)
	if _, err := t.Next(); err != nil {
		r.Fatalf("%s: %v", path, err)
	}
	text, err := io.ReadAll(t)
	r.check("read "+path, err)
	return string(text)
}

func (r *runner) remove(id string) {
	r.Helper()
	_, err := r.api.ContainerRemove(r.Context(), id, mobyclient.ContainerRemoveOptions{RemoveVolumes: true, Force: true})
	r.check("remove", err)
}

// TestAct is what act sends for a workflow of two jobs: steps whose scripts and files of commands
// go in and out as tars, a service with a health check, an action that is a container.
func TestAct(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	r := newRunner(t, e)
	const workspace = "/home/user/project"
	job := func(name, net string) (id string) {
		_, err := r.api.ImageInspect(t.Context(), "busybox")
		r.check("image inspect", err)
		id = r.start(name, &container.Config{Image: "busybox", Entrypoint: []string{"tail", "-f", "/dev/null"}, WorkingDir: workspace, Env: []string{"RUNNER_OS=Linux", "LANG=C.UTF-8"}},
			&container.HostConfig{NetworkMode: container.NetworkMode(net), Binds: []string{}, Mounts: []mount.Mount{
				{Type: mount.TypeVolume, Source: "act-toolcache", Target: "/opt/hostedtoolcache"},
				{Type: mount.TypeVolume, Source: name + "-env", Target: "/var/run/act"},
				{Type: mount.TypeVolume, Source: name, Target: workspace},
			}}, nil)
		for _, flag := range []string{"-u", "-g"} {
			if out, code := r.exec(id, "", nil, "id", flag); out != "0\n" || code != 0 {
				t.Errorf("id %s: %q, %d", flag, out, code)
			}
		}
		return id
	}
	put := func(id, path string, entries ...tarEntry) {
		t.Helper()
		_, err := r.api.CopyToContainer(t.Context(), id, mobyclient.CopyToContainerOptions{DestinationPath: path, Content: bytes.NewReader(layerTar(entries...))})
		r.check("copy to "+path, err)
	}
	step := func(id, name, script string, env ...string) string {
		t.Helper()
		put(id, "/var/run/act", tarEntry{tar.Header{Name: "workflow/envs.txt", Mode: 0o666}, ""}, tarEntry{tar.Header{Name: "workflow/outputcmd.txt", Mode: 0o666}, ""})
		put(id, "/var/run/act", tarEntry{fileHeader("workflow/" + name + ".sh"), script})
		out, code := r.exec(id, workspace, append([]string{"GITHUB_ENV=/var/run/act/workflow/envs.txt", "GITHUB_OUTPUT=/var/run/act/workflow/outputcmd.txt"}, env...), "sh", "-e", "/var/run/act/workflow/"+name+".sh")
		if code != 0 {
			t.Errorf("step %s: %d, %s", name, code, out)
		}
		return out
	}

	id := job("act-one", "host")
	put(id, "/var/run/act/", tarEntry{tar.Header{Name: "workflow/event.json", Mode: 0o644}, "{}"})
	if out := step(id, "s", `echo hello $J; pwd; echo "v=7" >>$GITHUB_OUTPUT; echo "E=from file" >>$GITHUB_ENV`, "J=job"); out != "hello job\n"+workspace+"\n" {
		t.Errorf("the first step says %q", out)
	}
	if got := r.read(id, "/var/run/act/workflow/outputcmd.txt"); got != "v=7\n" {
		t.Errorf("its outputs: %q", got)
	}
	if got := r.read(id, "/var/run/act/workflow/envs.txt"); got != "E=from file\n" {
		t.Errorf("its variables: %q", got)
	}
	for n := range 30 { // a connection that has carried tars carries anything else afterwards
		put(id, "/var/run/act", tarEntry{fileHeader("workflow/" + itoa(n)), "x"})
		r.read(id, "/var/run/act/workflow/"+itoa(n))
	}
	if out := step(id, "1", `echo "E is $E"`, "E=from file"); out != "E is from file\n" {
		t.Errorf("the second step says %q", out)
	}
	made, err := r.api.ContainerCreate(t.Context(), mobyclient.ContainerCreateOptions{Config: &container.Config{Image: "busybox"}})
	r.check("create on the same connection", err)
	r.remove(made.ID)
	r.remove(id)
	for _, name := range []string{"act-one", "act-one-env"} {
		_, err := r.api.VolumeRemove(t.Context(), name, mobyclient.VolumeRemoveOptions{})
		r.check("remove volume "+name, err)
	}

	_, err = r.api.NetworkCreate(t.Context(), "act-two-network", mobyclient.NetworkCreateOptions{Driver: "bridge", Scope: "local"})
	r.check("create a network", err)
	service := r.start("act-two-web", &container.Config{Image: "busybox", Cmd: []string{"sleep", "1000"}, AttachStdout: true, AttachStderr: true, Healthcheck: &container.HealthConfig{Test: []string{"CMD-SHELL", "true"}, Interval: time.Second}},
		&container.HostConfig{NetworkMode: "act-two-network"}, &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"act-two-network": {Aliases: []string{"web"}}}})
	id = job("act-two", "act-two-network")
	testkit.Eventually(t, "the service is healthy", func() bool {
		c, err := r.api.ContainerInspect(t.Context(), service, mobyclient.ContainerInspectOptions{})
		r.check("inspect", err)
		return c.Container.State.Health != nil && c.Container.State.Health.Status == "healthy"
	})
	if out := step(id, "0", "nslookup -type=a web"); !strings.Contains(out, "Name:\tweb") {
		t.Errorf("the service's name: %q", out)
	}
	action, err := r.api.ContainerCreate(t.Context(), mobyclient.ContainerCreateOptions{Config: &container.Config{Image: "busybox", Cmd: []string{"echo", "from", "an", "action"}, WorkingDir: workspace},
		HostConfig: &container.HostConfig{NetworkMode: "container:act-two", Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "act-two", Target: workspace}}}})
	r.check("create the action", err)
	stream, err := r.api.ContainerAttach(t.Context(), action.ID, mobyclient.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	r.check("attach", err)
	wait := r.api.ContainerWait(t.Context(), action.ID, mobyclient.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	_, err = r.api.ContainerStart(t.Context(), action.ID, mobyclient.ContainerStartOptions{})
	r.check("start the action", err)
	var out bytes.Buffer
	_, err = stdcopy.StdCopy(&out, &out, stream.Reader)
	r.check("read the action's output", err)
	stream.Close()
	select {
	case ended := <-wait.Result:
		if ended.StatusCode != 0 || out.String() != "from an action\n" {
			t.Errorf("the action: %d, %q", ended.StatusCode, out.String())
		}
	case err := <-wait.Error:
		t.Fatal(err)
	}
	for _, id := range []string{action.ID, id, service} {
		r.remove(id)
	}
	_, err = r.api.NetworkRemove(t.Context(), "act-two-network", mobyclient.NetworkRemoveOptions{})
	r.check("remove the network", err)
}

// TestGitLabRunner is what GitLab's runner does with its docker executor: a network for the build, a
// service, and containers that get each stage's script by standard input and share volumes.
func TestGitLabRunner(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	r := newRunner(t, e)
	info, err := r.api.Info(t.Context(), mobyclient.InfoOptions{})
	r.check("info", err)
	if info.Info.OSType != "linux" || info.Info.KernelVersion == "" {
		t.Errorf("info: %s %s", info.Info.OSType, info.Info.KernelVersion)
	}
	labels := map[string]string{"com.gitlab.gitlab-runner.managed": "true", "com.gitlab.gitlab-runner.job.id": "1"}
	_, err = r.api.NetworkCreate(t.Context(), "runner-net", mobyclient.NetworkCreateOptions{Driver: "bridge", Labels: labels})
	r.check("create a network", err)
	for _, name := range []string{"runner-builds", "runner-cache"} {
		_, err := r.api.VolumeCreate(t.Context(), mobyclient.VolumeCreateOptions{Name: name, Labels: labels})
		r.check("create a volume", err)
	}
	service := r.start("runner-service", &container.Config{Image: "busybox", Cmd: []string{"sh", "-c", "echo ready; sleep 1000"}, Labels: labels},
		&container.HostConfig{NetworkMode: "runner-net", RestartPolicy: container.RestartPolicy{Name: "no"}}, &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"runner-net": {Aliases: []string{"db", "postgres"}}}})

	stage := func(script string) (out string, code int64) {
		t.Helper()
		made, err := r.api.ContainerCreate(t.Context(), mobyclient.ContainerCreateOptions{
			Config: &container.Config{Image: "busybox", Hostname: "runner-host", Cmd: []string{"sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi"}, Labels: labels, Tty: false,
				AttachStdin: true, AttachStdout: true, AttachStderr: true, OpenStdin: true, StdinOnce: true, Env: []string{"CI=true", "CI_JOB_ID=1"}},
			HostConfig: &container.HostConfig{NetworkMode: "runner-net", Binds: []string{"runner-builds:/builds", "runner-cache:/cache"}, RestartPolicy: container.RestartPolicy{Name: "no"},
				LogConfig: container.LogConfig{Type: "json-file"}, Privileged: false},
		})
		r.check("create a stage", err)
		defer r.remove(made.ID)
		stream, err := r.api.ContainerAttach(t.Context(), made.ID, mobyclient.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
		r.check("attach", err)
		defer stream.Close()
		_, err = r.api.ContainerStart(t.Context(), made.ID, mobyclient.ContainerStartOptions{})
		r.check("start", err)
		wait := r.api.ContainerWait(t.Context(), made.ID, mobyclient.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
		_, err = io.WriteString(stream.Conn, script)
		r.check("send the script", err)
		r.check("end the input", stream.CloseWrite())
		var both bytes.Buffer
		_, err = stdcopy.StdCopy(&both, &both, stream.Reader)
		r.check("read the output", err)
		select {
		case ended := <-wait.Result:
			return both.String(), ended.StatusCode
		case err := <-wait.Error:
			t.Fatal(err)
		}
		return "", 0
	}
	if out, code := stage("set -e\necho fetching\nmkdir -p /builds/p\necho source >/builds/p/file\n"); out != "fetching\n" || code != 0 {
		t.Errorf("get sources: %q, %d", out, code)
	}
	if out, code := stage("set -e\ncd /builds/p\ncat file\nnslookup -type=a postgres | grep -c '^Name'\nhostname\necho $CI\nexit 3\n"); out != "source\n1\nrunner-host\ntrue\n" || code != 3 {
		t.Errorf("the step: %q, %d", out, code)
	}
	logs, err := r.api.ContainerLogs(t.Context(), service, mobyclient.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true})
	r.check("the service's log", err)
	var said bytes.Buffer
	_, err = stdcopy.StdCopy(&said, &said, logs)
	logs.Close()
	if err != nil || !strings.HasSuffix(said.String(), "Z ready\n") {
		t.Errorf("the service's log: %q, %v", said.String(), err)
	}
	timeout := 0
	_, err = r.api.ContainerStop(t.Context(), service, mobyclient.ContainerStopOptions{Timeout: &timeout})
	r.check("stop the service", err)
	r.remove(service)
	left, err := r.api.ContainerList(t.Context(), mobyclient.ContainerListOptions{All: true, Filters: mobyclient.Filters{}.Add("label", "com.gitlab.gitlab-runner.managed=true")})
	r.check("list", err)
	if len(left.Items) != 0 {
		t.Errorf("left: %+v", left.Items)
	}
	_, err = r.api.NetworkRemove(t.Context(), "runner-net", mobyclient.NetworkRemoveOptions{})
	r.check("remove the network", err)
}
