package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/oci"
)

// archiveOf packs blobs by their digests and index.json.
func archiveOf(index any, blobs ...[]byte) []byte {
	var files []string
	for _, b := range blobs {
		files = append(files, blobPath(digest.FromBytes(b)), string(b))
	}
	return layerTar(append(files, "index.json", toJSON(index))...)
}

func describe(mediaType string, data []byte) oci.Descriptor {
	return oci.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func TestHostileArchivesAreRefusedInOneLineAndLeaveNothing(t *testing.T) {
	good := gzipImage("good", layerTar("a", "one"), layerTar("b", "two"))
	whole := layoutTar(good, "docker.io/demo/good:1")
	without := func(d oci.Digest) []byte {
		img := good
		img.blobs = map[oci.Digest][]byte{}
		for k, v := range good.blobs {
			if k != d {
				img.blobs[k] = v
			}
		}
		return layoutTar(img, "docker.io/demo/good:1")
	}
	// An index within an index, deeper than anybody needs.
	var nested [][]byte
	inner := good.manifest
	for range maxNesting + 1 {
		data, _ := json.Marshal(oci.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []oci.Descriptor{inner}})
		nested = append(nested, data)
		inner = describe(ocispec.MediaTypeImageIndex, data)
	}
	// An index that names itself cannot be made with digests that hold.
	self := []byte(`{"manifests":[{"mediaType":"` + ocispec.MediaTypeImageIndex + `","digest":"sha256:` + strings.Repeat("1", 64) + `","size":9}]}`)
	selfTar := layerTar("blobs/sha256/"+strings.Repeat("1", 64), string(self), "index.json", string(self))
	many := oci.Index{}
	for i := range maxManifests + 1 {
		many.Manifests = append(many.Manifests, describe(ocispec.MediaTypeImageManifest, []byte{byte(i), byte(i >> 8)}))
	}
	wrong := gzipImage("wrong", layerTar("a", "one"))
	wrong.swapDiff()
	huge := func() []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + strings.Repeat("2", 64), Size: 1 << 60, Mode: 0o644})
		return b.Bytes()
	}()
	manifest := func(v any, types ...string) []byte {
		data, _ := json.Marshal(v)
		mediaType := ocispec.MediaTypeImageManifest
		if len(types) > 0 {
			mediaType = types[0]
		}
		return archiveOf(oci.Index{Manifests: []oci.Descriptor{describe(mediaType, data)}}, data)
	}
	escape := gzipImage("escape", layerTar("../../../../../../../../tmp/berth-escaped", "x"))
	for name, tt := range map[string]struct {
		data []byte
		says string
	}{
		"cut in a layer":             {whole[:len(whole)-4096], "cut off"},
		"cut in a header":            {whole[:700], "cut off"},
		"configuration missing":      {without(good.config.Digest), "the archive lacks the configuration " + good.config.Digest.String()},
		"layer missing":              {without(good.layers[1].Digest), "the archive lacks blob " + good.layers[1].Digest.String()},
		"manifest missing":           {without(good.manifest.Digest), "the archive lacks the manifest " + good.manifest.Digest.String()},
		"fewer layers":               {layoutTar(fewerLayers(), ""), "has 1 layers, its configuration 2"},
		"wrong diff ID":              {layoutTar(wrong, ""), "but the image's configuration says"},
		"nested too deep":            {archiveOf(oci.Index{Manifests: []oci.Descriptor{inner}}, nested...), "is nested too deep"},
		"index that names itself":    {selfTar, "does not match its digest"},
		"too many manifests":         {archiveOf(many), "name more than 10000 manifests"},
		"impossible size":            {huge, "are needed and"},
		"bad digest":                 {layerTar("index.json", `{"manifests":[{"mediaType":"`+ocispec.MediaTypeImageManifest+`","digest":"sha256:../../x","size":1}]}`), `names the manifest "sha256:../../x"`},
		"unknown manifest type":      {manifest(map[string]any{}, "application/vnd.example+json"), `unsupported manifest media type "application/vnd.example+json"`},
		"schema 1":                   {manifest(map[string]any{"schemaVersion": 1}), "schema 1"},
		"no configuration":           {manifest(map[string]any{"schemaVersion": 2}), "lacks a configuration"},
		"configuration too large":    {manifest(oci.Manifest{Config: oci.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: good.config.Digest, Size: 1 << 40}}), "is too large"},
		"negative size":              {manifest(oci.Manifest{Config: oci.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: good.config.Digest, Size: -1}}), "has the size -1"},
		"manifest is no JSON":        {archiveOf(oci.Index{Manifests: []oci.Descriptor{describe(ocispec.MediaTypeImageManifest, []byte("{"))}}, []byte("{")), "manifest sha256:"},
		"no layer of a known form":   {layoutTar(makeImage("noise", ocispec.MediaTypeImageLayerGzip, bytes.Clone, noise(3000)), ""), "load image"},
		"Docker before 1.10":         {layerTar("repositories", `{"busybox":{"latest":"x"}}`), "Docker before 1.10"},
		"absent files":               {layerTar("manifest.json", `[{"Config":"nowhere.json","Layers":["x/layer.tar"]}]`), `lacks the configuration "nowhere.json"`},
		"no numbers where they were": {layerTar("manifest.json", `[{"Config":7}]`), "manifest.json: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.Load(t.Context(), bytes.NewReader(tt.data), LoadOptions{}, nil)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			if n := inventory(t, s); n["blobs"] != 0 || n["layers"] != 0 || len(n) != 1 {
				t.Errorf("left %v", n)
			}
			if all, err := s.List(); err != nil || len(all) != 0 {
				t.Errorf("visible: %v, %v", all, err)
			}
		})
	}
	s := newStore(t)
	_, _ = s.Load(t.Context(), bytes.NewReader(layoutTar(escape, "")), LoadOptions{}, nil)
	if _, err := os.Lstat("/tmp/berth-escaped"); err == nil {
		t.Error("written outside the root")
	}
}

