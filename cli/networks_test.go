package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// networkLines are command lines whose requests must be what Docker's own client sends.
var networkLines = map[string][]string{
	"create":             {"network", "create", "front"},
	"create with all":    {"network", "create", "-d", "macvlan", "-o", "parent=eth0", "--opt", "a=b", "--label", "x=y", "--label", "z", "--internal", "--attachable", "--scope", "local", "--ipv6", "--ipv4=false", "--ipam-driver", "default", "--ipam-opt", "k=v", "front"},
	"create with a pool": {"network", "create", "--subnet", "172.30.0.0/16", "--ip-range", "172.30.5.0/24", "--gateway", "172.30.5.254", "--aux-address", "host1=172.30.1.5", "--aux-address", "host2=172.30.1.6", "front"},
	"ipv6 pool":          {"network", "create", "--subnet", "2001:db8::/64", "--gateway", "2001:db8::1", "front"},
	"configuration":      {"network", "create", "--config-only", "pattern"},
	"from configuration": {"network", "create", "--config-from", "pattern", "front"},
	"ipv4 said":          {"network", "create", "--ipv4", "--ipv6=false", "--ingress", "front"},
	"connect":            {"network", "connect", "front", "web"},
	"connect with all":   {"network", "connect", "--ip", "172.30.1.2", "--ip6", "2001:db8::2", "--alias", "a,b", "--alias", "c", "--link", "db:d", "--link-local-ip", "169.254.1.1,fe80::5", "--driver-opt", "x=y", "--gw-priority", "-3", "front", "web"},
	"disconnect":         {"network", "disconnect", "front", "web"},
	"disconnect force":   {"network", "disconnect", "-f", "front", "web"},
	"prune":              {"network", "prune", "-f", "--filter", "until=24h", "--filter", "label!=keep"},
	"ls":                 {"network", "ls", "-f", "driver=bridge", "--filter", "type=custom", "-q"},
	"inspect verbose":    {"network", "inspect", "-v", "front"},
}

func networkRoutes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"POST /networks/create":           answer(map[string]any{"Id": strings.Repeat("a", 64), "Warning": ""}),
		"POST /networks/front/connect":    status(200),
		"POST /networks/front/disconnect": status(200),
		"POST /networks/prune":            answer(map[string]any{"NetworksDeleted": []string{"old"}}),
		"GET /networks":                   answer([]any{}),
		"GET /networks/front":             answer(map[string]any{"Name": "front"}),
	}
}

func TestNetworkCommandsSendWhatDockerSends(t *testing.T) {
	docker := dockerOfToday(t)
	for name, line := range networkLines {
		t.Run(name, func(t *testing.T) {
			theirs, ours := newFakeEngine(t, networkRoutes()), newFakeEngine(t, networkRoutes())
			if out, err := exec.Command(docker, append([]string{"-H", theirs.host()}, line...)...).CombinedOutput(); err != nil {
				t.Fatalf("docker: %v: %s", err, out)
			}
			if r := ours.berth(t, "", line...); r.code != 0 {
				t.Fatalf("berth: %d: %s", r.code, r.err)
			}
			want, got := theirs.asked(""), ours.asked("")
			if len(want) == 0 || len(want) != len(got) {
				t.Fatalf("%d requests, Docker's %d", len(got), len(want))
			}
			for i := range want {
				var a, b any
				_, _ = json.Unmarshal(want[i].Body, &a), json.Unmarshal(got[i].Body, &b)
				if diff := cmp.Diff(normalize(a), normalize(b)); diff != "" {
					t.Errorf("body differs from Docker's (-docker +berth):\n%s", diff)
				}
				if want[i].Method+want[i].Path != got[i].Method+got[i].Path || want[i].Query != got[i].Query {
					t.Errorf("%s %s?%s, Docker's %s %s?%s", got[i].Method, got[i].Path, got[i].Query, want[i].Method, want[i].Path, want[i].Query)
				}
			}
		})
	}
}

