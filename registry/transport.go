package registry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"berth/fail"
)

var errStalled = fail.New(fail.Unavailable, "the registry stopped answering")

// watched ends requests whose transfer stands still: bodies may take as long as they
// like while bytes flow.
type watched struct {
	// headers bounds the wait for an answer after a request is wholly sent: a registry may
	// have to move a pushed blob before it answers. idle bounds each read, and the time in
	// which no more of a request can be sent.
	headers, idle time.Duration
	next          http.RoundTripper
}

func (t *watched) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	dog := time.AfterFunc(t.headers, func() { cancel(errStalled) })
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		dog.Reset(t.idle)
		req.Body = &sentBody{ReadCloser: req.Body, sent: dog.Reset, headers: t.headers, idle: t.idle}
	}
	resp, err := t.next.RoundTrip(req)
	dog.Stop()
	if err != nil {
		if context.Cause(ctx) == errStalled {
			err = errStalled
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = &watchedBody{rc: resp.Body, ctx: ctx, cancel: cancel, dog: dog, idle: t.idle}
	return resp, nil
}

// sentBody tells the watchdog of every part of a request body that is taken to be sent.
type sentBody struct {
	io.ReadCloser
	sent          func(time.Duration) bool
	headers, idle time.Duration
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.sent(b.headers)
	} else {
		b.sent(b.idle)
	}
	return n, err
}

// watchedBody runs the watchdog only while a read waits: a slow consumer is no stall.
type watchedBody struct {
	rc     io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	dog    *time.Timer
	idle   time.Duration
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.dog.Reset(b.idle)
	n, err := b.rc.Read(p)
	b.dog.Stop()
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errStalled {
		err = errStalled
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.dog.Stop()
	b.cancel(nil)
	return b.rc.Close()
}

// pause is the time between tries: it doubles from first, with some jitter.
type pause struct{ first, longest time.Duration }

// wait sleeps before the try after number try (from 0), or returns early with ctx's
// error. asked is what the server wants, if more.
func (p pause) wait(ctx context.Context, try int, asked time.Duration) error {
	d := p.first << try
	d += time.Duration(rand.Int64N(int64(d)/4 + 1))
	t := time.NewTimer(min(max(d, asked), p.longest))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type noRetryKey struct{}

// withoutRetry marks requests whose caller repeats them itself, or not at all.
func withoutRetry(ctx context.Context) context.Context {
	return context.WithValue(ctx, noRetryKey{}, true)
}

// retrying repeats requests that may succeed the next time.
type retrying struct {
	tries int
	pause pause
	log   *slog.Logger
	next  http.RoundTripper
}

func (t *retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	hasBody := req.Body != nil && req.Body != http.NoBody
	once := ctx.Value(noRetryKey{}) != nil || hasBody && req.GetBody == nil
	for try := 0; ; try++ {
		resp, err := t.next.RoundTrip(req)
		if once || try == t.tries-1 {
			return resp, err
		}
		var asked time.Duration
		switch {
		case err != nil && (ctx.Err() != nil || !passing(err)):
			return resp, err
		case err == nil && !passingStatus(resp.StatusCode):
			return resp, nil
		case err == nil:
			// A server that wants a longer pause than we are willing to make gets none.
			if asked = retryAfter(resp); asked > t.pause.longest {
				return resp, nil
			}
			t.log.Debug("registry asked again", "url", req.URL.Redacted(), "status", resp.Status)
			drain(resp)
		default:
			t.log.Debug("registry asked again", "url", req.URL.Redacted(), "error", err)
		}
		if err := t.pause.wait(ctx, try, asked); err != nil {
			return nil, err
		}
		if hasBody {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req = req.Clone(ctx)
			req.Body = body
		}
	}
}

// errSpoiled marks content that came damaged, or not to its end: it may come whole the
// next time.
var errSpoiled = errors.New("damaged on its way")

type spoiledError struct{ err error }

func (e spoiledError) Error() string        { return e.err.Error() }
func (e spoiledError) Unwrap() error        { return e.err }
func (e spoiledError) Is(target error) bool { return target == errSpoiled }

func spoiled(err error) error { return spoiledError{err} }

// worthAnother reports whether a request that ended with err may succeed the next time,
// and when its server wants to be asked again.
func worthAnother(err error) (bool, time.Duration) {
	var no *refusal
	switch {
	case errors.Is(err, errSpoiled):
		return true, 0
	case errors.As(err, &no):
		return passingStatus(no.status), no.after
	}
	return passing(err), 0
}

// unreachable reports whether a server does not answer at all.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.Is(err, errStalled) || errors.As(err, &op) && op.Op == "dial"
}

func passingStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// passing reports whether a connection's failure may be gone at the next try. Refused
// connections, unknown hosts and bad certificates are told at once instead.
func passing(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.IsTemporary
	}
	var timeout net.Error
	return errors.Is(err, errStalled) || errors.Is(err, errRedirects) || errors.Is(err, net.ErrClosed) || // closed by its other half
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EPIPE) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

// retryAfter reads RFC 9110 §10.2.3 Retry-After, in seconds or as a date.
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(min(n, 1<<20)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// drain lets the connection be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}
