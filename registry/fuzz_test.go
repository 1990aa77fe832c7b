package registry

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/oci"
)

// canned answers every request alike.
type canned struct {
	status int
	header http.Header
	body   []byte
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	body := c.body
	if r.Method == http.MethodHead {
		body = nil
	}
	h := c.header.Clone()
	return &http.Response{StatusCode: c.status, Status: strconv.Itoa(c.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(c.body)), Request: r}, nil
}

// cannedRepository is one whose server answers so.
func cannedRepository(c canned) *Repository {
	client := New(Config{Tries: 1, HostDirs: []string{}})
	name, _ := reference.ParseNormalizedNamed("localhost/app") // on loopback no realm is looked up
	repo := client.Repository(name, nil)
	e := repo.remote.endpoint
	e.base, e.http = "https://localhost/v2", &http.Client{Transport: c}
	return repo
}

// Whatever a registry answers, what is taken for a manifest is what its digest says.
func FuzzAnswerToAPull(f *testing.F) {
	index := `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + strings.Repeat("0", 64) + `","size":5}]}`
	f.Add(200, ocispec.MediaTypeImageIndex, "", "", index)
	f.Add(200, "", "sha256:"+strings.Repeat("0", 64), "", `{"layers":[]}`)
	f.Add(404, "application/json", "", "", `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
	f.Add(401, "", "", `Bearer realm="https://token.test",service="x"`, "")
	f.Add(429, "text/html", "", "", "<html>")
	f.Add(206, ocispec.MediaTypeImageManifest, "x", "Basic", "\x00")
	f.Fuzz(func(t *testing.T, status int, mediaType, digest, challenge, body string) {
		if status < 100 || status > 999 {
			return
		}
		repo := cannedRepository(canned{status, http.Header{"Content-Type": {mediaType}, "Docker-Content-Digest": {digest}, "Www-Authenticate": {challenge}}, []byte(body)})
		d, err := repo.Resolve(t.Context(), "1", func(oci.Digest) bool { return false })
		if err != nil {
			if fail.Of(err) == fail.Internal || strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Errorf("%q (%v)", err, fail.Of(err))
			}
			return
		}
		data, err := repo.Manifest(t.Context(), d)
		if err != nil {
			return
		}
		if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest || int64(len(data)) != d.Size {
			t.Errorf("resolved to %+v, got %s with %d bytes", d, got, len(data))
		}
	})
}

// Whatever a registry answers to uploads, they end.
func FuzzAnswerToAPush(f *testing.F) {
	f.Add(202, "/v2/app/blobs/uploads/1?a=b", "0-99", "")
	f.Add(416, "https://else.test/%zz", "0-", "sha256:x")
	f.Add(204, "", "bytes=0-18446744073709551616", "")
	f.Fuzz(func(t *testing.T, status int, location, ranges, digest string) {
		if status < 100 || status > 999 {
			return
		}
		repo := cannedRepository(canned{status, http.Header{"Location": {location}, "Range": {ranges}, "Docker-Content-Digest": {digest}}, nil})
		repo.client.cfg.Tries, repo.client.pause = 3, pause{first: time.Nanosecond, longest: time.Nanosecond}
		data := []byte(strings.Repeat("x", 200))
		_ = repo.PushBlob(t.Context(), describe(data, ""), opener(data), nil)
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("5", `</v2/a?n=1>; rel="next"`, "bytes 5-9/10")
	f.Add("Mon, 02 Jan 2006 15:04:05 GMT", "<>", "")
	f.Add("-1", "<//[::1>;next", "bytes x")
	f.Fuzz(func(t *testing.T, after, link, ranges string) {
		u, _ := url.Parse("https://registry.test/v2/")
		resp := &http.Response{Header: http.Header{"Retry-After": {after}, "Link": {link}, "Content-Range": {ranges}, "Range": {ranges}},
			Request: &http.Request{URL: u}, StatusCode: http.StatusPartialContent, Body: http.NoBody}
		if retryAfter(resp) < 0 {
			t.Error("a pause of less than nothing")
		}
		if next := nextPage(resp); next != "" && !strings.HasPrefix(next, "https://registry.test/") {
			t.Errorf("the next page is at %q", next)
		}
		if n, ok := received(resp); ok && n < 0 {
			t.Errorf("received %d", n)
		}
		_ = (&blobReader{at: 5, d: oci.Descriptor{Size: 10}}).position(resp)
	})
}
