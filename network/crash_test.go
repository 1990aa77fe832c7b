package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"berth/durable"
)

const crashDir = "BERTH_TEST_CRASH_DIR"

// TestCrashWork is what a process does that is to be killed at a failpoint.
func TestCrashWork(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("only a part of TestNothingIsLeftAfterACrash")
	}
	g := &ground{t: t}
	g.at(dir)
	ctx := context.Background()
	_, _, err := g.n.Create(ctx, CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "10.9.0.0/24")}})
	_, _, err2 := g.n.Create(ctx, CreateRequest{Name: "m", EnableIPv6: is(true)})
	s, err3 := g.n.Join(ctx, SandboxRequest{ID: "c", Name: "c", Endpoints: []EndpointRequest{{Network: "n", Names: []string{"c"}}}})
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	port := Port{Proto: "tcp", HostIP: s.Endpoints[0].Gateway4, HostPort: 80, ContainerPort: 80}
	err = g.n.Publish(ctx, "c", []Port{port})
	_, err2 = g.n.Connect(ctx, "c", s.Netns, EndpointRequest{Network: "m"})
	err3 = g.n.Publish(ctx, "c", []Port{port})
	_, err4 := g.n.Disconnect(ctx, "c", s.Netns, "n")
	if err := errors.Join(err, err2, err3, err4, g.n.Leave(ctx, "c"), g.n.Remove(ctx, "n")); err != nil {
		t.Fatal(err)
	}
}

// Whatever the instant at which an engine is killed: the next one knows what there is, and
// when it has left the sandboxes whose containers are gone, nothing is left.
func TestNothingIsLeftAfterACrash(t *testing.T) {
	if os.Getenv("BERTH_TEST_NETNS") == "" {
		t.Skip("making network namespaces needs root")
	}
	points := failpoints(t)
	if len(points) < 10 {
		t.Fatalf("only %d failpoints found: %q", len(points), points)
	}
	for _, p := range points {
		t.Run(p, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestCrashWork$")
			cmd.Env = append(os.Environ(), crashDir+"="+dir, "BERTH_FAILPOINT="+p)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("it did not die at the failpoint: %v\n%s", err, out)
			}
			g := &ground{t: t}
			g.at(dir)
			// Again: what was made before is to be used, or made anew.
			for _, id := range g.n.Sandboxes() {
				if _, ok := g.n.Sandbox(id); !ok {
					t.Errorf("sandbox %s is listed and unknown", id)
				}
				g.leave(id)
			}
			if _, _, err := g.n.Create(t.Context(), CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "10.9.0.0/24")}}); err != nil && !strings.Contains(err.Error(), "exists") {
				t.Error(err)
			}
			s := g.join("d", EndpointRequest{Network: "n", IPv4: g.firstOf("n")})
			if _, err := reach(t, nil, s.Netns, s.Endpoints[0].IPv4.Addr()); err != nil {
				t.Error(err)
			}
			s.Netns.Close()
			g.leave("d")
			if err := g.n.Close(); err != nil {
				t.Error(err)
			}
			g.nothingLeft()
		})
	}
}

// What a killed engine had published goes on, and the next one takes it over.
func TestSandboxesSurviveTheEngine(t *testing.T) {
	g := newGround(t)
	nw := g.create(CreateRequest{Name: "n", EnableIPv6: is(true)})
	s := g.join("c", EndpointRequest{Network: "n", Names: []string{"web"}})
	g.publish("c", Port{Proto: "tcp", HostIP: s.Endpoints[0].Gateway4, HostPort: 8080, ContainerPort: 80})
	was, _ := g.n.Sandbox("c")
	const stray = "stray0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: stray}}); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName(stray)
	if err == nil {
		err = netlink.LinkSetAlias(l, "berth "+g.cfg.EngineID+" old")
	}
	if err != nil {
		t.Fatal(err)
	}
	g.n.pool.close() // as it would be with the process
	g.n.reap.close()
	g.open()
	is, ok := g.n.Sandbox("c")
	if !ok || fmt.Sprint(*is) != fmt.Sprint(*was) {
		t.Errorf("%+v\n%+v", was, is)
	}
	if _, err := netlink.LinkByName(stray); err == nil {
		t.Error("an interface of ours that nothing names stays")
	}
	if _, err := reach(t, nil, s.Netns, s.Endpoints[0].IPv4.Addr()); err != nil {
		t.Error(err)
	}
	other := g.join("d", EndpointRequest{Network: "n"})
	if other.Endpoints[0].IPv4 == s.Endpoints[0].IPv4 || other.Endpoints[0].IPv6 == s.Endpoints[0].IPv6 {
		t.Error("an address is given out twice")
	}
	if _, err := os.Stat(g.n.zone(nw.ID)); err != nil {
		t.Error(err)
	}
}

func failpoints(t *testing.T) (out []string) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`durable\.Failpoint\("([^"]+)"\)`)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(data), -1) {
			out = append(out, m[1])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// What nobody can read must not take the engine, or other networks, with it.
func TestUnreadableStateIsToldAndLeftBehind(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "n"})
	g.join("good", EndpointRequest{Network: "n"})
	bad := g.join("bad", EndpointRequest{Network: "n"})
	link := g.n.boxes["bad"].rec.Endpoints[0].Link
	if err := os.WriteFile(g.n.file("bad"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := g.db.Update(func(tx *durable.Tx) error { return tx.PutRaw(bucket, "damaged", []byte("{")) })
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	g.cfg.Log = slog.New(slog.NewTextHandler(&told, nil))
	g.n.pool.close() // as it would be with the process
	g.n.reap.close()
	g.open()
	if got := g.n.Sandboxes(); fmt.Sprint(got) != "[good]" {
		t.Error(got)
	}
	if _, err := netlink.LinkByName(link); err == nil {
		t.Error("an interface stays that no file names")
	}
	if _, err := g.n.Get("n"); err != nil {
		t.Error(err)
	}
	if !strings.Contains(told.String(), "the record of a network is unreadable") || !strings.Contains(told.String(), "the file of a container's network is unreadable") {
		t.Error(told.String())
	}
	bad.Netns.Close()
}
