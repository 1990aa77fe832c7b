package test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/testkit"
)

// multiPlatform writes an OCI layout in a tar: busybox, said to be for each of the
// platforms, whose name it prints. The programs are this machine's in all of them.
func multiPlatform(t *testing.T, path, name string, platforms ...ocispec.Platform) {
	t.Helper()
	rootfs, err := os.ReadFile(testkit.BusyboxTar(t))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(rootfs)
	_ = z.Close()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	file := func(name string, data []byte) {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644})
		_, _ = w.Write(data)
	}
	written := map[digest.Digest]bool{}
	blob := func(mediaType string, v any) ocispec.Descriptor {
		data, ok := v.([]byte)
		if !ok {
			data, _ = json.Marshal(v)
		}
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		if !written[d.Digest] {
			file("blobs/sha256/"+d.Digest.Encoded(), data)
		}
		written[d.Digest] = true
		return d
	}
	created := time.Unix(1700000000, 0).UTC()
	two := specs.Versioned{SchemaVersion: 2}
	index := ocispec.Index{Versioned: two, MediaType: ocispec.MediaTypeImageIndex}
	for _, p := range platforms {
		layer := blob(ocispec.MediaTypeImageLayerGzip, packed.Bytes())
		config := blob(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: p, Created: &created,
			Config:  ocispec.ImageConfig{Cmd: []string{"echo", p.Architecture}},
			RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(rootfs)}},
			History: []ocispec.History{{CreatedBy: "for " + p.Architecture}}})
		m := blob(ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: two, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
		m.Platform = &p
		index.Manifests = append(index.Manifests, m)
	}
	top := blob(ocispec.MediaTypeImageIndex, index)
	top.Annotations = map[string]string{"io.containerd.image.name": name}
	outer, _ := json.Marshal(ocispec.Index{Versioned: two, Manifests: []ocispec.Descriptor{top}})
	file("index.json", outer)
	file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	_ = w.Close()
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

var (
	amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispec.Platform{OS: "linux", Architecture: "arm64"}
	s390x = ocispec.Platform{OS: "linux", Architecture: "s390x"}
)

func TestPlatformsOfOneTagOnTheCommandLine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	archive := filepath.Join(e.Dir, "multi.tar")
	multiPlatform(t, archive, "docker.io/library/multi:1", arm64, amd64, s390x)
	e.Must("load", "-i", archive)
	run := func(args ...string) string {
		return e.Must(append(append([]string{"run", "--rm", "--network", "none"}, args...), "multi:1")...)
	}
	if got := run("--platform", "linux/arm64"); got != "arm64" {
		t.Errorf("run --platform: %q", got)
	}
	if got := e.Must("image", "inspect", "--platform", "linux/s390x", "-f", "{{.Architecture}}", "multi:1"); got != "s390x" {
		t.Errorf("image inspect --platform: %q", got)
	}
	if got := e.Must("history", "--platform", "linux/arm64", "--format", "{{.CreatedBy}}", "multi:1"); got != "for arm64" {
		t.Errorf("history --platform: %q", got)
	}
	if got := e.Must("images", "-q"); strings.Count(got, "\n") != 0 || got == "" {
		t.Errorf("one tag is one row: %q", got)
	}
	for _, tree := range []string{e.Must("images", "--tree"), e.MustDocker("images", "--tree")} {
		for _, want := range []string{"multi:1", "linux/amd64", "linux/arm64", "linux/s390x"} {
			if !strings.Contains(tree, want) {
				t.Errorf("--tree lacks %s:\n%s", want, tree)
			}
		}
	}
	r := e.Berth("image", "inspect", "--platform", "linux/riscv64", "multi:1")
	if r.Code != 1 || !strings.Contains(r.Stderr, "linux/arm64") || !strings.Contains(r.Stderr, "does not match the specified platform (linux/riscv64)") {
		t.Errorf("an unknown platform: %d %q", r.Code, r.Stderr)
	}

	// Through a registry, whole, and one by one back.
	ref := reg.Addr + "/multi:1"
	e.Must("tag", "multi:1", ref)
	e.Must("push", ref)
	var index ocispec.Index
	if err := json.Unmarshal([]byte(skopeo(t, e, "inspect", "--raw", "--tls-verify=false", "docker://"+ref)), &index); err != nil || len(index.Manifests) != 3 {
		t.Errorf("pushed %+v, %v", index, err)
	}
	e.Must("push", "--platform", "linux/arm64", reg.Addr+"/multi:1")
	if got := readManifest(t, e, ref); got.Config.Digest == "" {
		t.Error("push --platform left an index")
	}
	e.Must("push", ref)
	e.Must("rmi", ref, "multi:1")
	e.Must("pull", "--platform", "linux/s390x", ref)
	e.Must("pull", ref)
	for _, c := range []struct{ platform, want string }{{"linux/s390x", "s390x"}, {"linux/amd64", "amd64"}} {
		if got := e.Must("run", "--rm", "--network", "none", "--pull", "never", "--platform", c.platform, ref); got != c.want {
			t.Errorf("%s: %q", c.platform, got)
		}
	}
	r = e.Berth("pull", "--platform", "linux/riscv64", ref)
	if r.Code != 1 || !strings.Contains(r.Stderr, "there are: linux/arm64, linux/amd64, linux/s390x") {
		t.Errorf("pull of a platform that is not there: %d %q", r.Code, r.Stderr)
	}

	one := filepath.Join(e.Dir, "one.tar")
	e.MustDocker("save", "--platform", "linux/s390x", "-o", one, ref)
	e.Must("rmi", "--platform", "linux/s390x", ref)
	if r := e.Berth("image", "inspect", "--platform", "linux/s390x", ref); r.Code != 1 {
		t.Errorf("still here after rmi --platform: %q", r.Stdout)
	}
	e.Must("load", "--platform", "linux/s390x", "-i", one)
	if got := e.Must("image", "inspect", "--platform", "linux/s390x", "-f", "{{.Architecture}}", ref); got != "s390x" {
		t.Errorf("loaded again: %q", got)
	}
	e.Must("rmi", ref)
	if r := e.Berth("load", "--platform", "linux/amd64", "-i", one); r.Code != 1 || !strings.Contains(r.Stderr, "no image for linux/amd64; there are: linux/s390x") {
		t.Errorf("load of a platform that is not there: %d %q", r.Code, r.Stderr)
	}
}

