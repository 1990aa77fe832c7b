package images

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"berth/fail"
	"berth/oci"
	"berth/testkit"
)

func TestImageGoesFromSkopeoThroughUsAndBackToSkopeo(t *testing.T) {
	s := newStore(t)
	server := testkit.Registry(t, testkit.RegistryOptions{})
	img := gzipImage("round", layerTar("a", "one"), layerTar("b", "two", "a", "newer"))
	skopeo(t, "copy", "--dest-tls-verify=false", "--preserve-digests", "oci:"+img.layout(t, "x")+":x", "docker://"+server.Addr+"/team/app:1")

	var p steps
	ref := named(t, server.Addr+"/team/app:1")
	got, err := s.Pull(t.Context(), ref, nil, nil, p.report)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != img.config.Digest || got.Manifest.Digest != img.manifest.Digest || got.Size != 11 ||
		strings.Join(got.RepoTags, " ") != server.Addr+"/team/app:1" ||
		strings.Join(got.RepoDigests, " ") != server.Addr+"/team/app@"+img.manifest.Digest.String() {
		t.Errorf("pulled %+v", got)
	}
	if read(t, s, got.ID, "a") != "newer" || read(t, s, got.ID, "b") != "two" {
		t.Error("the root file system is not the image's")
	}
	if got := p.of(short(img.layers[0].Digest)); !strings.HasPrefix(got, "Pulling fs layer, ") || !strings.HasSuffix(got, "Downloading, Verifying Checksum, Download complete, Extracting, Pull complete") {
		t.Errorf("layer steps: %s", got)
	}
	if got := p.of("1"); got != "Pulling from team/app" {
		t.Errorf("first step: %s", got)
	}
	if got, want := p.of(""), "Digest: "+img.manifest.Digest.String()+", Status: Downloaded newer image for "+server.Addr+"/team/app:1"; got != want {
		t.Errorf("last steps: %s, want %s", got, want)
	}

	p = steps{}
	if _, err := s.Pull(t.Context(), ref, nil, nil, p.report); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(p.of(""), "Status: Image is up to date for "+server.Addr+"/team/app:1") {
		t.Errorf("second pull: %s", p.of(""))
	}

	target := named(t, server.Addr+"/other/copy:2")
	if err := s.Tag(got.ID.String()[:19], target); err != nil {
		t.Fatal(err)
	}
	p = steps{}
	if err := s.Push(t.Context(), target, PushOptions{}, nil, p.report); err != nil {
		t.Fatal(err)
	}
	if got := p.of(short(img.diffs[0])); !strings.HasSuffix(got, "Mounted from team/app") {
		t.Errorf("push steps: %s", got)
	}
	last := p.all[len(p.all)-1].Aux.(Pushed)
	if last.Tag != "2" || last.Digest != img.manifest.Digest.String() || last.Size != img.manifest.Size {
		t.Errorf("push ended with %+v", last)
	}
	digest := skopeo(t, "inspect", "--tls-verify=false", "--format={{.Digest}}", "docker://"+target.String())
	if strings.TrimSpace(digest) != img.manifest.Digest.String() {
		t.Errorf("skopeo reads back %s, pulled %s", digest, img.manifest.Digest)
	}
	p = steps{}
	if err := s.Push(t.Context(), target, PushOptions{}, nil, p.report); err != nil {
		t.Fatal(err)
	}
	if got := p.of(short(img.diffs[0])); !strings.HasSuffix(got, "Layer already exists") {
		t.Errorf("second push: %s", got)
	}
	if n := inventory(t, s); n["leases"] != 0 || n["layers"] != 2 || n["blobs"] != 4 {
		t.Errorf("left %v", n)
	}
}

