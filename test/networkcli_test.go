package test

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/testkit"
)

// someSubnet is the beginning of a /24 that only this test uses: all tests share the host's
// routes.
func someSubnet(e *testkit.Engine, more string) string {
	var routes []*net.IPNet
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if route, ok := a.(*net.IPNet); ok {
			routes = append(routes, route)
		}
	}
	for try := 0; ; try++ {
		h := fnv.New32a()
		_, _ = fmt.Fprint(h, e.Dir, more, try)
		n := h.Sum32()
		subnet := fmt.Sprintf("10.%d.%d", 100+n%110, n>>8&0xff)
		taken := func(r *net.IPNet) bool { return r.Contains(net.ParseIP(subnet + ".0")) }
		if someSubnets[subnet] == "" && !slices.ContainsFunc(routes, taken) {
			someSubnets[subnet] = e.Dir + more
		}
		if someSubnets[subnet] == e.Dir+more {
			return subnet
		}
	}
}

// someSubnets are those that were given, and to whom.
var someSubnets = map[string]string{}

// page fetches what a web server in a container serves.
func page(address string) string {
	resp, err := http.Get("http://" + address + "/")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body))
}

const webServer = `mkdir -p /www; echo "hello from $HOSTNAME" > /www/index.html; exec httpd -f -p 80 -h /www`

