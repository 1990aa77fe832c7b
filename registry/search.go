package registry

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"berth/fail"
	"berth/oci"
)

// Found is a repository that a search found, in the form of Docker's index API ("v1").
type Found struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
	Automated   bool   `json:"is_automated"`
}

// indexHost is where docker.io is searched.
const indexHost = "index.docker.io"

// Search asks the search endpoint of docker.io, or of the registry that term begins
// with, for at most limit repositories. A registry that cannot be searched is class
// NotFound.
func (c *Client) Search(ctx context.Context, term string, limit int, a *Auth) ([]Found, error) {
	host, rest, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", term
	}
	target := way{host: indexHost, scheme: "https", root: "/v2", own: true, can: canAll}
	print := ""
	if hostOf(host) == hubHost {
		rest = strings.TrimPrefix(rest, "library/")
	} else {
		w, err := c.waysTo(host)
		if err != nil {
			return nil, err
		}
		target, print = w.own(), w.print
	}
	e := c.endpoint(target, print)
	base, hc, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	base = strings.TrimSuffix(base, "/v2")
	q := url.Values{"q": {rest}, "n": {strconv.Itoa(limit)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/search?"+q.Encode(), nil)
	if err != nil {
		return nil, fail.Mark(fail.Invalid, err)
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if user, password := a.basic(); user != "" && password != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, connectionError(base+"/v1", err)
	}
	if resp.StatusCode == http.StatusNotFound {
		drain(resp)
		return nil, fail.New(fail.NotFound, "%s cannot be searched: it has no %s", e.way.host, req.URL.Path)
	}
	if resp.StatusCode != http.StatusOK {
		err := refused(resp)
		return nil, fail.New(classOf(err), "search %s: %w", e.way.host, err)
	}
	defer resp.Body.Close()
	var got struct {
		Results []Found `json:"results"`
	}
	data, err := readManifest(resp.Body)
	if err == nil {
		err = oci.Decode(data, &got)
	}
	if err != nil {
		return nil, fail.New(fail.Unavailable, "%s cannot be searched: its answer is not that of a search: %w", e.way.host, err)
	}
	return got.Results[:min(len(got.Results), limit)], nil
}