func TestFailedPullsTellWhyAndLeaveNothingVisible(t *testing.T) {
	base := layerTar("a", "one")
	big := layerTar("b", string(noise(300<<10)))
	good := gzipImage("good", base, big)
	layer := good.layers[1].Digest
	wrongDiff := gzipImage("wrong", base)
	wrongDiff.swapDiff()
	tests := []struct {
		name  string
		img   testImage
		fault func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool
		class fail.Class
		says  []string
	}{
		{"wrong digest", good, replace(layer, gz(layerTar("b", string(noise(300<<10))))), fail.Invalid, []string{layer.String()}},
		{"garbage of the right size", good, replace(layer, noise(int(good.layers[1].Size))), fail.Invalid, []string{layer.String(), "does not match its digest"}},
		{"truncated", good, replace(layer, good.blobs[layer][:1000]), fail.Invalid, []string{layer.String(), "only 1000 of"}},
		{"server error", good, status(layer, http.StatusBadGateway), fail.Unavailable, []string{layer.String(), "502 Bad Gateway"}},
		{"blob missing", good, status(layer, http.StatusNotFound), fail.NotFound, []string{layer.String()}},
		{"no access", good, status(good.manifest.Digest, http.StatusUnauthorized), fail.Unauthorized, []string{"unauthorized: authentication required"}},
		{"wrong manifest", good, replaceGet(good.manifest.Digest, []byte(`{}`)), fail.Invalid, []string{good.manifest.Digest.String()}},
		{"wrong configuration", good, replace(good.config.Digest, noise(int(good.config.Size))), fail.Invalid, []string{good.config.Digest.String()}},
		{"wrong diff ID", wrongDiff, nil, fail.Invalid, []string{wrongDiff.diffs[0].String()}},
		{"layer that is no tar", makeImage("notar", ocispec.MediaTypeImageLayerGzip, gz, noise(2000)), nil, fail.Invalid, []string{"layer "}},
		{"cut gzip stream", makeImage("cut", ocispec.MediaTypeImageLayerGzip, func(b []byte) []byte { return gz(b)[:40] }, base), nil, fail.Invalid, []string{"gzip stream is cut off"}},
		{"fewer layers than the configuration says", fewerLayers(), nil, fail.Invalid, []string{"has 1 layers, its configuration 2"}},
		{"escaping path", gzipImage("escape", layerTar("../../../../../../../../tmp/berth-escaped", "x")), nil, fail.Invalid, []string{"layer "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			f := newFakeRegistry(t)
			f.add("1", tt.img)
			f.fault = tt.fault
			_, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil)
			if tt.name == "escaping path" && err == nil {
				// Unpacking may also keep such an entry inside its root.
				if _, err := os.Lstat("/tmp/berth-escaped"); err == nil {
					t.Fatal("written outside the root")
				}
				return
			}
			if !fail.Is(err, tt.class) {
				t.Fatalf("got %v (%v), want class %v", err, fail.Of(err), tt.class)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			for _, text := range tt.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%v\ndoes not say %q", err, text)
				}
			}
			if all, err := s.List(); err != nil || len(all) != 0 {
				t.Errorf("visible: %v, %v", all, err)
			}
			if _, err := s.Collect(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if n := inventory(t, s); len(n) != 1 || n["layers"] != 0 {
				t.Errorf("left %v", n)
			}
			f.mu.Lock()
			f.fault = nil
			f.mu.Unlock()
			if tt.fault != nil {
				if _, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil); err != nil {
					t.Errorf("the next pull: %v", err)
				}
			}
		})
	}
}

func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	return data
}

type faultFunc = func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool

func replace(bad oci.Digest, data []byte) faultFunc {
	return func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool {
		if d == bad {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		}
		return d == bad
	}
}

func replaceGet(bad oci.Digest, data []byte) faultFunc {
	return func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool {
		return r.Method == http.MethodGet && replace(bad, data)(w, r, d)
	}
}

func status(bad oci.Digest, code int) faultFunc {
	return func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool {
		if d == bad {
			w.WriteHeader(code)
		}
		return d == bad
	}
}

// swapDiff has the configuration name another diff ID.
func (img *testImage) swapDiff() {
	raw := img.blobs[img.config.Digest]
	img.diffs[0] = digest.FromString("another")
	var c oci.Image
	_ = json.Unmarshal(raw, &c)
	c.RootFS.DiffIDs = img.diffs
	img.rebuild(c, img.layers)
}

// rebuild makes the manifest anew from a configuration and layers.
func (img *testImage) rebuild(config any, layers []oci.Descriptor) {
	raw, _ := json.Marshal(config)
	delete(img.blobs, img.config.Digest)
	delete(img.blobs, img.manifest.Digest)
	img.config.Digest, img.config.Size = digest.FromBytes(raw), int64(len(raw))
	img.blobs[img.config.Digest] = raw
	m, _ := json.Marshal(oci.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: img.config, Layers: layers})
	img.manifest.Digest, img.manifest.Size = digest.FromBytes(m), int64(len(m))
	img.blobs[img.manifest.Digest] = m
}

func fewerLayers() testImage {
	img := gzipImage("fewer", layerTar("a", "one"), layerTar("b", "two"))
	var c oci.Image
	_ = json.Unmarshal(img.blobs[img.config.Digest], &c)
	img.rebuild(c, img.layers[:1])
	return img
}

