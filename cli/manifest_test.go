package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const (
	someManifest = `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{},"layers":[]}`
	someDigest   = "sha256:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
)

func answerManifest(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", dockerManifest)
	w.Header().Set("Docker-Content-Digest", digest.FromString(someManifest).String())
	_, _ = w.Write([]byte(someManifest))
}

func TestManifestsAreListedAnnotatedAndPushed(t *testing.T) {
	dir := withoutConfig(t)
	e := newFakeEngine(t, map[string]http.HandlerFunc{
		"GET /distribution/r.test/a:1/manifest":  answerManifest,
		"GET /distribution/r.test/a:1/json":      answer(`{"Descriptor":{},"Platforms":[{"os":"linux","architecture":"amd64"}]}`),
		"GET /distribution/r.test/b:1/manifest":  answerManifest,
		"GET /distribution/r.test/b:1/json":      answer(`{"Descriptor":{},"Platforms":[]}`),
		"GET /distribution/r.test/no:1/manifest": refuse(404, "page not found"),
		"PUT /distribution/r.test/l:1/manifest":  answer(`{"Digest":"` + someDigest + `"}`),
	})
	for _, tt := range []struct{ line, out, err string }{
		{"manifest inspect r.test/a:1", "{\n\t\"schemaVersion\": 2,", ""},
		{"manifest inspect -v r.test/a:1", `"architecture": "amd64"`, ""},
		{"manifest inspect r.test/no:1", "", "has no /distribution/r.test/no:1/manifest: it is Berth's own"},
		{"manifest create r.test/l:1 r.test/a:1 r.test/b:1", "Created manifest list r.test/l:1\n", ""},
		{"manifest create r.test/l:1 r.test/a:1", "", "refusing to amend an existing manifest list with no --amend flag"},
		{"manifest push r.test/l:1", "", "manifest r.test/b:1 must have an OS and Architecture to be pushed to a registry"},
		{"manifest annotate --os linux --arch arm --variant v7 --os-features x r.test/l:1 r.test/b:1", "", ""},
		{"manifest inspect r.test/l:1", `"variant": "v7"`, ""},
		{"manifest inspect r.test/l:1 r.test/b:1", "{\n\t\"schemaVersion\": 2,", ""},
		{"manifest inspect r.test/l:1 r.test/c:1", "", "manifest for image r.test/c:1 does not exist in r.test/l:1"},
		{"manifest push -p r.test/l:1", someDigest + "\n", ""},
		{"manifest push r.test/l:1", "", "No such manifest: r.test/l:1"},
		{"manifest create r.test/l:2 r.test/a:1", "Created", ""},
		{"manifest rm r.test/l:2", "", ""},
		{"manifest rm r.test/l:2", "", "No such manifest: r.test/l:2"},
	} {
		r := e.berth(t, "", append([]string{"--config", dir}, strings.Fields(tt.line)...)...)
		if (r.code != 0) != (tt.err != "") || !strings.Contains(r.out, tt.out) || !strings.Contains(r.err, tt.err) {
			t.Errorf("%s: got %+v", tt.line, r)
		}
	}
	pushed := e.asked("PUT /distribution/r.test/l:1/manifest")[0]
	from := "r.test%2Fa%40" + strings.ReplaceAll(digest.FromString(someManifest).String(), ":", "%3A")
	if !strings.Contains(string(pushed.Body), dockerManifestList) || pushed.Header.Get("Content-Type") != dockerManifestList || !strings.Contains(pushed.Query, "from="+from) {
		t.Errorf("pushed %s\n%s\n%v", pushed.Query, pushed.Body, pushed.Header)
	}
}

func TestADamagedManifestListIsNotPushed(t *testing.T) {
	dir := withoutConfig(t)
	list := filepath.Join(dir, "manifests", "r.test_l-1")
	if err := os.MkdirAll(list, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(list, "r.test_a-1")
	e := newFakeEngine(t, nil)
	for text, want := range map[string]string{
		"{": "unexpected end of JSON input",
		`{"Ref":"r.test/a:1","Descriptor":{"digest":"` + someDigest + `"},"Raw":"e30="}`: "the manifest is not the one its digest names",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := e.berth(t, "", "--config", dir, "manifest", "push", "r.test/l:1"); r.code != 1 || !strings.Contains(r.err, want) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: got %+v", text, r)
		}
	}
}
