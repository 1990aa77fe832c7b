package runtime

import (
	"context"
	"testing"
	"time"

	oci "berth/oci/bundle"
)

// BenchmarkRun is one whole life of a container: create, start, wait, destroy.
func BenchmarkRun(b *testing.B) {
	needRoot(b)
	lower := layer(b)
	var create, start, wait, destroy time.Duration
	n := 0
	for b.Loop() {
		b.StopTimer()
		cfg := config(b, "true")
		cfg.Root = overlay(b, lower)
		b.StartTimer()
		t0 := time.Now()
		c, err := Create(context.Background(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if err := c.Start(context.Background()); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		if _, err := c.Wait(); err != nil {
			b.Fatal(err)
		}
		t3 := time.Now()
		if err := c.Destroy(context.Background()); err != nil {
			b.Fatal(err)
		}
		create, start, wait, destroy = create+t1.Sub(t0), start+t2.Sub(t1), wait+t3.Sub(t2), destroy+time.Since(t3)
		n++
	}
	for _, m := range []struct {
		what string
		d    time.Duration
	}{{"create", create}, {"start", start}, {"wait", wait}, {"destroy", destroy}} {
		b.ReportMetric(float64(m.d.Microseconds())/float64(n), m.what+"-us/op")
	}
}

// BenchmarkExec is one command in a running container.
func BenchmarkExec(b *testing.B) {
	c := running(b, config(b))
	proc := &oci.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}}
	for b.Loop() {
		p, err := c.Exec(context.Background(), ExecConfig{Process: proc})
		if err != nil {
			b.Fatal(err)
		}
		p.Wait()
		p.Release()
	}
}
