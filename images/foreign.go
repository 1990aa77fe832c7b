package images

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"berth/fail"
	"berth/oci"
)

// openForeign opens a layer at one of the URLs that its descriptor names.
func openForeign(ctx context.Context, d oci.Descriptor, offset int64) (body io.ReadCloser, err error) {
	for _, u := range d.URLs {
		if body, err = get(ctx, u, offset); err == nil {
			return body, nil
		}
	}
	return nil, err
}

// OpenURL opens what an http or https URL names, as an archive to import.
func OpenURL(ctx context.Context, url string) (io.ReadCloser, error) { return get(ctx, url, 0) }

// get asks for a document from offset on. Only http and https are followed. What comes is
// not to be trusted.
func get(ctx context.Context, from string, offset int64) (io.ReadCloser, error) {
	u, err := url.Parse(from)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fail.New(fail.Invalid, "%q is no http or https URL", from)
	}
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	body, err := request(ctx, u.String(), offset)
	if err != nil {
		watch.Stop()
		cancel(nil)
		switch {
		case outer.Err() != nil:
			return nil, context.Cause(outer)
		case context.Cause(ctx) == errStalled:
			return nil, fail.New(fail.Unavailable, "Get %q: %w", from, errStalled)
		}
		return nil, err
	}
	return &watchedBody{body, from, ctx, cancel, watch}, nil
}

// stallTimeout is how long a server may send nothing.
const stallTimeout = 2 * time.Minute

var errStalled = fmt.Errorf("nothing came for %s", stallTimeout)

// watchedBody ends the transfer when nothing comes.
type watchedBody struct {
	io.ReadCloser
	from   string
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *time.Timer
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.Reset(stallTimeout)
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
		err = fail.New(fail.Unavailable, "Get %q: %w", b.from, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.watch.Stop()
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// request sends the request of get.
func request(ctx context.Context, from string, offset int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, fail.New(fail.Invalid, "%q: %w", from, err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fail.New(fail.Unavailable, "%w", err) // net/http names method and URL
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent && offset > 0 && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)):
		return resp.Body, nil
	case resp.StatusCode == http.StatusOK:
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			resp.Body.Close()
			return nil, fail.New(fail.Unavailable, "Get %q: %w", from, err)
		}
		return resp.Body, nil
	}
	resp.Body.Close()
	class := fail.Unavailable
	if resp.StatusCode == http.StatusNotFound {
		class = fail.NotFound
	}
	return nil, fail.New(class, "Get %q: %s", from, resp.Status)
}

// mayPushForeign reports whether the registry at host ("name[:port]") may be sent foreign
// layers: it is listed by name, or by a network that its address is in.
func (s *Store) mayPushForeign(ctx context.Context, host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = strings.Trim(h, "[]")
	}
	for _, allowed := range s.pushForeign {
		if strings.EqualFold(allowed, host) || strings.EqualFold(allowed, name) {
			return true
		}
		network, err := netip.ParsePrefix(allowed)
		if err != nil {
			continue
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if network.Masked().Contains(a.Unmap()) {
				return true
			}
		}
	}
	return false
}
