package metrics

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ticks is USER_HZ, the unit of times in /proc.
const ticks = 100

// AddProcess registers what Prometheus's libraries tell of every Go program, by the same names.
func (r *Registry) AddProcess() {
	none := []string(nil)
	started := time.Now()
	r.Gauge("go_info", "Information about the Go environment.", []string{"version"}, func(emit Emit) { emit(1, runtime.Version()) })
	r.Gauge("go_goroutines", "Number of goroutines that currently exist.", none, func(emit Emit) { emit(float64(runtime.NumGoroutine())) })
	for _, m := range []struct{ name, help, source string }{
		{"go_memstats_heap_alloc_bytes", "Number of heap bytes allocated and currently in use.", "/memory/classes/heap/objects:bytes"},
		{"go_memstats_heap_released_bytes", "Number of heap bytes released to OS.", "/memory/classes/heap/released:bytes"},
		{"go_memstats_sys_bytes", "Number of bytes obtained from system.", "/memory/classes/total:bytes"},
		{"go_memstats_next_gc_bytes", "Number of heap bytes when next garbage collection will take place.", "/gc/heap/goal:bytes"},
		{"go_sched_gomaxprocs_threads", "The current runtime.GOMAXPROCS setting.", "/sched/gomaxprocs:threads"},
	} {
		r.Gauge(m.name, m.help, none, readRuntime(m.source))
	}
	for _, m := range []struct{ name, help, source string }{
		{"go_memstats_alloc_bytes_total", "Total number of bytes allocated in heap until now, even if released already.", "/gc/heap/allocs:bytes"},
		{"go_gc_cycles_total", "Number of garbage collections.", "/gc/cycles/total:gc-cycles"},
	} {
		r.Counter(m.name, m.help, none, readRuntime(m.source))
	}
	r.Gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", none, func(emit Emit) {
		emit(float64(started.UnixMilli()) / 1000)
	})
	r.Counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", none, func(emit Emit) {
		if f := statFields(); f != nil {
			emit((f(14) + f(15)) / ticks)
		}
	})
	r.Gauge("process_resident_memory_bytes", "Resident memory size in bytes.", none, func(emit Emit) {
		if f := statFields(); f != nil {
			emit(f(24) * float64(os.Getpagesize()))
		}
	})
	r.Gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", none, func(emit Emit) {
		if f := statFields(); f != nil {
			emit(f(23))
		}
	})
	r.Gauge("process_open_fds", "Number of open file descriptors.", none, func(emit Emit) {
		if all, err := os.ReadDir("/proc/self/fd"); err == nil {
			emit(float64(len(all) - 1)) // without the directory itself
		}
	})
	r.Gauge("process_max_fds", "Maximum number of open file descriptors.", none, func(emit Emit) {
		var limit unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
			emit(float64(limit.Cur))
		}
	})
}

func readRuntime(source string) func(Emit) {
	return func(emit Emit) {
		sample := []metrics.Sample{{Name: source}}
		metrics.Read(sample)
		if sample[0].Value.Kind() == metrics.KindUint64 {
			emit(float64(sample[0].Value.Uint64()))
		}
	}
}

// statFields gives the numbers of /proc/self/stat by proc_pid_stat(5)'s count, nil if it
// cannot be read.
func statFields() func(n int) float64 {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return nil
	}
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	return func(n int) float64 {
		if n-3 >= len(f) {
			return 0
		}
		v, _ := strconv.ParseFloat(string(f[n-3]), 64) // the kernel's own numbers
		return v
	}
}
