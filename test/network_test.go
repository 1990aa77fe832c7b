package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"berth/testkit"
)

// website is a script that serves its arguments' text at /, and who asks at /cgi-bin/who.
const website = `mkdir -p /www/cgi-bin; echo "$0" > /www/index.html
printf '#!/bin/sh\necho; echo "$REMOTE_ADDR"\n' > /www/cgi-bin/who; chmod +x /www/cgi-bin/who
exec httpd -f -h /www`

// serve starts a container that serves its name, and waits until it does.
func serve(t *testing.T, e *testkit.Engine, name string, flags ...string) (id string) {
	t.Helper()
	args := append([]string{"run", "-d", "--name", name}, flags...)
	id = e.Must(append(args, "busybox", "sh", "-c", website, "I am "+name)...)
	testkit.Eventually(t, name+" serves", func() bool {
		return e.Berth("exec", name, "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/").Code == 0
	})
	return id
}

// fetch gets a page as somebody on the host.
func fetch(t *testing.T, url string) string {
	t.Helper()
	c := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get(url)
	if err != nil {
		t.Errorf("%v", err)
		return ""
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(body))
}

// nobodyAt reports whether nobody listens at an address.
func nobodyAt(address string) bool {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err == nil {
		c.Close()
	}
	return err != nil
}

// hostAddress is an IPv4 address of the host other than loopback.
func hostAddress(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Flags&net.FlagUp == 0 || l.Flags&net.FlagLoopback != 0 || regexp.MustCompile(`^(br-|berth|docker|veth|virbr)`).MatchString(l.Name) {
			continue
		}
		addrs, _ := l.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				return p.Addr().String()
			}
		}
	}
	t.Skip("this host has no address but loopback")
	return ""
}

// ports are a container's published ports, as inspect tells them: "80/tcp" → "IP:PORT"s.
func ports(t *testing.T, e *testkit.Engine, name string) map[string][]string {
	t.Helper()
	var all map[string][]struct{ HostIp, HostPort string }
	if err := json.Unmarshal([]byte(e.Must("inspect", "-f", "{{json .NetworkSettings.Ports}}", name)), &all); err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for p, bindings := range all {
		for _, b := range bindings {
			out[p] = append(out[p], net.JoinHostPort(b.HostIp, b.HostPort))
		}
	}
	return out
}

