package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"

	"berth/fail"
	"berth/oci"
)

// MountBlob asks the registry to take the blob over from another repository of it,
// and reports whether it did.
func (r *Repository) MountBlob(ctx context.Context, d oci.Descriptor, from string) (bool, error) {
	a, err := r.writer()
	if err != nil {
		return false, err
	}
	q := url.Values{"mount": {d.Digest.String()}, "from": {from}}
	scopes := append(scopesFor(r.path, "pull,push"), scopesFor(from, "pull")...)
	resp, err := a.do(ctx, http.MethodPost, r.path+"/blobs/uploads/?"+q.Encode(), scopes, nil)
	if err != nil {
		return false, fmt.Errorf("mount blob %s from %s: %w", d.Digest, from, err)
	}
	drain(resp)
	if resp.StatusCode == http.StatusCreated {
		return true, nil
	}
	// The registry opened an upload instead (distribution specification, "Mounting a
	// blob from another repository"); we begin our own, with its own tries.
	if u, err := resp.Location(); err == nil && u.Host == resp.Request.URL.Host {
		(&upload{repo: r, to: a, target: u.String()}).abandon(ctx)
	}
	return false, nil
}

// PushBlob uploads a blob: in one piece, as that is the fastest; in several, if the
// registry or what stands before it refuses so much at once. A broken upload goes on where
// the registry has it, or begins anew. open is called for each beginning, and its content
// is sought in if it can be; progress sees the bytes sent so far and may be nil.
func (r *Repository) PushBlob(ctx context.Context, d oci.Descriptor, open func() (io.ReadCloser, error), progress func(sent int64)) error {
	a, err := r.writer()
	if err != nil {
		return err
	}
	u := &upload{repo: r, to: a, d: d, source: open, progress: progress}
	defer func() {
		if err != nil {
			u.abandon(ctx)
		}
	}()
	fails, furthest := 0, int64(0)
	for {
		if err = u.goOn(ctx); err == nil {
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, errContent) {
			return fmt.Errorf("blob %s: %w", d.Digest, err)
		}
		next, asked, ok := u.after(err)
		if u.at > furthest {
			fails, furthest = 0, u.at
		}
		if fails++; !ok || fails >= r.client.cfg.Tries || asked > r.client.pause.longest {
			return fmt.Errorf("blob %s: %w", d.Digest, err)
		}
		r.client.cfg.Log.Info("upload failed, trying again", "blob", d.Digest, "sent", u.at, "error", err)
		if next != soon {
			if err = r.client.pause.wait(ctx, fails-1, asked); err != nil {
				return fmt.Errorf("blob %s: %w", d.Digest, err)
			}
		}
		// What looked like a failure may have been none: the answer got lost.
		if has, hasErr := r.HasBlob(ctx, d); hasErr == nil && has {
			u.target = ""
			return nil
		}
		if next != later || !u.locate(ctx) {
			u.abandon(ctx)
		}
		if fails == 2 && u.piece == 0 {
			u.piece = largestPiece // what does not get through at once may do so in pieces
		}
	}
}

// errContent marks failures of the blob's own source.
var errContent = errors.New("read")

// Sizes of the pieces of an upload that a registry does not take at once: common limits
// of what stands before registries are 100 MB and more, some are 1 MB.
const (
	largestPiece  = 64 << 20
	smallestPiece = 512 << 10
)

// upload is a blob on its way to a registry (distribution specification, "Pushing a blob
// in chunks", "Pushing a blob monolithically").
type upload struct {
	repo     *Repository
	to       *access
	d        oci.Descriptor
	source   func() (io.ReadCloser, error)
	progress func(int64)

	target string // where the session goes on; empty: there is none
	at     int64  // bytes that the registry has
	piece  int64  // 0: in one piece
	begun  bool   // the session has pieces, so that it cannot be ended by one request
}

func (u *upload) scopes() []string { return scopesFor(u.repo.path, "pull,push") }

// goOn begins or continues the upload and brings it to its end.
func (u *upload) goOn(ctx context.Context) error {
	if u.target == "" {
		if err := u.begin(ctx); err != nil {
			return err
		}
	}
	if u.piece == 0 && !u.begun {
		return u.end(ctx, u.d.Size)
	}
	for u.at < u.d.Size {
		n := u.d.Size - u.at
		if u.piece > 0 {
			n = min(n, u.piece)
		}
		if err := u.send(ctx, n); err != nil {
			return err
		}
	}
	return u.end(ctx, 0)
}

