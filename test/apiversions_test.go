package test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"berth/testkit"

	mobyclient "github.com/moby/moby/client"
)

// TestEveryVersionOfTheAPIIsSpoken: clients of each version from 1.40 on, by their own demand
// or by negotiation, in the words of Docker where it cannot be.
func TestEveryVersionOfTheAPIIsSpoken(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	a := &apiTest{T: t, e: e, seen: map[int]bool{}}
	newest := a.ask(200, "GET", "/version", "").at("ApiVersion").(string)
	var minor int
	if _, err := fmt.Sscanf(newest, "1.%d", &minor); err != nil || minor < 55 {
		t.Fatalf("the newest version is %q", newest)
	}
	for n := 40; n <= minor; n++ {
		c := a.client(fmt.Sprintf("1.%d", n))
		if _, err := c.Info(t.Context(), mobyclient.InfoOptions{}); err != nil {
			t.Errorf("1.%d: %v", n, err)
		}
		if _, err := c.ContainerList(t.Context(), mobyclient.ContainerListOptions{All: true}); err != nil {
			t.Errorf("1.%d: %v", n, err)
		}
		if got := c.ClientVersion(); got != fmt.Sprintf("1.%d", n) {
			t.Errorf("a client that demands 1.%d speaks %s", n, got)
		}
	}
	// A newer client comes down, whether it asks by HEAD or, as long ago, by GET.
	c := a.client("")
	if p, err := c.Ping(t.Context(), mobyclient.PingOptions{NegotiateAPIVersion: true}); err != nil || p.APIVersion != newest || c.ClientVersion() != newest {
		t.Errorf("negotiated %s (%+v, %v), want %s", c.ClientVersion(), p, err, newest)
	}
	for path, want := range map[string]string{
		fmt.Sprintf("/v1.%d/version", minor+1): fmt.Sprintf("client version 1.%d is too new. Maximum supported API version is %s", minor+1, newest),
		"/v1.99/_ping":                         "client version 1.99 is too new",
		"/v2.0/version":                        "is too new",
		"/v1.39/version":                       "client version 1.39 is too old. Minimum supported API version is 1.40",
		"/v1.0/_ping":                          "is too old",
		"/v1/version":                          "client version 1 is too old",
	} {
		r := a.ask(400, "GET", path, "").says(want)
		if r.header.Get("Api-Version") != newest { // by it a client learns what it may say
			t.Errorf("%s: %v", path, r.header)
		}
	}
	for _, path := range []string{"/vx/version", "/version/", "/v1.45", "/containers", "/containers/a/b/c"} {
		a.ask(404, "GET", path, "").says("page not found")
	}

	// What every answer has, errors included.
	for _, tt := range []struct {
		status       int
		method, path string
	}{{200, "GET", "/version"}, {404, "GET", "/containers/nosuch/json"}, {404, "GET", "/nosuch"}, {400, "GET", "/v1.1/info"}, {200, "HEAD", "/_ping"}, {501, "POST", "/build"}} {
		r := a.ask(tt.status, tt.method, tt.path, "")
		for name, want := range map[string]string{"Api-Version": newest, "Ostype": "linux", "Docker-Experimental": "false"} {
			if r.header.Get(name) != want {
				t.Errorf("%s %s: %s is %q", tt.method, tt.path, name, r.header.Get(name))
			}
		}
		if !strings.HasPrefix(r.header.Get("Server"), "Berth/") {
			t.Errorf("%s %s: Server is %q", tt.method, tt.path, r.header.Get("Server"))
		}
	}
	// Wrong methods on a path that is there, as Docker's router answers them.
	for _, method := range []string{"PUT", "DELETE", "PATCH"} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://engine/containers/json", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := plainClient(e).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 404 && resp.StatusCode != 405 {
			t.Errorf("%s /containers/json: %s", method, resp.Status)
		}
	}
}