func noImage() testImage {
	img := gzipImage("chart", layerTar("a", "one"))
	img.config.MediaType = "application/vnd.cncf.helm.config.v1+json"
	img.rebuild(map[string]string{}, img.layers)
	return img
}

func TestCancelledPullStopsAndGoesOnLater(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	img := gzipImage("cut", layerTar("a", string(noise(1<<20))))
	f.add("1", img)
	data := img.blobs[img.layers[0].Digest]
	half := len(data) / 2
	ctx, cancel := context.WithCancel(t.Context())
	var ranges []string
	f.fault = func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool {
		if d != img.layers[0].Digest {
			return false
		}
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) > 1 {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:half])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	_, err := s.Pull(ctx, f.ref(t, ":1"), nil, nil, func(p Step) {
		if p.Status == "Downloading" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if n := inventory(t, s); n["leases"] != 0 || n["layers/staging"] != 0 || n["layers"] != 0 || n["content/ingest"] != 1 {
		t.Errorf("left %v", n)
	}
	got, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(read(t, s, got.ID, "a")) != 1<<20 {
		t.Error("the layer is not whole")
	}
	if len(ranges) != 2 || !strings.HasPrefix(ranges[1], "bytes=") || ranges[1] == "bytes=0-" {
		t.Errorf("asked for ranges %q", ranges)
	}
}

func TestResumedDownloadThatWasDamagedIsFetchedAnew(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	img := gzipImage("damaged", layerTar("a", string(noise(100<<10))))
	f.add("1", img)
	w, err := s.blobs.Ingest(t.Context(), img.layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(noise(5000)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil); err != nil {
		t.Fatal(err)
	}
}

func TestManifestForThePlatformIsChosen(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	here := platforms.DefaultSpec()
	mine, other := gzipImage("mine", layerTar("a", "mine")), gzipImage("other", layerTar("a", "other"))
	for i, img := range []*testImage{&mine, &other} {
		var c oci.Image
		_ = json.Unmarshal(img.blobs[img.config.Digest], &c)
		c.Platform = []oci.Platform{{OS: here.OS, Architecture: here.Architecture}, {OS: "linux", Architecture: "s390x"}}[i]
		img.rebuild(c, img.layers)
		f.add("x", *img)
		img.manifest.Platform = &c.Platform
	}
	attestation := mine.manifest
	attestation.Platform = &oci.Platform{OS: "unknown", Architecture: "unknown"}
	index, _ := json.Marshal(oci.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []oci.Descriptor{other.manifest, attestation, mine.manifest}})
	target := oci.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(index), Size: int64(len(index))}
	f.blobs[target.Digest] = index
	f.tags = map[string]oci.Descriptor{"1": target}

	got, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil)
	if err != nil || got.ID != mine.config.Digest || got.Target.Digest != target.Digest || got.Manifest.Digest != mine.manifest.Digest {
		t.Fatalf("pulled %+v, %v", got, err)
	}
	if !strings.HasSuffix(got.RepoDigests[0], "/app@"+target.Digest.String()) {
		t.Errorf("digests %v", got.RepoDigests)
	}
	got, err = s.Pull(t.Context(), f.ref(t, ":1"), &oci.Platform{OS: "linux", Architecture: "s390x"}, nil, nil)
	if err != nil || got.ID != other.config.Digest {
		t.Fatalf("pulled %+v, %v", got, err)
	}
	// Both are here now, under one name.
	tag := f.ref(t, ":1").String()
	for _, tt := range []struct {
		platform *oci.Platform
		want     oci.Digest
	}{{nil, mine.config.Digest}, {&here, mine.config.Digest}, {&oci.Platform{OS: "linux", Architecture: "s390x"}, other.config.Digest}} {
		if img, err := s.GetFor(tag, tt.platform); err != nil || img.ID != tt.want || len(img.RepoTags) != 1 {
			t.Errorf("%v: %v %v, %v", tt.platform, img.ID, img.RepoTags, err)
		}
	}
	if all, err := s.List(); err != nil || len(all) != 1 || all[0].ID != mine.config.Digest {
		t.Errorf("listed %d, %v", len(all), err)
	}
	_, err = s.Pull(t.Context(), f.ref(t, ":1"), &oci.Platform{OS: "linux", Architecture: "riscv64"}, nil, nil)
	if !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "no matching manifest for linux/riscv64 in the manifest list entries; there are: linux/s390x, "+platformText(here)) {
		t.Errorf("got %v (%v)", err, fail.Of(err))
	}
	f.add("single", other)
	_, err = s.Pull(t.Context(), f.ref(t, ":single"), &oci.Platform{OS: "linux", Architecture: "riscv64"}, nil, nil)
	if !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "was found but its platform (linux/s390x) does not match the specified platform (linux/riscv64)") {
		t.Errorf("got %v (%v)", err, fail.Of(err))
	}
}

