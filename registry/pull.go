package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
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
//
// If known is given, a tag's manifest that it does not know comes along, is compared with
// what the registry said of it, and is kept for Manifest.
func (r *Repository) Resolve(ctx context.Context, ref string, known func(oci.Digest) bool) (oci.Descriptor, error) {
	var d oci.Descriptor
	err := r.read(ctx, canResolve, func(ctx context.Context, a *access) (err error) {
		d, err = r.resolve(ctx, a, ref, known)
		return err
	})
	if err != nil {
		return oci.Descriptor{}, r.pullError(ref, err)
	}
	return d, nil
}

func (r *Repository) resolve(ctx context.Context, a *access, ref string, known func(oci.Digest) bool) (oci.Descriptor, error) {
	resp, err := a.do(ctx, http.MethodHead, r.path+"/manifests/"+ref, scopesFor(r.path, "pull"),
		func(req *http.Request) { req.Header.Set("Accept", manifestTypes) })
	var no *refusal
	var before oci.Digest // as HEAD has it
	switch {
	case err == nil:
		drain(resp)
		d, ok := described(resp, ref)
		if ok {
			before = d.Digest
		}
		switch {
		case !ok:
		case known == nil || known(d.Digest) || digest.Digest(ref).Validate() == nil:
			return d, nil
		default:
			// By digest, for a tag may be moved meanwhile.
			data, err := r.manifest(ctx, a, d)
			if err == nil {
				r.keep(d.Digest, data)
				return d, nil
			}
			if !fail.Is(err, fail.NotFound) && !errors.Is(err, errSpoiled) {
				return oci.Descriptor{}, err
			}
		}
	case !errors.As(err, &no) || no.status == http.StatusTooManyRequests || no.status >= 500:
		return oci.Descriptor{}, err
	}
	// The answer to HEAD lacks what we need, the digest, or the reason in words; or it was
	// not true.
	resp, err = a.do(ctx, http.MethodGet, r.path+"/manifests/"+ref, scopesFor(r.path, "pull"),
		func(req *http.Request) { req.Header.Set("Accept", manifestTypes) })
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer resp.Body.Close()
	data, err := readManifest(resp.Body)
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("manifest %s: %w", ref, err)
	}
	if !json.Valid(data) {
		return oci.Descriptor{}, spoiled(fail.New(fail.Invalid, "manifest %s is not JSON", ref))
	}
	d := oci.Descriptor{MediaType: mediaType(resp, data), Digest: digest.FromBytes(data), Size: int64(len(data))}
	if want := digest.Digest(ref); want.Validate() == nil {
		if got := want.Algorithm().FromBytes(data); got != want {
			return oci.Descriptor{}, spoiled(fail.New(fail.Invalid, "manifest verification failed for digest %s: got %s", want, got))
		}
		d.Digest = want
	}
	// Damaged JSON can still be JSON: without the registry's word for it, it is not taken.
	said := first(resp.Header.Get("Docker-Content-Digest"), before.String())
	if digest.Digest(ref).Validate() != nil && said != "" && said != d.Digest.String() {
		return oci.Descriptor{}, spoiled(fail.New(fail.Invalid, "manifest %s: the registry calls it %s, but it is %s", ref, oneLine(said), d.Digest))
	}
	r.keep(d.Digest, data)
	return d, nil
}

// maxDocuments bounds what resolving many references of one repository can make us keep.
const maxDocuments = 16

func (r *Repository) keep(d oci.Digest, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.documents) >= maxDocuments {
		clear(r.documents)
	}
	r.documents[d] = data
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
	_ = oci.Decode(data, &m)
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
		return nil, spoiled(fail.New(fail.Unavailable, "%w", err))
	}
	if len(data) > maxManifest {
		return nil, fail.New(fail.Invalid, "larger than the %d bytes that a document may have", maxManifest)
	}
	return data, nil
}

// Manifest fetches a manifest or index and verifies size and digest.
func (r *Repository) Manifest(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fail.New(fail.Invalid, "manifest %q: %w", d.Digest, err)
	}
	r.mu.Lock()
	data := r.documents[d.Digest]
	r.mu.Unlock()
	if data != nil && (d.Size <= 0 || int64(len(data)) == d.Size) {
		return data, nil
	}
	err := r.read(ctx, canPull, func(ctx context.Context, a *access) (err error) {
		data, err = r.manifest(ctx, a, d)
		return err
	})
	if err != nil {
		return nil, r.pullError(d.Digest.String(), err)
	}
	return data, nil
}

