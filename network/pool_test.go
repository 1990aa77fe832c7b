package network

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

const poolDir = "BERTH_TEST_POOL_DIR"

// TestPoolWork is a process that has a full pool until it is killed.
func TestPoolWork(t *testing.T) {
	dir := os.Getenv(poolDir)
	if dir == "" {
		t.Skip("only a part of TestAKilledEnginesPoolVanishesByItself")
	}
	g := &ground{t: t}
	g.at(dir)
	if _, err := g.n.Join(context.Background(), SandboxRequest{ID: "c", Endpoints: []EndpointRequest{{Network: "bridge"}}}); err != nil {
		t.Fatal(err)
	}
	nw, _ := g.n.Get("bridge")
	g.waitForPool(nw.ID, poolDepth)
	fmt.Println("full")
	select {}
}

func (g *ground) waitForPool(network string, depth int) {
	g.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		g.n.pool.mu.Lock()
		n := len(g.n.pool.wait[network])
		g.n.pool.mu.Unlock()
		if n == depth {
			return
		}
	}
	g.t.Fatalf("there are never %d namespaces in the pool", depth)
}

// links are the kinds of this engine's interfaces on the host.
func (g *ground) links() (kinds []string) {
	g.t.Helper()
	all, err := whole(netlink.LinkList)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, l := range all {
		if strings.HasPrefix(l.Attrs().Alias, "berth "+g.cfg.EngineID+" ") {
			kinds = append(kinds, l.Type())
		}
	}
	slices.Sort(kinds)
	return kinds
}

func TestAKilledEnginesPoolVanishesByItself(t *testing.T) {
	if os.Getenv("BERTH_TEST_NETNS") == "" {
		t.Skip("making network namespaces needs root")
	}
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestPoolWork$")
	cmd.Env = append(os.Environ(), poolDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if line != "full\n" {
		t.Fatalf("%q %v", line, err)
	}
	g := &ground{t: t}
	g.identify(dir)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		left := fmt.Sprint(g.links())
		if left == "[bridge]" { // which the next engine needs, or takes down
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(left)
		}
	}
	g.at(dir)
	g.leave("c")
	if err := g.n.Close(); err != nil {
		t.Error(err)
	}
	g.nothingLeft()
}

func TestThePoolFollowsTheNetworksThatAreUsed(t *testing.T) {
	g := newGround(t)
	var ids []string
	for i := range poolNetworks + 1 {
		nw := g.create(CreateRequest{Name: fmt.Sprint("n", i)})
		ids = append(ids, nw.ID)
		g.join(fmt.Sprint("c", i), EndpointRequest{Network: nw.ID})
		g.waitForPool(nw.ID, poolDepth)
	}
	g.waitForPool(ids[0], 0) // too long ago
	// Who comes out of the pool is like everybody else, whatever it asks for.
	s := g.join("x", EndpointRequest{Network: "n4"}, EndpointRequest{Network: "n3"})
	e := s.Endpoints
	if got, want := shape(t, s.Netns), fmt.Sprintf("eth0 up %s; eth1 up %s; default %s eth1", e[0].IPv4, e[1].IPv4, e[1].Gateway4); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, id := range []string{"c4", "x"} {
		g.leave(id)
	}
	s.Netns.Close()
	if err := g.n.Remove(t.Context(), "n4"); err != nil {
		t.Fatal(err)
	}
	g.waitForPool(ids[4], 0)
}