func (u *upload) begin(ctx context.Context) error {
	resp, err := u.to.do(ctx, http.MethodPost, u.repo.path+"/blobs/uploads/", u.scopes(), nil)
	if err != nil {
		return err
	}
	drain(resp)
	if least, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil && u.piece > 0 {
		u.piece = max(u.piece, min(least, largestPiece))
	}
	u.at, u.begun = 0, false
	return u.moveTo(resp)
}

// moveTo takes the place that an answer names for what comes next.
func (u *upload) moveTo(resp *http.Response) error {
	next, err := resp.Location()
	if err != nil {
		return fail.New(fail.Invalid, "the registry names no place to upload to: %w", err)
	}
	u.target = next.String()
	return nil
}

// send uploads the n bytes from u.at on.
func (u *upload) send(ctx context.Context, n int64) error {
	resp, err := u.transmit(ctx, http.MethodPatch, u.target, n)
	if err != nil {
		return err
	}
	drain(resp)
	u.begun = true
	from := u.at
	u.at += n
	if has, ok := received(resp); ok && has > 0 && has < u.at {
		if u.at = has; has <= from {
			return spoiled(fail.New(fail.Unavailable, "the registry took %d bytes and has only %d", from+n, has))
		}
	}
	return u.moveTo(resp)
}

// end closes the upload with its last n bytes.
func (u *upload) end(ctx context.Context, n int64) error {
	target, err := url.Parse(u.target)
	if err != nil {
		return fail.Mark(fail.Invalid, err)
	}
	q, err := url.ParseQuery(target.RawQuery)
	if err != nil {
		return fail.New(fail.Invalid, "the registry names no usable place to upload to: %w", err)
	}
	q.Set("digest", u.d.Digest.String())
	target.RawQuery = q.Encode()
	resp, err := u.transmit(ctx, http.MethodPut, target.String(), n)
	if err != nil {
		return err
	}
	drain(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != u.d.Digest.String() {
		return spoiled(fail.New(fail.Invalid, "the registry stored %s instead", got))
	}
	u.target = ""
	return nil
}

// transmit sends n bytes from u.at on as the body of a request.
func (u *upload) transmit(ctx context.Context, method, target string, n int64) (*http.Response, error) {
	// The transport may go on reading for a moment after it has an early answer.
	var failed atomic.Pointer[error]
	var over atomic.Bool
	defer over.Store(true)
	body := func() (io.ReadCloser, error) {
		rc, err := u.open()
		if err != nil {
			err = fmt.Errorf("%w: %w", errContent, err)
			failed.Store(&err)
			return nil, err
		}
		return &counted{rc: rc, sent: u.at, left: n, failed: &failed, progress: func(n int64) {
			if u.progress != nil && !over.Load() {
				u.progress(n)
			}
		}}, nil
	}
	var source io.ReadCloser = http.NoBody
	if n > 0 {
		var err error
		if source, err = body(); err != nil {
			return nil, err
		}
	}
	resp, err := u.to.do(withoutRetry(ctx), method, target, u.scopes(), func(req *http.Request) {
		req.Header.Set("Content-Type", "application/octet-stream")
		if method == http.MethodPatch {
			req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", u.at, u.at+n-1))
		}
		req.ContentLength = n
		req.Body = source
		if n > 0 {
			req.GetBody = body
		}
	})
	if err != nil {
		if cause := failed.Load(); cause != nil && ctx.Err() == nil {
			return nil, *cause
		}
		return nil, err
	}
	return resp, nil
}

// open is the source from u.at on.
func (u *upload) open() (io.ReadCloser, error) {
	rc, err := u.source()
	if err != nil || u.at == 0 {
		return rc, err
	}
	if s, ok := rc.(io.Seeker); ok {
		_, err = s.Seek(u.at, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, rc, u.at)
	}
	if err != nil {
		rc.Close()
		return nil, err
	}
	return rc, nil
}

// next is what to do after a failure.
type next int

const (
	later next = iota // after a pause, where the registry has it
	anew              // after a pause, from the beginning
	soon              // at once, from the beginning, in another way
)

// after decides what can be done about a failure.
func (u *upload) after(err error) (next, time.Duration, bool) {
	var no *refusal
	if !errors.As(err, &no) {
		return later, 0, passing(err) || errors.Is(err, errSpoiled)
	}
	switch {
	case passingStatus(no.status):
		return later, no.after, true
	case no.status == http.StatusRequestedRangeNotSatisfiable && u.begun:
		return later, 0, true
	case no.code == "BLOB_UPLOAD_UNKNOWN", no.status == http.StatusNotFound && u.target != "" && no.code == "":
		return anew, 0, true // the registry forgot the session
	case no.code == "DIGEST_INVALID", no.code == "SIZE_INVALID", no.code == "BLOB_UPLOAD_INVALID" && u.begun:
		return anew, 0, true // bytes got lost or damaged
	case u.piece == 0 && !u.begun && u.target != "" && inOnePieceRefused(no.status):
		u.piece = largestPiece
		return soon, 0, true
	case no.status == http.StatusRequestEntityTooLarge && u.piece > smallestPiece:
		u.piece = max(u.piece/8, smallestPiece)
		return soon, 0, true
	}
	return anew, 0, false
}

// inOnePieceRefused are the answers of registries that want a blob in pieces.
func inOnePieceRefused(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusLengthRequired, http.StatusRequestEntityTooLarge,
		http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
		return true
	}
	return false
}

