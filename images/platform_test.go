package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/oci"
	"berth/testkit"
)

// multi is an index with an image for each platform and what else comes along.
type multi struct {
	testImage
	of map[string]testImage
}

func parse(t testing.TB, s string) oci.Platform {
	t.Helper()
	p, err := platforms.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// makeMulti makes an index; each image holds its platform's name in the file "platform".
func makeMulti(t testing.TB, seed string, all ...string) multi {
	t.Helper()
	m := multi{testImage{blobs: map[oci.Digest][]byte{}}, map[string]testImage{}}
	var ix oci.Index
	ix.SchemaVersion, ix.MediaType = 2, ocispec.MediaTypeImageIndex
	for _, name := range all {
		img := gzipImage(seed+name, layerTar("base", seed), layerTar("platform", name))
		var c oci.Image
		_ = json.Unmarshal(img.blobs[img.config.Digest], &c)
		c.Platform = parse(t, name)
		img.rebuild(c, img.layers)
		m.of[name] = img
		for d, b := range img.blobs {
			m.blobs[d] = b
		}
		d := img.manifest
		d.Platform = &c.Platform
		ix.Manifests = append(ix.Manifests, d)
	}
	m.seal(ix)
	return m
}

// seal makes ix what m is.
func (m *multi) seal(ix oci.Index) {
	data, _ := json.Marshal(ix)
	m.manifest = oci.Descriptor{MediaType: ix.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	m.blobs[m.manifest.Digest] = data
}

// attest adds an attestation of the platform, as BuildKit does.
func (m *multi) attest(name string) (manifest oci.Digest) {
	a := makeImage("attestation", "application/vnd.in-toto+json", bytes.Clone, []byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`))
	for d, b := range a.blobs {
		m.blobs[d] = b
	}
	var ix oci.Index
	_ = json.Unmarshal(m.blobs[m.manifest.Digest], &ix)
	delete(m.blobs, m.manifest.Digest)
	d := a.manifest
	d.Platform = &oci.Platform{OS: "unknown", Architecture: "unknown"}
	d.Annotations = map[string]string{annotationReferenceType: "attestation-manifest", annotationReferenceDigest: m.of[name].manifest.Digest.String()}
	ix.Manifests = append(ix.Manifests, d)
	m.seal(ix)
	return d.Digest
}

// layoutTar is img as an OCI layout in a tar, named by index.json's annotation.
func layoutTar(img testImage, name string) []byte {
	files := []string{"oci-layout", `{"imageLayoutVersion":"1.0.0"}`}
	for _, d := range slices.Sorted(maps.Keys(img.blobs)) {
		files = append(files, blobPath(d), string(img.blobs[d]))
	}
	m := img.manifest
	if name != "" {
		m.Annotations = map[string]string{annotationImageName: name}
	}
	ix, _ := json.Marshal(oci.Index{Manifests: []oci.Descriptor{m}})
	return layerTar(append(files, "index.json", string(ix))...)
}

func load(t testing.TB, s *Store, data []byte, all ...string) []string {
	t.Helper()
	var o LoadOptions
	for _, p := range all {
		o.Platforms = append(o.Platforms, parse(t, p))
	}
	names, err := s.Load(t.Context(), bytes.NewReader(data), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestPlatformsAreMatchedAsDockerDoes(t *testing.T) {
	for _, tt := range []struct{ have, ask, want string }{
		{"linux/amd64 linux/arm64", "linux/arm64/v8", "linux/arm64"},
		{"linux/386", "linux/amd64", "linux/386"},
		{"linux/386 linux/amd64", "linux/amd64", "linux/amd64"},
		{"linux/amd64 linux/386", "linux/386", "linux/386"},
		{"linux/arm/v6 linux/arm/v7", "linux/arm/v7", "linux/arm/v7"},
		{"linux/arm/v5 linux/arm/v6", "linux/arm/v7", "linux/arm/v6"},
		{"linux/arm/v7", "linux/arm/v6", ""},
		{"linux/arm/v7", "linux/arm64", "linux/arm/v7"},
		{"linux/amd64 linux/amd64/v2 linux/amd64/v3", "linux/amd64", "linux/amd64"},
		{"linux/amd64 linux/amd64/v2 linux/amd64/v3", "linux/amd64/v2", "linux/amd64/v2"},
		{"linux/amd64 linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v2"},
		{"linux/amd64/v3", "linux/amd64", ""},
		{"linux/s390x", "linux/amd64", ""},
		{"windows/amd64", "linux/amd64", ""},
	} {
		t.Run(tt.ask+" of "+tt.have, func(t *testing.T) {
			s := newStore(t)
			have := strings.Fields(tt.have)
			m := makeMulti(t, "match", have...)
			f := newFakeRegistry(t)
			f.add("1", m.testImage)
			for _, p := range have { // what the index tells of a manifest is enough
				f.add("x", m.of[p])
			}
			ask := parse(t, tt.ask)
			got, err := s.Pull(t.Context(), f.ref(t, ":1"), &ask, nil, nil)
			if tt.want == "" {
				if !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "there are: "+strings.Join(have, ", ")) {
					t.Fatalf("got %v, %v", got.Config.Platform, err)
				}
				return
			}
			if err != nil || got.ID != m.of[tt.want].config.Digest {
				t.Fatalf("got %v, %v", got.Config.Platform, err)
			}
			if again, err := s.GetFor(f.ref(t, ":1").String(), &ask); err != nil || again.ID != got.ID {
				t.Errorf("then found: %v, %v", again.ID, err)
			}
		})
	}
}

func TestLoadedIndexKeepsAllPlatformsAndAttestations(t *testing.T) {
	s := newStore(t)
	m := makeMulti(t, "whole", "linux/amd64", "linux/arm64", "linux/arm/v7")
	attestation := m.attest("linux/amd64")
	names := load(t, s, layoutTar(m.testImage, "docker.io/demo/multi:1"))
	if len(names) != 1 || names[0] != "demo/multi:1" {
		t.Fatalf("loaded %v", names)
	}
	for name, img := range m.of {
		p := parse(t, name)
		got, err := s.GetExact("demo/multi:1", &p)
		if err != nil || got.ID != img.config.Digest || read(t, s, got.ID, "platform") != name {
			t.Errorf("%s: %v, %v", name, got.ID, err)
		}
		rows, err := s.History("demo/multi:1", &p)
		if err != nil || rows[0].ID != img.config.Digest.String() {
			t.Errorf("history for %s: %v, %v", name, rows, err)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != 1 || all[0].Target.Digest != m.manifest.Digest {
		t.Fatalf("list: %+v, %v", all, err)
	}
	parts, err := s.Manifests(all[0].ID)
	if err != nil || len(parts) != 4 {
		t.Fatalf("parts: %+v, %v", parts, err)
	}
	for _, p := range parts {
		if !p.Available || p.Content == 0 {
			t.Errorf("part %+v is not wholly here", p)
		}
		if (p.Attests == m.of["linux/amd64"].manifest.Digest) != (p.Descriptor.Digest == attestation) {
			t.Errorf("part %s attests %q", p.Descriptor.Digest, p.Attests)
		}
	}

	// What is saved is the whole again, byte for byte.
	saved := save(t, s, "demo/multi:1")
	entries := untar(t, saved)
	for d, data := range m.blobs {
		if !bytes.Equal(entries[blobPath(d)], data) {
			t.Errorf("the archive lacks %s", d)
		}
	}
	if again := save(t, s, "demo/multi:1"); !bytes.Equal(saved, again) {
		t.Error("a second archive differs")
	}
	var ix oci.Index
	if err := json.Unmarshal(entries["index.json"], &ix); err != nil || len(ix.Manifests) != 1 || ix.Manifests[0].Digest != m.manifest.Digest {
		t.Errorf("index.json: %s", entries["index.json"])
	}

	// And what is pushed.
	server := testkit.Registry(t, testkit.RegistryOptions{})
	ref := named(t, server.Addr+"/multi:1")
	if err := s.Tag("demo/multi:1", ref); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), ref, PushOptions{}, nil, nil); err != nil {
		t.Fatal(err)
	}
	o := newStore(t)
	for name, img := range m.of {
		p := parse(t, name)
		got, err := o.Pull(t.Context(), ref, &p, nil, nil)
		if err != nil || got.ID != img.config.Digest || got.Target.Digest != m.manifest.Digest {
			t.Errorf("pulled back %s: %v of %v, %v", name, got.ID, got.Target.Digest, err)
		}
	}
	if _, err := s.registry.Repository(ref, nil).Manifest(t.Context(), oci.Descriptor{Digest: attestation}); err != nil {
		t.Errorf("the attestation was not pushed: %v", err)
	}

	if _, err := s.Remove(t.Context(), ref.String(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "demo/multi:1", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := inventory(t, s); n["blobs"]+n["layers"] != 0 {
		t.Errorf("left %v", n)
	}
}

// untar reads an archive's files.
func untar(t testing.TB, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestPlatformsAreSavedLoadedPushedAndRemovedSingly(t *testing.T) {
	s := newStore(t)
	m := makeMulti(t, "single", "linux/amd64", "linux/arm64", "linux/s390x")
	load(t, s, layoutTar(m.testImage, "docker.io/demo/multi:1"))
	arm := parse(t, "linux/arm64")

	var b bytes.Buffer
	if err := s.Save(t.Context(), []string{"demo/multi:1"}, SaveOptions{Platforms: []oci.Platform{arm}}, &b); err != nil {
		t.Fatal(err)
	}
	o := newStore(t)
	load(t, o, b.Bytes())
	if got, err := o.Get("demo/multi:1"); err != nil || got.ID != m.of["linux/arm64"].config.Digest || got.Target.Digest != m.manifest.Digest {
		t.Errorf("saved alone: %v, %v", got.ID, err)
	}
	if _, err := o.GetExact("demo/multi:1", ptr(parse(t, "linux/amd64"))); !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "platform (linux/arm64) does not match") {
		t.Errorf("another platform: %v", err)
	}
	// A platform that comes later joins the first.
	load(t, o, layoutTar(m.testImage, "docker.io/demo/multi:1"), "linux/s390x")
	if got, err := o.GetExact("demo/multi:1", &arm); err != nil || got.ID != m.of["linux/arm64"].config.Digest {
		t.Errorf("the first platform lost the name: %v", err)
	}
	if got, err := o.GetExact("demo/multi:1", ptr(parse(t, "linux/s390x"))); err != nil || got.ID != m.of["linux/s390x"].config.Digest {
		t.Errorf("the second: %v", err)
	}
	_, err := o.Load(t.Context(), bytes.NewReader(layoutTar(m.testImage, "")), LoadOptions{Platforms: []oci.Platform{parse(t, "linux/riscv64")}}, nil)
	if !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "no image for linux/riscv64; there are: linux/amd64, linux/arm64, linux/s390x") {
		t.Errorf("got %v", err)
	}
	if err := o.CanSave([]string{"demo/multi:1"}, SaveOptions{Platforms: []oci.Platform{parse(t, "linux/amd64")}}); !fail.Is(err, fail.NotFound) {
		t.Errorf("saving what is not here: %v", err)
	}

	server := testkit.Registry(t, testkit.RegistryOptions{})
	ref := named(t, server.Addr+"/multi:arm")
	if err := s.Tag("demo/multi:1", ref); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), ref, PushOptions{Platform: &arm}, nil, nil); err != nil {
		t.Fatal(err)
	}
	d, err := s.registry.Repository(ref, nil).Resolve(t.Context(), "arm", nil)
	if err != nil || d.Digest != m.of["linux/arm64"].manifest.Digest {
		t.Errorf("pushed alone: %v, %v", d.Digest, err)
	}

	log, err := s.Remove(t.Context(), "demo/multi:1", RemoveOptions{Platforms: []oci.Platform{arm}})
	if err != nil || slices.ContainsFunc(log, func(r Removal) bool { return r.Untagged != "" }) {
		t.Fatalf("removed %v, %v", log, err)
	}
	if _, err := s.GetExact("demo/multi:1", &arm); !fail.Is(err, fail.NotFound) {
		t.Errorf("still here: %v", err)
	}
	if got, err := s.Get("demo/multi:1"); err != nil || got.ID != m.of["linux/amd64"].config.Digest {
		t.Errorf("the others: %v, %v", got.ID, err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestPartOfAnIndexIsPushedAsOneImageOrRefused(t *testing.T) {
	s := newStore(t)
	m := makeMulti(t, "part", "linux/amd64", "linux/arm64", "linux/s390x")
	f := newFakeRegistry(t)
	f.add("1", m.testImage)
	for _, img := range m.of {
		f.add("x", img)
	}
	server := testkit.Registry(t, testkit.RegistryOptions{})
	ref := named(t, server.Addr+"/part:1")
	pull := func(name string) {
		p := parse(t, name)
		if _, err := s.Pull(t.Context(), f.ref(t, ":1"), &p, nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Tag(f.ref(t, ":1").String(), ref); err != nil {
			t.Fatal(err)
		}
	}
	pull("linux/amd64")
	var p steps
	if err := s.Push(t.Context(), ref, PushOptions{}, nil, p.report); err != nil {
		t.Fatal(err)
	}
	if d, err := s.registry.Repository(ref, nil).Resolve(t.Context(), "1", nil); err != nil || d.Digest != m.of["linux/amd64"].manifest.Digest {
		t.Errorf("pushed %v, %v", d.Digest, err)
	}
	if !strings.Contains(toJSON(p.all), "manifestPushedInsteadOfIndex") {
		t.Errorf("nothing tells that the index was left out: %s", toJSON(p.all))
	}
	pull("linux/arm64")
	err := s.Push(t.Context(), ref, PushOptions{}, nil, nil)
	if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "push one of them with --platform") {
		t.Errorf("two of three: %v", err)
	}
	pull("linux/s390x")
	if err := s.Push(t.Context(), ref, PushOptions{}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if d, err := s.registry.Repository(ref, nil).Resolve(t.Context(), "1", nil); err != nil || d.Digest != m.manifest.Digest {
		t.Errorf("with all of them: %v, %v", d.Digest, err)
	}
}

func toJSON(v any) string {
	data, _ := json.Marshal(v)
	return string(data)
}

func TestIndexWithoutPlatformsIsAskedForThem(t *testing.T) {
	s := newStore(t)
	m := makeMulti(t, "bare", "linux/s390x", "linux/amd64")
	var ix oci.Index
	_ = json.Unmarshal(m.blobs[m.manifest.Digest], &ix)
	for i := range ix.Manifests {
		ix.Manifests[i].Platform = nil
	}
	m.seal(ix)
	f := newFakeRegistry(t)
	f.add("1", m.testImage)
	for _, img := range m.of {
		f.add("x", img)
	}
	f.tags["1"] = m.manifest
	got, err := s.Pull(t.Context(), f.ref(t, ":1"), ptr(parse(t, "linux/s390x")), nil, nil)
	if err != nil || got.ID != m.of["linux/s390x"].config.Digest {
		t.Fatalf("got %v, %v", got.ID, err)
	}
}

func TestTagThatMovesTakesOldPlatformsAlong(t *testing.T) {
	s := newStore(t)
	old, next := makeMulti(t, "old", "linux/amd64", "linux/arm64"), makeMulti(t, "next", "linux/amd64", "linux/arm64")
	load(t, s, layoutTar(old.testImage, "docker.io/demo/multi:1"))
	load(t, s, layoutTar(next.testImage, "docker.io/demo/multi:1"), "linux/amd64")
	if _, err := s.GetExact("demo/multi:1", ptr(parse(t, "linux/arm64"))); !fail.Is(err, fail.NotFound) {
		t.Errorf("the old index still has the name: %v", err)
	}
	if got, err := s.Get("demo/multi:1"); err != nil || got.ID != next.of["linux/amd64"].config.Digest {
		t.Errorf("got %v, %v", got.ID, err)
	}
}

func TestArtifactIsKeptAndNotRun(t *testing.T) {
	for name, img := range map[string]testImage{
		"unknown configuration": noImage(),
		"unknown layer":         makeImage("sig", "application/vnd.dev.cosign.simplesigning.v1+json", bytes.Clone, []byte(`{"critical":{}}`)),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			f := newFakeRegistry(t)
			f.add("1", img)
			got, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil)
			if err != nil || got.Artifact == "" || got.ID != img.manifest.Digest || got.Size == 0 {
				t.Fatalf("got %+v, %v", got, err)
			}
			if err := s.Tag(got.ID.String(), named(t, "demo/artifact:1")); err != nil {
				t.Fatal(err)
			}
			data := save(t, s, "demo/artifact:1")
			o := newStore(t)
			load(t, o, data)
			back, err := o.Get("demo/artifact:1")
			if err != nil || back.ID != got.ID || back.Artifact != got.Artifact {
				t.Fatalf("loaded %+v, %v", back, err)
			}
			server := testkit.Registry(t, testkit.RegistryOptions{})
			ref := named(t, server.Addr+"/artifact:1")
			if err := o.Tag("demo/artifact:1", ref); err != nil {
				t.Fatal(err)
			}
			if err := o.Push(t.Context(), ref, PushOptions{}, nil, nil); err != nil {
				t.Fatal(err)
			}
			if d, err := o.registry.Repository(ref, nil).Resolve(t.Context(), "1", nil); err != nil || d.Digest != img.manifest.Digest {
				t.Errorf("pushed %v, %v", d, err)
			}
			if rows, err := o.History("demo/artifact:1", nil); err != nil || len(rows) != 1 {
				t.Errorf("history %v, %v", rows, err)
			}
			for _, n := range []string{"demo/artifact:1", ref.String()} {
				if _, err := o.Remove(t.Context(), n, RemoveOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if n := inventory(t, o); n["blobs"] != 0 {
				t.Errorf("left %v", n)
			}
		})
	}
}

func TestForeignLayerComesFromItsURLAndIsNotPushed(t *testing.T) {
	s := newStore(t)
	far := gz(layerTar("b", "far"))
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/far" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(far)
	}))
	defer elsewhere.Close()
	img := gzipImage("foreign", layerTar("a", "here"), layerTar("b", "far"))
	layers := slices.Clone(img.layers)
	layers[1].MediaType = dockerForeignLayer + ".gzip"
	layers[1].URLs = []string{elsewhere.URL + "/gone", elsewhere.URL + "/far"}
	var c oci.Image
	_ = json.Unmarshal(img.blobs[img.config.Digest], &c)
	img.rebuild(c, layers)
	delete(img.blobs, layers[1].Digest)
	f := newFakeRegistry(t)
	f.add("1", img)
	got, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil)
	if err != nil || read(t, s, got.ID, "b") != "far" {
		t.Fatalf("pulled %v, %v", got.ID, err)
	}
	for _, tt := range []struct {
		name    string
		allowed []string
		puts    bool
	}{{"not allowed", nil, false}, {"allowed by network", []string{"127.0.0.0/8"}, true}} {
		to := newUploads(t)
		ref := named(t, to.host+"/foreign:1")
		if err := s.Tag(got.ID.String(), ref); err != nil {
			t.Fatal(err)
		}
		s.pushForeign = tt.allowed
		if err := s.Push(t.Context(), ref, PushOptions{}, nil, nil); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if to.has(layers[1].Digest) != tt.puts || !to.has(layers[0].Digest) || !bytes.Equal(to.manifest("1"), img.blobs[img.manifest.Digest]) {
			t.Errorf("%s: registry has %v", tt.name, to.digests())
		}
	}
	elsewhere.Close()
	o := newStore(t)
	if _, err := o.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil); err == nil || !strings.Contains(err.Error(), elsewhere.URL) {
		t.Errorf("with nothing behind the URL: %v", err)
	}
}

func TestPushCompressesAsAsked(t *testing.T) {
	s := newStore(t)
	img := dockerImage("forms", gz, oci.DockerLayerGzip, layerTar("a", strings.Repeat("one", 4000)), layerTar("b", strings.Repeat("two", 4000)))
	put(t, s, img, "demo/forms:1")
	server := testkit.Registry(t, testkit.RegistryOptions{})
	for _, tt := range []struct{ ask, manifest, layer string }{
		{"", oci.DockerManifest, oci.DockerLayerGzip},
		{"gzip", oci.DockerManifest, oci.DockerLayerGzip},
		{"zstd", ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageLayerZstd},
		{"zstd:19", ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageLayerZstd},
		{"gzip:1", oci.DockerManifest, oci.DockerLayerGzip},
		{"uncompressed", oci.DockerManifest, oci.DockerLayer},
	} {
		t.Run(tt.ask, func(t *testing.T) {
			o := newStore(t)
			load(t, o, save(t, s, "demo/forms:1"))
			c, err := ParseCompression(tt.ask)
			if err != nil {
				t.Fatal(err)
			}
			ref := named(t, server.Addr+"/forms:v"+strings.ReplaceAll(tt.ask, ":", "-"))
			if err := o.Tag("demo/forms:1", ref); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time nothing is left to do
				if err := o.Push(t.Context(), ref, PushOptions{Compression: c}, nil, nil); err != nil {
					t.Fatal(err)
				}
			}
			r := o.registry.Repository(ref, nil)
			d, err := r.Resolve(t.Context(), ref.(interface{ Tag() string }).Tag(), nil)
			if err != nil || d.MediaType != tt.manifest {
				t.Fatalf("pushed %v, %v", d, err)
			}
			if same := d.Digest == img.manifest.Digest; same != (tt.ask == "" || tt.ask == "gzip") {
				t.Errorf("manifest %s, was %s", d.Digest, img.manifest.Digest)
			}
			data, _ := r.Manifest(t.Context(), d)
			var m oci.Manifest
			_ = json.Unmarshal(data, &m)
			for _, l := range m.Layers {
				if l.MediaType != tt.layer {
					t.Errorf("layer %s", l.MediaType)
				}
			}
			back := newStore(t)
			if got, err := back.Pull(t.Context(), ref, nil, nil, nil); err != nil || got.ID != img.config.Digest || !strings.HasPrefix(read(t, back, got.ID, "b"), "two") {
				t.Errorf("pulled back: %v", err)
			}
		})
	}
	for _, bad := range []string{"lz4", "gzip:0", "gzip:10", "zstd:x", "uncompressed:1", ":1"} {
		if _, err := ParseCompression(bad); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// uploads is a registry that takes anything in.
type uploads struct {
	host string
	*httptest.Server
	blobs map[string][]byte
}

func newUploads(t *testing.T) *uploads {
	u := &uploads{blobs: map[string][]byte{}}
	lock := make(chan struct{}, 1)
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lock <- struct{}{}
		defer func() { <-lock }()
		last := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", "/v2/foreign/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
		case http.MethodPatch:
			data, _ := io.ReadAll(r.Body)
			u.blobs["upload"] = append(u.blobs["upload"], data...)
			w.Header().Set("Location", "/v2/foreign/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
		case http.MethodPut:
			data, _ := io.ReadAll(r.Body)
			if d := r.URL.Query().Get("digest"); d != "" {
				last = d
				data = append(u.blobs["upload"], data...)
				delete(u.blobs, "upload")
			}
			u.blobs[last] = data
			w.WriteHeader(http.StatusCreated)
		default:
			if _, ok := u.blobs[last]; !ok && last != "" {
				w.WriteHeader(http.StatusNotFound)
			}
		}
	}))
	u.host = u.Listener.Addr().String()
	t.Cleanup(u.Close)
	return u
}

func (u *uploads) has(d oci.Digest) bool      { return u.blobs[d.String()] != nil }
func (u *uploads) manifest(tag string) []byte { return u.blobs[tag] }
func (u *uploads) digests() (all []string) {
	for d := range u.blobs {
		all = append(all, d)
	}
	return all
}

func TestIndexIsKeptThoughItsImageIsHereAlready(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	m := makeMulti(t, "kept", "linux/amd64", "linux/arm64")
	f.add("1", m.testImage)
	amd := m.of["linux/amd64"]
	f.mu.Lock()
	f.tags["amd"] = amd.manifest
	f.mu.Unlock()
	p := parse(t, "linux/amd64")
	if _, err := s.Pull(t.Context(), f.ref(t, ":amd"), &p, nil, nil); err != nil {
		t.Fatal(err)
	}
	got, err := s.Pull(t.Context(), f.ref(t, ":1"), &p, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if parts, err := s.Manifests(got.ID); err != nil || len(parts) != 2 {
		t.Errorf("%d parts, %v", len(parts), err)
	}
	if !s.blobs.Has(m.manifest.Digest) {
		t.Error("the index is not in the content store")
	}
}
