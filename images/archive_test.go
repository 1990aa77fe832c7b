package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/oci"
	"berth/testkit"
)

// put pulls img into s by a fake registry, and names it.
func put(t *testing.T, s *Store, img testImage, names ...string) Image {
	t.Helper()
	f := newFakeRegistry(t)
	f.add("tmp", img)
	got, err := s.Pull(t.Context(), f.ref(t, ":tmp"), nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := s.Tag(got.ID.String(), named(t, n)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Remove(t.Context(), f.ref(t, ":tmp").String(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Get(got.ID.String()); err != nil && len(names) > 0 {
		t.Fatal(err)
	}
	return got
}

func save(t *testing.T, s *Store, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Save(t.Context(), names, SaveOptions{}, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarNames(t *testing.T, data []byte) (names []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

func TestSavedImageIsReadBySkopeoInBothForms(t *testing.T) {
	s := newStore(t)
	for _, img := range []testImage{
		gzipImage("oci", layerTar("a", "one"), layerTar("b", "two")),
		dockerImage("docker", gz, oci.DockerLayerGzip, layerTar("a", "three")),
		dockerImage("plain", bytes.Clone, oci.DockerLayer, layerTar("a", "four")),
	} {
		put(t, s, img, "demo/app:1")
		file := filepath.Join(t.TempDir(), "app.tar")
		if err := os.WriteFile(file, save(t, s, "demo/app:1"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, source := range []string{"docker-archive:" + file, "oci-archive:" + file} {
			dir := t.TempDir()
			skopeo(t, "copy", source, "dir:"+dir)
			manifest, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(manifest), img.config.Digest.String()) {
				t.Errorf("%s: %s has another configuration than %s", source, manifest, img.config.Digest)
			}
			if strings.HasPrefix(source, "oci") && !strings.Contains(string(manifest), img.layers[0].Digest.String()) {
				t.Errorf("%s: another layer than %s", source, img.layers[0].Digest)
			}
		}
		if tags := skopeo(t, "list-tags", "docker-archive:"+file); !strings.Contains(tags, "demo/app:1") {
			t.Errorf("tags %s", tags)
		}
	}
}

// dockerImage is makeImage with Docker's media types.
func dockerImage(seed string, pack func([]byte) []byte, layerType string, tars ...[]byte) testImage {
	img := makeImage(seed, layerType, pack, tars...)
	delete(img.blobs, img.manifest.Digest)
	var m oci.Manifest
	m.SchemaVersion, m.MediaType, m.Config, m.Layers = 2, oci.DockerManifest, img.config, img.layers
	m.Config.MediaType = oci.DockerConfig
	d, data, _ := describeManifest(m)
	img.manifest, img.config = d, m.Config
	img.blobs[d.Digest] = data
	return img
}

func TestArchiveOfSkopeoIsLoaded(t *testing.T) {
	img := gzipImage("archive", layerTar("a", "one"), layerTar("b", "two"), layerTar("a", "one"))
	layout := img.layout(t, "x")
	for _, form := range []string{"docker-archive", "oci-archive"} {
		for _, pack := range []string{"", "gzip", "bzip2", "xz", "zstd"} {
			t.Run(form+" "+pack, func(t *testing.T) {
				s := newStore(t)
				file := filepath.Join(t.TempDir(), "x.tar")
				skopeo(t, "copy", "oci:"+layout+":x", form+":"+file+":localhost/demo:7")
				if pack != "" {
					if out, err := exec.Command(testkit.NeedTool(t, pack), file).CombinedOutput(); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
					files, _ := filepath.Glob(filepath.Dir(file) + "/x.tar.*")
					file = files[0]
				}
				f, err := os.Open(file)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				var p steps
				names, err := s.Load(t.Context(), f, LoadOptions{}, p.report)
				if err != nil || strings.Join(names, " ") != "localhost/demo:7" {
					t.Fatalf("Load = %v, %v", names, err)
				}
				got, err := s.Get("localhost/demo:7")
				if err != nil || got.ID != img.config.Digest || read(t, s, got.ID, "b") != "two" {
					t.Fatalf("loaded %+v, %v", got, err)
				}
				label := img.diffs[1]
				if form == "oci-archive" {
					label = img.layers[1].Digest
				}
				if p.of(short(label)) != "Loading layer" {
					t.Errorf("steps %+v", p.all)
				}
				want := map[string]int{"layers": 3, "blobs": 4}
				if n := inventory(t, s); n["layers"] != want["layers"] || n["blobs"] != want["blobs"] || len(n) != 2 {
					t.Errorf("there is %v, want %v", n, want)
				}
			})
		}
	}
}

func TestSavedImagesComeBackWithIDsAndNames(t *testing.T) {
	s := newStore(t)
	base := layerTar("a", "base")
	one := put(t, s, gzipImage("one", base), "demo/app:1", "demo/app:2", "other:3")
	two := put(t, s, gzipImage("two", base, layerTar("b", "two")), "demo/two:1")
	for _, tt := range []struct {
		save []string
		want string
	}{
		{[]string{"demo/app:1"}, "demo/app:1"},
		{[]string{"demo/app"}, "demo/app:1 demo/app:2"},
		{[]string{"demo/app:1", "demo/two:1"}, "demo/app:1 demo/two:1"},
		{[]string{one.ID.String()}, one.ID.String()},
		{[]string{two.ID.Encoded()[:12], "demo/two:1"}, "demo/two:1"},
	} {
		data := save(t, s, tt.save...)
		to := newStore(t)
		names, err := to.Load(t.Context(), bytes.NewReader(data), LoadOptions{}, nil)
		if err != nil || strings.Join(names, " ") != tt.want {
			t.Errorf("%v: loaded %v, %v, want %s", tt.save, names, err, tt.want)
			continue
		}
		got, err := to.Get(names[0])
		if err != nil || got.ID != one.ID && got.ID != two.ID || got.Manifest.Digest != one.Manifest.Digest && got.Manifest.Digest != two.Manifest.Digest {
			t.Errorf("%v: %+v, %v", tt.save, got, err)
		}
		if again := save(t, to, tt.want[:strings.IndexAny(tt.want+" ", " ")]); len(tarNames(t, again)) == 0 {
			t.Error("the loaded image cannot be saved")
		}
	}
	if err := s.Save(t.Context(), []string{"demo/none"}, SaveOptions{}, io.Discard); !fail.Is(err, fail.NotFound) || err.Error() != "No such image: demo/none:latest" {
		t.Errorf("got %v", err)
	}
}

// oldArchive is an archive as old Dockers wrote them: layers in directories, one of
// them a link to another's.
func oldArchive(layerName string) ([]byte, oci.Digest) {
	layer := layerTar("a", "old")
	img := makeImage("old", "", bytes.Clone, layer, layer)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	file := func(name string, data []byte) {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644})
		_, _ = w.Write(data)
	}
	config := img.config.Digest.Encoded() + ".json"
	manifest, _ := json.Marshal([]dockerManifest{{Config: config, RepoTags: []string{"old:1"}, Layers: []string{"l1/layer.tar", "l2/layer.tar"}}})
	file("manifest.json", manifest)
	file("./l1/VERSION", []byte("1.0"))
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "l2/layer.tar", Linkname: "../l1/layer.tar"})
	file(layerName, layer)
	file(config, img.blobs[img.config.Digest])
	_ = w.Close()
	return b.Bytes(), img.config.Digest
}

func TestOldArchiveWithLinkedLayersIsLoaded(t *testing.T) {
	s := newStore(t)
	data, id := oldArchive("./l1/layer.tar")
	names, err := s.Load(t.Context(), bytes.NewReader(data), LoadOptions{}, nil)
	if err != nil || len(names) != 1 || names[0] != "old:1" {
		t.Fatalf("Load = %v, %v", names, err)
	}
	if read(t, s, id, "a") != "old" {
		t.Error("wrong root")
	}
}

func TestBadArchivesAreRefusedAndLeaveNothing(t *testing.T) {
	old, _ := oldArchive("./l1/layer.tar")
	missing, _ := oldArchive("l1/other.tar")
	entry := func(name string, data string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644})
		_, _ = io.WriteString(w, data)
		_ = w.Close()
		return b.Bytes()
	}
	for name, tt := range map[string]struct {
		data []byte
		says string
	}{
		"empty":            {nil, "the archive is empty"},
		"no tar":           {noise(2000), "not an image archive"},
		"cut off":          {old[:600], "cut off"},
		"cut gzip":         {gz(old)[:200], "the gzip stream is cut off"},
		"other tar":        {layerTar("etc/passwd", "x"), "neither manifest.json nor index.json"},
		"nothing in it":    {entry("manifest.json", "[]"), "holds no image"},
		"bad json":         {entry("manifest.json", "{"), "manifest.json: "},
		"missing config":   {entry("manifest.json", `[{"Config":"../../../etc/passwd"}]`), `lacks the configuration "../../../etc/passwd"`},
		"bad tag":          {entry("manifest.json", `[{"Config":"x","RepoTags":["A b"]}]`), `invalid tag "A b"`},
		"wrong blob":       {entry("blobs/sha256/"+strings.Repeat("a", 64), "x"), "does not match its digest"},
		"loop of links":    {links(), `lacks the configuration "a"`},
		"missing layer":    {missing, `lacks the layer "l1/layer.tar"`},
		"too deep indexes": {entry("index.json", `{"manifests":[]}`), "holds no image"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.Load(t.Context(), bytes.NewReader(tt.data), LoadOptions{}, nil)
			if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v (%v), want %q", err, fail.Of(err), tt.says)
			}
			if n := inventory(t, s); n["blobs"] != 0 || n["layers"] != 0 || len(n) != 1 {
				t.Errorf("left %v", n)
			}
		})
	}
}

