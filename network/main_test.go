package network

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"berth/durable"
)

// The tests that speak to the kernel run in a network namespace of their own, which the
// whole test process lives in.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv("BERTH_TEST_NETNS") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "BERTH_TEST_NETNS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// ground is where an engine's networks live in a test.
type ground struct {
	t   testing.TB
	dir string
	db  *durable.DB
	cfg Config
}

func newGround(t testing.TB) *ground {
	t.Helper()
	if os.Getenv("BERTH_TEST_NETNS") == "" {
		t.Skip("making network namespaces needs root")
	}
	g := &ground{t: t, dir: t.TempDir()}
	var err error
	if g.db, err = durable.OpenDB(filepath.Join(g.dir, "berth.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.db.Close() })
	g.cfg = Config{DB: g.db, RunDir: filepath.Join(g.dir, "run"), EngineID: randomHex(8) + "-0000"}
	return g
}

func (g *ground) open() *Networks {
	g.t.Helper()
	n, err := Open(g.t.Context(), g.cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}