// TestNetworkCommands is a day with networks, told by both command lines.
func TestNetworkCommands(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		subnet, other := someSubnet(e, c.name), someSubnet(e, c.name+"other")
		id := c.must(e, "network", "create", "--subnet", subnet+".0/24", "--ip-range", subnet+".128/25", "--gateway", subnet+".254", "--aux-address", "router="+subnet+".200",
			"--label", "tier=web", "-o", "com.docker.network.driver.mtu=1400", "front")
		if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(id) {
			t.Fatalf("create printed %q", id)
		}
		c.must(e, "network", "create", "--subnet", other+".0/24", "--internal", "--attachable", "back")
		for line, want := range map[string]string{
			"network ls --format {{.Name}}":                                                "back\nbridge\nfront\nhost\nnone",
			"network ls --format {{.Name}} -f driver=bridge -f type=custom":                "back\nfront",
			"network ls --format {{.Name}} -f label=tier=web":                              "front",
			"network ls --format {{.Name}} -f name=fro":                                    "front",
			"network ls --format {{.Name}} -f dangling=true":                               "back\nfront",
			"network ls -q --no-trunc -f name=front":                                       id,
			"network ls -q -f id=" + id[:7]:                                                id[:12],
			"network ls --format {{.Driver}}:{{.Scope}}:{{.Internal}} -f name=back":        "bridge:local:true",
			"network inspect -f {{.Driver}}|{{.Internal}}|{{.Attachable}}|{{.Scope}} back": "bridge|true|true|local",
			"network inspect -f {{(index .IPAM.Config 0).Subnet}}|{{(index .IPAM.Config 0).IPRange}}|{{(index .IPAM.Config 0).Gateway}} " + id[:12]: subnet + ".0/24|" + subnet + ".128/25|" + subnet + ".254",
			"network inspect -f {{index .Labels \"tier\"}} front":                           "web",
			"network inspect -f {{index .Options \"com.docker.network.driver.mtu\"}} front": "1400",
		} {
			if got := c.must(e, templateWords(line)...); got != want {
				t.Errorf("%s: %q, want %q", line, got, want)
			}
		}

		port := testkit.FreePort(t)
		web := c.must(e, "run", "-d", "--name", "web", "--network", "front", "--ip", subnet+".140", "--network-alias", "www", "--mac-address", "02:42:0a:00:00:8c",
			"-p", "127.0.0.1:"+port+":80", "-p", "53/udp", "--expose", "443", "busybox", "sh", "-c", webServer)
		testkit.Eventually(t, "the page is served on loopback", func() bool { return page("127.0.0.1:"+port) == "hello from "+web[:12] })
		for line, want := range map[string]string{
			"inspect -f {{.NetworkSettings.Networks.front.IPAddress}}/{{.NetworkSettings.Networks.front.IPPrefixLen}} web": subnet + ".140/24",
			"inspect -f {{.NetworkSettings.Networks.front.Gateway}} web":                                                   subnet + ".254",
			"inspect -f {{.NetworkSettings.Networks.front.MacAddress}} web":                                                "02:42:0a:00:00:8c",
			"inspect -f {{.NetworkSettings.Networks.front.NetworkID}} web":                                                 id,
			"inspect -f {{json .NetworkSettings.Networks.front.DNSNames}} web":                                             `["web","www","` + web[:12] + `"]`,
			"inspect -f {{json (index .NetworkSettings.Ports \"443/tcp\")}} web":                                           "null",
			"port web 80":                                    "127.0.0.1:" + port,
			"port web 80/tcp":                                "127.0.0.1:" + port,
			"ps --format {{.Networks}} -f name=web":          "front",
			"ps -q -f network=front --no-trunc":              web,
			"ps -q -f network=" + id + " --no-trunc":         web,
			"ps -q -f network=back":                          "",
			"ps -q --no-trunc -f publish=80":                 web,
			"ps -q --no-trunc -f publish=50-60/udp":          web,
			"ps -q -f publish=443":                           "",
			"ps -q --no-trunc -f expose=443":                 web,
			"network ls --format {{.Name}} -f dangling=true": "back",
		} {
			if got := c.must(e, templateWords(line)...); got != want {
				t.Errorf("%s: %q, want %q", line, got, want)
			}
		}
		if got := c.must(e, "port", "web"); !regexp.MustCompile(`^53/udp -> 0\.0\.0\.0:(\d+)\n53/udp -> \[::\]:\d+\n80/tcp -> 127\.0\.0\.1:` + port + `$`).MatchString(got) {
			t.Errorf("port: %q", got)
		}
		if got := c.must(e, "ps", "--format", "{{.Ports}}", "-f", "name=web"); !regexp.MustCompile(`^443/tcp, 127\.0\.0\.1:` + port + `->80/tcp, 0\.0\.0\.0:\d+->53/udp, \[::\]:\d+->53/udp$`).MatchString(sortedPorts(got)) {
			t.Errorf("ps: %q", got)
		}
		if got := c.must(e, "network", "inspect", "-f", `{{(index .Containers "`+web+`").Name}} {{(index .Containers "`+web+`").IPv4Address}}`, "front"); got != "web "+subnet+".140/24" {
			t.Errorf("its containers: %q", got)
		}

		c.must(e, "network", "connect", "--ip", other+".9", "--alias", "shop", "back", "web")
		for line, want := range map[string]string{
			"inspect -f {{.NetworkSettings.Networks.back.IPAddress}} web":    other + ".9",
			"exec web ip -o -4 addr show dev eth1":                           other + ".9/24",
			"run --rm --network back busybox nslookup shop":                  other + ".9",
			"run --rm --network name=front,alias=guest busybox nslookup www": subnet + ".140",
		} {
			if got := c.must(e, templateWords(line)...); !strings.Contains(got, want) {
				t.Errorf("%s: %q, want %q", line, got, want)
			}
		}
		if got := strings.Split(c.must(e, "ps", "--format", "{{.Networks}}", "-f", "name=web"), ","); !slices.Contains(got, "back") || !slices.Contains(got, "front") {
			t.Errorf("ps shows networks %q", got)
		}
		c.must(e, "network", "disconnect", "back", "web")
		if got := c.must(e, "ps", "--format", "{{.Networks}}", "-f", "name=web"); got != "front" {
			t.Errorf("after disconnect: %q", got)
		}
		if page("127.0.0.1:"+port) != "hello from "+web[:12] {
			t.Error("the page is gone after disconnecting the other network")
		}

		// What stops stays on its networks, and can be put on others.
		c.must(e, "stop", "-t", "0", "web")
		c.must(e, "network", "connect", "back", "web")
		if got := c.must(e, "inspect", "-f", "{{len .NetworkSettings.Networks}} {{json .NetworkSettings.Ports}}", "web"); got != "2 {}" {
			t.Errorf("stopped: %q", got)
		}
		if got := c.must(e, "port", "web"); got != "" {
			t.Errorf("a stopped container has ports: %q", got)
		}
		c.must(e, "start", "web")
		testkit.Eventually(t, "the page is served again", func() bool { return page("127.0.0.1:"+port) == "hello from "+web[:12] })
		c.must(e, "network", "disconnect", "-f", "back", "web")

		if r := c.run(e, "network", "rm", "front", "back", "nowhere"); r.Code != 1 || r.Stdout != "back\n" || !strings.Contains(r.Stderr, "has active endpoints") || !strings.Contains(r.Stderr, "network nowhere not found") {
			t.Errorf("rm: %+v", r)
		}
		c.must(e, "rm", "-f", "web")
		c.must(e, "network", "create", "unused")
		if got := c.must(e, "network", "prune", "-f", "--filter", "label!=tier=web"); got != "Deleted Networks:\nunused\n" {
			t.Errorf("prune: %q", got)
		}
		if got := c.must(e, "system", "prune", "-f"); !strings.Contains(got, "Deleted Networks:\nfront\n") {
			t.Errorf("system prune: %q", got)
		}
		if got := c.must(e, "network", "ls", "-q", "-f", "type=custom"); got != "" {
			t.Errorf("left: %q", got)
		}
	})
}

