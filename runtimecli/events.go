package runtimecli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strconv"
	"strings"
	"time"

	"berth/fail"
	"berth/kernel/cgroup"
	"berth/runtime"
)

// event is a line of `events`, in runc's form.
type event struct {
	Type string `json:"type"` // "stats" or "oom"
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

// The figures of a "stats" event. Times are in nanoseconds, memory is in bytes.
type figures struct {
	CPU struct {
		Usage struct {
			Total        uint64   `json:"total,omitempty"`
			Percpu       []uint64 `json:"percpu,omitempty"`
			PercpuKernel []uint64 `json:"percpu_kernel,omitempty"`
			PercpuUser   []uint64 `json:"percpu_user,omitempty"`
			Kernel       uint64   `json:"kernel"`
			User         uint64   `json:"user"`
		} `json:"usage,omitempty"`
		Throttling struct {
			Periods          uint64 `json:"periods,omitempty"`
			ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
			ThrottledTime    uint64 `json:"throttledTime,omitempty"`
		} `json:"throttling,omitempty"`
		PSI *pressure `json:"psi,omitempty"`
	} `json:"cpu"`
	CPUSet struct {
		CPUs []uint16 `json:"cpus,omitempty"`
		Mems []uint16 `json:"mems,omitempty"`
	} `json:"cpuset"`
	Memory struct {
		Cache     uint64            `json:"cache,omitempty"`
		Usage     counter           `json:"usage,omitempty"`
		Swap      counter           `json:"swap,omitempty"`
		Kernel    counter           `json:"kernel,omitempty"`
		KernelTCP counter           `json:"kernelTCP,omitempty"`
		Raw       map[string]uint64 `json:"raw,omitempty"`
		PSI       *pressure         `json:"psi,omitempty"`
	} `json:"memory"`
	Pids struct {
		Current uint64 `json:"current,omitempty"`
		Limit   uint64 `json:"limit,omitempty"`
	} `json:"pids"`
	Blkio struct {
		Bytes      []deviceCount `json:"ioServiceBytesRecursive,omitempty"`
		Operations []deviceCount `json:"ioServicedRecursive,omitempty"`
		PSI        *pressure     `json:"psi,omitempty"`
	} `json:"blkio"`
	Hugetlb  map[string]hugePages `json:"hugetlb"`
	IntelRdt struct{}             `json:"intel_rdt"`
	Networks []struct{}           `json:"network_interfaces"` // null, as runc's is
}

type counter struct {
	Limit    uint64 `json:"limit"`
	Usage    uint64 `json:"usage,omitempty"`
	Max      uint64 `json:"max,omitempty"`
	Failures uint64 `json:"failcnt"`
}

type deviceCount struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

type hugePages struct {
	Usage    uint64 `json:"usage,omitempty"`
	Max      uint64 `json:"max,omitempty"`
	Failures uint64 `json:"failcnt"`
}

type pressure struct {
	Some pressureLine `json:"some"`
	Full pressureLine `json:"full"`
}

type pressureLine struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"` // µs
}

func figuresOf(s *cgroup.Stats) *figures {
	f := &figures{Hugetlb: map[string]hugePages{}}
	if c := s.CPU; c != nil {
		u := &f.CPU.Usage
		u.Total, u.Kernel, u.User = uint64(c.Total), uint64(c.System), uint64(c.User)
		for _, p := range c.PerCPU {
			u.Percpu = append(u.Percpu, uint64(p.Total))
			u.PercpuKernel = append(u.PercpuKernel, uint64(p.System))
			u.PercpuUser = append(u.PercpuUser, uint64(p.User))
		}
		t := &f.CPU.Throttling
		t.Periods, t.ThrottledPeriods, t.ThrottledTime = c.Periods, c.ThrottledPeriods, uint64(c.Throttled)
		f.CPU.PSI = pressureOf(c.Pressure)
	}
	if c := s.CPUSet; c != nil {
		f.CPUSet.CPUs, f.CPUSet.Mems = numbers(c.CPUs), numbers(c.Mems)
	}
	if m := s.Memory; m != nil {
		f.Memory.Cache, f.Memory.Raw, f.Memory.PSI = m.Cache, m.Raw, pressureOf(m.Pressure)
		f.Memory.Usage = counterOf(&m.Counter)
		f.Memory.Swap, f.Memory.Kernel, f.Memory.KernelTCP = counterOf(m.Swap), counterOf(m.Kernel), counterOf(m.KernelTCP)
	}
	if p := s.Pids; p != nil {
		f.Pids.Current, f.Pids.Limit = p.Current, p.Limit
	}
	if b := s.BlockIO; b != nil {
		f.Blkio.Bytes, f.Blkio.Operations, f.Blkio.PSI = counts(b.Bytes), counts(b.Operations), pressureOf(b.Pressure)
	}
	for size, h := range s.Hugetlb {
		f.Hugetlb[size] = hugePages{h.Usage, h.Peak, h.Failures}
	}
	return f
}