func TestPullByDigestIsUntaggedAndATagMoves(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	first, second := gzipImage("first", layerTar("a", "one")), gzipImage("second!", layerTar("a", "two"))
	f.add("1", first)
	digestRef := f.ref(t, "@"+first.manifest.Digest.String())
	var p steps
	got, err := s.Pull(t.Context(), digestRef, nil, nil, p.report)
	if err != nil || len(got.RepoTags) != 0 || len(got.RepoDigests) != 1 {
		t.Fatalf("pulled %+v, %v", got, err)
	}
	if !strings.HasPrefix(p.of(first.manifest.Digest.String()), "Pulling from app") {
		t.Errorf("steps %+v", p.all)
	}
	if again, err := s.Get(digestRef.String()); err != nil || again.ID != got.ID {
		t.Errorf("Get by digest: %+v, %v", again, err)
	}
	if _, err := s.Pull(t.Context(), f.ref(t, ""), nil, nil, nil); !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "/app:latest not found: manifest unknown") {
		t.Errorf("no tag: %v", err)
	}
	if _, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	f.add("1", second)
	if got, err = s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil); err != nil || got.ID != second.config.Digest {
		t.Fatalf("pulled %+v, %v", got, err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].ID != second.config.Digest || len(all[1].RepoTags) != 0 {
		t.Errorf("list %+v, %v", all, err)
	}
}

func TestConcurrentPullsShareTheWork(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	img := gzipImage("shared", layerTar("a", string(noise(500<<10))), layerTar("b", string(noise(500<<10))))
	f.add("1", img)
	f.add("2", img)
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			var p steps
			_, err := s.Pull(t.Context(), f.ref(t, []string{":1", ":2"}[i%2]), nil, nil, p.report)
			if !strings.Contains(p.of(""), "Status: ") {
				t.Error("a pull ended without its status line")
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, d := range img.layers {
		if f.hits[d.Digest] != 1 {
			t.Errorf("layer %s was fetched %d times", d.Digest, f.hits[d.Digest])
		}
	}
	got, err := s.Get(f.ref(t, ":2").String())
	if err != nil || len(got.RepoTags) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	if n := inventory(t, s); n["leases"] != 0 || n["layers"] != 2 || len(s.flights) != 0 {
		t.Errorf("left %v, %d flights", n, len(s.flights))
	}
}

func TestOneOfTwoPullsMayGiveUp(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	img := gzipImage("give up", layerTar("a", string(noise(100<<10))))
	f.add("1", img)
	release := make(chan struct{})
	f.fault = func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool {
		if d == img.layers[0].Digest {
			<-release
		}
		return false
	}
	ctx, cancel := context.WithCancel(t.Context())
	begun, joined := make(chan struct{}), make(chan struct{})
	var once, onceJoined sync.Once
	var g errgroup.Group
	g.Go(func() error {
		_, err := s.Pull(ctx, f.ref(t, ":1"), nil, nil, func(Step) { once.Do(func() { close(begun) }) })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the one that gave up: %v", err)
		}
		close(release)
		return nil
	})
	<-begun
	g.Go(func() error {
		_, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, func(p Step) {
			if p.Status == "Pulling fs layer" || p.Status == "Waiting" {
				onceJoined.Do(func() { close(joined) })
			}
		})
		return err
	})
	<-joined
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestAPullForAnotherPlatformFailsAlone(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	img := gzipImage("amd64 alone", layerTar("a", "a"))
	f.add("1", img)
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.fault = func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool {
		if d == img.config.Digest {
			once.Do(func() { close(asked) })
			<-release
		}
		return false
	}
	pull := func(platform *oci.Platform) chan error {
		result := make(chan error, 1)
		go func() {
			_, err := s.Pull(t.Context(), f.ref(t, ":1"), platform, nil, nil)
			result <- err
		}()
		return result
	}
	arm := parse(t, "linux/arm64")
	other := pull(&arm)
	<-asked
	whatever := pull(nil)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		n := len(s.flights)
		for _, f := range s.flights {
			n += f.riders - 1
		}
		s.mu.Unlock()
		if n == 2 {
			break
		}
	}
	close(release)
	if err := <-other; !fail.Is(err, fail.NotFound) {
		t.Errorf("for arm64: %v", err)
	}
	if err := <-whatever; err != nil {
		t.Errorf("for any: %v", err)
	}
}