// templateWords splits a line at its spaces, but for those within a template.
func templateWords(line string) []string {
	var words []string
	open := false
	for _, w := range strings.Split(line, " ") {
		if open {
			words[len(words)-1] += " " + w
		} else {
			words = append(words, w)
		}
		last := words[len(words)-1]
		open = strings.Count(last, "{{") > strings.Count(last, "}}")
	}
	return words
}

// sortedPorts has what is only exposed first, then TCP before UDP; ps orders by number.
func sortedPorts(ports string) string {
	list := strings.Split(ports, ", ")
	slices.SortStableFunc(list, func(a, b string) int { return rank(a) - rank(b) })
	return strings.Join(list, ", ")
}

func rank(port string) int {
	switch {
	case !strings.Contains(port, "->"):
		return 0
	case strings.HasSuffix(port, "/tcp"):
		return 1
	}
	return 2
}

// TestPublishing: ranges, several ports, publish-all, the flags of the default bridge.
func TestPublishing(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		id := c.must(e, "run", "-d", "--name", "all", "-P", "--expose", "80", "--expose", "5000-5002/udp", "busybox", "sh", "-c", webServer)
		out := c.must(e, "port", "all")
		if strings.Count(out, "\n")+1 != 8 || strings.Count(out, "/udp -> ") != 6 {
			t.Errorf("-P: %q", out)
		}
		port := strings.TrimPrefix(strings.Split(c.must(e, "port", "all", "80"), "\n")[0], "0.0.0.0:")
		testkit.Eventually(t, "the page", func() bool { return page("127.0.0.1:"+port) == "hello from "+id[:12] })
		testkit.Eventually(t, "the page over IPv6", func() bool { return page("[::1]:"+port) == "hello from "+id[:12] })
		for _, field := range []string{"IPAddress", "Gateway", "MacAddress", "EndpointID"} {
			if top, net := c.must(e, "inspect", "-f", "{{.NetworkSettings."+field+"}}", "all"), c.must(e, "inspect", "-f", "{{.NetworkSettings.Networks.bridge."+field+"}}", "all"); top == "" || top != net {
				t.Errorf("%s: %q at the top, %q on the bridge", field, top, net)
			}
		}
		if r := c.run(e, "run", "--rm", "--name", "second", "-p", port+":80", "busybox", "true"); r.Code != 125 || !strings.Contains(r.Stderr, port) {
			t.Errorf("a port in use: %+v", r)
		}
		if got := c.must(e, "ps", "-aq", "-f", "name=second"); got != "" {
			t.Errorf("the container that could not start is there: %q", got)
		}
		c.must(e, "rm", "-f", "all")

		n := testkit.FreePorts(t, 10)
		low, high := strconv.Itoa(n), strconv.Itoa(n+1)
		c.must(e, "run", "-d", "--name", "range", "-p", "127.0.0.1:"+low+"-"+high+":80-81", "busybox", "sleep", "1000")
		if got := c.must(e, "port", "range"); got != "80/tcp -> 127.0.0.1:"+low+"\n81/tcp -> 127.0.0.1:"+high {
			t.Errorf("range: %q", got)
		}
		c.must(e, "run", "-d", "--name", "first-free", "-p", "127.0.0.1:"+low+"-"+strconv.Itoa(n+9)+":80", "busybox", "sleep", "1000")
		if got := c.must(e, "port", "first-free"); got == "80/tcp -> 127.0.0.1:"+low || got == "80/tcp -> 127.0.0.1:"+high || !strings.HasPrefix(got, "80/tcp -> 127.0.0.1:") {
			t.Errorf("first free: %q", got)
		}
		if r := c.run(e, "port", "range", "82"); r.Code != 1 {
			t.Errorf("an unpublished port: %+v", r)
		}
		c.must(e, "rm", "-f", "range", "first-free")
	})
}

