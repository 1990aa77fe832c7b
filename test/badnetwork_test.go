package test

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

func TestBadInputOfNetworksAndVolumes(t *testing.T) {
	p := newPair(t, nil) // a machine of its own: what is left behind can be counted
	shared := filepath.Join(p.Dir, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(shared, "file"), "")
	p.Must("network", "create", "--subnet", "10.211.1.0/24", "--gateway", "10.211.1.1", "taken")
	p.Must("network", "create", "other")
	p.Must("network", "create", "--ipv6", "--subnet", "10.211.2.0/24", "--subnet", "fd00:211::/64", "dual")
	p.Must("volume", "create", "used")
	p.Must("run", "-d", "--name", "holder", "--network", "taken", "--ip", "10.211.1.10", "-p", "7500:80", "-v", "used:/data", "busybox", "sleep", "1000")
	p.Must("create", "--name", "idle", "--network", "taken", "busybox", "true")
	p.Must("create", "--name", "hosted", "--network", "host", "busybox", "true")
	listener := p.host.Start("busybox", "nc", "-ll", "-p", "7600", "-e", "true")
	testkit.Eventually(t, "a program listens", func() bool {
		c, err := p.host.Dial("tcp", "127.0.0.1:7600", 1e9)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	_ = listener
	missing := filepath.Join(p.Dir, "missing")
	p.Must("run", "--rm", "busybox", "true") // makes the default network's bridge

	before, networks, volumes := p.inventory(1), p.Must("network", "ls", "-q"), p.Must("volume", "ls", "-q")
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		// Networks
		{"network create --subnet 10.211.1.128/25 new", 1, `Pool overlaps with other one on this address space: network taken has 10\.211\.1\.0/24$`},
		{"network create --subnet 10.211.9.0/24 --subnet 10.211.9.0/25 new", 1, `(?i)overlap`},
		{"network create --subnet 10.211.3.0/33 new", 1, `(?i)invalid|10\.211\.3\.0/33`},
		{"network create --subnet nonsense new", 1, `(?i)nonsense`},
		{"network create --subnet 10.211.3.7/24 new", 1, `10\.211\.3\.0/24`},
		{"network create --subnet 10.211.3.0/24 --gateway 10.211.4.1 new", 1, `(?i)10\.211\.4\.1`},
		{"network create --gateway 10.211.4.1 new", 1, `(?i)gateway|subnet`},
		{"network create --subnet 10.211.3.0/24 --ip-range 10.211.4.0/25 new", 1, `(?i)range`},
		{"network create --subnet 10.211.3.0/24 --aux-address a=10.211.4.1 new", 1, `(?i)10\.211\.4\.1`},
		{"network create taken", 1, `network with name taken already exists`},
		{"network create host", 1, `(?i)host`},
		{"network create bad/name", 1, `(?i)bad/name`},
		{"network create -d nosuch new", 1, `(?i)nosuch`},
		{"network create --ipam-driver nosuch new", 1, `(?i)nosuch`},
		{"network create -o com.docker.network.driver.mtu=many new", 1, `(?i)mtu|many`},
		{"network create -o com.docker.network.bridge.enable_icc=perhaps new", 1, `(?i)enable_icc|perhaps`},
		{"network create --ingress new", 1, `(?i)ingress|swarm`},
		{"network rm taken", 1, `network taken .*has active endpoints`},
		{"network rm bridge", 1, `bridge is a pre-defined network and cannot be removed`},
		{"network rm nosuch", 1, `network nosuch not found`},
		{"network inspect nosuch", 1, `network nosuch not found`},
		{"network connect host holder", 1, `(?i)host`},
		{"network connect taken hosted", 1, `(?i)host`},
		{"network connect none holder", 1, `(?i)none|private`},
		{"network connect nosuch holder", 1, `network nosuch not found`},
		{"network connect taken nobody", 1, `No such container: nobody`},
		{"network connect taken holder", 1, `(?i)already`},
		{"network connect --ip 10.211.9.9 other holder", 1, `(?i)10\.211\.9\.9|user configured subnet|user specified IP`},
		{"network connect --ip 10.211.2.1 dual holder", 1, `(?i)10\.211\.2\.1|in use|gateway`},
		{"network disconnect other holder", 1, `(?i)not connected`},
		{"network disconnect taken nobody", 1, `No such container: nobody|no such container`},
		// Containers on networks
		{"run --network nosuch busybox true", 125, `network nosuch not found`},
		{"run --network taken --ip 10.211.9.9 busybox true", 125, `(?i)10\.211\.9\.9|no configured subnet`},
		{"run --network taken --ip 10.211.1.10 busybox true", 125, `(?i)address already in use|10\.211\.1\.10.*(in use|holder)`},
		{"run --network taken --ip 10.211.1.1 busybox true", 125, `(?i)10\.211\.1\.1|already in use|gateway`},
		{"run --network taken --ip 10.211.1.255 busybox true", 125, `(?i)10\.211\.1\.255|broadcast`},
		{"run --network taken --ip nonsense busybox true", 125, `(?i)invalid.*nonsense`},
		{"run --network taken --ip6 fd00::1 busybox true", 125, `(?i)fd00::1|IPv6|no configured subnet`},
		{"run --network dual --ip6 fd00:999::1 busybox true", 125, `(?i)fd00:999::1|no configured subnet`},
		{"run --ip 172.17.0.9 busybox true", 125, `user specified IP address is supported on user defined networks only`},
		{"run --network taken --mac-address nonsense busybox true", 125, `(?i)nonsense is not a valid mac address`},
		{"run --network host --network-alias x busybox true", 125, `(?i)alias`},
		{"run --network container:nobody busybox true", 125, `No such container: nobody`},
		{"run --network container:holder -p 80:80 busybox true", 125, `(?i)conflicting options: port publishing and the container type network mode`},
		{"run --network taken --network host busybox true", 125, `(?i)conflicting options`},
		{"run --link nobody busybox true", 125, `(?i)nobody`},
		// Ports
		{"run -p 7500:80 busybox true", 125, `7500 failed: port is already allocated \(by container holder`},
		{"run -p 7600:80 busybox true", 125, `7600 failed: port is already allocated \(by process \d+, busybox\)`},
		{"run -p 7700:80 -p 7700:81 busybox true", 125, `(?i)7700`},
		{"run -p 7700-7702:80-81 busybox true", 125, `(?i)range`},
		{"run -p 7700:80-82 busybox true", 125, `(?i)range`},
		{"run -p 70000:80 busybox true", 125, `(?i)invalid.*port`},
		{"run -p x:80 busybox true", 125, `(?i)invalid.*port`},
		{"run -p 7700:80/nope busybox true", 125, `(?i)nope|proto`},
		{"run -p 203.0.113.77:7700:80 busybox true", 125, `(?i)203\.0\.113\.77`},
		{"run -p nonsense:7700:80 busybox true", 125, `(?i)nonsense`},
		{"run --expose 99999 busybox true", 125, `(?i)invalid.*port|99999`},
		// Volumes and mounts
		{"volume rm used", 1, `(?i)volume is in use.*`},
		{"volume rm nosuch", 1, `(?i)no such volume.*nosuch|nosuch.*no such volume|get nosuch`},
		{"volume inspect nosuch", 1, `(?i)no such volume`},
		{"volume create bad/name", 1, `(?i)bad/name`},
		{"volume create -d nosuch new", 1, `(?i)nosuch`},
		{"volume create -o nosuch=1 new", 1, `(?i)nosuch`},
		{"volume create -o type=tmpfs new", 1, `(?i)device`},
		{"run -v relative/path:/m busybox true", 125, `(?i)relative/path`},
		{"run -v used:relative busybox true", 125, `(?i)relative`},
		{"run -v used:/ busybox true", 125, `(?i)'?/'?|root`},
		{"run -v " + shared + ":/ busybox true", 125, `(?i)'?/'?`},
		{"run -v used:/m:nosuch busybox true", 125, `(?i)nosuch|invalid mode`},
		{"run -v used:/m -v used:/m busybox true", 125, `(?i)Duplicate mount point: /m`},
		{"run --mount type=bind,src=" + missing + ",dst=/m busybox true", 125, `(?i)bind source path does not exist: .*missing`},
		{"run --mount type=bind,src=relative,dst=/m busybox true", 125, `(?i)relative|absolute`},
		{"run --mount type=bind,src=" + shared + ",dst=m busybox true", 125, `(?i)absolute`},
		{"run --mount type=bind,src=" + shared + ",dst=/ busybox true", 125, `(?i)'?/'?`},
		{"run --mount type=nosuch,dst=/m busybox true", 125, `(?i)nosuch`},
		{"run --mount type=volume,src=used,dst=/m,nosuch=1 busybox true", 125, `(?i)nosuch`},
		{"run --mount type=volume,src=used,dst=/m,volume-driver=nosuch busybox true", 125, `(?i)nosuch`},
		{"run --mount type=volume,src=used,dst=/m,volume-subpath=../x busybox true", 125, `(?i)\.\./x|subpath`},
		{"run --mount type=volume,src=used,dst=/m,volume-subpath=nosuch busybox true", 125,
			`(?i)nosuch`},
		{"run --mount type=image,src=nosuch,dst=/m busybox true", 125, `(?i)nosuch`},
		{"run --mount type=tmpfs,dst=/m,tmpfs-mode=x busybox true", 125, `(?i)mode|"?x"?`},
		{"run --tmpfs /m:nosuch busybox true", 125, `(?i)nosuch`},
		{"run --tmpfs / busybox true", 125, `(?i)'?/'?`},
		{"run --volumes-from nobody busybox true", 125, `(?i)nobody`},
		{"run --volumes-from holder:nosuch busybox true", 125, `(?i)nosuch`},
		{"run --volume-driver nosuch -v new:/m busybox true", 125, `(?i)nosuch`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			args := strings.Fields(tt.args)
			if args[0] == "run" {
				args = append([]string{"run", "--rm"}, args[1:]...)
			}
			refused(t, p.Berth(args...), tt.code, tt.want)
			if now := p.Must("network", "ls", "-q"); now != networks {
				t.Errorf("networks were %q, are %q", networks, now)
				p.Berth("network", "rm", "new")
			}
			if now := p.Must("volume", "ls", "-q"); now != volumes {
				t.Errorf("volumes were %q, are %q", volumes, now)
				p.Berth("volume", "rm", "new")
			}
		})
	}
	after := p.inventory(1)
	for _, n := range []map[string]int{before, after} {
		delete(n, "lines of rules") // bridges that somebody was on have some
	}
	if !maps.Equal(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("--mount made its source")
	}

	// The rest is no mistake.
	p.Must("run", "--rm", "-v", missing+":/m", "busybox", "touch", "/m/f")
	if _, err := os.Stat(filepath.Join(missing, "f")); err != nil {
		t.Error("-v did not make its source:", err)
	}
	p.Must("rm", "-f", "holder")
	p.Must("run", "--rm", "-p", "7500:80", "--network", "taken", "--ip", "10.211.1.10", "-v", "used:/data", "busybox", "true")
	for _, port := range []string{"7500", "7700", "7701", "7702"} {
		if c, err := p.host.Dial("tcp", net.JoinHostPort("127.0.0.1", port), 1e9); err == nil {
			c.Close()
			t.Errorf("port %s is held", port)
		}
	}
	p.Must("volume", "rm", "used")
	p.Must("network", "rm", "taken", "other", "dual")
}
