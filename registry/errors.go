package registry

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/distribution/reference"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"berth/fail"
)

// Error codes of the distribution specification ("Error Codes") and Docker's token
// specification that decide over class and text.
const (
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeNameUnknown     = "NAME_UNKNOWN"
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeUnauthorized    = "UNAUTHORIZED"
	codeDenied          = "DENIED"
	codeTooMany         = "TOOMANYREQUESTS"
)

// refusal is a registry's answer that is not a success.
type refusal struct {
	status int
	code   string        // the first error's code, may be empty
	text   string        // one line: "manifest unknown: manifest unknown"
	after  time.Duration // when the server wants to be asked again
}

func (r *refusal) Error() string { return r.text }

// refused reads an error answer and closes it.
func refused(resp *http.Response) error {
	defer resp.Body.Close()
	r := &refusal{status: resp.StatusCode, after: retryAfter(resp)}
	if c, ok := challenges(resp.Header)["bearer"]; ok {
		// RFC 6750 §3.1; Docker tells the same two apart.
		switch c["error"] {
		case "insufficient_scope":
			r.code, r.text = codeDenied, "denied: requested access to the resource is denied"
			return r
		}
	}
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"` // auth.docker.io's own form
		Message string `json:"message"`
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	_ = json.Unmarshal(data, &body)
	var lines []string
	for _, e := range body.Errors {
		lines = append(lines, codeText(e.Code, e.Message))
	}
	switch {
	case len(body.Errors) > 0:
		r.code = body.Errors[0].Code
		r.text = strings.Join(lines, ", ")
	case body.Details != "":
		r.text = oneLine(body.Details)
	case body.Message != "":
		r.text = oneLine(body.Message)
	}
	r.settle()
	return r
}

// settle gives an answer without codes the ones its status means.
func (r *refusal) settle() {
	plain := r.text
	switch {
	case r.code != "":
		return
	case r.status == http.StatusUnauthorized:
		r.code = codeUnauthorized
		r.text = codeText(r.code, first(plain, "authentication required"))
	case r.status == http.StatusForbidden:
		r.text = codeText("denied", first(plain, "the registry forbids it"))
	case r.status == http.StatusTooManyRequests:
		r.code = codeTooMany
		r.text = codeText(r.code, first(plain, "the registry limits the rate of requests"))
	case plain == "":
		r.text = fmt.Sprintf("received unexpected HTTP status: %d %s", r.status, http.StatusText(r.status))
	}
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func codeText(code, message string) string {
	code = strings.ToLower(strings.ReplaceAll(oneLine(code), "_", " "))
	if message = oneLine(message); message == "" {
		return code
	}
	return code + ": " + message
}

// oneLine keeps what a server says from spoiling a terminal or a log.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(strings.ToValidUTF8(s[:min(len(s), 500)], "")) // a character may have been cut
}

func (r *refusal) class() fail.Class {
	switch r.code {
	case codeManifestUnknown, codeNameUnknown, codeBlobUnknown:
		return fail.NotFound
	case codeUnauthorized:
		return fail.Unauthorized
	case codeDenied:
		return fail.Forbidden
	case codeTooMany:
		return fail.Unavailable
	}
	switch {
	case r.status == http.StatusNotFound:
		return fail.NotFound
	case r.status == http.StatusForbidden:
		return fail.Forbidden
	case r.status >= 500:
		return fail.Unavailable
	}
	return fail.Invalid
}

func classOf(err error) fail.Class {
	var no *refusal
	if errors.As(err, &no) {
		return no.class()
	}
	return fail.Of(err)
}

// connectionError names the server, not the object asked of it, as Docker does:
// Get "http://localhost:5000/v2/": dial tcp 127.0.0.1:5000: connect: connection refused.
func connectionError(base string, err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if hint := remedy(base, err); hint != "" {
		return fail.New(fail.Unavailable, "Get %q: %w (%s)", base+"/", err, hint)
	}
	return fail.New(fail.Unavailable, "Get %q: %w", base+"/", err)
}

// remedy says what can be done about a failure of TLS.
func remedy(base string, err error) string {
	host, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(base, "https://"), "http://"), "/")
	var authority x509.UnknownAuthorityError
	var op *net.OpError
	switch {
	case errors.As(err, &authority):
		return fmt.Sprintf("put the certificate of its authority into /etc/berth/certs.d/%s/ca.crt, or list it in insecure-registries", host)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "list it in insecure-registries if it shall be used without TLS"
	case errors.As(err, &op) && op.Op == "remote error" && strings.Contains(err.Error(), "certificate"):
		return fmt.Sprintf("the registry asks for a client certificate that it accepts: /etc/berth/certs.d/%s/client.cert and client.key", host)
	}
	return ""
}

// requestError classes what a request through the auth client ended with.
func (a *access) requestError(base string, err error) error {
	var token *errcode.ErrorResponse
	switch {
	case errors.As(err, &token):
		// The token server refused.
		r := &refusal{status: token.StatusCode}
		if len(token.Errors) > 0 {
			r.code, r.text = token.Errors[0].Code, codeText(token.Errors[0].Code, token.Errors[0].Message)
		} else if r.status == http.StatusUnauthorized && a.auth != nil {
			r.text = "incorrect username or password"
		}
		r.settle()
		return fail.Mark(r.class(), r)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fail.New(fail.Unauthorized, "unauthorized: authentication required: no credentials for %s", a.endpoint.way.host)
	case strings.Contains(err.Error(), "missing username or password"):
		// The auth client has no error of its own for it.
		return fail.New(fail.Unauthorized, "unauthorized: %s wants a user name and a password, and got a token", a.endpoint.way.host)
	}
	return connectionError(base, err)
}

// pullError puts an error of asking for ref into the words Docker has for it.
func (r *Repository) pullError(ref string, err error) error {
	var no *refusal
	if !errors.As(err, &no) {
		return err
	}
	whole := reference.FamiliarName(r.name) + separator(ref) + ref
	switch {
	case no.code == codeDenied:
		// The registry does not say whether it exists, and Docker's clients look for
		// 404 here.
		return fail.New(fail.NotFound, "pull access denied for %s, repository does not exist or may require 'docker login': %w",
			reference.FamiliarName(r.name), err)
	case no.code == codeNameUnknown:
		return fail.New(fail.NotFound, "repository %s not found: %w", reference.FamiliarName(r.name), err)
	case no.class() == fail.NotFound:
		if no.code == "" {
			return fail.New(fail.NotFound, "manifest for %s not found: manifest unknown: manifest unknown", whole)
		}
		return fail.New(fail.NotFound, "manifest for %s not found: %w", whole, err)
	case no.class() == fail.Unauthorized:
		return err
	}
	return fmt.Errorf("%s: %w", whole, err)
}

func separator(ref string) string {
	if strings.Contains(ref, ":") {
		return "@"
	}
	return ":"
}