func links() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "b"})
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "b", Linkname: "a"})
	manifest := `[{"Config":"a"}]`
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Size: int64(len(manifest)), Mode: 0o644})
	_, _ = io.WriteString(w, manifest)
	_ = w.Close()
	return b.Bytes()
}

func TestLoadedImageKeepsTheManifestItWasPulledWith(t *testing.T) {
	s := newStore(t)
	img := gzipImage("kept", layerTar("a", "one"))
	data := save(t, func() *Store { o := newStore(t); put(t, o, img, "demo:1"); return o }(), "demo:1")
	pulled := put(t, s, img, "demo:0")
	if _, err := s.Load(t.Context(), bytes.NewReader(data), LoadOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get("demo:1")
	if err != nil || got.Manifest.Digest != pulled.Manifest.Digest || len(got.RepoTags) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLoadedImageIsCompressedOnceForPush(t *testing.T) {
	s := newStore(t)
	server := testkit.Registry(t, testkit.RegistryOptions{})
	data, id := oldArchive("./l1/layer.tar")
	if _, err := s.Load(t.Context(), bytes.NewReader(data), LoadOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	ref := named(t, server.Addr+"/old:1")
	if err := s.Tag("old:1", ref); err != nil {
		t.Fatal(err)
	}
	var digests []string
	for range 2 {
		var p steps
		if err := s.Push(t.Context(), ref, PushOptions{}, nil, p.report); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, p.all[len(p.all)-1].Aux.(Pushed).Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("two pushes gave %v", digests)
	}
	if n := inventory(t, s); n["blobs"] != 3 || n["leases"] != 0 {
		t.Errorf("there is %v", n)
	}
	var m ocispec.Manifest
	raw := skopeo(t, "inspect", "--tls-verify=false", "--raw", "docker://"+ref.String())
	if err := json.Unmarshal([]byte(raw), &m); err != nil || m.Config.Digest != id || m.Layers[0].MediaType != oci.DockerLayerGzip {
		t.Errorf("skopeo reads %s, %v", raw, err)
	}
	// What the registry has is a whole image again, here and for skopeo.
	skopeo(t, "copy", "--src-tls-verify=false", "docker://"+ref.String(), "dir:"+t.TempDir())
	to := newStore(t)
	got, err := to.Pull(t.Context(), ref, nil, nil, nil)
	if err != nil || got.ID != id || read(t, to, got.ID, "a") != "old" {
		t.Errorf("pulled %+v, %v", got, err)
	}
}
