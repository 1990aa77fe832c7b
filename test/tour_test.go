package test

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/testkit"
)

// TestTour types what lectures, books and posts teach people to type, as far as the
// parts exist: each chapter is a line of the textbooks' usual contents. A registry on
// loopback stands in for docker.io, so that the short names work. Chapters that still
// wait for their subsystem: serve and published ports, build and its cache, stages and
// far contexts, compose, an ordinary user without root.
func TestTour(t *testing.T) {
	maker := testkit.StartEngine(t, testkit.EngineOptions{})
	hub := testkit.Registry(t, testkit.RegistryOptions{})
	maker.Busybox()
	maker.Must("tag", "busybox", hub.Addr+"/library/alpine:latest")
	maker.Must("push", hub.Addr+"/library/alpine:latest")
	maker.Must("import", "--change", `CMD ["bash"]`, testkit.DebianTar(t), hub.Addr+"/library/debian:12")
	maker.Must("push", hub.Addr+"/library/debian:12")
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--registry-mirror", "http://" + hub.Addr}})

	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) { tour(t, e, c, hub.Addr) })
	}
}

func tour(t *testing.T, e *testkit.Engine, c client, hub string) {
	expect := func(what, got, pattern string) {
		t.Helper()
		if !regexp.MustCompile(pattern).MatchString(got) {
			t.Errorf("%s: %q does not look like %s", what, got, pattern)
		}
	}
	t.Run("pull", func(t *testing.T) {
		expect("pull alpine", c.must(e, "pull", "alpine"), `(?s)Using default tag: latest\nlatest: Pulling from library/alpine\n.*Pull complete.*Digest: sha256:[0-9a-f]{64}\nStatus: Downloaded newer image for alpine:latest\ndocker.io/library/alpine:latest`)
		expect("images", c.must(e, "images"), `(?s)REPOSITORY +TAG +IMAGE ID +CREATED +SIZE\nalpine +latest +[0-9a-f]{12} `)
		expect("inspect alpine", c.must(e, "inspect", "alpine"), `(?s)"Id": "sha256:.*"RepoTags": \[\n\s+"alpine:latest".*"RepoDigests".*"Created".*"Layers"`)
	})
	t.Run("run", func(t *testing.T) {
		expect("run", c.must(e, "run", "alpine", "echo", "Hello, world!"), `^Hello, world!$`)
		program := filepath.Join(e.Bin, "berth")
		if c.name == "docker" {
			program = testkit.DockerCLI(t)
		}
		p := testkit.OnTerminal(t, e.Env(), program, "run", "-it", "alpine", "sh")
		p.Expect("# ")
		p.Type("echo in $((1+1))\r")
		p.Expect("in 2")
		p.Type("exit\r")
		if code := p.Exit(); code != 0 {
			t.Errorf("exit %d", code)
		}
		expect("without -i and -t a shell ends at once", c.must(e, "run", "alpine", "sh"), `^$`)
		expect("another distribution", c.must(e, "run", "--rm", "debian:12", "cat", "/etc/debian_version"), `^12\.`)
	})
	t.Run("look", func(t *testing.T) {
		id := c.must(e, "run", "-d", "alpine", "sh", "-c", "echo started; sleep 1000")
		expect("ps", c.must(e, "ps"), `(?s)CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES\n`+id[:12]+` +alpine +"sh -c 'echo started…" +.* ago +Up .* second.* [a-z]+_[a-z]+`)
		expect("ps -a", c.must(e, "ps", "-a"), `Exited \(0\) .* ago`)
		testkit.Eventually(t, "the log line", func() bool { return c.must(e, "logs", id) == "started" })
		expect("exec", c.must(e, "exec", id, "sh", "-c", "echo inside"), `^inside$`)
		c.must(e, "stop", "-t", "0", id)
		expect("ps -a after stop", c.must(e, "ps", "-a", "--filter", "id="+id, "--format", "{{.Status}}"), `^Exited \(137\)`)
	})
	t.Run("clean", func(t *testing.T) {
		c.must(e, "create", "--name", "gone", "alpine")
		expect("rm", c.must(e, "rm", "gone"), `^gone$`)
		expect("container prune", c.must(e, "container", "prune", "-f"), `(?s)Deleted Containers:\n[0-9a-f]{64}.*Total reclaimed space:`)
		c.must(e, "tag", "alpine", "mine:1")
		expect("rmi", c.must(e, "rmi", "mine:1"), `^Untagged: mine:1$`)
	})
	t.Run("registry", func(t *testing.T) {
		c.must(e, "tag", "alpine", hub+"/again:1")
		expect("push", c.must(e, "push", hub+"/again:1"), `(?s)1: digest: sha256:[0-9a-f]{64} size: `)
		expect("push of what is there", c.must(e, "push", hub+"/again:1"), `(?s)Layer already exists|Mounted from`)
		c.must(e, "rmi", hub+"/again:1")
		byHand(t, "http://"+hub, "library/alpine", "latest")
	})
	t.Run("take apart", func(t *testing.T) {
		archive := filepath.Join(e.Dir, "apart.tar")
		c.must(e, "save", "-o", archive, "alpine")
		names := strings.Join(tarNames(t, archive), "\n")
		for _, want := range []string{"manifest.json", "index.json", "oci-layout", "blobs/sha256/"} {
			if !strings.Contains(names, want) {
				t.Errorf("the saved archive has no %s:\n%s", want, names)
			}
		}
		expect("history", c.must(e, "history", "alpine"), `IMAGE +CREATED +CREATED BY +SIZE +COMMENT\n[0-9a-f]{12}`)
	})
	t.Run("what it is", func(t *testing.T) {
		id := c.must(e, "run", "-d", "alpine", "sleep", "1000")
		pid := c.must(e, "inspect", "-f", "{{.State.Pid}}", id)
		status, err := os.ReadFile("/proc/" + pid + "/status")
		if err != nil {
			t.Fatal(err)
		}
		expect("/proc/PID/status", string(status), `(?s)CapEff:\t00000000a80425fb.*Seccomp:\t2`)
		mounts, _ := os.ReadFile("/proc/" + pid + "/mountinfo")
		expect("/proc/PID/mountinfo", string(mounts), `(?m)^\d+ \d+ \d+:\d+ / / rw.* - overlay overlay`)
		cgroups, _ := os.ReadFile("/proc/" + pid + "/cgroup")
		expect("/proc/PID/cgroup", string(cgroups), id)
		expect("ps inside", c.must(e, "exec", id, "ps"), `(?m)^ *1 .*sleep 1000$`)
		expect("ip addr inside", c.must(e, "exec", id, "ip", "addr"), `inet 127\.0\.0\.1/8`)
		expect("hostname inside", c.must(e, "exec", id, "hostname"), `^`+id[:12]+`$`)
		expect("mount inside", c.must(e, "exec", id, "mount"), `overlay on / type overlay`)
		c.must(e, "rm", "-f", id)
	})
	for _, id := range strings.Fields(c.must(e, "ps", "-aq")) {
		c.must(e, "rm", "-f", id)
	}
	c.must(e, "rmi", "alpine", "debian:12")
}

// byHand reads an image from a registry with plain HTTP, as a lecture does with curl, and
// checks that every digest is the sha256 of what came.
func byHand(t *testing.T, base, repo, tag string) {
	t.Helper()
	get := func(path, accept, digest string) []byte {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("GET %s: %s, %v", path, resp.Status, err)
		}
		if digest == "" {
			digest = resp.Header.Get("Docker-Content-Digest")
		}
		if sum := sha256.Sum256(data); digest != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Errorf("%s has digest %x, was called %s", path, sum, digest)
		}
		return data
	}
	var m struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	data := get(fmt.Sprintf("/v2/%s/manifests/%s", repo, tag), "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json", "")
	if err := json.Unmarshal(data, &m); err != nil || len(m.Layers) == 0 {
		t.Fatalf("manifest: %v\n%s", err, data)
	}
	get(fmt.Sprintf("/v2/%s/blobs/%s", repo, m.Config.Digest), "*/*", m.Config.Digest)
	for _, l := range m.Layers {
		get(fmt.Sprintf("/v2/%s/blobs/%s", repo, l.Digest), "*/*", l.Digest)
	}
}

func tarNames(t *testing.T, path string) (names []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}