// TestBadNetworkInput: one clear line and Docker's exit codes.
func TestBadNetworkInput(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	subnet := someSubnet(e, "bad")
	e.Must("network", "create", "--subnet", subnet+".0/24", "taken")
	e.Must("network", "create", "auto")
	e.Must("network", "create", "--config-only", "--subnet", someSubnet(e, "pattern")+".0/24", "pattern")
	e.Must("run", "-d", "--name", "here", "--network", "taken", "--ip", subnet+".7", "busybox", "sleep", "1000")
	port := testkit.FreePort(t)
	e.Must("run", "-d", "--name", "holder", "-p", port+":80", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "on-host", "--network", "host", "busybox", "sleep", "1000")
	for _, row := range []struct {
		line string
		code int
		want string
	}{
		{"network create bridge", 1, "predefined"},
		{"network create taken", 1, "already exists"},
		{"network create a/b", 1, "a/b"},
		{"network create --subnet " + subnet + ".0/25 x", 1, "overlap"},
		{"network create --subnet 10.300.0.0/24 x", 1, "10.300.0.0/24"},
		{"network create --subnet 10.99.0.0/24 --gateway 10.98.0.1 x", 1, "10.98.0.1"},
		{"network create -d nonsense x", 1, "nonsense"},
		{"network create --ipam-driver nonsense x", 1, "nonsense"},
		{"network create -d host x", 1, "only one instance"},
		{"network create -o com.docker.network.driver.mtu=big x", 1, "mtu"},
		{"network create -o nonsense=1 x", 1, `unknown option "nonsense"`},
		{"network connect --driver-opt nonsense=1 auto here", 1, `unknown option "nonsense"`},
		{"network create -d macvlan -o parent=nonsense0 x", 1, "nonsense0"},
		{"network create --config-from nowhere x", 1, "nowhere"},
		{"network create --config-from pattern --subnet 10.97.0.0/24 x", 1, "configuration network"},
		{"network create --scope swarm x", 1, "swarm"},
		{"network create -d overlay x", 1, "swarm"},
		{"network create --ipv4=false x", 1, "IPv4 or IPv6"},
		{"network rm bridge", 1, "pre-defined"},
		{"network rm taken", 1, "has active endpoints"},
		{"network rm nowhere", 1, "not found"},
		{"network inspect nowhere", 1, "not found"},
		{"network connect taken here", 1, "already"},
		{"network connect nowhere here", 1, "not found"},
		{"network connect taken nobody", 1, "No such container"},
		{"network connect host here", 1, "host"},
		{"network connect none here", 1, "none"},
		{"network connect taken on-host", 1, "host"},
		{"network connect pattern here", 1, "configuration"},
		{"network connect --alias x bridge here", 1, "alias"},
		{"network disconnect auto here", 1, "not connected"},
		{"network disconnect nowhere here", 1, "not found"},
		{"network disconnect host on-host", 1, "host"},
		{"network connect --ip 10.1.2.3 auto here", 1, "10.1.2.3|subnet"},
		{"run --rm --network nowhere busybox true", 125, "network nowhere not found"},
		{"run --rm --network taken --ip " + subnet + ".7 busybox true", 125, "[Aa]ddress"},
		{"run --rm --network taken --ip 10.1.2.3 busybox true", 125, "10.1.2.3"},
		{"run --rm --network taken --ip " + subnet + ".1 busybox true", 125, "[Aa]ddress"},
		{"run --rm --network container:nobody busybox true", 125, "No such container"},
		{"run --rm --network container:here -p 80:80 busybox true", 125, "port publishing and the container type network mode"},
		{"run --rm -p 80:80/quic busybox true", 125, "quic"},
		{"run --rm -p 1-3:1-2 busybox true", 125, "1-2"},
		{"run --rm -p 203.0.113.1:0:80 busybox true", 125, "203.0.113.1"},
		{"run --rm --network taken -p " + port + ":80 busybox true", 125, port + ".* holder"},
		{"run --rm --link nobody:x busybox true", 125, "nobody"},
		{"run --rm --mac-address x busybox true", 125, "mac"},
		{"run --rm --add-host x busybox true", 125, "x"},
	} {
		r := e.Berth(strings.Fields(row.line)...)
		said := strings.Split(strings.TrimSpace(r.Stderr), "\n")
		if len(said) > 1 && (strings.HasPrefix(said[len(said)-1], "See 'berth ") || strings.HasPrefix(said[len(said)-1], "Run 'berth ")) {
			said = said[:len(said)-1]
		}
		if r.Code != row.code || !regexp.MustCompile(row.want).MatchString(said[0]) || len(said) > 2 {
			t.Errorf("%s: exit %d (want %d), %q", row.line, r.Code, row.code, r.Stderr)
		}
	}
	if got := e.Must("network", "ls", "--format", "{{.Name}}", "-f", "type=custom"); got != "auto\npattern\ntaken" {
		t.Errorf("networks: %q", got)
	}
	if got := e.Must("network", "inspect", "-f", "{{len .Containers}}", "taken"); got != "1" {
		t.Errorf("endpoints on taken: %s", got)
	}
	if got := e.Must("ps", "-aq"); strings.Count(got, "\n") != 2 {
		t.Errorf("containers: %q", got)
	}
}