func TestImportFromAURLWithAllThatItCanBeTold(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(testkit.BusyboxTar(t)))))
	defer server.Close()
	url := server.URL + "/" + filepath.Base(testkit.BusyboxTar(t))
	out := e.Must("import", "--platform", "linux/arm/v7", "--change", `CMD ["echo","hi"]`, "--change", "ENV A=b", url, "fetched:1")
	if !strings.Contains(out, "Downloading from "+url) || !regexp.MustCompile(`sha256:[0-9a-f]{64}`).MatchString(out) {
		t.Errorf("import says %q", out)
	}
	if got := e.Must("image", "inspect", "-f", "{{.Comment}} {{.Architecture}}/{{.Variant}} {{.Config.Env}}", "fetched:1"); got != "Imported from "+url+" arm/v7 [A=b]" {
		t.Errorf("inspect: %q", got)
	}
	if got := e.Must("run", "--rm", "--network", "none", "--platform", "linux/arm/v7", "fetched:1"); got != "hi" {
		t.Errorf("run: %q", got)
	}
	for _, bad := range []struct{ url, want string }{
		{server.URL + "/none.tar", "404 Not Found"}, {"http://127.0.0.1:1/x.tar", "connection refused"},
	} {
		r := e.Berth("import", bad.url)
		if r.Code != 1 || !strings.Contains(r.Stderr, bad.want) || strings.Count(strings.TrimSpace(r.Stderr), "\n") != 0 {
			t.Errorf("%s: %d %q", bad.url, r.Code, r.Stderr)
		}
	}
}

func TestPushCompressionOnTheCommandLine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	e.Busybox()
	for flag, want := range map[string]string{"zstd:7": "+zstd", "gzip:9": "gzip", "uncompressed": ".tar"} {
		ref := reg.Addr + "/box:" + strings.ReplaceAll(flag, ":", "-")
		e.Must("tag", "busybox", ref)
		e.Must("push", "--compression", flag, ref)
		m := readManifest(t, e, ref)
		if !strings.HasSuffix(m.Layers[0].MediaType, want) {
			t.Errorf("%s: pushed %s", flag, m.Layers[0].MediaType)
		}
		skopeo(t, e, "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "docker://"+ref, "dir:"+t.TempDir())
		e.Must("rmi", ref)
		if got := e.Must("run", "--rm", "--network", "none", ref, "echo", "runs"); !strings.HasSuffix(got, "runs") {
			t.Errorf("%s: %q", flag, got)
		}
	}
	if r := e.Berth("push", "--compression", "lz4", reg.Addr+"/box:x"); r.Code != 1 || !strings.Contains(r.Stderr, `unknown compression "lz4"`) {
		t.Errorf("lz4: %d %q", r.Code, r.Stderr)
	}
}

