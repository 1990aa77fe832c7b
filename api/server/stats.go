package server

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/engine"
	"berth/fail"
	"berth/kernel/cgroup"
)

// containerStats tells what a container uses, once or every second. Unlike Docker's the
// first sample of a stream has an earlier one beside it, so its rate is true too.
func containerStats(w *writer, r *request) error {
	o := engine.StatsOptions{Stream: r.booleanOr("stream", true)}
	if r.version >= 41 {
		o.OneShot = r.boolean("one-shot")
	}
	if o.Stream && o.OneShot && r.version < 52 {
		return fail.New(fail.Invalid, "cannot have stream=true and one-shot=true")
	}
	ctx, cancel := r.stream()
	defer cancel()
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return r.s.Containers.Stats(ctx, r.path["id"], o, func(s engine.Stats) error {
		if !w.wrote {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusOK)
		}
		if err := enc.Encode(statsAnswer(s, r.version)); err != nil {
			return err
		}
		return w.flush()
	})
}

func statsAnswer(s engine.Stats, v version) container.StatsResponse {
	out := container.StatsResponse{ID: s.ID, Name: "/" + s.Name, Read: s.CPU.At, PreRead: s.Before.At}
	if v >= 52 {
		out.OSType = "linux"
	}
	out.CPUStats, out.PreCPUStats = cpuAnswer(s.CPU), cpuAnswer(s.Before)
	if s.CPU.At.IsZero() {
		return out
	}
	if m := s.Memory; m != nil {
		out.MemoryStats = container.MemoryStats{Usage: m.Usage, Stats: m.Raw, Limit: m.Limit}
		if m.Limit > s.MachineMemory && s.MachineMemory > 0 {
			out.MemoryStats.Limit = s.MachineMemory
		}
		if !s.Unified {
			out.MemoryStats.MaxUsage, out.MemoryStats.Failcnt = m.Peak, m.Failures
		}
	}
	if p := s.Pids; p != nil {
		out.PidsStats = container.PidsStats{Current: p.Current, Limit: p.Limit}
		if !s.Unified && p.Limit == unlimited {
			out.PidsStats.Limit = 0
		}
	}
	if b := s.BlockIO; b != nil {
		out.BlkioStats = container.BlkioStats{
			IoServiceBytesRecursive: blockAnswer(b.Bytes, s.Unified), IoServicedRecursive: blockAnswer(b.Operations, s.Unified),
		}
	}
	if !s.Unified {
		// What only the CFQ scheduler of Linux before 5.0 counted: empty lists on v1, null on v2.
		none := []container.BlkioStatEntry{}
		b := &out.BlkioStats
		b.IoQueuedRecursive, b.IoServiceTimeRecursive, b.IoWaitTimeRecursive = none, none, none
		b.IoMergedRecursive, b.IoTimeRecursive, b.SectorsRecursive = none, none, none
	}
	for _, n := range s.Interfaces {
		if out.Networks == nil {
			out.Networks = map[string]container.NetworkStats{}
		}
		out.Networks[n.Name] = container.NetworkStats{
			RxBytes: n.Rx.Bytes, RxPackets: n.Rx.Packets, RxErrors: n.Rx.Errors, RxDropped: n.Rx.Dropped,
			TxBytes: n.Tx.Bytes, TxPackets: n.Tx.Packets, TxErrors: n.Tx.Errors, TxDropped: n.Tx.Dropped,
		}
	}
	return out
}

// unlimited is how the kernel's counters say that there is no limit.
const unlimited = ^uint64(0)

func cpuAnswer(r engine.CPUReading) container.CPUStats {
	out := container.CPUStats{
		CPUUsage:    container.CPUUsage{TotalUsage: nanos(r.Used.Total), UsageInUsermode: nanos(r.Used.User), UsageInKernelmode: nanos(r.Used.System)},
		SystemUsage: nanos(r.All), OnlineCPUs: uint32(r.Online),
		ThrottlingData: container.ThrottlingData{
			Periods: r.Used.Periods, ThrottledPeriods: r.Used.ThrottledPeriods, ThrottledTime: nanos(r.Used.Throttled),
		},
	}
	for _, c := range r.Used.PerCPU {
		out.CPUUsage.PercpuUsage = append(out.CPUUsage.PercpuUsage, nanos(c.Total))
	}
	return out
}

func nanos(d time.Duration) uint64 { return uint64(max(d, 0)) }

// blockAnswer writes what was counted per device: on v2 in small letters, as Docker does,
// and without what Docker does not tell there.
func blockAnswer(counts []cgroup.DeviceCount, unified bool) []container.BlkioStatEntry {
	small := map[string]string{"Read": "read", "Write": "write"}
	out := make([]container.BlkioStatEntry, 0, len(counts))
	for _, c := range counts {
		kind := c.Kind
		if unified {
			if kind = small[c.Kind]; kind == "" {
				continue
			}
		}
		out = append(out, container.BlkioStatEntry{Major: c.Major, Minor: c.Minor, Op: kind, Value: c.Value})
	}
	return out
}
