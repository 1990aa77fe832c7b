package engine

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/durable"
	"berth/events"
	"berth/supervisor"
	"berth/testkit"
)

// BenchmarkRunRM is what `run --rm … true` asks of the engine, with the time of each
// verb beside the sum.
func BenchmarkRunRM(b *testing.B) {
	testkit.Integration(b)
	dir, err := os.MkdirTemp("", "be")
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir))
		for _, g := range groups {
			_ = os.Remove(g)
		}
		os.RemoveAll(dir)
	}()
	db, err := durable.OpenDB(filepath.Join(dir, "berth.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	shims, err := supervisor.NewLauncher(supervisor.LauncherConfig{ShimPath: filepath.Join(testkit.Binaries(b), "berth-shim"), Warm: 2})
	if err != nil {
		b.Fatal(err)
	}
	defer shims.Close()
	data := filepath.Join(dir, "d")
	e, err := Open(b.Context(), Options{
		Networks: newFakeNetworks(),
		DataRoot: data, ExecRoot: filepath.Join(dir, "r"), DB: db, Images: importBusybox(b, data, db), Volumes: openVolumes(b, data, db), Shims: shims,
		Events: events.NewBus(), CgroupParent: "/" + filepath.Base(dir),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	var create, start, end time.Duration
	ctx := context.Background()
	for b.Loop() {
		t0 := time.Now()
		id, _, err := e.Containers.Create(ctx, CreateRequest{
			Config:     &container.Config{Image: "busybox", Cmd: []string{"true"}},
			HostConfig: &container.HostConfig{NetworkMode: "none", AutoRemove: true},
		})
		if err != nil {
			b.Fatal(err)
		}
		gone, err := e.Containers.Wait(ctx, id, WaitRemoved)
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if err := e.Containers.Start(ctx, id); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		<-gone
		create, start, end = create+t1.Sub(t0), start+t2.Sub(t1), end+time.Since(t2)
	}
	for name, d := range map[string]time.Duration{"create-ms": create, "start-ms": start, "removed-ms": end} {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name)
	}
}
