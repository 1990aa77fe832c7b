package runtimecli

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/durable"
	"berth/fail"
	oci "berth/oci/bundle"
)

// limitFlags are the flags of update that set one limit each.
var limitFlags = []struct {
	name, about string
	set         func(r *oci.LinuxResources, n int64)
	bytes       bool
	least, most int64
}{
	{"memory", "memory limit (`bytes`, or with a unit; -1: none)", func(r *oci.LinuxResources, n int64) { memory(r).Limit = &n }, true, -1, math.MaxInt64},
	{"memory-reservation", "soft memory limit (`bytes`)", func(r *oci.LinuxResources, n int64) { memory(r).Reservation = &n }, true, -1, math.MaxInt64},
	{"memory-swap", "limit of memory and swap together (`bytes`)", func(r *oci.LinuxResources, n int64) { memory(r).Swap = &n }, true, -1, math.MaxInt64},
	{"cpu-share", "CPU shares", func(r *oci.LinuxResources, n int64) { u := uint64(n); cpu(r).Shares = &u }, false, 0, math.MaxInt64},
	{"cpu-quota", "CPU time in a period (µs; -1: no limit)", func(r *oci.LinuxResources, n int64) { cpu(r).Quota = &n }, false, -1, math.MaxInt64},
	{"cpu-period", "length of a period (µs)", func(r *oci.LinuxResources, n int64) { u := uint64(n); cpu(r).Period = &u }, false, 0, math.MaxInt64},
	{"cpu-burst", "CPU time that may be saved up (µs)", func(r *oci.LinuxResources, n int64) { u := uint64(n); cpu(r).Burst = &u }, false, 0, math.MaxInt64},
	{"cpu-rt-period", "length of a period of realtime scheduling (µs)", func(r *oci.LinuxResources, n int64) { u := uint64(n); cpu(r).RealtimePeriod = &u }, false, 0, math.MaxInt64},
	{"cpu-rt-runtime", "realtime CPU time in a period (µs)", func(r *oci.LinuxResources, n int64) { cpu(r).RealtimeRuntime = &n }, false, -1, math.MaxInt64},
	{"cpu-idle", "1: run only when nobody else wants to; 0: not so", func(r *oci.LinuxResources, n int64) { cpu(r).Idle = &n }, false, 0, 1},
	{"pids-limit", "number of processes (-1: no limit)", func(r *oci.LinuxResources, n int64) { r.Pids = &specs.LinuxPids{Limit: &n} }, false, -1, math.MaxInt64},
	{"blkio-weight", "block IO weight, 10 to 1000", func(r *oci.LinuxResources, n int64) {
		w := uint16(n)
		r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
	}, false, 0, 1000},
}

func memory(r *oci.LinuxResources) *specs.LinuxMemory {
	if r.Memory == nil {
		r.Memory = new(specs.LinuxMemory)
	}
	return r.Memory
}

func cpu(r *oci.LinuxResources) *specs.LinuxCPU {
	if r.CPU == nil {
		r.CPU = new(specs.LinuxCPU)
	}
	return r.CPU
}

func updateFlags(f *flag.FlagSet) action {
	file := both(f.StringVar, f, "resources", "r", "", "file with the limits as JSON, - for standard input; other flags are ignored then")
	res := new(oci.LinuxResources)
	for _, l := range limitFlags {
		f.Func(l.name, l.about, func(text string) error {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil && l.bytes {
				n, err = units.RAMInBytes(text)
			}
			if err == nil && (n < l.least || n > l.most) {
				err = fmt.Errorf("%d is out of range", n)
			}
			if err == nil {
				l.set(res, n)
			}
			return err
		})
	}
	f.Func("cpuset-cpus", "CPUs to run on (`list`)", func(s string) error { cpu(res).Cpus = s; return nil })
	f.Func("cpuset-mems", "memory nodes to use (`list`)", func(s string) error { cpu(res).Mems = s; return nil })
	var rdt []string
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		f.Func(name, "line of the class of service's schemata (`text`, Intel RDT)", func(s string) error { rdt = append(rdt, s); return nil })
	}
	return func(ctx context.Context, a *app, args []string) (int, error) {
		c, st, status, err := a.find(args[0])
		if err != nil {
			return 1, err
		}
		defer c.Release()
		if status == stopped || c.Group() == nil {
			return 1, errNotRunning
		}
		if *file != "" {
			if res, err = readResources(*file); err != nil {
				return 1, err
			}
		}
		// The device rules of a running container stay as they are.
		res.Devices = nil
		if err := c.Update(ctx, res); err != nil {
			return 1, err
		}
		if len(rdt) > 0 && *file == "" {
			if err := c.UpdateRDT(rdt...); err != nil {
				return 1, err
			}
		}
		// For a later start of the same bundle config.json counts; this is for `state`.
		st.Spec.Linux.Resources = merged(st.Spec.Linux.Resources, res)
		return 0, durable.WriteJSON(a.stateFile(st.ID), st, 0o600)
	}
}

func readResources(path string) (*oci.LinuxResources, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	res := new(oci.LinuxResources)
	if err := json.NewDecoder(in).Decode(res); err != nil {
		return nil, fail.New(fail.Invalid, "resources: %w", err)
	}
	return res, nil
}

// merged lays what an update has set over what was there.
func merged(old, update *oci.LinuxResources) *oci.LinuxResources {
	out := new(oci.LinuxResources)
	for _, r := range []*oci.LinuxResources{old, update} {
		if r == nil {
			continue
		}
		// Absent fields do not appear in the JSON form, so they change nothing.
		text, err := json.Marshal(r)
		if err == nil {
			json.Unmarshal(text, out)
		}
	}
	return out
}