func TestOfTwoImagesInAnArchiveBothOrNoneAreThere(t *testing.T) {
	s := newStore(t)
	good, bad := gzipImage("good", layerTar("a", "one")), gzipImage("bad", layerTar("a", "two"))
	bad.swapDiff()
	var blobs [][]byte
	for _, img := range []testImage{good, bad} {
		for _, b := range img.blobs {
			blobs = append(blobs, b)
		}
	}
	data := archiveOf(oci.Index{Manifests: []oci.Descriptor{good.manifest, bad.manifest}}, blobs...)
	if _, err := s.Load(t.Context(), bytes.NewReader(data), LoadOptions{}, nil); !fail.Is(err, fail.Invalid) {
		t.Fatalf("got %v", err)
	}
	if n := inventory(t, s); n["blobs"]+n["layers"] != 0 {
		t.Errorf("left %v", n)
	}
}

func TestLaterImageOfAnArchiveTakesADuplicateTag(t *testing.T) {
	s := newStore(t)
	one, two := gzipImage("one", layerTar("a", "one")), gzipImage("two", layerTar("a", "two"))
	var blobs [][]byte
	var ix oci.Index
	for _, img := range []testImage{one, two} {
		for _, b := range img.blobs {
			blobs = append(blobs, b)
		}
		d := img.manifest
		d.Annotations = map[string]string{annotationImageName: "docker.io/demo/twice:1"}
		ix.Manifests = append(ix.Manifests, d)
	}
	load(t, s, archiveOf(ix, blobs...))
	got, err := s.Get("demo/twice:1")
	if err != nil || got.ID != two.config.Digest {
		t.Errorf("got %v, %v", got.ID, err)
	}
	if first, err := s.Get(one.config.Digest.String()); err != nil || len(first.RepoTags) != 0 {
		t.Errorf("the first has %v, %v", first.RepoTags, err)
	}
}

func TestDocumentThatUnpacksToTooMuchIsNotReadIntoMemory(t *testing.T) {
	s := newStore(t)
	big := append([]byte(`{"manifests":[`), bytes.Repeat([]byte(" "), 40<<20)...)
	if _, err := s.Load(t.Context(), bytes.NewReader(zst(layerTar("index.json", string(big)))), LoadOptions{}, nil); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "too large for a manifest") {
		t.Errorf("got %v", err)
	}
	if n := inventory(t, s); n["blobs"] != 0 {
		t.Errorf("left %v", n)
	}
}