// address is a container's IPv4 address on a network.
func address(e *testkit.Engine, name, network string) string {
	return e.Must("inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network), name)
}

func TestPublishedPorts(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	port := testkit.FreePort(t)
	id := serve(t, e, "web", "-p", port+":80")
	gateway := e.Must("inspect", "-f", "{{.NetworkSettings.Networks.bridge.Gateway}}", "web")
	for _, from := range []string{"127.0.0.1", "[::1]", hostAddress(t), gateway} {
		if got := fetch(t, "http://"+from+":"+port); got != "I am web" {
			t.Errorf("through %s: %q", from, got)
		}
	}
	for _, target := range []string{"web", address(e, "web", "bridge"), gateway + ":" + port, hostAddress(t) + ":" + port, "host.berth.internal:" + port} {
		if r := e.Berth("run", "--rm", "busybox", "timeout", "60", "wget", "-qO-", "http://"+target); r.Stdout != "I am web\n" {
			t.Errorf("from another container, by %s: %+v", target, r)
		}
	}
	if r := e.Berth("exec", "web", "timeout", "60", "wget", "-qO-", "http://"+gateway+":"+port); r.Stdout != "I am web\n" {
		t.Errorf("from itself by the host's address: %+v", r)
	}
	if got := ports(t, e, "web")["80/tcp"]; fmt.Sprint(got) != fmt.Sprintf("[0.0.0.0:%s [::]:%s]", port, port) {
		t.Errorf("inspect: %v", got)
	}

	t.Run("a port in use names its holder, and leaves nothing", func(t *testing.T) {
		r := e.Berth("run", "-d", "--name", "second", "-p", port+":80", "busybox", "sleep", "60")
		want := "Bind for 0.0.0.0:" + port + " failed: port is already allocated (by container web)"
		if r.Code != 125 || !strings.Contains(r.Stderr, want) || !strings.Contains(r.Stderr, "driver failed programming external connectivity on endpoint second (") {
			t.Errorf("%+v", r)
		}
		if left, _ := filepath.Glob(filepath.Join(e.ExecRoot, "networks", "sandboxes", "*.json")); len(left) != 1 || !strings.Contains(left[0], id) {
			t.Errorf("sandboxes: %v", left)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r = e.Berth("run", "--rm", "-p", l.Addr().String()+":80", "busybox", "true")
		if r.Code != 125 || !strings.Contains(r.Stderr, l.Addr().String()) {
			t.Errorf("a port of somebody else's: %+v", r)
		}
		e.Must("stop", "-t", "0", "web")
		e.Must("start", "second") // the port is free as soon as stop answers
		e.Must("rm", "-f", "second")
		if !nobodyAt("127.0.0.1:" + port) {
			t.Error("the port of a removed container is still open")
		}
		e.Must("start", "web")
	})
	t.Run("any port, one of a range, one on loopback, all exposed ones", func(t *testing.T) {
		serve(t, e, "many", "-p", "80", "-p", "127.0.0.1::81", "-P", "--expose", "82", "-p", "42000-42999:83")
		got := ports(t, e, "many")
		if len(got["80/tcp"]) != 2 || len(got["81/tcp"]) != 1 || !strings.HasPrefix(got["81/tcp"][0], "127.0.0.1:") || len(got["82/tcp"]) != 2 ||
			len(got["83/tcp"]) != 2 || !regexp.MustCompile(`^0\.0\.0\.0:42\d\d\d$`).MatchString(got["83/tcp"][0]) {
			t.Errorf("%v", got)
		}
		_, port, _ := net.SplitHostPort(got["80/tcp"][0])
		if page := fetch(t, "http://127.0.0.1:"+port); page != "I am many" {
			t.Errorf("%q", page)
		}
		e.Must("rm", "-f", "many")
	})
	t.Run("the engine's death is not noticed", func(t *testing.T) {
		testkit.Eventually(t, "web serves again", func() bool { return e.Berth("exec", "web", "wget", "-qO", "/dev/null", "http://127.0.0.1").Code == 0 })
		before := e.Must("inspect", "-f", "{{json .NetworkSettings}}", "web")
		e.Kill()
		for _, from := range []string{"127.0.0.1", hostAddress(t)} {
			if got := fetch(t, "http://"+from+":"+port); got != "I am web" {
				t.Errorf("without an engine, through %s: %q", from, got)
			}
		}
		e.Start()
		if after := e.Must("inspect", "-f", "{{json .NetworkSettings}}", "web"); after != before {
			t.Errorf("inspect says\n%s, it was\n%s", after, before)
		}
		if got := fetch(t, "http://"+hostAddress(t)+":"+port); got != "I am web" {
			t.Errorf("with the next engine: %q", got)
		}
	})
}

func TestContainersFindEachOther(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("network", "create", "shop")
	serve(t, e, "web", "--network", "shop", "--network-alias", "www", "--hostname", "front")
	ask := func(t *testing.T, want string, args ...string) {
		t.Helper()
		if want != "" { // who comes is waited for
			for n, a := range args {
				if a == "timeout" {
					args[n+1] = "60"
				}
			}
		}
		r := e.Berth(append([]string{"run", "--rm"}, args...)...)
		if strings.TrimSpace(r.Stdout) != want {
			t.Errorf("%v: %q, want %q (%s)", args, r.Stdout, want, r.Stderr)
		}
	}
	get := func(url string) []string { return []string{"busybox", "timeout", "5", "wget", "-qO-", url} }
	id := e.Must("inspect", "-f", "{{.Id}}", "web")
	for _, name := range []string{"web", "www", id[:12], "front"} {
		ask(t, "I am web", append([]string{"--network", "shop"}, get("http://"+name)...)...)
	}
	ask(t, "", append([]string{}, get("http://web")...)...) // another network
	t.Run("a client on the same network keeps its address", func(t *testing.T) {
		ask(t, "10 is my own", "--network", "shop", "busybox", "sh", "-c",
			`me=$(hostname -i); [ "$(wget -qO- http://web/cgi-bin/who | tail -1 | sed 's/.*ffff://;s/]//')" = "$me" ] && echo 10 is my own`)
	})
	t.Run("another container's network", func(t *testing.T) {
		ask(t, "I am web", append([]string{"--network", "container:web"}, get("http://127.0.0.1")...)...)
		ask(t, "front", "--network", "container:web", "busybox", "hostname")
		ask(t, e.Must("exec", "web", "cat", "/etc/hosts"), "--network", "container:web", "busybox", "cat", "/etc/hosts")
	})
	t.Run("rename", func(t *testing.T) {
		e.Must("rename", "web", "site")
		ask(t, "I am web", append([]string{"--network", "shop"}, get("http://site")...)...)
		ask(t, "", append([]string{"--network", "shop"}, get("http://web")...)...)
		e.Must("rename", "site", "web")
	})
	t.Run("links", func(t *testing.T) {
		ask(t, "I am web", append([]string{"--network", "shop", "--link", "web:partner"}, get("http://partner")...)...)
		serve(t, e, "old")
		ask(t, "I am old", append([]string{"--link", "old:partner"}, get("http://partner")...)...)
		e.Must("create", "--name", "young", "--link", "old:parent", "busybox")
		if got := e.Must("inspect", "-f", "{{.HostConfig.Links}}", "young"); got != "[/old:/young/parent]" {
			t.Errorf("inspect tells links as %s", got)
		}
		e.Must("stop", "-t", "0", "old")
		if r := e.Berth("run", "--rm", "--link", "old", "busybox", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "Cannot link to a non running container: /old AS ") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("extra hosts", func(t *testing.T) {
		out := e.Must("run", "--rm", "--add-host", "a.example:192.0.2.1", "--add-host", "me:host-gateway", "busybox", "cat", "/etc/hosts")
		gateway := e.Must("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
		for _, want := range []string{"192.0.2.1\ta.example\n", gateway + "\tme\n", gateway + "\thost.docker.internal host.berth.internal\n"} {
			if !strings.Contains(out+"\n", want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
}

func TestContainersMoveBetweenNetworks(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("network", "create", "--subnet", "10.211.0.0/24", "blue")
	e.Must("network", "create", "green")
	port := testkit.FreePort(t)
	serve(t, e, "web", "--network", "blue", "--ip", "10.211.0.99", "-p", port+":80")
	serve(t, e, "peer", "--network", "green")
	within := func(seconds, from, url string) bool {
		return e.Berth("exec", from, "timeout", seconds, "wget", "-qO", "/dev/null", "http://"+url).Code == 0
	}
	reach := func(from, url string) bool { return within("60", from, url) }
	if within("3", "web", "peer") || within("3", "web", address(e, "peer", "green")) {
		t.Error("networks are not isolated")
	}
	e.Must("network", "connect", "--alias", "shop", "green", "web")
	if !reach("web", "peer") || !reach("peer", "web") || !reach("peer", "shop") {
		t.Error("connected, and not reached")
	}
	if got := e.Must("exec", "web", "cat", "/etc/hosts"); !strings.Contains(got, address(e, "web", "green")+"\t") {
		t.Errorf("hosts:\n%s", got)
	}
	if r := e.Berth("network", "connect", "green", "web"); r.Code == 0 || !strings.Contains(r.Stderr, "already exists in network green") {
		t.Errorf("%+v", r)
	}
	e.Kill()
	e.Start()
	e.Must("network", "disconnect", "blue", "web")
	if got := fetch(t, "http://127.0.0.1:"+port); got != "I am web" {
		t.Errorf("published on the network that is left: %q", got)
	}
	if !reach("peer", "shop") {
		t.Error("disconnected from the wrong network")
	}
	e.Must("network", "connect", "--ip", "10.211.0.77", "blue", "web")
	e.Must("restart", "-t", "0", "web")
	if got := address(e, "web", "blue"); got != "10.211.0.77" {
		t.Errorf("after a restart its fixed address is %s", got)
	}
	e.Must("network", "disconnect", "green", "web")
	e.Must("network", "disconnect", "blue", "web")
	if out := e.Must("exec", "web", "ls", "/sys/class/net"); strings.Contains(out, "eth") {
		t.Errorf("without networks it has %s", out)
	}
	e.Must("rm", "-f", "web")

	t.Run("a stopped container does not hold its network", func(t *testing.T) {
		e.Must("create", "--name", "idle", "--network", "blue", "busybox", "true")
		e.Must("network", "rm", "blue")
		if r := e.Berth("start", "idle"); r.Code == 0 || !strings.Contains(r.Stderr, "network blue not found") {
			t.Errorf("%+v", r)
		}
		e.Must("network", "disconnect", "--force", "blue", "idle")
		e.Must("start", "idle")
	})
	t.Run("events", func(t *testing.T) {
		since := time.Now().Add(-time.Second).Format(time.RFC3339Nano)
		e.Must("run", "--rm", "--network", "green", "--name", "short", "busybox", "true")
		var got string
		testkit.Eventually(t, "the end is told", func() bool {
			got = e.Must("events", "--since", since, "--until", time.Now().Format(time.RFC3339Nano), "--format", "{{.Type}} {{.Action}}")
			return strings.Contains(got, "network disconnect")
		})
		if !regexp.MustCompile(`(?s)container create.*network connect.*container start.*container die.*network disconnect`).MatchString(got) {
			t.Errorf("%s", got)
		}
	})
}
