package cli

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/testkit"
)

// dockerOfToday finds Docker's own client, to compare with.
func dockerOfToday(t *testing.T) string {
	t.Helper()
	docker := testkit.DockerCLI(t)
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	return docker
}

// somePorts are ports as an engine may list them: runs, gaps, both families, other host ports.
func somePorts(r *rand.Rand) []any {
	ports := []any{}
	kinds := []string{"tcp", "udp", "sctp"}
	for range r.IntN(4) {
		first, n, kind := 78+r.IntN(6), 1+r.IntN(4), kinds[r.IntN(len(kinds))]
		shift := []int{0, 0, 0, 1, 8000}[r.IntN(5)]
		hosts := [][]string{{}, {"0.0.0.0", "::"}, {"0.0.0.0"}, {"127.0.0.1"}, {"::1", "10.0.0.1"}}[r.IntN(5)]
		for i := range n {
			port := map[string]any{"PrivatePort": first + i, "Type": kind}
			if len(hosts) == 0 {
				ports = append(ports, port)
			}
			for _, host := range hosts {
				ports = append(ports, map[string]any{"PrivatePort": first + i, "Type": kind, "IP": host, "PublicPort": first + i + shift})
			}
		}
	}
	r.Shuffle(len(ports), func(i, j int) { ports[i], ports[j] = ports[j], ports[i] })
	return ports
}

func TestPortsAreListedAsDockerListsThem(t *testing.T) {
	docker := dockerOfToday(t)
	r := rand.New(rand.NewPCG(1, 2))
	var containers []any
	for i := range 300 {
		containers = append(containers, map[string]any{"Id": fmt.Sprintf("%064d", i), "Names": []string{"/c"}, "Ports": somePorts(r)})
	}
	e := newFakeEngine(t, map[string]http.HandlerFunc{"GET /containers/json": answer(containers)})
	want, err := exec.Command(docker, "-H", e.host(), "ps", "--format", "{{.ID}} {{.Ports}}", "--no-trunc").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := e.berth(t, "", "ps", "--format", "{{.ID}} {{.Ports}}", "--no-trunc")
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.out, "\n")); diff != "" {
		t.Errorf("differs from Docker's (-docker +berth):\n%s", diff)
	}
}

func TestPortPrintsWhatDockerPrints(t *testing.T) {
	docker := dockerOfToday(t)
	e := newFakeEngine(t, map[string]http.HandlerFunc{"GET /containers/web/json": answer(`{"Id":"` + containerID + `","Name":"/web","NetworkSettings":{"Ports":{
		"80/tcp":[{"HostIp":"::","HostPort":"8080"},{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"127.0.0.1","HostPort":"90"}],"443/tcp":null,"9/udp":[{"HostIp":"0.0.0.0","HostPort":"9"}],"10/tcp":[{"HostIp":"0.0.0.0","HostPort":"10"}],"10/udp":[{"HostIp":"0.0.0.0","HostPort":"11"}],"7/sctp":[]}}}`)})
	for _, line := range []string{"port web", "port web 80", "port web 80/tcp", "port web 10/udp", "container port web 9/udp", "port web 443", "port web 81", "port web 7/sctp"} {
		words := strings.Fields(line)
		want, err := exec.Command(docker, append([]string{"-H", e.host()}, words...)...).Output()
		code := 0
		if exit, ok := err.(*exec.ExitError); ok {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if got := e.berth(t, "", words...); got.out != string(want) || got.code != code {
			t.Errorf("%s: %d %q, Docker: %d %q", line, got.code, got.out, code, want)
		}
	}
	if got := e.berth(t, "", "port", "web", "eighty"); got.code != 1 || !strings.Contains(got.err, "invalid port") {
		t.Errorf("%+v", got)
	}
}

func TestWrongPortsAreOneClearLine(t *testing.T) {
	e := newFakeEngine(t, nil)
	for _, c := range []struct{ flag, want string }{
		{"-p=x", "x"},
		{"-p=80:", "80:"},
		{"-p=70000", "70000"},
		{"-p=1-3:1-2", "1-2 and 1-3"},
		{"-p=80/quic", "quic"},
		{"-p=300.0.0.1:80:80", "300.0.0.1"},
		{"-p=target=80,publish=8080", `unknown key "publish"`},
		{"-p=target=80,mode=best", `unknown mode "best"`},
		{"-p=published=80", "target"},
		{"--expose=9-1", "9-1"},
		{"--expose=1:2", "1:2"},
		{"--ip=x", "invalid IPv4 address: x"},
		{"--ip6=x", "invalid IPv6 address: x"},
		{"--mac-address=x", "x is not a valid mac address"},
		{"--dns=x", "x"},
		{"--add-host=x", "x"},
		{"--link-local-ip=x", "x"},
		{"--network=name=a,colour=red", "colour"},
		{"--network=name=a,ip=x", "x"},
		{"--network=name=a,gw-priority=x", "gw-priority"},
		{"--network=alias=a", "network name/id is not specified"},
		{"--network=host,--network=a", "conflicting options"},
		{"--network=a,--network=a", `network "a" is specified multiple times`},
		{"--network=bridge,--network-alias=a", "only supported for user-defined networks"},
		{"--network=name=a,ip=10.0.0.1,--ip=10.0.0.2", "cannot specify both --ip and per-network IPv4 address"},
	} {
		line := []string{"create"}
		for i, word := range strings.Split(c.flag, ",--") {
			if i > 0 {
				word = "--" + word
			}
			line = append(line, word)
		}
		r := e.berth(t, "", append(line, "busybox")...)
		if r.code == 0 || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: %d %s", c.flag, r.code, r.err)
		}
	}
	if asked := e.asked("POST "); len(asked) != 0 {
		t.Errorf("the engine was asked: %v", asked)
	}
}

func FuzzAddressesOfANetwork(f *testing.F) {
	f.Add("10.0.0.0/24", "10.0.1.0/24", "10.0.0.1", "10.0.1.9")
	f.Add("fd00::/64", "::/0", "fd00::1", "::1")
	f.Add("10.0.0.7/24", "10.0.0.0/33", "0.0.0.0", "x")
	f.Fuzz(func(t *testing.T, one, two, gateway, aux string) {
		addr, err := netip.ParseAddr(gateway)
		if err != nil || addr.Zone() != "" {
			return
		}
		pools, err := ipamPools([]string{one, two}, nil, []net.IP{addr.AsSlice()}, map[string]string{"a": aux})
		if err != nil {
			return
		}
		for _, p := range pools {
			if p.Gateway.IsValid() && !p.Subnet.Masked().Contains(p.Gateway) {
				t.Errorf("%s is not in %s", p.Gateway, p.Subnet)
			}
		}
	})
}
