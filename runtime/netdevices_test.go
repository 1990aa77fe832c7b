package runtime

import (
	"context"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// inPrivateNetwork runs a test on a thread with a network of its own, which takes the
// host's place.
func inPrivateNetwork(t *testing.T, do func(ip func(args string))) {
	t.Helper()
	needRoot(t)
	program, err := exec.LookPath("ip")
	if err != nil {
		t.Skip("needs ip (iproute2)")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		do(func(args string) {
			t.Helper()
			if out, err := exec.Command(program, strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v: %s", args, err, out)
			}
		})
	}()
	<-done
}

func TestNetworkDevicesMoveIntoTheContainer(t *testing.T) {
	inPrivateNetwork(t, func(ip func(string)) {
		ip("link add first type veth peer name other")
		ip("link set other up")
		ip("link add second type veth peer name elsewhere")
		ip("link set first mtu 1400 address 02:00:00:00:00:07 up")
		ip("addr add 192.0.2.7/24 dev first")
		ip("addr add 2001:db8::7/64 dev first nodad")
		ip("addr add fe80::8/64 dev first nodad")
		cfg := config(t)
		cfg.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"first": {Name: "eth0"}, "second": {Name: "net%d"}}
		cfg.Spec.Process.Args = []string{"sleep", "1000"}
		c, err := Create(context.Background(), cfg)
		if err != nil {
			t.Error(err)
			return
		}
		defer destroy(t, c)
		if err := c.Start(context.Background()); err != nil {
			t.Error(err)
			return
		}
		got := inside(t, c, "sh", "-c", "ip addr show eth0; ip link show net0; cat /sys/class/net/eth0/mtu")
		for _, want := range []string{"mtu 1400", "02:00:00:00:00:07", "inet 192.0.2.7/24", "inet6 2001:db8::7/64", ",UP", "net0"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q is missing in\n%s", want, got)
			}
		}
		if strings.Contains(got, "fe80::8/") {
			t.Error("an address that is not global was moved")
		}
		if out, _ := exec.Command("ip", "-o", "link").CombinedOutput(); strings.Contains(string(out), " first") || strings.Contains(string(out), " second") {
			t.Errorf("the host still has\n%s", out)
		}

		for name, want := range map[string]string{"missing": "linux.netDevices: missing: no such device", "other": "has a network device lo already"} {
			cfg := config(t, "true")
			cfg.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: "lo"}}
			if _, err := Create(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
