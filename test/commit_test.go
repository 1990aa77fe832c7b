package test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/testkit"
)

// changing is a container's command that changes its files in every way that a layer tells.
const changing = `echo new > /added; mkdir -p /dir/sub; echo deep > /dir/sub/f; ln /added /linked; ln -s added /sym
rm /bin/true; rm -r /home/app; mkdir /home/app; chmod 700 /root; echo more >> /etc/passwd; echo mounted > /m/f; echo x >> /etc/hosts; mkfifo /pipe; chmod 4755 /added; chown 7:8 /dir`

func TestCommitMakesAnImageOfAContainersChanges(t *testing.T) {
	for _, driver := range []string{"overlay", "copy"} {
		t.Run(driver, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--storage-driver", driver}})
			reg := testkit.Registry(t, testkit.RegistryOptions{})
			e.Busybox()
			shared := filepath.Join(e.Dir, "m")
			if err := os.Mkdir(shared, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, c := range clients {
				t.Run(c.name, func(t *testing.T) {
					name := reg.Addr + "/" + c.name + ":1"
					c.must(e, "run", "--name", "maker", "--network", "none", "-e", "A=b", "-v", shared+":/m", "--workdir", "/dir", "--label", "own=1", "busybox", "sh", "-c", changing)
					id := c.must(e, "commit", "-a", "Ada", "-m", "all kinds", "-c", `CMD ["cat", "sub/f"]`, "-c", "ENV C=$A", "--change", "LABEL l=1\nEXPOSE 80", "maker", name)
					if got := c.must(e, "run", "--rm", "--network", "none", name); got != "deep" {
						t.Errorf("the image's command says %q", got)
					}
					got := c.must(e, "run", "--rm", "--network", "none", id, "sh", "-c",
						`ls -A /home/app | wc -l; test -e /bin/true; echo $?; test /added -ef /linked; echo $?; stat -c %a /added /root; stat -c %u:%g /dir; readlink /sym; tail -n 1 /etc/passwd; ls -A /m | wc -l; test -p /pipe; echo $?; pwd; echo $C`)
					if want := "0\n1\n0\n4755\n700\n7:8\nadded\nmore\n0\n0\n/dir\nb"; got != want {
						t.Errorf("in the image: %q, want %q", got, want)
					}
					if got := c.must(e, "inspect", "-f", `{{.Author}}|{{.Comment}}|{{json .Config.Cmd}}|{{.Config.Labels}}|{{.Config.ExposedPorts}}|{{len .RootFS.Layers}}`, id); got != `Ada|all kinds|["cat","sub/f"]|map[l:1 own:1]|map[80/tcp:{}]|2` {
						t.Errorf("inspect: %s", got)
					}
					if got := c.must(e, "history", "--format", "{{.CreatedBy}}|{{.Comment}}", name); !strings.HasPrefix(got, "sh -c echo new > /added") || !strings.Contains(got, "|all kinds\n") || strings.Count(got, "\n") != 1 {
						t.Errorf("history: %q", got)
					}
					c.must(e, "push", name)
					c.must(e, "rmi", name)
					if got := c.must(e, "run", "--rm", "--network", "none", name); got != "deep" { // pulled again
						t.Errorf("the pulled image says %q", got)
					}
					c.must(e, "rm", "maker")
					c.must(e, "rmi", name)
				})
			}
		})
	}
}

func TestWhatTheEngineMountsIsNoChange(t *testing.T) {
	for _, driver := range []string{"overlay", "copy"} {
		t.Run(driver, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--storage-driver", driver}})
			e.Busybox() // its /etc has neither hosts nor resolv.conf
			e.Must("create", "--name", "never", "busybox", "true")
			e.Must("run", "--name", "nothing", "--network", "none", "busybox", "true")
			e.Must("run", "--name", "little", "--network", "none", "busybox", "touch", "/etc/own")
			for _, c := range []struct {
				container string
				layers    int
				files     string
			}{{"never", 1, ""}, {"nothing", 1, ""}, {"little", 2, "etc/ etc/own"}} {
				e.Must("commit", c.container, c.container)
				layers := layersOf(t, e, c.container)
				if len(layers) != c.layers {
					t.Errorf("%s: %d layers, want %d", c.container, len(layers), c.layers)
				} else if got := strings.Join(layers[c.layers-1], " "); c.files != "" && got != c.files {
					t.Errorf("%s: the layer holds %s, want %s", c.container, got, c.files)
				}
				if got := e.Must("run", "--rm", "--network", "none", c.container, "true"); got != "" {
					t.Error(got)
				}
			}
		})
	}
}