func counterOf(c *cgroup.Counter) counter {
	if c == nil {
		return counter{}
	}
	return counter{c.Limit, c.Usage, c.Peak, c.Failures}
}

func counts(list []cgroup.DeviceCount) (out []deviceCount) {
	for _, c := range list {
		out = append(out, deviceCount{c.Major, c.Minor, c.Kind, c.Value})
	}
	return out
}

func pressureOf(p *cgroup.Pressure) *pressure {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) pressureLine {
		return pressureLine{l.Avg10, l.Avg60, l.Avg300, uint64(l.Total / time.Microsecond)}
	}
	return &pressure{line(p.Some), line(p.Full)}
}

// numbers reads the kernel's list format, "0-2,7" (cpuset(7)).
func numbers(list string) (out []uint16) {
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err != nil || err2 != nil {
			continue
		}
		for n := first; n <= last; n++ {
			out = append(out, uint16(n))
		}
	}
	return out
}

func eventsFlags(f *flag.FlagSet) action {
	interval := f.Duration("interval", 5*time.Second, "time between statistics")
	once := f.Bool("stats", false, "print the statistics and exit")
	return func(ctx context.Context, a *app, args []string) (int, error) {
		if *interval <= 0 {
			return 1, fail.New(fail.Invalid, "duration interval must be greater than 0")
		}
		c, _, status, err := a.find(args[0])
		if err != nil {
			return 1, err
		}
		defer c.Release()
		if status == stopped || c.Group() == nil {
			return 1, fail.New(fail.Conflict, "container with id %s is not running", args[0])
		}
		out := json.NewEncoder(a.stdout)
		if *once {
			s, err := c.Group().Stats()
			if err != nil {
				return 1, err
			}
			return 0, out.Encode(event{"stats", args[0], figuresOf(s)})
		}
		return 0, watch(ctx, c, args[0], *interval, out.Encode)
	}
}

// watch tells of a container until it ends.
func watch(ctx context.Context, c *runtime.Container, id string, interval time.Duration, tell func(any) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	oom, err := c.Group().WatchOOM(ctx)
	if err != nil {
		return err
	}
	before, err := c.Group().OOMKills()
	if err != nil {
		return err
	}
	told := false // of memory that ran out
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.AwaitEnd(ctx)
	}()
	defer func() { <-ended }()
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			// The container may have ended of it, and its end be heard of first.
			if kills, err := c.Group().OOMKills(); err == nil && kills > before && !told {
				return tell(event{Type: "oom", ID: id})
			}
			return nil
		case _, ok := <-oom:
			if !ok { // the group is gone
				oom = nil
				continue
			}
			told = true
			err = tell(event{Type: "oom", ID: id})
		case <-tick.C:
			s, statErr := c.Group().Stats()
			if fail.Is(statErr, fail.NotFound) || errors.Is(statErr, os.ErrNotExist) {
				return nil
			}
			if statErr != nil {
				return statErr
			}
			err = tell(event{"stats", id, figuresOf(s)})
		}
		if err != nil {
			return err
		}
	}
}
