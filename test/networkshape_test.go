package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/testkit"
)

// api asks an engine by its socket.
func api(t *testing.T, socket, method, path, body string) (int, any) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://engine/v1.41"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if len(data) > 0 && json.Unmarshal(data, &v) != nil {
		t.Fatalf("%s %s: not JSON: %s", method, path, data)
	}
	return resp.StatusCode, v
}

// shape is what kinds of values an answer has, by path, all kinds where the elements of a list
// differ. Keys that are data (IDs, names of networks) are all alike.
func shape(v any) map[string]string {
	out := map[string]string{}
	data := regexp.MustCompile(`^([0-9a-f]{64}|front|host|bridge)$`)
	is := func(at, kind string) {
		kinds := strings.Fields(out[at])
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
			slices.Sort(kinds)
		}
		out[at] = strings.Join(kinds, " ")
	}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			is(at, "object")
			for k, e := range v {
				if data.MatchString(k) {
					k = "*"
				}
				walk(at+"."+k, e)
			}
		case []any:
			is(at, "list")
			for _, e := range v {
				walk(at+"[]", e)
			}
		case nil:
			is(at, "null")
		default:
			is(at, reflect.TypeOf(v).String())
		}
	}
	walk("", v)
	return out
}

// TestNetworkAnswersHaveDockersShape asks dockerd and us for the same things. We may say
// more; what dockerd says we say too, as the same kind of value.
func TestNetworkAnswersHaveDockersShape(t *testing.T) {
	d := testkit.Dockerd(t)
	tar := testkit.BusyboxTar(t)
	d.Must("import", tar, "busybox")
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	sockets := []string{filepath.Join(d.Dir, "s"), strings.TrimPrefix(e.Host, "unix://")}
	subnet := someSubnet(e, "shape")
	for _, s := range sockets {
		for _, step := range []struct{ path, body string }{
			{"/networks/create", `{"Name":"front","CheckDuplicate":true,"Labels":{"a":"b"},"Options":{"com.docker.network.driver.mtu":"1400"},"IPAM":{"Driver":"default","Config":[{"Subnet":"` + subnet + `.0/24","IPRange":"` + subnet + `.128/25","Gateway":"` + subnet + `.1","AuxiliaryAddresses":{"x":"` + subnet + `.9"}}]}}`},
			{"/containers/create?name=web", `{"Image":"busybox","Cmd":["sleep","1000"],"ExposedPorts":{"80/tcp":{},"443/tcp":{}},"HostConfig":{"NetworkMode":"front","PortBindings":{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":""}]}},"NetworkingConfig":{"EndpointsConfig":{"front":{"Aliases":["www"],"IPAMConfig":{"IPv4Address":"` + subnet + `.7"}}}}}`},
			{"/containers/web/start", ``},
			{"/containers/create?name=plain", `{"Image":"busybox","Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"host"}}`},
			{"/containers/plain/start", ``},
			{"/containers/create?name=idle", `{"Image":"busybox","Cmd":["sleep","1000"],"ExposedPorts":{"80/tcp":{}},"HostConfig":{"NetworkMode":"front"}}`},
		} {
			if code, v := api(t, s, "POST", step.path, step.body); code >= 300 {
				t.Fatalf("%s: POST %s: %d %v", s, step.path, code, v)
			}
		}
	}
	part := func(v any, keys ...string) any {
		for _, k := range keys {
			v = v.(map[string]any)[k]
		}
		return v
	}
	for _, question := range []struct {
		path string
		keys []string
	}{
		{"/networks/front", nil}, {"/networks/host", nil}, {"/networks?filters=" + `%7B%22name%22%3A%5B%22front%22%5D%7D`, nil}, {"/networks", nil},
		{"/containers/web/json", []string{"NetworkSettings"}}, {"/containers/plain/json", []string{"NetworkSettings"}}, {"/containers/idle/json", []string{"NetworkSettings"}},
		{"/containers/json", nil},
		{"/info", []string{"Plugins"}},
	} {
		var shapes []map[string]string
		for _, s := range sockets {
			_, v := api(t, s, "GET", question.path, "")
			shapes = append(shapes, shape(part(v, question.keys...)))
		}
		var differ []string
		for at, kind := range shapes[0] {
			// What a list of an empty one would hold is not told; Debian's dockerd is of 20.10, where
			// options that nobody gave are null and are {} later.
			if got := shapes[1][at]; got != kind && !strings.HasPrefix(at, "[].Mounts") && !(strings.HasSuffix(at, ".IPAM.Options") && strings.HasSuffix(got, "object")) {
				differ = append(differ, fmt.Sprintf("%s: %q, dockerd %q", at, got, kind))
			}
		}
		slices.Sort(differ)
		if len(differ) > 0 {
			t.Errorf("%s:\n%s", question.path, strings.Join(differ, "\n"))
		}
	}

	// The same mistakes have the same statuses. Where 20.10 says 500 for what a user got wrong,
	// later versions say 400, and so do we. (Unknown drivers are left out: dockerd looks for such
	// plugins for 15 seconds.)
	for _, m := range []struct{ method, path, body string }{
		{"POST", "/networks/create", `{"Name":"bridge"}`},
		{"POST", "/networks/create", `{"Name":""}`},
		{"POST", "/networks/create", `{"Name":"front","CheckDuplicate":true}`},
		{"POST", "/networks/create", `{"Name":"x","IPAM":{"Config":[{"Subnet":"` + subnet + `.0/25"}]}}`},
		{"POST", "/networks/create", `{"Name":"x","IPAM":{"Config":[{"Subnet":"10.79.0.0"}]}}`},
		{"POST", "/networks/create", `{"Name":"x","IPAM":{"Config":[{"Subnet":"10.79.0.0/24","Gateway":"10.80.0.1"}]}}`},
		{"POST", "/networks/create", `{"Name":"x","IPAM":{"Config":[{"Gateway":"10.80.0.1"}]}}`},
		{"POST", "/networks/create", `{"Name":"x","Options":{"com.docker.network.driver.mtu":"big"}}`},
		{"POST", "/networks/create", `{"Name":"x","Driver":"host"}`},
		{"POST", "/networks/create", `{"Name":"x","ConfigFrom":{"Network":"nowhere"}}`},
		{"POST", "/networks/create", `{"Name":"x","Scope":"swarm"}`},
		{"POST", "/networks/create", `{"Name":"x","Ingress":true}`},
		{"DELETE", "/networks/host", ""},
		{"DELETE", "/networks/front", ""},
		{"DELETE", "/networks/nowhere", ""},
		{"GET", "/networks/nowhere", ""},
		{"POST", "/networks/front/connect", `{"Container":"web"}`},
		{"POST", "/networks/nowhere/connect", `{"Container":"web"}`},
		{"POST", "/networks/front/connect", `{"Container":"nobody"}`},
		{"POST", "/networks/front/connect", `{"Container":""}`},
		{"POST", "/networks/host/connect", `{"Container":"web"}`},
		{"POST", "/networks/none/connect", `{"Container":"web"}`},
		{"POST", "/networks/front/connect", `{"Container":"plain"}`},
		{"POST", "/networks/host/disconnect", `{"Container":"plain"}`},
		{"POST", "/networks/nowhere/disconnect", `{"Container":"web"}`},
		{"POST", "/networks/front/disconnect", `{"Container":"nobody"}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"container:web","PortBindings":{"80/tcp":[{"HostPort":"81"}]}}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"x"}]}}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"99999"}]}}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"front","ExtraHosts":["x"]}}`},
		{"GET", "/networks?filters=%7B%22colour%22%3A%5B%22odd%22%5D%7D", ""},
		{"POST", "/networks/prune?filters=%7B%22colour%22%3A%5B%22odd%22%5D%7D", ""},
	} {
		want, theirs := api(t, sockets[0], m.method, m.path, m.body)
		got, ours := api(t, sockets[1], m.method, m.path, m.body)
		if want == 500 {
			want = 400
		}
		if got != want {
			t.Errorf("%s %s %s: %d %v, dockerd %d %v", m.method, m.path, m.body, got, ours, want, theirs)
		}
	}
}
