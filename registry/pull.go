package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/oci"
)

// manifestTypes is the Accept header for manifests.
var manifestTypes = strings.Join([]string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
	oci.DockerManifestList, oci.DockerManifest,
	"*/*",
}, ", ")

// maxManifest bounds manifests and indexes; the specification has registries accept
// 4 MiB at least.
const maxManifest = 8 << 20

// Resolve asks what ref (a tag, or a digest string) stands for. An unknown one is
// class NotFound, and so is one that the registry denies without saying whether it
// exists; refused access is Unauthorized or Forbidden, no answer Unavailable.
func (r *Repository) Resolve(ctx context.Context, ref string) (oci.Descriptor, error) {
	var d oci.Descriptor
	err := r.read(ctx, func(a *access) (err error) {
		d, err = r.resolve(ctx, a, ref)
		return err
	})
	if err != nil {
		return oci.Descriptor{}, r.pullError(ref, err)
	}
	return d, nil
}

// read asks the mirrors and then the registry itself, until one has it. The last
// answer counts.
func (r *Repository) read(ctx context.Context, ask func(*access) error) error {
	for i, a := range r.readers {
		err := ask(a)
		if err == nil || i == len(r.readers)-1 || ctx.Err() != nil {
			return err
		}
		r.client.cfg.Log.Info("a mirror does not have it", "mirror", a.endpoint.host, "repository", r.path, "error", err)
	}
	panic("unreachable: a repository always has a reader")
}

func (r *Repository) resolve(ctx context.Context, a *access, ref string) (oci.Descriptor, error) {
	accept := func(req *http.Request) { req.Header.Set("Accept", manifestTypes) }
	path := r.path + "/manifests/" + ref
	resp, err := a.do(ctx, http.MethodHead, path, scopesFor(r.path, "pull"), accept)
	if err == nil {
		drain(resp)
		if d, ok := described(resp, ref); ok {
			return d, nil
		}
	} else if no := (*refusal)(nil); !errors.As(err, &no) || no.status == http.StatusTooManyRequests || no.status >= 500 {
		return oci.Descriptor{}, err
	}
	// The answer to HEAD lacks what we need: the digest, or the reason in words.
	if resp, err = a.do(ctx, http.MethodGet, path, scopesFor(r.path, "pull"), accept); err != nil {
		return oci.Descriptor{}, err
	}
	defer resp.Body.Close()
	data, err := readManifest(resp.Body)
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("manifest %s: %w", ref, err)
	}
	d := oci.Descriptor{MediaType: mediaType(resp, data), Digest: digest.FromBytes(data), Size: int64(len(data))}
	if want := digest.Digest(ref); want.Validate() == nil && d.Digest != want {
		return oci.Descriptor{}, fail.New(fail.Invalid, "manifest verification failed for digest %s: got %s", want, d.Digest)
	}
	return d, nil
}

// described makes a descriptor of the headers of an answer, if they suffice.
func described(resp *http.Response, ref string) (oci.Descriptor, bool) {
	d := oci.Descriptor{MediaType: mediaType(resp, nil), Size: resp.ContentLength,
		Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest"))}
	if want := digest.Digest(ref); want.Validate() == nil {
		d.Digest = want
	}
	return d, d.Digest.Validate() == nil && d.Size > 0 && d.Size <= maxManifest && (oci.IsIndex(d.MediaType) || oci.IsManifest(d.MediaType))
}

// mediaType is what the answer calls its content, or else the content itself.
func mediaType(resp *http.Response, data []byte) string {
	t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if oci.IsIndex(t) || oci.IsManifest(t) || data == nil {
		return t
	}
	var m struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
	}
	_ = json.Unmarshal(data, &m)
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case m.Layers != nil:
		return ocispec.MediaTypeImageManifest
	}
	return t
}

func readManifest(body io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err != nil {
		return nil, fail.New(fail.Unavailable, "%w", err)
	}
	if len(data) > maxManifest {
		return nil, fail.New(fail.Invalid, "larger than %d bytes", maxManifest)
	}
	return data, nil
}