// TestNetworkEvents tells the life of a network and of a container's place on it.
func TestNetworkEvents(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("network", "create", "front")
	id := e.Must("run", "-d", "--name", "web", "--network", "front", "busybox", "sleep", "1000")
	e.Must("network", "create", "back")
	e.Must("network", "connect", "back", "web")
	e.Must("network", "disconnect", "back", "web")
	e.Must("rm", "-f", "web")
	e.Must("network", "rm", "back")
	e.Must("network", "prune", "-f")
	var told []string
	for line := range strings.Lines(e.Must("events", "--since", "10m", "--until", strconv.FormatInt(time.Now().Unix()+1, 10), "--filter", "type=network", "--format", "json")) {
		var event struct {
			Action string
			Actor  struct{ Attributes map[string]string }
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatal(err)
		}
		a := event.Actor.Attributes
		if c := a["container"]; c != "" && c != id {
			t.Errorf("%s tells of container %s", event.Action, c)
		}
		told = append(told, strings.TrimSpace(event.Action+" "+a["name"]))
	}
	want := "create front, connect front, create back, connect back, disconnect back, disconnect front, destroy back, destroy front, prune"
	if got := strings.Join(told, ", "); got != want {
		t.Errorf("events: %s\nwant:   %s", got, want)
	}
}

// TestTheEngineWithoutABridge has no default network and says so.
func TestTheEngineWithoutABridge(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--bridge", "none", "--firewall-backend", "none"}})
	e.Busybox()
	if got := e.Must("network", "ls", "--format", "{{.Name}}"); got != "host\nnone" {
		t.Errorf("networks: %q", got)
	}
	if got := e.Must("info", "-f", "{{.FirewallBackend.Driver}} {{.Plugins.Network}}"); !strings.HasPrefix(got, "none [bridge host ") {
		t.Errorf("info: %q", got)
	}
	e.Must("run", "--rm", "busybox", "true")
	for flags, want := range map[string]string{
		"--bip 10.0.0.0/24":      "--bip 10.0.0.0/24 is the address of the network",
		"--bridge nosuchbridge0": "--bridge nosuchbridge0: there is no such interface",
	} {
		r := e.Run("", filepath.Join(e.Bin, "berthd"), append([]string{"--data-root", e.DataRoot + "2", "--exec-root", e.ExecRoot + "2", "--config-file", filepath.Join(e.Dir, "daemon.json")}, strings.Fields(flags)...)...)
		if r.Code == 0 || !strings.Contains(r.Stderr, want) || strings.Count(strings.TrimSpace(r.Stderr), "\n") > 0 {
			t.Errorf("%s: %+v", flags, r)
		}
	}
}

// TestWithoutAFirewall nothing is written into the host's rules, and ports are served all the
// same, by the shims.
func TestWithoutAFirewall(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--firewall-backend", "none", "--dns", "192.0.2.53", "--dns-search", "example.org", "--dns-opt", "ndots:3",
		"--default-network-opt", "bridge=com.docker.network.driver.mtu=1300", "--default-address-pool", "base=" + "10.253.7" + ".0/24,size=28"}})
	e.Busybox()
	port := testkit.FreePort(t)
	id := e.Must("run", "-d", "--name", "web", "-p", port+":80", "busybox", "sh", "-c", webServer)
	testkit.Eventually(t, "the page", func() bool { return page("127.0.0.1:"+port) == "hello from "+id[:12] })
	if got := page(net.JoinHostPort(hostAddress(t), port)); got != "hello from "+id[:12] {
		t.Errorf("by the host's address: %q", got)
	}
	if got := e.Must("exec", "web", "cat", "/etc/resolv.conf"); !strings.Contains(got, "search example.org") || !strings.Contains(got, "ndots:3") {
		t.Errorf("resolv.conf: %q", got)
	}
	e.Must("network", "create", "small")
	if got := e.Must("network", "inspect", "-f", `{{index .Options "com.docker.network.driver.mtu"}} {{(index .IPAM.Config 0).Subnet.Bits}}`, "small"); got != "1300 28" {
		t.Errorf("network settings: %q", got)
	}
}

