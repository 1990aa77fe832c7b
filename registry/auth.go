package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"

	"berth/fail"
)

// Auth is what a client sends in X-Registry-Auth.
type Auth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"` // base64 user:password, an older form
	ServerAddress string `json:"serveraddress,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// basic returns user and password, also out of the older form.
func (a *Auth) basic() (user, password string) {
	if a == nil {
		return "", ""
	}
	if a.Username == "" && a.Auth != "" {
		if raw, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			user, password, _ = strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
			return user, password
		}
	}
	return a.Username, a.Password
}

// credential is a in oras-go's form.
func (a *Auth) credential() auth.Credential {
	if a == nil {
		return auth.EmptyCredential
	}
	user, password := a.basic()
	return auth.Credential{Username: user, Password: password,
		RefreshToken: a.IdentityToken, AccessToken: a.RegistryToken}
}

// access is an endpoint as one user sees it.
type access struct {
	endpoint *endpoint
	auth     *Auth
	cache    auth.Cache
}

func (c *Client) access(e *endpoint, a *Auth) *access {
	if a != nil && *a == (Auth{ServerAddress: a.ServerAddress}) {
		a = nil
	}
	return &access{endpoint: e, auth: a, cache: c.tokenCache(e.way.host, a)}
}

// do sends a request for path (below the root of the API, or a whole URL of the same server) with
// the scopes it needs. prepare may fill in headers and body. Answers outside 2xx, but
// for those in accept, are errors of type refusal.
func (a *access) do(ctx context.Context, method, path string, scopes []string, prepare func(*http.Request), accept ...int) (*http.Response, error) {
	base, hc, err := a.endpoint.connect(ctx)
	if err != nil {
		return nil, err
	}
	target := path
	if !strings.HasPrefix(path, "http://") && !strings.HasPrefix(path, "https://") {
		target = base + "/" + path
		if ns := a.endpoint.way.ns; ns != "" {
			sep := "?"
			if strings.Contains(path, "?") {
				sep = "&"
			}
			target += sep + "ns=" + url.QueryEscape(ns)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, fail.Mark(fail.Invalid, err)
	}
	if prepare != nil {
		prepare(req)
	}
	ac := auth.Client{
		Client:   hc,
		Header:   http.Header{"User-Agent": {a.endpoint.client.cfg.UserAgent}},
		Cache:    a.cache,
		ClientID: "berth",
		Credential: func(_ context.Context, host string) (auth.Credential, error) {
			// An upload may be sent elsewhere; the credentials are the registry's alone.
			if !strings.HasPrefix(base+"/", "https://"+host+"/") && !strings.HasPrefix(base+"/", "http://"+host+"/") {
				return auth.EmptyCredential, nil
			}
			return a.auth.credential(), nil
		},
	}
	if a.endpoint.insecure(ctx) {
		// The token server of a registry on loopback may be on loopback too.
		ac.BlockedRealmPrefixes = []netip.Prefix{}
	}
	req = req.WithContext(auth.WithScopesForHost(ctx, req.URL.Host, scopes...))
	resp, err := ac.Do(req)
	if err != nil {
		a.endpoint.reconsider()
		return nil, a.requestError(base, err)
	}
	if resp.StatusCode == http.StatusBadRequest {
		a.endpoint.reconsider() // net/http servers answer so to http on a TLS port
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	for _, s := range accept {
		if resp.StatusCode == s {
			return resp, nil
		}
	}
	err = refused(resp)
	var no *refusal
	errors.As(err, &no)
	return nil, fail.Mark(no.class(), err)
}

// Login checks credentials against a registry. It returns the identity token that
// shall replace the password, if the registry issues one.
// Wrong credentials are class Unauthorized.
func (c *Client) Login(ctx context.Context, a Auth) (identityToken string, err error) {
	host := a.ServerAddress
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	host, _, _ = strings.Cut(host, "/")
	if hostOf(host) == hubHost {
		host = "docker.io"
	}
	w, err := c.waysTo(host)
	if err != nil {
		return "", err
	}
	base, hc, err := c.endpoint(w.own(), w.print).connect(ctx)
	if err != nil {
		return "", err
	}
	resp, err := c.knock(ctx, hc, base, "")
	if err != nil {
		return "", err
	}
	drain(resp)
	if resp.StatusCode == http.StatusOK {
		return "", nil // an open registry: any credentials will do
	}
	asked := challenges(resp.Header)
	user, password := a.basic()
	authorization := ""
	if bearer, ok := asked["bearer"]; ok {
		var token string
		if token, identityToken, err = c.token(ctx, hc, base, bearer, a); err != nil {
			return "", err
		}
		authorization = "Bearer " + token
	} else if _, ok := asked["basic"]; ok && user != "" {
		authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	if authorization != "" {
		if resp, err = c.knock(ctx, hc, base, authorization); err != nil {
			return "", err
		}
		drain(resp)
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return identityToken, nil
	case resp.StatusCode == http.StatusUnauthorized:
		return "", fail.New(fail.Unauthorized, "login attempt to %s/ failed with status: %s", base, resp.Status)
	case resp.StatusCode == http.StatusForbidden:
		return "", fail.New(fail.Forbidden, "login attempt to %s/ failed with status: %s", base, resp.Status)
	case resp.StatusCode >= 500:
		return "", fail.New(fail.Unavailable, "login attempt to %s/ failed with status: %s", base, resp.Status)
	}
	return "", fail.New(fail.Invalid, "%s is not a registry: it answers %s", base, resp.Status)
}

func (c *Client) knock(ctx context.Context, hc *http.Client, base, authorization string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/", nil)
	if err != nil {
		return nil, fail.Mark(fail.Invalid, err)
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, connectionError(base, err)
	}
	return resp, nil
}

// token logs in at the token server of a bearer challenge, asking for a refresh token
// (Docker's "Token Authentication Specification", offline_token).
func (c *Client) token(ctx context.Context, hc *http.Client, base string, challenge map[string]string, a Auth) (access, refresh string, err error) {
	realm, err := url.Parse(challenge["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return "", "", fail.New(fail.Invalid, "%s names no usable token server: %q", base, challenge["realm"])
	}
	if realm.Scheme == "http" && strings.HasPrefix(base, "https://") {
		return "", "", fail.New(fail.Invalid, "%s wants the password sent unencrypted to %s", base, realm.Host)
	}
	user, password := a.basic()
	q := url.Values{"service": {challenge["service"]}, "client_id": {"berth"}}
	var req *http.Request
	if a.IdentityToken != "" {
		q.Set("grant_type", "refresh_token")
		q.Set("refresh_token", a.IdentityToken)
		req, err = http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(q.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	} else {
		q.Set("offline_token", "true")
		q.Set("account", user)
		for k, v := range realm.Query() {
			q[k] = v
		}
		realm.RawQuery = q.Encode()
		req, err = http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
		if err == nil && user != "" {
			req.SetBasicAuth(user, password)
		}
	}
	if err != nil {
		return "", "", fail.Mark(fail.Invalid, err)
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	resp, err := hc.Do(req)
	if err != nil {
		return "", "", connectionError(base, err)
	}
	if resp.StatusCode != http.StatusOK {
		err := refused(resp)
		var no *refusal
		errors.As(err, &no)
		if no.status == http.StatusUnauthorized {
			return "", "", fail.New(fail.Unauthorized, "Get %q: %w", base+"/", err)
		}
		return "", "", fail.New(no.class(), "Get %q: %w", base+"/", err)
	}
	defer resp.Body.Close()
	var got struct {
		Token        string `json:"token"`
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&got); err != nil {
		return "", "", fail.New(fail.Unavailable, "token server %s: %w", realm.Host, err)
	}
	access = first(got.AccessToken, got.Token)
	if access == "" {
		return "", "", fail.New(fail.Unavailable, "token server %s gave no token", realm.Host)
	}
	return access, got.RefreshToken, nil
}

// scopesFor are the token scopes of actions on a repository.
func scopesFor(path, actions string) []string {
	return []string{fmt.Sprintf("repository:%s:%s", path, actions)}
}
