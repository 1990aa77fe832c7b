package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
	"berth/testkit"
)

// pullAll is what a pull asks of a repository; wrong content is asked for again.
func pullAll(t *testing.T, repo *Repository, layer oci.Descriptor) (manifest, content []byte, err error) {
	d, err := repo.Resolve(t.Context(), "1", func(oci.Digest) bool { return false })
	if err != nil {
		return nil, nil, err
	}
	if manifest, err = repo.Manifest(t.Context(), d); err != nil {
		return nil, nil, err
	}
	for range 8 {
		content, err = readBlob(t, repo, layer)
		if err != nil {
			return nil, nil, err
		}
		if layer.Digest.Algorithm().FromBytes(content) == layer.Digest {
			return manifest, content, nil
		}
		repo.Reject(layer.Digest)
	}
	return nil, nil, errors.New("wrong content, again and again")
}

func readBlob(t *testing.T, repo *Repository, d oci.Descriptor) ([]byte, error) {
	rc, err := repo.Blob(t.Context(), d, 0)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// noise is always the same for a seed.
func noise(seed uint64, n int) []byte {
	src := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(src.Uint32())
	}
	return data
}

// A registry that fails each request for a path twice, in whatever way, serves a pull and
// takes a push all the same, and never anything wrong.
func TestPassingFaultsOfARegistryAreOvercome(t *testing.T) {
	server := testkit.Registry(t, testkit.RegistryOptions{})
	layer := noise(1, 600<<10)
	ld := describe(layer, ocispec.MediaTypeImageLayer)
	direct := impatient(Config{}).Repository(named(t, server.Addr+"/app"), nil)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/x","digest":%q,"size":%d},"layers":[]}`,
		ocispec.MediaTypeImageManifest, ld.Digest, ld.Size)
	md := describe(manifest, ocispec.MediaTypeImageManifest)
	if err := direct.PushBlob(t.Context(), ld, opener(layer), nil); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := direct.PushManifest(t.Context(), md, manifest, "1"); err != nil {
		t.Fatal(err)
	}
	stall := max(250*time.Millisecond, 10*time.Since(begun)) // a slow machine answers late without a fault
	type one struct {
		name   string
		seed   uint64
		times  int
		faults []testkit.Fault
	}
	var pulls, pushes []one
	for _, f := range testkit.DownloadFaults {
		pulls = append(pulls, one{string(f), 1, 1, []testkit.Fault{f}})
	}
	for _, f := range testkit.UploadFaults {
		pushes = append(pushes, one{string(f), 1, 1, []testkit.Fault{f}})
	}
	for seed := range uint64(5) {
		pulls = append(pulls, one{fmt.Sprintf("seed %d", seed), seed, 2, testkit.DownloadFaults})
		pushes = append(pushes, one{fmt.Sprintf("seed %d", seed), seed, 2, testkit.UploadFaults})
	}
	client := func(proxy *testkit.FaultyRegistry, name string) *Repository {
		c := New(Config{Stall: stall, Pause: time.Millisecond, Tries: 10})
		return c.Repository(named(t, proxy.Addr+"/"+name), nil)
	}
	for _, tt := range pulls {
		t.Run("pull/"+tt.name, func(t *testing.T) {
			t.Parallel()
			proxy := testkit.NewFaultyRegistry(t, server.Addr, tt.seed)
			proxy.Fail(tt.times, tt.faults...)
			gotManifest, gotLayer, err := pullAll(t, client(proxy, "app"), ld)
			if err != nil || !bytes.Equal(gotManifest, manifest) || !bytes.Equal(gotLayer, layer) {
				t.Errorf("got manifest %q, %d bytes, %v", gotManifest, len(gotLayer), err)
			}
		})
	}
	for i, tt := range pushes {
		t.Run("push/"+tt.name, func(t *testing.T) {
			t.Parallel()
			proxy := testkit.NewFaultyRegistry(t, server.Addr, tt.seed)
			proxy.Fail(tt.times, tt.faults...)
			name := fmt.Sprintf("pushed-%d", i)
			repo := client(proxy, name)
			if err := repo.PushBlob(t.Context(), ld, opener(layer), nil); err != nil {
				t.Fatal(err)
			}
			if err := repo.PushManifest(t.Context(), md, manifest, "1"); err != nil {
				t.Fatal(err)
			}
			gotManifest, gotLayer, err := pullAll(t, impatient(Config{}).Repository(named(t, server.Addr+"/"+name), nil), ld)
			if err != nil || !bytes.Equal(gotManifest, manifest) || !bytes.Equal(gotLayer, layer) {
				t.Errorf("the registry has manifest %q, %d bytes, %v", gotManifest, len(gotLayer), err)
			}
		})
	}
}