// Manifest fetches a manifest or index and verifies size and digest.
func (r *Repository) Manifest(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fail.New(fail.Invalid, "manifest %q: %w", d.Digest, err)
	}
	var data []byte
	err := r.read(ctx, func(a *access) error {
		resp, err := a.do(ctx, http.MethodGet, r.path+"/manifests/"+d.Digest.String(), scopesFor(r.path, "pull"),
			func(req *http.Request) { req.Header.Set("Accept", manifestTypes) })
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if data, err = readManifest(resp.Body); err != nil {
			return fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		if d.Size > 0 && int64(len(data)) != d.Size {
			return fail.New(fail.Invalid, "manifest %s: got %d bytes, want %d", d.Digest, len(data), d.Size)
		}
		if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest {
			return fail.New(fail.Invalid, "manifest verification failed for digest %s: got %s", d.Digest, got)
		}
		return nil
	})
	if err != nil {
		return nil, r.pullError(d.Digest.String(), err)
	}
	return data, nil
}

// HasBlob reports whether the repository holds the blob already.
func (r *Repository) HasBlob(ctx context.Context, d oci.Descriptor) (bool, error) {
	resp, err := r.remote.do(ctx, http.MethodHead, r.path+"/blobs/"+d.Digest.String(),
		scopesFor(r.path, "pull,push"), nil, http.StatusNotFound)
	if err != nil {
		return false, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	drain(resp)
	if resp.StatusCode == http.StatusNotFound {
		return false, nil
	}
	if d.Size > 0 && resp.ContentLength >= 0 && resp.ContentLength != d.Size {
		// A broken upload of some other client: sending it again repairs it.
		return false, nil
	}
	return true, nil
}

// maxTagPages bounds what a registry that never ends its list can cost.
const maxTagPages = 1000

// Tags lists the repository's tags in lexical order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	next := r.path + "/tags/list?n=1000"
	for range maxTagPages {
		resp, err := r.remote.do(ctx, http.MethodGet, next, scopesFor(r.path, "pull"), nil)
		if err != nil {
			var no *refusal
			if errors.As(err, &no) && no.class() == fail.NotFound {
				return nil, fail.New(fail.NotFound, "repository %s not found: %w", reference.FamiliarName(r.name), err)
			}
			return nil, fmt.Errorf("tags of %s: %w", reference.FamiliarName(r.name), err)
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&page)
		resp.Body.Close()
		if err != nil {
			return nil, fail.New(fail.Unavailable, "tags of %s: %w", reference.FamiliarName(r.name), err)
		}
		tags = append(tags, page.Tags...)
		if next = nextPage(resp); next == "" {
			break
		}
	}
	slices.Sort(tags)
	return tags, nil
}

// nextPage is the URL of RFC 8288 Link rel="next", if it is on the same server.
func nextPage(resp *http.Response) string {
	link := resp.Header.Get("Link")
	target, params, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(params, "next") {
		return ""
	}
	u, err := resp.Request.URL.Parse(target)
	if err != nil || u.Host != resp.Request.URL.Host || u.Scheme != resp.Request.URL.Scheme {
		return ""
	}
	return u.String()
}

// Blob streams a blob from offset. It retries and resumes by itself what can be
// resumed. The caller verifies the digest and closes.
func (r *Repository) Blob(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error) {
	b := &blobReader{ctx: ctx, repo: r, d: d, at: offset}
	if d.Size > 0 && offset >= d.Size {
		return http.NoBody, nil
	}
	if err := b.open(); err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return b, nil
}

// blobReader reads a blob over as many answers as it takes.
type blobReader struct {
	ctx   context.Context
	repo  *Repository
	d     oci.Descriptor
	at    int64 // where the next byte is
	body  io.ReadCloser
	fails int // answers in a row that brought nothing
}