func TestWrongNetworkFlagsAreOneClearLine(t *testing.T) {
	e := newFakeEngine(t, networkRoutes())
	for _, c := range []struct {
		line []string
		code int
		want string
	}{
		{[]string{"create"}, 1, "requires 1 argument"},
		{[]string{"create", "--subnet", "172.30.0.0", "n"}, 1, `invalid subnet "172.30.0.0": it is not ADDRESS/LENGTH`},
		{[]string{"create", "--subnet", "10.0.0.0/8,10.1.0.0/16", "n"}, 1, "subnets of one network must not overlap: 10.0.0.0/8 and 10.1.0.0/16"},
		{[]string{"create", "--gateway", "10.0.0.1", "n"}, 1, "every ip-range or gateway must have a corresponding subnet"},
		{[]string{"create", "--subnet", "10.0.0.0/24", "--gateway", "10.0.1.1", "n"}, 1, "no matching subnet for gateway 10.0.1.1"},
		{[]string{"create", "--subnet", "10.0.0.0/24", "--gateway", "nonsense", "n"}, 125, "nonsense"},
		{[]string{"create", "--subnet", "10.0.0.0/24", "--subnet", "10.0.1.0/24", "--gateway", "10.0.0.1,10.0.0.2", "n"}, 1, "cannot configure multiple gateways (10.0.0.2, 10.0.0.1) for the same subnet (10.0.0.0/24)"},
		{[]string{"create", "--subnet", "10.0.0.0/24", "--ip-range", "10.0.1.0/25", "n"}, 1, "no matching subnet for range 10.0.1.0/25"},
		{[]string{"create", "--subnet", "10.0.0.0/24", "--aux-address", "a=b", "n"}, 1, "invalid aux-address a=b: it is not an IP address"},
		{[]string{"create", "--subnet", "10.0.0.0/24", "--aux-address", "a=10.1.0.1", "n"}, 1, "no matching subnet for aux-address 10.1.0.1"},
		{[]string{"connect", "front"}, 1, "requires 2 arguments"},
		{[]string{"connect", "--ip", "x", "front", "web"}, 125, "x"},
		{[]string{"connect", "--driver-opt", "x", "front", "web"}, 1, `invalid driver option "x": it is not KEY=VALUE`},
		{[]string{"rm", "nope"}, 1, "No such thing"},
		{[]string{"nope"}, 1, "unknown command: berth network nope"},
	} {
		r := e.berth(t, "", append([]string{"network"}, c.line...)...)
		if r.code != c.code || !strings.Contains(r.err, c.want) {
			t.Errorf("%q: %d %s", c.line, r.code, r.err)
		}
	}
	if asked := e.asked("POST "); len(asked) != 0 {
		t.Errorf("the engine was asked: %v", asked)
	}
}

func TestRemovingNetworksGoesOnAfterAFailure(t *testing.T) {
	e := newFakeEngine(t, map[string]http.HandlerFunc{"DELETE /networks/a": status(204), "DELETE /networks/b": refuse(403, "network b has active endpoints"), "DELETE /networks/c": status(204)})
	if r := e.berth(t, "", "network", "rm", "a", "b", "gone", "c"); r.code != 1 || r.out != "a\nc\n" || strings.Count(r.err, "\n") != 2 {
		t.Errorf("%+v", r)
	}
	if r := e.berth(t, "", "network", "rm", "-f", "gone", "c"); r.code != 0 || r.out != "c\n" || r.err != "" {
		t.Errorf("force: %+v", r)
	}
}

func TestWhatTheEngineWarnsOfIsTold(t *testing.T) {
	e := newFakeEngine(t, map[string]http.HandlerFunc{"POST /networks/create": answer(map[string]any{"Id": "abc", "Warning": "careful"})})
	if r := e.berth(t, "", "network", "create", "n"); r.code != 0 || r.out != "abc\n" || r.err != "WARNING: careful\n" {
		t.Errorf("%+v", r)
	}
}