func TestLayersOfArchivesAreUnpackedOnceEach(t *testing.T) {
	s := newStore(t)
	img := gzipImage("once", layerTar("a", "one"), layerTar("b", "two"))
	data := layoutTar(img, "docker.io/demo/once:1")
	// A layer that no image of the archive needs, and one that only looks like a layer.
	extra := append(bytes.TrimRight(data, "\x00"), make([]byte, 512-len(bytes.TrimRight(data, "\x00"))%512)...)
	extra = append(extra, layerTar("left/layer.tar", string(layerTar("c", "three")), "odd", string(gz([]byte("no tar"))))...)
	load(t, s, extra)
	got, err := s.Get("demo/once:1")
	if err != nil || read(t, s, got.ID, "b") != "two" {
		t.Fatal(err)
	}
	if n := inventory(t, s); n["blobs"] != 4 || n["layers"] != 2 || len(n) != 2 {
		t.Errorf("there is %v", n)
	}
}

// FuzzManifest reads any manifest and configuration, and checks what others rely on.
func FuzzManifest(f *testing.F) {
	img := gzipImage("fuzz", layerTar("a", "one"))
	f.Add(img.blobs[img.manifest.Digest], img.blobs[img.config.Digest])
	chart := noImage()
	f.Add(chart.blobs[chart.manifest.Digest], chart.blobs[chart.config.Digest])
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"","digest":"sha256:`+strings.Repeat("0", 64)+`","size":1},"layers":null}`), []byte(`{"rootfs":{"diff_ids":null}}`))
	f.Add([]byte(`{"config":{"digest":"sha512:x"}}`), []byte(`{"rootfs":{"diff_ids":["sha256:x"]},"architecture":1}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		v, artifact, err := parseManifest(describe(ocispec.MediaTypeImageManifest, manifest), manifest)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			return
		}
		for _, d := range v.blobs() {
			if d.Validate() != nil {
				t.Errorf("digest %q got through", d)
			}
		}
		if artifact != "" {
			return
		}
		p, err := newPlan(v, config)
		if err == nil && (len(p.chains) != len(v.Layers) || slices.ContainsFunc(p.chains, func(d oci.Digest) bool { return d.Validate() != nil })) {
			t.Errorf("%d layers have the chains %v", len(v.Layers), p.chains)
		}
	})
}

// FuzzLoad loads anything: no panic, nothing outside the store, and nothing half there.
func FuzzLoad(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("unpacking needs root")
	}
	img := gzipImage("fuzz", layerTar("a", "one"), layerTar("b", "two"))
	m := makeMulti(f, "fuzz", "linux/amd64", "linux/arm64")
	old, _ := oldArchive("./l1/layer.tar")
	for _, data := range [][]byte{layoutTar(img, "docker.io/demo/app:1"), layoutTar(m.testImage, ""), layoutTar(noImage(), ""), old, gz(old), links()} {
		f.Add(data)
	}
	s := newStore(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		_, err := s.Load(t.Context(), bytes.NewReader(data), LoadOptions{}, nil)
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %v", err)
		}
		all, listErr := s.List()
		if listErr != nil || err != nil && len(all) != 0 {
			t.Errorf("%d images after %v, %v", len(all), err, listErr)
		}
		for _, i := range all {
			if i.Artifact == "" {
				if _, err := s.Rootfs(t.Context(), i.ID, ""); err != nil {
					t.Errorf("image without a root: %v", err)
				}
			}
			if _, err := s.Remove(t.Context(), i.ID.String(), RemoveOptions{Force: true}); err != nil {
				t.Errorf("remove: %v", err)
			}
		}
		for _, i := range must(s.List()) { // further platforms show when the first has gone
			_, _ = s.Remove(t.Context(), i.ID.String(), RemoveOptions{Force: true})
		}
		for _, dir := range []string{"content/ingest", "layers/staging"} {
			if left, _ := filepath.Glob(filepath.Join(s.root, dir, "*")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		}
	})
}

func must[T any](v T, _ error) T { return v }

// FuzzCompression reads any word for --compression.
func FuzzCompression(f *testing.F) {
	for _, s := range []string{"", "gzip", "gzip:9", "zstd:22", "uncompressed", "gzip:-1", "zstd:99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCompression(s)
		if err == nil && (c.level < 0 || c.level > 22) {
			t.Errorf("%q has the level %d", s, c.level)
		}
	})
}

