package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// A route that reads has to be thought of: may everybody who may look see what it tells?
func TestEveryRouteThatReadsIsClassifiedForReadOnlySockets(t *testing.T) {
	classified := append(slices.Clone(readable), slices.Collect(maps.Keys(withheld))...)
	for _, e := range routes {
		row := e.method + " " + e.pattern
		reads := e.method == http.MethodGet || e.method == http.MethodHead
		switch {
		case reads && !slices.Contains(classified, row):
			t.Errorf("%s: is it to be answered on a read-only socket? Add it to readable or withheld", row)
		case !reads && slices.Contains(classified, row):
			t.Errorf("%s changes something: a read-only socket refuses it by its method", row)
		}
	}
	for i, row := range classified {
		if slices.Contains(classified[:i], row) {
			t.Errorf("%s is classified twice", row)
		}
		if !slices.ContainsFunc(routes, func(e endpoint) bool { return e.method+" "+e.pattern == row }) {
			t.Errorf("%s is classified and no route", row)
		}
	}
}

func throughDoor(d Door, method, path string, header ...string) *httptest.ResponseRecorder {
	s := New(Config{})
	r := httptest.NewRequest(method, path, nil)
	r = r.WithContext(Through(r.Context(), d))
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestAReadOnlySocketRefusesAllThatIsNotListed(t *testing.T) {
	for _, e := range routes {
		row := e.method + " " + e.pattern
		if slices.Contains(readable, row) {
			continue
		}
		path := "/v1.55" + strings.NewReplacer("{id...}", "x", "{name...}", "x", "{id}", "x", "{name}", "x", "{verb}", "x", "{checkpoint}", "x").Replace(e.pattern)
		if w := throughDoor(Door{ReadOnly: true}, e.method, path); w.Code != http.StatusForbidden || e.method != "HEAD" && !strings.Contains(w.Body.String(), "this socket is read-only: "+e.method) {
			t.Errorf("%s: %d %s", row, w.Code, w.Body)
		}
	}
	if w := throughDoor(Door{ReadOnly: true}, "GET", "/_ping"); w.Code != http.StatusOK {
		t.Errorf("ping: %d", w.Code)
	}
	if w := throughDoor(Door{ReadOnly: true}, "POST", "/nowhere"); w.Code != http.StatusNotFound {
		t.Errorf("an unknown path: %d", w.Code)
	}
}

func TestWebPagesReachNoNetworkSocket(t *testing.T) {
	tcp, loopback := Door{Network: true}, Door{Network: true, Loopback: true}
	for _, c := range []struct {
		name   string
		door   Door
		header []string
		want   int
	}{
		{"a client", tcp, []string{"Host", "engine.example.com:2375"}, 200},
		{"another page's request", tcp, []string{"Origin", "http://evil.example"}, 403},
		{"a sandboxed page's", tcp, []string{"Origin", "null"}, 403},
		{"a page of the same name", tcp, []string{"Host", "evil.example", "Origin", "http://evil.example"}, 403},
		{"an image on a page", tcp, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"somebody who types the address", tcp, []string{"Sec-Fetch-Site", "none"}, 200},
		{"a name that points to loopback", loopback, []string{"Host", "evil.example:2375"}, 403},
		{"localhost", loopback, []string{"Host", "localhost:2375"}, 200},
		{"an address", loopback, []string{"Host", "127.0.0.1:2375"}, 200},
		{"an IPv6 address", loopback, []string{"Host", "[::1]:2375"}, 200},
		{"an IPv6 address without port", loopback, []string{"Host", "[::1]"}, 200},
		{"the official client", loopback, []string{"Host", "api.moby.localhost"}, 200},
		{"HTTP/1.0", loopback, []string{"Host", ""}, 200},
		{"a socket has no pages", Door{}, []string{"Host", "evil.example", "Origin", "http://evil.example"}, 200},
	} {
		if w := throughDoor(c.door, "GET", "/_ping", c.header...); w.Code != c.want {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
}

func TestReadOnlyAnswersHideSecrets(t *testing.T) {
	in := map[string]any{
		"Config":     map[string]any{"Env": []string{"PATH=/bin", "PASSWORD=a=b", "EMPTY"}, "Labels": map[string]string{"a": "b"}},
		"HostConfig": map[string]any{"Memory": int64(1<<62 + 1), "Mounts": []any{map[string]any{"VolumeOptions": map[string]any{"DriverConfig": map[string]any{"Options": map[string]string{"o": "password=x", "type": "cifs"}}}}}},
		"Env":        "a text",
	}
	got, err := veil(in)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(got)
	want := `{"Config":{"Env":["PATH=***","PASSWORD=***","EMPTY"],"Labels":{"a":"b"}},"Env":"a text","HostConfig":{"Memory":4611686018427387905,"Mounts":[{"VolumeOptions":{"DriverConfig":{"Options":{"o":"***","type":"cifs"}}}}]}}`
	if string(text) != want {
		t.Errorf("%s", text)
	}
}