func (r *Repository) manifest(ctx context.Context, a *access, d oci.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fail.New(fail.Invalid, "manifest %s: %d bytes are more than the %d that a manifest may have", d.Digest, d.Size, maxManifest)
	}
	resp, err := a.do(ctx, http.MethodGet, r.path+"/manifests/"+d.Digest.String(), scopesFor(r.path, "pull"),
		func(req *http.Request) { req.Header.Set("Accept", manifestTypes) })
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := readManifest(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if d.Size > 0 && int64(len(data)) != d.Size {
		return nil, spoiled(fail.New(fail.Invalid, "manifest %s: got %d bytes, want %d", d.Digest, len(data), d.Size))
	}
	if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest {
		return nil, spoiled(fail.New(fail.Invalid, "manifest verification failed for digest %s: got %s", d.Digest, got))
	}
	return data, nil
}

// HasBlob reports whether the repository holds the blob already.
func (r *Repository) HasBlob(ctx context.Context, d oci.Descriptor) (bool, error) {
	a, err := r.writer()
	if err != nil {
		return false, err
	}
	resp, err := a.do(ctx, http.MethodHead, r.path+"/blobs/"+d.Digest.String(),
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

// Bounds of what a registry that never ends its list can cost: the number of pages, and the bytes
// of the tags.
const (
	maxTagPages = 1000
	maxTags     = 32 << 20
)

// Tags lists the repository's tags in lexical order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	err := r.read(ctx, canResolve, func(ctx context.Context, a *access) (err error) {
		tags, err = r.tags(ctx, a)
		return err
	})
	var no *refusal
	switch {
	case errors.As(err, &no) && no.class() == fail.NotFound:
		return nil, fail.New(fail.NotFound, "repository %s not found: %w", reference.FamiliarName(r.name), err)
	case err != nil:
		return nil, fmt.Errorf("tags of %s: %w", reference.FamiliarName(r.name), err)
	}
	slices.Sort(tags)
	return tags, nil
}

func (r *Repository) tags(ctx context.Context, a *access) ([]string, error) {
	var tags []string
	size := 0
	next := r.path + "/tags/list?n=1000"
	for range maxTagPages {
		resp, err := a.do(ctx, http.MethodGet, next, scopesFor(r.path, "pull"), nil)
		if err != nil {
			return nil, err
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		data, err := readManifest(resp.Body)
		resp.Body.Close()
		if err == nil {
			err = oci.Decode(data, &page)
		}
		if err != nil {
			return nil, spoiled(fail.New(fail.Unavailable, "%w", err))
		}
		for _, t := range page.Tags {
			size += len(t) + 16
		}
		if size > maxTags {
			return nil, fail.New(fail.Invalid, "the registry lists more than %d MiB of tags", maxTags>>20)
		}
		tags = append(tags, page.Tags...)
		if next = nextPage(resp); next == "" {
			break
		}
	}
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

// Blob streams a blob from offset, straight from the connection. It repeats and resumes by
// itself what can be. The caller verifies the digest, tells by Reject if it is wrong, and
// closes.
func (r *Repository) Blob(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error) {
	b := &blobReader{ctx: ctx, repo: r, d: d, at: offset}
	if d.Size > 0 && offset >= d.Size {
		return http.NoBody, nil
	}
	if err := d.Digest.Validate(); err != nil {
		return nil, fail.New(fail.Invalid, "blob %q: %w", d.Digest, err)
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
	whole bool // a server cannot serve a part: read from the beginning, drop what is known
	fails int  // answers in a row that brought nothing
}

func (b *blobReader) open() error {
	return b.repo.read(b.ctx, canPull, func(ctx context.Context, a *access) error {
		resp, err := a.do(ctx, http.MethodGet, b.repo.path+"/blobs/"+b.d.Digest.String(), scopesFor(b.repo.path, "pull"),
			func(req *http.Request) {
				if b.at > 0 && !b.whole {
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
		b.repo.mu.Lock()
		b.repo.served[b.d.Digest] = a
		b.repo.mu.Unlock()
		return nil
	})
}

// position makes the answer's body begin at b.at, also if the server ignores ranges.
func (b *blobReader) position(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		b.whole = true
		return spoiled(fail.New(fail.Invalid, "the registry has only %d of %d bytes", b.at, b.d.Size))
	case http.StatusPartialContent:
		unit, _, _ := strings.Cut(resp.Header.Get("Content-Range"), "-")
		if from := strings.TrimPrefix(unit, "bytes "); from != strconv.FormatInt(b.at, 10) {
			b.whole = true
			return spoiled(fail.New(fail.Invalid, "asked for bytes from %d, the registry sent from %q", b.at, from))
		}
		return nil
	}
	if _, err := io.CopyN(io.Discard, resp.Body, b.at); err != nil {
		if err == io.EOF {
			return spoiled(fail.New(fail.Invalid, "the registry sent only a part of the %d bytes that came before", b.at))
		}
		return spoiled(fail.New(fail.Unavailable, "%w", err))
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
	if b.fails >= b.repo.client.cfg.Tries {
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

// Reject is Repository.Reject for the content that was read.
func (b *blobReader) Reject() { b.repo.Reject(b.d.Digest) }

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