func TestDocumentsOfMillionsOfNothingsAreRefusedWhereverTheyComeFrom(t *testing.T) {
	s := newStore(t)
	nothings := "[0" + strings.Repeat(",0", 1_000_000) + "]"
	f := newFakeRegistry(t)
	give := func(tag, mediaType, of string) {
		data := []byte(`{"schemaVersion":2,"` + of + `":` + nothings + `}`)
		d := describe(mediaType, data)
		f.add(tag, testImage{blobs: map[oci.Digest][]byte{d.Digest: data}, manifest: d})
	}
	give("index", ocispec.MediaTypeImageIndex, "manifests")
	give("manifest", ocispec.MediaTypeImageManifest, "layers")
	img := gzipImage("history", layerTar("a", "a"))
	var m oci.Manifest
	if err := json.Unmarshal(img.blobs[img.manifest.Digest], &m); err != nil {
		t.Fatal(err)
	}
	config := []byte(`{"history":` + nothings + `}`)
	m.Config = describe(ocispec.MediaTypeImageConfig, config)
	img.blobs[m.Config.Digest] = config
	d, data, err := describeManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	img.manifest, img.blobs[d.Digest] = d, data
	f.add("config", img)
	for _, tag := range []string{":index", ":manifest", ":config"} {
		if _, err := s.Pull(t.Context(), f.ref(t, tag), nil, nil, nil); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "elements") {
			t.Errorf("%s: %v", tag, err)
		}
	}
	for _, name := range []string{"index.json", "manifest.json"} {
		_, err := s.Load(t.Context(), bytes.NewReader(layerTar(name, nothings)), LoadOptions{}, nil)
		if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "elements") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMoreLayersOrPlatformsThanAnybodyNeedsAreRefusedInOneLine(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	layer := layerTar("a", "a")
	deep := makeImage("deep", ocispec.MediaTypeImageLayer, bytes.Clone, slices.Repeat([][]byte{layer}, maxLayers+1)...)
	f.add("deep", deep)
	if _, err := s.Pull(t.Context(), f.ref(t, ":deep"), nil, nil, nil); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "4097 layers") {
		t.Error(err)
	}
	var ix oci.Index
	for i := range 100_000 {
		d := deep.manifest
		d.Platform = &oci.Platform{OS: "plan" + strconv.Itoa(i), Architecture: "mips"}
		ix.Manifests = append(ix.Manifests, d)
	}
	wide := multi{testImage: testImage{blobs: map[oci.Digest][]byte{}}}
	ix.MediaType = ocispec.MediaTypeImageIndex
	wide.seal(ix)
	for len(wide.blobs[wide.manifest.Digest]) > 8<<20 { // as large as a document may be
		ix.Manifests = ix.Manifests[:len(ix.Manifests)*9/10]
		clear(wide.blobs)
		wide.seal(ix)
	}
	f.add("wide", wide.testImage)
	if _, err := s.Pull(t.Context(), f.ref(t, ":wide"), nil, nil, nil); !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "plan0/mips, plan1/mips") || len(err.Error()) > 1000 {
		t.Errorf("%.2000v", err)
	}
}

func TestDocumentsOfAnArchiveDoNotFillTheMemoryTogether(t *testing.T) {
	defer func(most int) { maxDocuments = most }(maxDocuments)
	maxDocuments = 1 << 20
	s := newStore(t)
	var files []string
	var docker []dockerManifest
	for i := range 3 {
		name := string(rune('a'+i)) + ".json"
		files = append(files, name, `{"author":"`+name+strings.Repeat("x", 400<<10)+`","rootfs":{"type":"layers"}}`)
		docker = append(docker, dockerManifest{Config: name})
	}
	load := func(n int) error {
		all := append(slices.Clone(files), "manifest.json", toJSON(docker[:n]))
		_, err := s.Load(t.Context(), bytes.NewReader(layerTar(all...)), LoadOptions{}, nil)
		return err
	}
	if err := load(2); err != nil {
		t.Error(err)
	}
	if err := load(3); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "altogether") {
		t.Error(err)
	}
}
