package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/distribution/reference"

	"berth/fail"
	"berth/oci"
)

// MountBlob asks the registry to take the blob over from another repository of it,
// and reports whether it did.
func (r *Repository) MountBlob(ctx context.Context, d oci.Descriptor, from string) (bool, error) {
	q := url.Values{"mount": {d.Digest.String()}, "from": {from}}
	scopes := append(scopesFor(r.path, "pull,push"), scopesFor(from, "pull")...)
	resp, err := r.remote.do(ctx, http.MethodPost, r.path+"/blobs/uploads/?"+q.Encode(), scopes, nil)
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
		if resp, err := r.remote.do(withoutRetry(ctx), http.MethodDelete, u.String(), scopes, nil); err == nil {
			drain(resp)
		}
	}
	return false, nil
}

// PushBlob uploads a blob in one piece. open is called for each try; progress sees the
// bytes sent so far of the current one and may be nil.
func (r *Repository) PushBlob(ctx context.Context, d oci.Descriptor, open func() (io.ReadCloser, error), progress func(sent int64)) error {
	for try := 0; ; try++ {
		err := r.pushBlob(ctx, d, open, progress)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || try == maxTries-1 || !passingPush(err) {
			return fmt.Errorf("blob %s: %w", d.Digest, err)
		}
		r.client.cfg.Log.Info("upload failed, trying again", "blob", d.Digest, "error", err)
		if err := r.client.pause.wait(ctx, try, 0); err != nil {
			return fmt.Errorf("blob %s: %w", d.Digest, err)
		}
	}
}

// errContent marks failures of the blob's own source.
var errContent = errors.New("read")

func passingPush(err error) bool {
	if errors.Is(err, errContent) {
		return false
	}
	var no *refusal
	if errors.As(err, &no) {
		// 404 here: the registry forgot the upload's session.
		return passingStatus(no.status) || no.status == http.StatusNotFound && no.code == "BLOB_UPLOAD_UNKNOWN"
	}
	return passing(err)
}

func (r *Repository) pushBlob(ctx context.Context, d oci.Descriptor, open func() (io.ReadCloser, error), progress func(int64)) error {
	scopes := scopesFor(r.path, "pull,push")
	resp, err := r.remote.do(ctx, http.MethodPost, r.path+"/blobs/uploads/", scopes, nil)
	if err != nil {
		return err
	}
	drain(resp)
	target, err := uploadURL(resp, d.Digest)
	if err != nil {
		return err
	}
	// The transport may go on reading for a moment after it has an early answer.
	var failed atomic.Pointer[error]
	var over atomic.Bool
	defer over.Store(true)
	body := func() (io.ReadCloser, error) {
		rc, err := open()
		if err != nil {
			err = fmt.Errorf("%w: %w", errContent, err)
			failed.Store(&err)
			return nil, err
		}
		return &counted{ReadCloser: rc, left: d.Size, failed: &failed, progress: func(n int64) {
			if progress != nil && !over.Load() {
				progress(n)
			}
		}}, nil
	}
	source, err := body()
	if err != nil {
		return err
	}
	resp, err = r.remote.do(withoutRetry(ctx), http.MethodPut, target, scopes, func(req *http.Request) {
		req.Header.Set("Content-Type", "application/octet-stream")
		req.ContentLength = d.Size
		req.Body, req.GetBody = source, body
		if d.Size == 0 {
			source.Close()
			req.Body, req.GetBody = http.NoBody, nil
		}
	})
	if err != nil {
		if cause := failed.Load(); cause != nil && ctx.Err() == nil {
			return *cause
		}
		return err
	}
	drain(resp)
	return nil
}

// counted tells how much of a blob was sent, and remembers if its source failed.
type counted struct {
	io.ReadCloser
	sent, left int64
	progress   func(int64)
	failed     *atomic.Pointer[error]
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
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

// PushManifest uploads a manifest or index and, if tag is not empty, tags it.
func (r *Repository) PushManifest(ctx context.Context, d oci.Descriptor, data []byte, tag string) error {
	ref := tag
	if ref == "" {
		ref = d.Digest.String()
	}
	resp, err := r.remote.do(ctx, http.MethodPut, r.path+"/manifests/"+ref, scopesFor(r.path, "pull,push"), func(req *http.Request) {
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
