package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"berth/fail"
)

// urlStall is how long a server that is no registry may send nothing.
const urlStall = 2 * time.Minute

var urlClient = &http.Client{Transport: &watched{headers: urlStall, idle: urlStall, next: http.DefaultTransport}}

// OpenURL opens what an http or https URL names, which need not be on a registry, from offset on.
// What comes is not to be trusted.
func OpenURL(ctx context.Context, from string, offset int64) (io.ReadCloser, error) {
	u, err := url.Parse(from)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fail.New(fail.Invalid, "%q is no http or https URL", from)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, fail.New(fail.Invalid, "%q: %w", from, err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := urlClient.Do(req)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, notGot(from, err)
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent && offset > 0 && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)):
		return fromURL{resp.Body, from}, nil
	case resp.StatusCode == http.StatusOK:
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			resp.Body.Close()
			return nil, notGot(from, err)
		}
		return fromURL{resp.Body, from}, nil
	}
	resp.Body.Close()
	class := fail.Unavailable
	if resp.StatusCode == http.StatusNotFound {
		class = fail.NotFound
	}
	return nil, fail.New(class, "Get %q: %s", from, resp.Status)
}

// fromURL names the URL in its errors.
type fromURL struct {
	io.ReadCloser
	from string
}

func (b fromURL) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = notGot(b.from, err)
	}
	return n, err
}

// notGot says why nothing came, or no more.
func notGot(from string, err error) error {
	var ue *url.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, errStalled):
		err = fmt.Errorf("nothing came for %s", urlStall)
	case errors.As(err, &ue): // it names method and URL, too
		err = ue.Err
	}
	return fail.New(fail.Unavailable, "Get %q: %w", from, err)
}
