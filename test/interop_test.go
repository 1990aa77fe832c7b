package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// manifestOf is what an image in a registry is made of, as skopeo reads it.
type manifestOf struct {
	MediaType string
	Config    struct{ Digest string }
	Layers    []struct{ Digest, MediaType string }
}

func readManifest(t *testing.T, e *testkit.Engine, ref string) (m manifestOf) {
	t.Helper()
	if err := json.Unmarshal([]byte(skopeo(t, e, "inspect", "--tls-verify=false", "--raw", "docker://"+ref)), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// buildTwoLayers has buildah build an image of two layers that tells who made it.
func buildTwoLayers(t *testing.T, b *testkit.Peer, name string) {
	t.Helper()
	note := filepath.Join(b.Dir, "note")
	if err := os.WriteFile(note, []byte("made by buildah\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	base := b.Must("from", "scratch")
	b.Must("add", "--quiet", base, testkit.BusyboxTar(t), "/")
	b.Must("commit", "--quiet", base, "localhost/base")
	c := b.Must("from", "localhost/base")
	b.Must("copy", "--quiet", c, note, "/note")
	b.Must("config", "--cmd", `["cat","/note"]`, "--env", "MAKER=buildah", "--label", "maker=buildah", c)
	b.Must("commit", "--quiet", c, name)
}

func TestImagesOfOtherToolsArePulledLoadedAndRun(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	at := func(name string) string { return reg.Addr + "/" + name + ":1" }
	archives := map[string]string{} // file → what it says when it is run
	file := func(name, says string) string {
		path := filepath.Join(e.Dir, name)
		archives[path] = says
		return path
	}
	// What was pushed is pulled, by its digest the same, and run.
	pulled := func(t *testing.T, name, says string) {
		t.Helper()
		want := readManifest(t, e, at(name))
		e.Must("pull", at(name))
		if got := e.Must("inspect", "-f", "{{.Id}} {{len .RootFS.Layers}}", at(name)); got != want.Config.Digest+" "+itoa(len(want.Layers)) {
			t.Errorf("pulled %s, the registry has %s of %d layers", got, want.Config.Digest, len(want.Layers))
		}
		if digest := digestOf(t, e, at(name)); !strings.Contains(e.Must("inspect", "-f", "{{.RepoDigests}}", at(name)), digest) {
			t.Errorf("pulled another digest than %s", digest)
		}
		if got := e.Must("run", "--rm", "--network", "none", at(name)); got != says {
			t.Errorf("run says %q, want %q", got, says)
		}
		e.Must("rmi", at(name))
	}
	t.Run("podman", func(t *testing.T) {
		p := testkit.Podman(t)
		says := "made by podman"
		p.Must("import", "--quiet", "--change", `CMD ["echo","`+says+`"]`, testkit.BusyboxTar(t), "localhost/podman:1")
		for _, format := range []string{"oci", "v2s2"} {
			p.Must("push", "--quiet", "--tls-verify=false", "--format", format, "localhost/podman:1", at("podman-"+format))
			pulled(t, "podman-"+format, says)
		}
		p.Must("push", "--quiet", "--tls-verify=false", "--format", "oci", "--compression-format", "zstd", "localhost/podman:1", at("podman-zstd"))
		pulled(t, "podman-zstd", says)
		for _, format := range []string{"docker-archive", "oci-archive"} {
			p.Must("save", "--quiet", "--format", format, "-o", file("podman."+format, says), "localhost/podman:1")
		}
	})
	t.Run("buildah", func(t *testing.T) {
		b := testkit.Buildah(t)
		buildTwoLayers(t, b, "localhost/buildah:1")
		b.Must("push", "--quiet", "--tls-verify=false", "localhost/buildah:1", "docker://"+at("buildah"))
		pulled(t, "buildah", "made by buildah")
		b.Must("push", "--quiet", "localhost/buildah:1", "oci-archive:"+file("buildah.oci-archive", "made by buildah")+":buildah:1")
		b.Must("push", "--quiet", "localhost/buildah:1", "docker-archive:"+file("buildah.docker-archive", "made by buildah")+":localhost/buildah:1")

		// skopeo carries it through each of its forms.
		layout, dir := filepath.Join(b.Dir, "layout"), filepath.Join(b.Dir, "dir")
		b.Must("push", "--quiet", "localhost/buildah:1", "oci:"+layout+":1")
		skopeo(t, e, "copy", "-q", "--insecure-policy", "oci:"+layout+":1", "dir:"+dir)
		skopeo(t, e, "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "dir:"+dir, "docker://"+at("skopeo-dir"))
		pulled(t, "skopeo-dir", "made by buildah")
		skopeo(t, e, "copy", "-q", "--insecure-policy", "oci:"+layout+":1", "docker-archive:"+file("skopeo.docker-archive", "made by buildah")+":skopeo/app:1")
		// A layout without any names, as tar packs it.
		if out := e.Run("", "tar", "-C", layout, "-cf", file("layout.tar", "made by buildah"), "."); out.Code != 0 {
			t.Fatal(out.Stderr)
		}
	})
	t.Run("dockerd", func(t *testing.T) {
		d := testkit.Dockerd(t)
		reg.ServeIn(d.Pid)
		says := "made by dockerd"
		d.Must("import", "--change", `CMD ["echo","`+says+`"]`, testkit.BusyboxTar(t), at("dockerd"))
		testkit.Eventually(t, "dockerd reaches the registry", func() bool { return d.Do("push", at("dockerd")).Code == 0 })
		pulled(t, "dockerd", says)
		d.Must("save", "-o", file("dockerd.tar", says), at("dockerd"))
	})
	for path, says := range archives {
		t.Run("load "+filepath.Base(path), func(t *testing.T) {
			out := e.Must("load", "-q", "-i", path)
			_, name, _ := strings.Cut(out, ": ")
			if got := e.Must("run", "--rm", "--network", "none", name); got != says {
				t.Errorf("%s says %q, want %q", name, got, says)
			}
			e.Must("rmi", "-f", name)
		})
	}
	if left := e.Must("images", "-aq"); left != "" {
		t.Errorf("images left: %q", left)
	}
}

func TestOtherToolsReadAndRunWhatBerthPushesAndSaves(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	source, pushed := reg.Addr+"/source/app:1", reg.Addr+"/pushed/app:1"
	b := testkit.Buildah(t)
	buildTwoLayers(t, b, "localhost/app:1")
	b.Must("push", "--quiet", "--tls-verify=false", "localhost/app:1", "docker://"+source)
	e.Must("pull", source)
	e.Must("tag", source, pushed)
	e.Must("push", pushed)
	if was, is := digestOf(t, e, source), digestOf(t, e, pushed); was != is {
		t.Errorf("the round trip made %s of %s", is, was)
	}
	want := readManifest(t, e, pushed)
	archive := filepath.Join(e.Dir, "app.tar")
	e.Must("tag", source, "localhost/saved:1")
	e.Must("save", "-o", archive, "localhost/saved:1")

	const says = "made by buildah"
	for _, tt := range []struct {
		name string
		peer func(testing.TB) *testkit.Peer
	}{{"podman", testkit.Podman}, {"dockerd", testkit.Dockerd}} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.peer(t)
			id := func(ref string) string {
				got := p.Must("image", "inspect", "-f", "{{.Id}}", ref)
				return "sha256:" + strings.TrimPrefix(got, "sha256:")
			}
			if p.Pid != 0 {
				reg.ServeIn(p.Pid)
				testkit.Eventually(t, "the registry answers", func() bool { return p.Do("pull", pushed).Code == 0 })
			} else {
				p.Must("pull", "--quiet", "--tls-verify=false", pushed)
			}
			if got := id(pushed); got != want.Config.Digest {
				t.Errorf("pulled %s, want %s", got, want.Config.Digest)
			}
			if got := p.Run(pushed); got != says {
				t.Errorf("run says %q", got)
			}
			p.Must("rmi", "-f", pushed)
			if out := p.Must("load", "-q", "-i", archive); !strings.Contains(out, "localhost/saved:1") {
				t.Errorf("load says %q", out)
			}
			if got := id("localhost/saved:1"); got != want.Config.Digest {
				t.Errorf("loaded %s, want %s", got, want.Config.Digest)
			}
			if got := p.Run("localhost/saved:1"); got != says {
				t.Errorf("run of what was loaded says %q", got)
			}
		})
	}
	t.Run("buildah", func(t *testing.T) {
		b.Must("rmi", "--all", "--force")
		for _, from := range []string{"docker://" + pushed, "docker-archive:" + archive, "oci-archive:" + archive} {
			c := b.Must("from", "--quiet", "--tls-verify=false", from)
			if got := b.Must("run", "--isolation", "chroot", c, "cat", "/note"); got != says {
				t.Errorf("%s: run says %q", from, got)
			}
			if got := b.Must("inspect", "--format", "{{.FromImageID}}", c); "sha256:"+got != want.Config.Digest {
				t.Errorf("%s: image %s, want %s", from, got, want.Config.Digest)
			}
			b.Must("rm", c)
		}
	})
	t.Run("skopeo", func(t *testing.T) {
		for _, from := range []string{"docker://" + pushed, "oci-archive:" + archive} {
			dir := t.TempDir()
			skopeo(t, e, "copy", "-q", "--insecure-policy", "--src-tls-verify=false", from, "dir:"+dir)
			data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
			var got manifestOf
			if err == nil {
				err = json.Unmarshal(data, &got)
			}
			if err != nil || got.Config != want.Config || len(got.Layers) != len(want.Layers) || got.Layers[1] != want.Layers[1] {
				t.Errorf("%s: %+v, %v, want %+v", from, got, err, want)
			}
		}
	})
}