// layersOf lists the files of each layer of an image, as it is saved.
func layersOf(t *testing.T, e *testkit.Engine, image string) (layers [][]string) {
	t.Helper()
	archive := filepath.Join(e.Dir, "layers.tar")
	e.Must("save", "-o", archive, image)
	return layersIn(t, archive)
}

func layersIn(t *testing.T, archive string) (layers [][]string) {
	t.Helper()
	var manifest []struct{ Layers []string }
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatal(err, manifest)
	}
	for _, name := range manifest[0].Layers {
		var names []string
		var layer io.Reader = bytes.NewReader(files[name])
		if bytes.HasPrefix(files[name], []byte{0x1f, 0x8b}) { // it has been in a registry
			if layer, err = gzip.NewReader(layer); err != nil {
				t.Fatal(err)
			}
		}
		for r := tar.NewReader(layer); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
		}
		slices.Sort(names)
		layers = append(layers, names)
	}
	return layers
}

func TestCommitHoldsARunningContainerStill(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--rm", "--name", "busy", "--network", "none", "busybox", "sh", "-c", "while :; do date > /next; mv /next /now; sleep 0.01; done")
	testkit.Eventually(t, "it writes", func() bool { return e.Berth("exec", "busy", "test", "-s", "/now").Code == 0 })
	events := func(args ...string) string {
		t.Helper()
		since := e.Must("info", "--format", "{{.SystemTime}}")
		e.Must(append([]string{"commit"}, args...)...)
		return strings.Join(strings.Fields(e.Must("events", "--since", since, "--until", e.Must("info", "--format", "{{.SystemTime}}"), "--format", "{{.Type}}:{{.Action}}")), " ")
	}
	if got, want := events("busy", "held"), "container:pause container:unpause image:create image:tag container:commit"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
	if got := e.Must("inspect", "-f", "{{.State.Status}}", "busy"); got != "running" {
		t.Errorf("after commit it is %s", got)
	}
	for _, flag := range []string{"--pause=false", "--no-pause"} {
		if got, want := events(flag, "busy"), "image:create container:commit"; got != want {
			t.Errorf("%s: events %q, want %q", flag, got, want)
		}
	}
	e.Must("pause", "busy")
	if got, want := events("busy"), "image:create container:commit"; got != want {
		t.Errorf("of a paused container: events %q, want %q", got, want)
	}
	if got := e.Must("inspect", "-f", "{{.State.Status}}", "busy"); got != "paused" {
		t.Errorf("a paused container is %s after commit", got)
	}
	e.Must("unpause", "busy")
	e.Must("stop", "-t", "0", "busy")
	testkit.Eventually(t, "--rm", func() bool { return e.Must("ps", "-aq") == "" })
	if got := e.Must("run", "--rm", "--network", "none", "held", "sh", "-c", "test -s /now && echo there"); got != "there" {
		t.Errorf("the image has %q", got)
	}
}

func TestAnEngineKilledInTheMiddleOfACommitLeavesNobodyPaused(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "one", "--network", "none", "busybox", "sleep", "1000")
	for _, point := range []string{"engine.commit.held", "images.commit.read"} {
		e.Stop()
		e.Start("BERTH_FAILPOINT=" + point)
		if r := e.Berth("commit", "one", "half"); r.Code == 0 {
			t.Fatal("the commit was not cut off")
		}
		e.Await()
		e.Start()
		if got := e.Must("inspect", "-f", "{{.State.Status}}", "one"); got != "running" {
			t.Errorf("%s: the container is %s", point, got)
		}
		if got := e.Must("images", "-q", "half"); got != "" {
			t.Errorf("%s: there is half an image: %s", point, got)
		}
		e.Must("exec", "one", "true")
	}
	e.Must("commit", "one", "whole")
}

