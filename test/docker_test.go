package test

import (
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// TestOfficialClientOnARegistry is the day of somebody who has not heard of Berth: the
// official docker client, DOCKER_HOST, and nothing else.
func TestOfficialClientOnARegistry(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	ref := pushedDebian(t, e)
	digest := digestOf(t, e, ref)
	host, _, _ := strings.Cut(ref, "/")
	docker := testkit.DockerCLI(t)

	if v := e.MustDocker("version", "--format", "{{.Server.APIVersion}} {{.Server.MinAPIVersion}}"); !strings.HasSuffix(v, " 1.40") {
		t.Errorf("version: %q", v)
	}
	if info := e.MustDocker("info", "--format", "{{.Swarm.LocalNodeState}} {{.DockerRootDir}}"); info != "inactive "+e.DataRoot {
		t.Errorf("info: %q", info)
	}
	if out := e.MustDocker("pull", ref); !strings.Contains(out, "Digest: "+digest) {
		t.Errorf("pull:\n%s", out)
	}
	p := testkit.OnTerminal(t, e.Env(), docker, "run", "--rm", "-it", "--name", "session", ref, "bash")
	p.Expect("/# ")
	p.Type("stty size; . /etc/os-release; echo $ID\r")
	p.Expect("24 80")
	p.Expect("debian")
	p.Type("exit 4\r")
	if code := p.Exit(); code != 4 {
		t.Errorf("-it ends with %d, want 4", code)
	}

	e.MustDocker("run", "-d", "--name", "web", ref, "sh", "-c", `trap "exit 0" TERM; i=0; while [ $i -lt 3 ]; do echo line $i; i=$((i+1)); done; echo end; while :; do sleep 0.1; done`)
	follow := testkit.OnTerminal(t, e.Env(), docker, "logs", "-f", "web")
	follow.Expect("line 2")
	follow.Expect("end")
	if ps := e.MustDocker("ps", "--format", "{{.Names}} {{.State}}"); ps != "web running" {
		t.Errorf("ps: %q", ps)
	}
	p = testkit.OnTerminal(t, e.Env(), docker, "exec", "-it", "web", "bash")
	p.Expect("/# ")
	p.Type("exit 6\r")
	if code := p.Exit(); code != 6 {
		t.Errorf("exec -it ends with %d, want 6", code)
	}
	if top := e.MustDocker("top", "web"); !strings.Contains(top, "sh -c trap") {
		t.Errorf("top: %q", top)
	}
	e.MustDocker("stop", "web")
	if code := follow.Exit(); code != 0 {
		t.Errorf("logs -f ends with %d", code)
	}
	e.MustDocker("rm", "web")

	e.MustDocker("tag", ref, host+"/mine:2")
	if out := e.MustDocker("push", host+"/mine:2"); !strings.Contains(out, digest) {
		t.Errorf("push:\n%s", out)
	}
	if got := digestOf(t, e, host+"/mine:2"); got != digest {
		t.Errorf("skopeo reads %s back, want %s", got, digest)
	}
	tarball := filepath.Join(e.Dir, "saved.tar")
	e.MustDocker("save", "-o", tarball, ref)
	e.MustDocker("rmi", ref, host+"/mine:2")
	e.MustDocker("load", "-i", tarball)
	e.MustDocker("run", "--rm", ref, "true")
	if out := e.MustDocker("history", "-q", ref); out == "" {
		t.Error("history is empty")
	}
	e.MustDocker("events", "--since", "10m", "--until", "0s")
	e.MustDocker("image", "prune", "-af")
	if left := e.MustDocker("images", "-q"); left != "" {
		t.Errorf("images after prune: %q", left)
	}
}