// TestSettingsOfTheDefaultBridge are those of dockerd, from a daemon.json.
func TestSettingsOfTheDefaultBridge(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	subnet := someSubnet(e, "bip")
	write(t, filepath.Join(e.Dir, "daemon.json"), `{"bip":"`+subnet+`.5/24","fixed-cidr":"`+subnet+`.128/25","mtu":1400,"icc":false,"ip":"127.0.0.1","ipv6":true,"fixed-cidr-v6":"fd00:`+strings.ReplaceAll(subnet[3:], ".", ":")+`::/64"}`)
	e.Start()
	e.Busybox()
	e.Must("run", "-d", "--name", "web", "-p", "80", "busybox", "sh", "-c", webServer)
	e.Must("run", "-d", "--name", "other", "busybox", "sleep", "1000")
	for line, want := range map[string]string{
		"inspect -f {{.NetworkSettings.IPAddress}} web":         "^" + regexp.QuoteMeta(subnet) + `\.1(2[89]|[3-9]\d)$`,
		"inspect -f {{.NetworkSettings.Gateway}} web":           "^" + regexp.QuoteMeta(subnet) + `\.5$`,
		"inspect -f {{.NetworkSettings.GlobalIPv6Address}} web": "^fd00:",
		"port web":                             `^80/tcp -> 127\.0\.0\.1:\d+$`,
		"exec web cat /sys/class/net/eth0/mtu": "^1400$",
		"network inspect -f {{.EnableIPv6}}{{len .IPAM.Config}} bridge": "^true2$",
	} {
		if got := e.Must(templateWords(line)...); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: %q, want %s", line, got, want)
		}
	}
	address := e.Must("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
	if got := e.Must("exec", "other", "sh", "-c", "wget -T 1 -qO- http://"+address+"/ 2>/dev/null || echo no"); got != "no" {
		t.Errorf("icc is off, and the other container reads %q", got)
	}
}

// TestABridgeOfTheAdministrators is used as the default network, and left alone at the end.
func TestABridgeOfTheAdministrators(t *testing.T) {
	name := "bt" + strconv.Itoa(os.Getpid()) + "own"
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(testkit.NeedTool(t, "ip"), args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %s", args, out)
		}
	}
	testkit.Integration(t)
	ip("link", "add", name, "type", "bridge")
	t.Cleanup(func() { ip("link", "del", name) }) // fails if the engine has taken it away
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	subnet := someSubnet(e, "own")
	ip("addr", "add", subnet+".1/24", "dev", name)
	ip("link", "set", name, "up")
	e.Flags("--bridge", name, "--default-gateway", subnet+".9", "--fixed-cidr", subnet+".64/26")
	e.Start()
	e.Busybox()
	e.Must("run", "-d", "--name", "web", "busybox", "sleep", "1000")
	address := e.Must("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
	if !regexp.MustCompile(`^` + regexp.QuoteMeta(subnet) + `\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])$`).MatchString(address) {
		t.Errorf("address %s", address)
	}
	if got := e.Must("exec", "web", "ip", "route"); !strings.Contains(got, "default via "+subnet+".9 ") {
		t.Errorf("routes: %q", got)
	}
	if got := e.Must("exec", "web", "ping", "-c1", "-W60", subnet+".1"); !strings.Contains(got, " 0% packet loss") {
		t.Errorf("the host's side: %q", got)
	}
	e.Must("network", "create", "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1", "private")
	e.Must("run", "-d", "--name", "local", "--network", "private", "-p", "80", "busybox", "sleep", "1000")
	if got := e.Must("port", "local"); !regexp.MustCompile(`^80/tcp -> 127\.0\.0\.1:\d+$`).MatchString(got) {
		t.Errorf("ports of a network that is bound to loopback: %q", got)
	}
	e.Must("rm", "-f", "web", "local")
	e.Must("network", "rm", "private")
}