// locate asks how much the registry has of the session, and reports whether it can go on.
func (u *upload) locate(ctx context.Context) bool {
	if u.target == "" {
		return false
	}
	resp, err := u.to.do(ctx, http.MethodGet, u.target, u.scopes(), nil)
	if err != nil {
		return false
	}
	drain(resp)
	has, ok := received(resp)
	if resp.StatusCode != http.StatusNoContent || !ok || has == 0 || has > u.d.Size || u.moveTo(resp) != nil {
		return false
	}
	u.at, u.begun = has, true
	return true
}

// received reads how many bytes a registry has from its Range header, "0-<last>". An
// upload with nothing is told as "0-0" by some, so that one byte cannot be told from none.
func received(resp *http.Response) (int64, bool) {
	v := strings.TrimPrefix(resp.Header.Get("Range"), "bytes=")
	from, to, ok := strings.Cut(v, "-")
	last, err := strconv.ParseInt(to, 10, 64)
	if !ok || from != "0" || err != nil || last < 0 {
		return 0, false
	}
	if last == 0 {
		return 0, true
	}
	return last + 1, true
}

// abandon ends the session, so that the registry need not keep what came. That it fails
// is of no importance: registries clean up by themselves.
func (u *upload) abandon(ctx context.Context) {
	target := u.target
	u.target, u.at, u.begun = "", 0, false
	if target == "" || ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(withoutRetry(ctx), 5*time.Second)
	defer cancel()
	if resp, err := u.to.do(ctx, http.MethodDelete, target, u.scopes(), nil); err == nil {
		drain(resp)
	}
}

// counted is a part of a blob. It tells how much of the blob was sent, and remembers if
// its source failed.
type counted struct {
	rc         io.ReadCloser
	sent, left int64
	progress   func(int64)
	failed     *atomic.Pointer[error]
}

func (c *counted) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.rc.Read(p[:min(int64(len(p)), c.left)])
	c.sent += int64(n)
	c.left -= int64(n)
	if err == io.EOF && c.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		cause := fmt.Errorf("%w: %w", errContent, err)
		c.failed.Store(&cause)
	}
	if n > 0 {
		c.progress(c.sent)
	}
	return n, err
}

func (c *counted) Close() error { return c.rc.Close() }

// PushManifest uploads a manifest or index and, if tag is not empty, tags it.
func (r *Repository) PushManifest(ctx context.Context, d oci.Descriptor, data []byte, tag string) error {
	a, err := r.writer()
	if err != nil {
		return err
	}
	ref := tag
	if ref == "" {
		ref = d.Digest.String()
	}
	resp, err := a.do(ctx, http.MethodPut, r.path+"/manifests/"+ref, scopesFor(r.path, "pull,push"), func(req *http.Request) {
		req.Header.Set("Content-Type", d.MediaType)
		req.ContentLength = int64(len(data))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		req.Body, _ = req.GetBody()
	})
	if err != nil {
		return fmt.Errorf("manifest for %s%s%s: %w", reference.FamiliarName(r.name), separator(ref), ref, err)
	}
	drain(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != d.Digest.String() {
		return fail.New(fail.Invalid, "manifest for %s%s%s: pushed %s, the registry stored %s",
			reference.FamiliarName(r.name), separator(ref), ref, d.Digest, got)
	}
	return nil
}