func TestAClientThatStandsStillHoldsUpNobodyElsesPull(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	img := gzipImage("still", layerTar("a", string(noise(300<<10))))
	f.add("1", img)
	joined := make(chan struct{})
	f.fault = func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool {
		if d == img.layers[0].Digest {
			<-joined
		}
		return false
	}
	stuck, free := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		n := 0
		_, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, func(p Step) {
			if p.Status == "Downloading" {
				if n++; n == 1 {
					close(stuck)
					<-free
				}
			}
		})
		first <- err
	}()
	second := make(chan error, 1)
	go func() {
		once := false
		_, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, func(p Step) {
			if p.Status == "Pulling fs layer" && !once {
				once = true
				close(joined)
			}
		})
		second <- err
	}()
	select {
	case err := <-second:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the second pull waits for the first one's client")
	}
	<-stuck
	close(free)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestNoMoreOfABlobIsTakenThanItsDescriptorSays(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	img := gzipImage("endless", layerTar("a", "a"))
	var m oci.Manifest
	if err := json.Unmarshal(img.blobs[img.manifest.Digest], &m); err != nil {
		t.Fatal(err)
	}
	m.Config.Size = 0 // by which the registry cannot tell how much is to come
	md, data, err := describeManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	img.manifest, img.blobs[md.Digest] = md, data
	f.add("1", img)
	const much = 256 << 20
	var sent atomic.Int64
	f.fault = func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool {
		if d != img.config.Digest {
			return false
		}
		chunk := make([]byte, 1<<20)
		for n := 0; n < much; n += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return true
			}
			sent.Add(int64(len(chunk)))
		}
		return true
	}
	if _, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "expected 0") {
		t.Error(err)
	}
	if n := sent.Load(); n >= much {
		t.Errorf("%d bytes were taken of a blob of none", n)
	}
}

func TestLayersThatAreHereAreNotFetched(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	base := layerTar("a", "base")
	first, second := gzipImage("first", base), gzipImage("second", base, layerTar("b", "more"), layerTar("c", "twice"), layerTar("b", "more"))
	f.add("1", first)
	f.add("2", second)
	if _, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	var p steps
	got, err := s.Pull(t.Context(), f.ref(t, ":2"), nil, nil, p.report)
	if err != nil {
		t.Fatal(err)
	}
	if p.of(short(first.layers[0].Digest)) != "Already exists" || f.hits[first.layers[0].Digest] != 1 {
		t.Errorf("%s, %d hits", p.of(short(first.layers[0].Digest)), f.hits[first.layers[0].Digest])
	}
	if f.hits[second.layers[1].Digest] != 1 {
		t.Errorf("a layer that occurs twice was fetched %d times", f.hits[second.layers[1].Digest])
	}
	if read(t, s, got.ID, "b") != "more" {
		t.Error("wrong root")
	}
	size, err := s.LayersSize()
	if err != nil || size != 4+4+5+4 {
		t.Errorf("LayersSize = %d, %v", size, err)
	}
}

func TestZstdAndPlainLayersArePulled(t *testing.T) {
	for _, img := range []testImage{
		makeImage("zstd", ocispec.MediaTypeImageLayerZstd, zst, layerTar("a", "one")),
		makeImage("plain", ocispec.MediaTypeImageLayer, bytes.Clone, layerTar("a", "one")),
		makeImage("no layers", ocispec.MediaTypeImageLayerGzip, gz),
	} {
		s := newStore(t)
		f := newFakeRegistry(t)
		f.add("1", img)
		got, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(img.layers) > 0 && read(t, s, got.ID, "a") != "one" {
			t.Error("wrong content")
		}
	}
}

func TestPullAndRemoveTellEvents(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	f.add("1", gzipImage("events", layerTar("a", "one")))
	sub := s.events.Subscribe(t.Context(), time.Unix(1, 0), nil)
	ref := f.ref(t, ":1")
	got, err := s.Pull(t.Context(), ref, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), ref.String(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	id := got.ID.String()
	for _, want := range [][3]string{{"pull", ref.String(), ref.Name()}, {"untag", id, id}, {"delete", id, id}} {
		e := <-sub.C
		if e.Type != "image" || [3]string{e.Action, e.ID, e.Attrs["name"]} != want {
			t.Errorf("got %+v, want %v", e, want)
		}
	}
}