func (b *blobReader) open() error {
	return b.repo.read(b.ctx, func(a *access) error {
		resp, err := a.do(b.ctx, http.MethodGet, b.repo.path+"/blobs/"+b.d.Digest.String(), scopesFor(b.repo.path, "pull"),
			func(req *http.Request) {
				if b.at > 0 {
					req.Header.Set("Range", "bytes="+strconv.FormatInt(b.at, 10)+"-")
				}
			}, http.StatusRequestedRangeNotSatisfiable)
		if err != nil {
			return err
		}
		if err := b.position(resp); err != nil {
			resp.Body.Close()
			return err
		}
		b.body = resp.Body
		return nil
	})
}

// position makes the answer's body begin at b.at, also if the server ignores ranges.
func (b *blobReader) position(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		return fail.New(fail.Invalid, "the registry has only %d of %d bytes", b.at, b.d.Size)
	case http.StatusPartialContent:
		unit, _, _ := strings.Cut(resp.Header.Get("Content-Range"), "-")
		if from := strings.TrimPrefix(unit, "bytes "); from != strconv.FormatInt(b.at, 10) {
			return fail.New(fail.Invalid, "asked for bytes from %d, the registry sent from %q", b.at, from)
		}
		return nil
	}
	if _, err := io.CopyN(io.Discard, resp.Body, b.at); err != nil {
		return fail.New(fail.Unavailable, "%w", err)
	}
	return nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		if b.body == nil {
			if err := b.open(); err != nil {
				// A registry that is restarted comes back.
				if !fail.Is(err, fail.Unavailable) {
					return 0, fmt.Errorf("blob %s: %w", b.d.Digest, err)
				}
				if err := b.again(err); err != nil {
					return 0, err
				}
				continue
			}
		}
		if b.d.Size > 0 {
			left := b.d.Size - b.at
			if left <= 0 {
				return 0, io.EOF
			}
			p = p[:min(int64(len(p)), left)]
		}
		n, err := b.body.Read(p)
		b.at += int64(n)
		if n > 0 {
			b.fails = 0
		}
		if err == nil || err == io.EOF && (b.d.Size <= 0 || b.at == b.d.Size) {
			return n, err
		}
		if n > 0 {
			b.drop()
			return n, nil
		}
		if err := b.again(err); err != nil {
			return 0, err
		}
	}
}

// again prepares another answer after one that ended too early with cause.
func (b *blobReader) again(cause error) error {
	b.drop()
	if err := b.ctx.Err(); err != nil {
		return fmt.Errorf("blob %s: %w", b.d.Digest, context.Cause(b.ctx))
	}
	b.fails++
	if b.fails >= maxTries {
		if cause == io.EOF || errors.Is(cause, io.ErrUnexpectedEOF) {
			return fail.New(fail.Invalid, "blob %s: the registry sent only %d of %d bytes", b.d.Digest, b.at, b.d.Size)
		}
		return fail.New(fail.Unavailable, "blob %s: cut after %d of %d bytes: %w", b.d.Digest, b.at, b.d.Size, cause)
	}
	b.repo.client.cfg.Log.Info("download was cut, going on", "blob", b.d.Digest, "at", b.at, "of", b.d.Size, "error", cause)
	if err := b.repo.client.pause.wait(b.ctx, b.fails-1, 0); err != nil {
		return fmt.Errorf("blob %s: %w", b.d.Digest, err)
	}
	return nil
}

func (b *blobReader) drop() {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
}

func (b *blobReader) Close() error {
	b.drop()
	return nil
}

// uploadURL is Location with the blob's digest added to its query.
func uploadURL(resp *http.Response, d oci.Digest) (string, error) {
	u, err := resp.Location()
	if err != nil {
		return "", fail.New(fail.Invalid, "the registry names no place to upload to: %w", err)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", fail.New(fail.Invalid, "the registry names no usable place to upload to: %w", err)
	}
	q.Set("digest", d.String())
	u.RawQuery = q.Encode()
	return u.String(), nil
}
