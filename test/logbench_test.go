package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/testkit"
)

// BenchmarkLog is a container that writes lines of 100 bytes as fast as they are taken, to
// its end, with drivers and options of Berth's and of Docker's. BERTH_BENCH_LOG_MB says how
// much it writes.
func BenchmarkLog(b *testing.B) {
	mb := 100
	fmt.Sscan(os.Getenv("BERTH_BENCH_LOG_MB"), &mb)
	dir := b.TempDir()
	lines := filepath.Join(dir, "lines")
	if err := os.WriteFile(lines, []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 100_000)), 0o644); err != nil {
		b.Fatal(err)
	}
	e := testkit.StartEngine(b, testkit.EngineOptions{})
	e.Busybox()
	docker := testkit.Dockerd(b)
	docker.Must("import", testkit.BusyboxTar(b), "busybox")
	for _, c := range []struct {
		name string
		must func(...string) string
		args []string
	}{
		{"berth json-file", e.Must, []string{"--log-driver", "json-file"}},
		{"docker json-file 10m×5", docker.Must, []string{"--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=5"}},
		{"berth json-file unrotated", e.Must, []string{"--log-opt", "max-size=-1"}},
		{"docker json-file unrotated", docker.Must, []string{"--log-driver", "json-file"}},
		{"berth local", e.Must, []string{"--log-driver", "local"}},
		{"docker local", docker.Must, []string{"--log-driver", "local"}},
		{"berth none", e.Must, []string{"--log-driver", "none"}},
		{"docker none", docker.Must, []string{"--log-driver", "none"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(mb) * 1e6)
			for b.Loop() {
				b.StopTimer()
				id := c.must(append(append([]string{"create", "--network", "none", "-v", lines + ":/lines:ro"}, c.args...), "busybox", "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do cat /lines; i=$((i+1)); done", mb/10))...)
				b.StartTimer()
				begun := time.Now()
				c.must("start", id)
				c.must("wait", id)
				b.StopTimer()
				b.ReportMetric(time.Since(begun).Seconds(), "s")
				c.must("rm", id)
				b.StartTimer()
			}
		})
	}
}
