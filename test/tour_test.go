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
// wait for their subsystem: build and its cache, stages and far contexts, compose, an
// ordinary user without root.
func TestTour(t *testing.T) {
	maker := testkit.StartEngine(t, testkit.EngineOptions{})
	hub := testkit.Registry(t, testkit.RegistryOptions{})
	maker.Busybox()
	maker.Must("tag", "busybox", hub.Addr+"/library/alpine:latest")
	maker.Must("push", hub.Addr+"/library/alpine:latest")
	maker.Nginx(t)
	for _, image := range []string{"debian:12", "nginx:latest"} {
		maker.Must("tag", image, hub.Addr+"/library/"+image)
		maker.Must("push", hub.Addr+"/library/"+image)
	}
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
	t.Run("serve", func(t *testing.T) {
		port := testkit.FreePort(t)
		get := func() (int, string) {
			r, err := http.Get("http://localhost:" + port)
			if err != nil {
				return 0, err.Error()
			}
			defer r.Body.Close()
			page, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			return r.StatusCode, string(page)
		}
		id := c.must(e, "run", "-d", "-p", port+":80", "nginx")
		testkit.Eventually(t, "nginx listens", func() bool { code, _ := get(); return code == 200 })
		_, page := get()
		expect("curl", page, `<h1>Welcome to nginx!</h1>`)
		expect("ps", c.must(e, "ps", "--filter", "id="+id, "--format", "{{.Ports}}"), `^0\.0\.0\.0:`+port+`->80/tcp, \[::\]:`+port+`->80/tcp$`)
		expect("port", c.must(e, "port", id), `80/tcp -> 0\.0\.0\.0:`+port)
		testkit.Eventually(t, "the access is logged", func() bool {
			return strings.Contains(c.run(e, "exec", id, "cat", "/var/log/nginx/access.log").Stdout, "GET / HTTP/1.1")
		})
		c.must(e, "stop", id)
		_, refused := get()
		expect("curl after stop", refused, `connection refused`)
		c.must(e, "start", id)
		testkit.Eventually(t, "nginx listens again", func() bool { code, _ := get(); return code == 200 })
		c.must(e, "rm", "-f", id)
	})
	t.Run("a real command", func(t *testing.T) {
		port, data := testkit.FreePort(t), filepath.Join(e.Dir, "webapp")
		c.must(e, "run", "-d", "--name", "webapp", "-p", port+":80", "-v", data+":/var/www/data", "-e", "DB_URL=postgres://db/webapp", "--restart", "unless-stopped", "nginx")
		for _, want := range []string{`"Binds": \[\n\s+"` + data + `:/var/www/data"`, `"HostPort": "` + port + `"`, `"Name": "unless-stopped"`,
			`"Destination": "/var/www/data"`, `"DB_URL=postgres://db/webapp"`, `"IPAddress": "\d`} {
			expect("inspect", c.must(e, "inspect", "webapp"), want)
		}
		listens := func() bool {
			r, err := http.Get("http://localhost:" + port)
			if err == nil {
				r.Body.Close()
			}
			return err == nil
		}
		testkit.Eventually(t, "it listens", listens)
		e.Stop()
		if !listens() {
			t.Error("the port went with the engine")
		}
		e.Start()
		expect("after the engine's restart", c.must(e, "inspect", "-f", "{{.State.Status}}", "webapp"), `^running$`)
		testkit.Eventually(t, "it still listens", listens)
		c.must(e, "rm", "-f", "webapp")
	})
	t.Run("names and data", func(t *testing.T) {
		expect("network create", c.must(e, "network", "create", "app"), `^[0-9a-f]{64}$`)
		expect("volume create", c.must(e, "volume", "create", "notes"), `^notes$`)
		c.must(e, "run", "-d", "--name", "web", "--network", "app", "-v", "notes:/var/www/html", "nginx")
		c.must(e, "run", "--rm", "-v", "notes:/notes", "alpine", "sh", "-c", "echo my own page > /notes/index.html")
		testkit.Eventually(t, "the page by name", func() bool {
			return c.run(e, "run", "--rm", "--network", "app", "alpine", "wget", "-qO-", "http://web").Stdout == "my own page\n"
		})
		expect("network ls", c.must(e, "network", "ls"), `(?m)^[0-9a-f]{12} +app +bridge +local$`)
		expect("network inspect", c.must(e, "network", "inspect", "app"), `(?s)"Name": "app".*"Driver": "bridge".*"Subnet": "\d.*"Containers": \{\n.*"Name": "web".*"IPv4Address": "\d`)
		expect("volume ls", c.must(e, "volume", "ls"), `(?m)^local +notes$`)
		c.must(e, "rm", "-f", "web")
		expect("data outlives the container", c.must(e, "run", "--rm", "-v", "notes:/notes", "alpine", "cat", "/notes/index.html"), `^my own page$`)
		expect("volume rm", c.must(e, "volume", "rm", "notes"), `^notes$`)
		expect("network rm", c.must(e, "network", "rm", "app"), `^app$`)
	})
	t.Run("keep a change", func(t *testing.T) {
		c.must(e, "run", "--name", "changed", "alpine", "sh", "-c", "echo changed > /note")
		expect("commit", c.must(e, "commit", "-m", "a note", "changed", "noted:1"), `^sha256:[0-9a-f]{64}$`)
		expect("run", c.must(e, "run", "--rm", "noted:1", "cat", "/note"), `^changed$`)
		expect("history", c.must(e, "history", "noted:1"), `(?m)^[0-9a-f]{12} .* sh -c echo changed > /note .* a note$`)
		c.must(e, "rm", "changed")
		c.must(e, "rmi", "noted:1")
	})
	t.Run("clean", func(t *testing.T) {
		c.must(e, "create", "--name", "gone", "alpine")
		expect("rm", c.must(e, "rm", "gone"), `^gone$`)
		expect("container prune", c.must(e, "container", "prune", "-f"), `(?s)Deleted Containers:\n[0-9a-f]{64}.*Total reclaimed space:`)
		c.must(e, "create", "--name", "gone", "alpine")
		c.must(e, "network", "create", "unused")
		prune := func(answer string) string {
			program := filepath.Join(e.Bin, "berth")
			if c.name == "docker" {
				program = testkit.DockerCLI(t)
			}
			return e.Run(answer, program, "system", "prune").Stdout
		}
		const warning = `(?s)^WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n  - all dangling images\n  - unused build cache\n\nAre you sure you want to continue\? \[y/N\] `
		expect("system prune, refused", prune("n\n"), warning+`(Total reclaimed space: 0B\n)?$`)
		expect("what is there still", c.must(e, "inspect", "-f", "{{.State.Status}}", "gone"), `^created$`)
		expect("system prune", prune("y\n"), warning+`Deleted Containers:\n[0-9a-f]{64}\n.*\nDeleted Networks:\nunused\n.*Total reclaimed space: \S+B\n$`)
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
	c.must(e, "rmi", "alpine", "debian:12", "nginx")
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
