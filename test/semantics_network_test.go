package test

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

var networkSemantics = []semantic{
	{
		name:  "names on a user's network",
		holds: "user network: resolv.conf = 127.0.0.11 + ndots:0; aliases + short ID resolve, names only within the same network",
		test:  namesOnNetworks,
	},
	{
		name:    "names on the default bridge",
		holds:   "default bridge: host servers filtered of loopback, no name DNS at all",
		differs: "containers find each other by name on the default bridge too",
		test:    namesOnTheDefaultBridge,
	},
	{
		name:  "network rm and volume rm beside stopped containers",
		holds: `network rm succeeds while a stopped container refers to it (start then fails "network ... not found"); volume rm fails for stopped users, and -f does not force that`,
		test:  removedUnderStopped,
	},
	{
		name:  "publishing without an address",
		holds: "publishing without IP binds 0.0.0.0 and [::] on the same random port; ps prints them as two entries, api Ports separately",
		test:  publishedEverywhere,
	},
}

func namesOnNetworks(s *subject) {
	s.must("network", "create", "names1")
	s.must("network", "create", "names2")
	id := s.must("run", "-d", "--name", "namedserver", "--network", "names1", "--network-alias", "nickname", "busybox", "sleep", "1000")
	s.must("run", "-d", "--name", "namedclient", "--network", "names1", "busybox", "sleep", "1000")
	s.must("run", "-d", "--name", "namedother", "--network", "names2", "busybox", "sleep", "1000")
	conf := s.must("exec", "namedserver", "cat", "/etc/resolv.conf")
	if !regexp.MustCompile(`(?m)^nameserver 127\.0\.0\.11$`).MatchString(conf) || !regexp.MustCompile(`(?m)^options .*ndots:0`).MatchString(conf) || strings.Count(conf, "\nnameserver") > 1 {
		s.Errorf("resolv.conf on a user's network:\n%s", conf)
	}
	address := s.inspect("namedserver", "{{.NetworkSettings.Networks.names1.IPAddress}}")
	for _, name := range []string{"namedserver", "nickname", id[:12], "NamedServer"} {
		s.looks(`(?m)^Address.*: *`+regexp.QuoteMeta(address)+`\b`, "exec", "namedclient", "nslookup", name)
		if r := s.do("exec", "namedother", "nslookup", "-type=a", name); strings.Contains(r.Stdout, address) {
			s.Errorf("%s is found from another network:\n%s", name, r.Stdout)
		}
	}
	s.must("rm", "-f", "namedserver", "namedclient", "namedother")
	s.must("network", "rm", "names1", "names2")
}

func namesOnTheDefaultBridge(s *subject) {
	s.must("run", "-d", "--name", "bridgeserver", "busybox", "sleep", "1000")
	s.looks(regexp.QuoteMeta(s.inspect("bridgeserver", "{{.NetworkSettings.Networks.bridge.IPAddress}}")), "run", "--rm", "busybox", "nslookup", "-type=a", "bridgeserver")
	s.must("rm", "-f", "bridgeserver")
}

func removedUnderStopped(s *subject) {
	s.must("network", "create", "shortlived")
	s.must("create", "--name", "networkless", "--network", "shortlived", "-v", "longlived:/v", "busybox", "true")
	s.says("shortlived", "network", "rm", "shortlived")
	s.ends(1, `network \S+ not found`, "start", "networkless")
	s.ends(1, `volume is in use`, "volume", "rm", "longlived")
	s.ends(1, `volume is in use`, "volume", "rm", "-f", "longlived")
	if a := s.api("DELETE", "/volumes/longlived?force=1", ""); a.status != 409 {
		s.Errorf("volume rm by force: %d %s", a.status, a.body)
	}
	s.must("rm", "networkless")
	s.says("longlived", "volume", "rm", "longlived")

	s.must("network", "create", "inuse")
	s.must("run", "-d", "--name", "user", "--network", "inuse", "busybox", "sleep", "1000")
	s.ends(1, `has active endpoints`, "network", "rm", "inuse")
	s.must("rm", "-f", "user")
	s.must("network", "rm", "inuse")
}

func publishedEverywhere(s *subject) {
	s.must("run", "-d", "--name", "published", "-p", "80", "busybox", "sh", "-c", "while :; do echo it is me | nc -l -p 80 2>/dev/null; done")
	var bindings map[string][]struct{ HostIp, HostPort string }
	if err := json.Unmarshal([]byte(s.inspect("published", "{{json .NetworkSettings.Ports}}")), &bindings); err != nil {
		s.Fatal(err)
	}
	both := bindings["80/tcp"]
	if len(both) != 2 || both[0].HostIp != "0.0.0.0" || both[1].HostIp != "::" || both[0].HostPort != both[1].HostPort {
		s.Fatalf("bindings: %v", both)
	}
	port := both[0].HostPort
	s.says(fmt.Sprintf("0.0.0.0:%s->80/tcp, [::]:%s->80/tcp", port, port), "ps", "--filter", "name=^published$", "--format", "{{.Ports}}")
	s.says(fmt.Sprintf("80/tcp -> 0.0.0.0:%s\n80/tcp -> [::]:%s", port, port), "port", "published")
	var list []struct {
		Ports []struct {
			IP, Type                string
			PrivatePort, PublicPort int
		}
	}
	a := s.api("GET", `/containers/json?filters=%7B%22name%22:%5B%22%5Epublished$%22%5D%7D`, "")
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || len(list) != 1 || len(list[0].Ports) != 2 {
		s.Fatalf("%d %s", a.status, a.body)
	}
	for n, ip := range []string{"0.0.0.0", "::"} {
		if p := list[0].Ports[n]; p.IP != ip || p.PrivatePort != 80 || fmt.Sprint(p.PublicPort) != port || p.Type != "tcp" {
			s.Errorf("port %d in the list: %+v", n, p)
		}
	}
	for _, address := range []string{"127.0.0.1:" + port, "[::1]:" + port} {
		s.eventually(address+" answers", func() bool {
			conn, err := s.dial("tcp", address)
			if err != nil {
				return false
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			said, _ := io.ReadAll(conn)
			return string(said) == "it is me\n"
		})
	}
	s.must("rm", "-f", "published")
}
