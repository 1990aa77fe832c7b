package test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// shelf is a registry that serves whatever documents it is given.
type shelf struct {
	addr      string
	documents map[string]document // by "repository:tag" and "repository@digest"
}

type document struct {
	mediaType string
	data      []byte
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{documents: map[string]document{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/v2/")
		for _, kind := range []string{"/manifests/", "/blobs/"} {
			name, what, ok := strings.Cut(path, kind)
			if !ok {
				continue
			}
			separator := ":"
			if strings.Contains(what, ":") {
				separator = "@"
			}
			d, ok := s.documents[name+separator+what]
			if !ok {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.Header().Set("Content-Type", d.mediaType)
			w.Header().Set("Docker-Content-Digest", blobOf(d.data).digest)
			w.Header().Set("Content-Length", itoa(len(d.data)))
			if r.Method != http.MethodHead {
				_, _ = w.Write(d.data)
			}
		}
	}))
	t.Cleanup(server.Close)
	s.addr = strings.TrimPrefix(server.URL, "http://")
	return s
}

// put places a document, tagged if tag is not empty, and returns its descriptor.
func (s *shelf) put(repo, tag, mediaType, data string) string {
	d := document{mediaType, []byte(data)}
	b := blobOf(d.data)
	s.documents[repo+"@"+b.digest] = d
	if tag != "" {
		s.documents[repo+":"+tag] = d
	}
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, b.digest, len(data))
}

// withPlatform adds a platform to a descriptor.
func withPlatform(descriptor, platform string) string {
	os, arch, _ := strings.Cut(platform, "/")
	return strings.TrimSuffix(descriptor, "}") + fmt.Sprintf(`,"platform":{"os":%q,"architecture":%q}}`, os, arch)
}

const (
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar"
)

func TestManifestsThatAreWrongAreOneClearLine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--max-download-attempts=1"}})
	s := newShelf(t)
	index := func(manifests ...string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ociIndex, strings.Join(manifests, ","))
	}
	manifest := func(config string, layers ...string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, ociManifest, config, strings.Join(layers, ","))
	}
	tarball := string(tarOf(t))
	layer := s.put("a", "", ociLayer, tarball)
	config := func(text string) string { return s.put("a", "", ociConfig, text) }
	diff := blobOf([]byte(tarball)).digest
	good := config(fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, diff))
	gone := fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%s","size":5}`, ociConfig, strings.Repeat("7", 64))
	goneManifest := strings.Replace(gone, ociConfig, ociManifest, 1)

	deep := withPlatform(s.put("a", "", ociManifest, manifest(good, layer)), "linux/amd64")
	for range 50 {
		deep = s.put("a", "", ociIndex, index(deep))
	}
	for _, tt := range []struct {
		name, mediaType, data, want string
	}{
		{"schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1}`, `schema 1.*must be pushed anew`},
		{"unknown-type", "application/vnd.example.thing+json", `{"mediaType":"application/vnd.example.thing+json"}`, `unsupported manifest media type "application/vnd.example.thing\+json"`},
		{"platforms", ociIndex, index(withPlatform(goneManifest, "linux/s390x"), withPlatform(goneManifest, "windows/arm64")), `no matching manifest for linux/\w+ in the manifest list entries; there are: linux/s390x, windows/arm64`},
		{"deep", ociIndex, index(deep), `index of further indexes`},
		{"empty-index", ociIndex, index(), `no matching manifest`},
		{"config-missing", ociManifest, manifest(gone, layer), `sha256:7777.*not found|blob unknown|404`},
		{"config-no-json", ociManifest, manifest(config(`{]`), layer), `configuration sha256:`},
		{"too-few-layers", ociManifest, manifest(good), `0 layers, its configuration 1`},
		{"too-many-layers", ociManifest, manifest(good, layer, layer), `2 layers, its configuration 1`},
		{"bad-digest", ociManifest, manifest(`{"mediaType":"` + ociConfig + `","digest":"sha256:../../etc","size":3}`), `sha256:../../etc`},
		{"negative-size", ociManifest, manifest(strings.Replace(good, `"size":`, `"size":-`, 1), layer), `size`},
		{"huge-config", ociManifest, manifest(strings.Replace(good, `"size":`, `"size":9999`, 1), layer), `too large|bytes`},
		{"huge", ociManifest, manifest(good, layer) + strings.Repeat(" ", 9<<20), `larger than`},
		{"not-json", ociManifest, `{"schemaVersion":`, `manifest`},
	} {
		s.put("a", tt.name, tt.mediaType, tt.data)
		r := e.Berth("pull", s.addr+"/a:"+tt.name)
		if t.Run(tt.name, func(t *testing.T) { refused(t, r, 1, tt.want) }); e.Must("images", "-aq") != "" {
			t.Errorf("%s: something is visible: %s", tt.name, e.Must("images", "-a"))
			e.Must("rmi", "-f", e.Must("images", "-aq"))
		}
	}
	for _, name := range []string{"Upper", "a//b", "a:b:c", "a@sha256:12", ":tag", "a/" + strings.Repeat("x", 300), "a b", "-a", "a:" + strings.Repeat("t", 129), "../a", "host:port/a"} {
		refused(t, e.Berth("pull", "--", name), 1, `invalid reference format|repository name|must be lowercase|invalid`)
	}
	e.Must("image", "prune", "-f") // parts of blobs are kept for a later pull until then
	testkit.Eventually(t, "nothing is left", func() bool {
		parts, _ := filepath.Glob(filepath.Join(e.DataRoot, "content", "ingest", "*"))
		return len(parts)+len(leftovers(e)) == 0
	})
}