func TestPruneTellsWhatItFreed(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	import_ := func(name string, changes ...string) {
		args := []string{"import"}
		for _, c := range changes {
			args = append(args, "--change", c)
		}
		e.Must(append(args, testkit.BusyboxTar(t), name)...)
	}
	import_("used:1", "LABEL keep=no a=1", `CMD ["true"]`)
	import_("free:1", "LABEL keep=yes")
	import_("free:2", "LABEL keep=no b=2")
	import_("used:2", "LABEL c=3", `CMD ["true"]`) // takes a name below
	e.Must("create", "--name", "holder", "used:1")
	e.Must("tag", "free:2", "used:2") // what had the name dangles
	freed := func(args ...string) (deleted, space string) {
		out := e.Must(append([]string{"image", "prune", "-f"}, args...)...)
		return out, out[strings.LastIndex(out, ": ")+2:]
	}
	if out, space := freed("--filter", "until=1h"); space != "0B" {
		t.Errorf("nothing is an hour old: %s", out)
	}
	if out, _ := freed(); strings.Count(out, "deleted:") == 0 || strings.Contains(out, "untagged:") {
		t.Errorf("dangling: %s", out)
	}
	if out, space := freed("-a", "--filter", "label=keep=no"); !strings.Contains(out, "untagged: free:2") || !strings.Contains(out, "untagged: used:2") || space != "0B" && !strings.HasSuffix(space, "kB") && !strings.HasSuffix(space, "B") {
		t.Errorf("by label: %s", out)
	}
	if got := e.Must("images", "--format", "{{.Repository}}:{{.Tag}}"); got != "free:1\nused:1" && got != "used:1\nfree:1" {
		t.Errorf("left: %q", got)
	}
	e.Must("rm", "holder")
	out, space := freed("-a")
	if !strings.Contains(out, "untagged: used:1") || !strings.HasSuffix(space, "MB") {
		t.Errorf("all: %s", out)
	}
	for _, dir := range []string{"content/blobs/sha256", "layers/sha256"} {
		if left, _ := filepath.Glob(filepath.Join(e.DataRoot, dir, "*")); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestArtifactsAreRefusedToRunInOneLine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	dir := t.TempDir()
	write := func(name string, data []byte) ocispec.Descriptor {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	}
	chart, config := []byte("a chart"), []byte(`{"name":"chart"}`)
	layer := write(digest.FromBytes(chart).Encoded(), chart)
	layer.MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	c := write(digest.FromBytes(config).Encoded(), config)
	c.MediaType = "application/vnd.cncf.helm.config.v1+json"
	m, _ := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: c, Layers: []ocispec.Descriptor{layer}})
	write("manifest.json", m)
	write("version", []byte("Directory Transport Version: 1.1\n"))
	ref := reg.Addr + "/chart:1"
	skopeo(t, e, "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "dir:"+dir, "docker://"+ref)
	e.Must("pull", ref)
	r := e.Berth("run", "--rm", ref)
	if r.Code != 125 || !strings.Contains(r.Stderr, "is an artifact (application/vnd.cncf.helm.config.v1+json) and no container image") {
		t.Errorf("run: %d %q", r.Code, r.Stderr)
	}
	e.Must("image", "inspect", ref)
	e.Must("tag", ref, reg.Addr+"/copy:1")
	e.Must("push", reg.Addr+"/copy:1")
	if was, is := skopeo(t, e, "inspect", "--raw", "--tls-verify=false", "docker://"+ref), skopeo(t, e, "inspect", "--raw", "--tls-verify=false", "docker://"+reg.Addr+"/copy:1"); was != is {
		t.Errorf("pushed %s, was %s", is, was)
	}
	e.Must("rmi", ref, reg.Addr+"/copy:1")
}

func TestImageRemovedUnderAContainerGoesWithIt(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	for _, name := range []string{"one", "two"} {
		e.Must("create", "--name", name, "--network", "none", "busybox", "cat", "/etc/group")
	}
	e.Must("rmi", "-f", "busybox")
	layers := func() int {
		all, _ := filepath.Glob(filepath.Join(e.DataRoot, "layers", "sha256", "*"))
		return len(all)
	}
	e.Must("rm", "one")
	if got := e.Must("start", "-a", "two"); !strings.Contains(got, "staff") || layers() != 1 {
		t.Errorf("a container of a removed image: %q, %d layers", got, layers())
	}
	e.Must("rm", "two")
	testkit.Eventually(t, "the image's layer goes", func() bool { return layers() == 0 })
}