func TestBadCommitsAreToldInOneLine(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		c.must(e, "create", "--name", "one", "busybox")
		before := c.must(e, "images", "-aq")
		for _, bad := range []struct {
			args []string
			says string
		}{
			{[]string{"nobody"}, "No such container: nobody"},
			{[]string{"one", "UPPER"}, "must be lowercase"},
			{[]string{"one", "a@sha256:" + strings.Repeat("a", 64)}, "refusing to create a tag with a digest reference"},
			{[]string{"-c", "RUN true", "one"}, "RUN is not a valid change command"},
			{[]string{"-c", "ENV", "one"}, "ENV: requires at least one argument"},
			{[]string{"-c", "EXPOSE x", "one"}, "EXPOSE: invalid port"},
		} {
			r := c.run(e, append([]string{"commit"}, bad.args...)...)
			if r.Code != 1 || !strings.Contains(r.Stderr, bad.says) || strings.Count(strings.TrimSpace(r.Stderr), "\n") != 0 || r.Stdout != "" {
				t.Errorf("commit %q: exit %d, %q %q, want %q", bad.args, r.Code, r.Stdout, r.Stderr, bad.says)
			}
		}
		if after := c.must(e, "images", "-aq"); after != before {
			t.Errorf("images before %q, after %q", before, after)
		}
		c.must(e, "rm", "one")
	})
}

func TestCommitIsLikeDockerds(t *testing.T) {
	d := testkit.Dockerd(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	d.Must("import", "--change", `CMD ["sh"]`, "--change", "ENV BASE=1", "--change", "ONBUILD RUN x", testkit.BusyboxTar(t), "busybox:latest")
	e.Must("import", "--change", `CMD ["sh"]`, "--change", "ENV BASE=1", "--change", "ONBUILD RUN x", testkit.BusyboxTar(t), "busybox:latest")
	shared := t.TempDir()
	run := []string{"run", "--name", "one", "--network", "none", "--user", "0:0", "-e", "A=b", "--entrypoint", "sh", "-v", shared + ":/m", "--label", "x=y", "--stop-signal", "INT", "busybox", "-c", changing}
	for name, args := range map[string][]string{
		"plain":      {"commit", "-a", "Ada", "-m", "hello", "one", "i:plain"},
		"changes":    {"commit", "-c", "WORKDIR /dir", "-c", "WORKDIR sub", "-c", "ENV Z=$A", "-c", "VOLUME /v", "-c", "EXPOSE 80/udp", "-c", "USER app", "-c", "HEALTHCHECK CMD x", "-c", "ONBUILD RUN y", "one", "i:changes"},
		"entrypoint": {"commit", "-c", `ENTRYPOINT ["a"]`, "one", "i:entrypoint"},
		"cmd":        {"commit", "-c", `CMD ["a"]`, "one", "i:cmd"},
		"both":       {"commit", "-c", `CMD ["b"]`, "-c", `ENTRYPOINT ["a"]`, "one", "i:both"},
	} {
		t.Run(name, func(t *testing.T) {
			if d.Do("inspect", "one").Code != 0 {
				d.Must(run...)
				e.Must(run...)
			}
			d.Must(args...)
			e.Must(args...)
			for _, format := range []string{
				"{{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.User}} {{json .Config.WorkingDir}} {{json .Config.StopSignal}}",
				"{{json .Config.Env}}", "{{json .Config.Labels}}", "{{json .Config.ExposedPorts}}", "{{json .Config.Volumes}}", "{{json .Config.Healthcheck}}", "{{json .Config.OnBuild}}",
				"{{.Author}}|{{.Comment}}|{{.Os}}/{{.Architecture}}|{{len .RootFS.Layers}}|{{.RepoTags}}",
			} {
				if diff := cmp.Diff(d.Must("inspect", "-f", format, "i:"+name), e.Must("inspect", "-f", format, "i:"+name)); diff != "" {
					t.Errorf("%s (-dockerd +berth):\n%s", format, diff)
				}
			}
			format := "{{.CreatedBy}}|{{.Comment}}"
			if diff := cmp.Diff(d.Must("history", "--no-trunc", "--format", format, "i:"+name), e.Must("history", "--no-trunc", "--format", format, "i:"+name)); diff != "" {
				t.Errorf("history (-dockerd +berth):\n%s", diff)
			}
		})
	}
	archive := filepath.Join(e.Dir, "dockerd.tar")
	d.Must("save", "-o", archive, "i:plain")
	theirs, ours := layersIn(t, archive), layersOf(t, e, "i:plain")
	if diff := cmp.Diff(theirs[1], ours[1]); diff != "" {
		t.Errorf("files of the layer (-dockerd +berth):\n%s", diff)
	}
}