func TestNamesAreOrderedAsPeopleCount(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"net2", "net10", -1}, {"net10", "net2", 1}, {"a", "a", 0}, {"a", "ab", -1}, {"a01", "a1", 1}, {"x9y", "x9z", -1}, {"8080", "80/tcp", 1}, {"80/tcp -> 0.0.0.0:1", "80/tcp -> [::]:1", -1},
	} {
		if got := compareNatural(c.a, c.b); (got < 0) != (c.want < 0) || (got > 0) != (c.want > 0) {
			t.Errorf("%s, %s: %d", c.a, c.b, got)
		}
	}
}

func TestCompletionOfNetworks(t *testing.T) {
	e := newFakeEngine(t, map[string]http.HandlerFunc{
		"GET /networks": answer([]any{map[string]any{"Name": "bridge"}, map[string]any{"Name": "front"}, map[string]any{"Name": "back"}}),
		"GET /containers/json": answer([]any{
			map[string]any{"Id": "1", "State": "running", "Names": []string{"/on"}, "NetworkSettings": map[string]any{"Networks": map[string]any{"front": map[string]any{}}}},
			map[string]any{"Id": "2", "State": "running", "Names": []string{"/off"}, "NetworkSettings": map[string]any{"Networks": map[string]any{"back": map[string]any{}}}}}),
	})
	for line, want := range map[string]string{
		"network rm ":                 "front back",
		"network rm front ":           "back",
		"network inspect ":            "bridge front back",
		"network connect ":            "bridge front back",
		"network connect front ":      "off",
		"network disconnect front ":   "on",
		"run --network ":              "bridge front back container:on container:off",
		"create --network container:": "container:on container:off",
	} {
		words := strings.Split(line, " ")
		r := e.berth(t, "", append([]string{"__complete"}, words...)...)
		got := strings.Fields(strings.Split(r.out, ":4")[0])
		if strings.Join(got, " ") != want {
			t.Errorf("%q offers %q, want %q (%s)", line, got, want, r.err)
		}
	}
}

func TestNetworkCommandsPrintWhatDockerPrints(t *testing.T) {
	docker := dockerOfToday(t)
	t.Setenv("TZ", "UTC")
	time.Local = time.UTC
	e := newFakeEngine(t, answersForGoldens())
	for _, line := range [][]string{
		{"ls"}, {"ls", "-q"}, {"ls", "--no-trunc"}, {"list", "-q", "--no-trunc"}, {"ls", "--format", "json"}, {"ls", "--format", "raw"}, {"ls", "--format", "table {{.Name}}\t{{.IPv6}}\t{{.Internal}}"},
		{"ls", "--format", `{{.Name}}|{{.Driver}}|{{.CreatedAt}}|{{.Labels | len}}|{{.Label "x"}}`}, {"ls", "--format", "{{json .ID}}"},
		{"inspect", "net9"}, {"inspect", "-f", "{{.Name}}: {{range .Containers}}{{.IPv4Address}}{{end}}", "net9"}, {"inspect", "-f", "{{json .IPAM}}", "net9"}, {"inspect", "nope"},
		{"create", "new"}, {"rm", "net9", "net10", "nope"}, {"rm", "-f", "nope", "net9"}, {"connect", "net9", "web"}, {"disconnect", "net9", "web"}, {"connect", "nope", "web"}, {"prune", "-f"},
	} {
		cmd := exec.Command(docker, append([]string{"-H", e.host(), "network"}, line...)...)
		var theirs bytes.Buffer
		cmd.Stdout = &theirs
		err := cmd.Run()
		code := 0
		if exit, ok := err.(*exec.ExitError); ok {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		want := strings.ReplaceAll(theirs.String(), "x=y,a=b", "a=b,x=y") // its order is that of a Go map
		if ours := e.berth(t, "", append([]string{"network"}, line...)...); ours.out != want || ours.code != code {
			t.Errorf("%q: exit %d\n%s\nDocker: exit %d\n%s", line, ours.code, ours.out, code, want)
		}
	}
}
