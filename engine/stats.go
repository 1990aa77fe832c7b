package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/cgroup"
)

// Stats is what a container has used up to a moment. One of a container that does not run
// has its names alone.
type Stats struct {
	ID, Name string
	CPU      CPUReading
	Before   CPUReading // an earlier one of the same run; zero if none was asked for
	Unified  bool       // counted by cgroup v2
	Memory   *cgroup.MemoryStats
	// MachineMemory is what the machine has, in bytes: the limit of who has none.
	MachineMemory uint64
	Pids          *cgroup.PidsStats
	BlockIO       *cgroup.BlockIOStats
	Interfaces    []InterfaceStats // without the loopback
}

// CPUReading is the processor time that a container has used, beside what all processors
// of the machine together could have given up to then.
type CPUReading struct {
	At     time.Time // zero: none was made
	Used   cgroup.CPUStats
	All    time.Duration
	Online int // processors

	run *run // whose container it was
}

// InterfaceStats are the counters of a network interface, proc_net_dev(5), by its name
// inside the container.
type InterfaceStats struct {
	Name   string
	Rx, Tx Traffic
}

// Traffic is what went one way.
type Traffic struct{ Bytes, Packets, Errors, Dropped uint64 }

const (
	// statsWindow is how long a first rate of processor time is taken over: long beside the
	// scheduler's tick (1 to 10 ms), by which the kernel brings its counters up to date.
	statsWindow = 250 * time.Millisecond
	// statsPeriod is the time between samples for who goes on listening.
	statsPeriod = time.Second
	// statsMemory is for how long an earlier reading may begin a rate: who asks again and
	// again gets answers at once.
	statsMemory = 5 * time.Second
)

// StatsOptions of Stats. OneShot wants no earlier reading and so has not to wait for one.
type StatsOptions struct{ Stream, OneShot bool }

// Stats tells fn what a container has used: once, or with Stream every second until it is
// removed, ctx ends, or fn fails. Clients that watch the same container share its samples;
// of a container that nobody watches none are made.
func (c *Containers) Stats(ctx context.Context, ref string, o StatsOptions, fn func(Stats) error) error {
	i, err := c.idx.find(ref)
	if err != nil {
		return err
	}
	if !o.Stream && (o.OneShot || !counted(i.now())) {
		s, err := c.samples.sample(i)
		if err != nil {
			return err
		}
		return fn(s)
	}
	samples, stop := c.samples.watch(i)
	defer stop()
	for {
		select {
		case s, ok := <-samples:
			if !ok {
				return nil
			}
			if err := fn(s); err != nil || !o.Stream {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// counted reports whether there is a control group to look at.
func counted(c Container) bool { return c.State.Status == running || c.State.Status == paused }

// sampler reads what containers use while somebody watches them. One goroutine does it for
// all, and ends when nobody watches any more.
type sampler struct {
	ctx    context.Context // ends with the engine
	work   *sync.WaitGroup
	idx    *index
	cgroup func(Container) string
	clock  cpuClock

	mu      sync.Mutex // guards all below
	watched map[*instance]*meter
	wake    chan struct{} // not nil while the goroutine runs
}

// meter is a watched container.
type meter struct {
	readers map[chan Stats]struct{}
	due     time.Time // of the next sample
	before  CPUReading
	latest  *Stats
}

func newSampler(ctx context.Context, work *sync.WaitGroup, idx *index, cgroup func(Container) string) *sampler {
	return &sampler{ctx: ctx, work: work, idx: idx, cgroup: cgroup, watched: map[*instance]*meter{}}
}

// watch delivers samples until stop is called, the container is removed or the engine
// ends; then the channel is closed. Who is slow gets the latest one.
func (s *sampler) watch(i *instance) (samples <-chan Stats, stop func()) {
	out := make(chan Stats, 1)
	began := s.begin(i)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		close(out)
		return out, func() {}
	}
	m := s.watched[i]
	if m == nil {
		m = &meter{readers: map[chan Stats]struct{}{}, before: began, due: time.Now()}
		if !began.At.IsZero() {
			m.due = began.At.Add(statsWindow)
		}
		s.watched[i] = m
	}
	m.readers[out] = struct{}{}
	if m.latest != nil {
		out <- *m.latest // not older than a second
	}
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
		wake := s.wake
		s.work.Go(func() { s.collect(wake) })
	} else {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return out, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(m.readers, out)
		if len(m.readers) == 0 && s.watched[i] == m {
			delete(s.watched, i)
		}
	}
}

// begin is a reading that a rate can begin with: one that is there already, or a new one.
func (s *sampler) begin(i *instance) CPUReading {
	if r := i.measured.Load(); r != nil && time.Since(r.At) < statsMemory && r.run == i.current() {
		return *r
	}
	c := i.now()
	if !counted(c) {
		return CPUReading{}
	}
	g, err := cgroup.LoadFor(s.cgroup(c), "cpu", "cpuacct")
	if err != nil {
		return CPUReading{}
	}
	used, err := g.Brief("cpu", "cpuacct")
	if err != nil {
		return CPUReading{}
	}
	return s.reading(i, used)
}

// reading makes a CPUReading of counters that have been read just now.
func (s *sampler) reading(i *instance, used *cgroup.Stats) CPUReading {
	r := CPUReading{At: time.Now(), run: i.current()}
	r.All, r.Online = s.clock.read()
	if used.CPU != nil {
		r.Used = *used.CPU
	}
	return r
}

// current is the life that the container is in.
func (i *instance) current() *run {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.run
}

// collect makes samples when they are due, until nobody watches.
func (s *sampler) collect(wake <-chan struct{}) {
	for {
		s.mu.Lock()
		if len(s.watched) == 0 || s.ctx.Err() != nil {
			for i, m := range s.watched {
				s.dismiss(i, m)
			}
			s.wake = nil
			s.mu.Unlock()
			return
		}
		now := time.Now()
		next := now.Add(statsPeriod)
		due := map[*instance]*meter{}
		for i, m := range s.watched {
			if wait := m.due.Sub(now); wait <= statsWindow/10 {
				due[i] = m
			} else if m.due.Before(next) {
				next = m.due
			}
		}
		s.mu.Unlock()
		if len(due) > 0 {
			s.round(due)
			continue
		}
		select {
		case <-time.After(time.Until(next)):
		case <-wake:
		case <-s.ctx.Done():
		}
	}
}

// round samples containers and tells their readers.
func (s *sampler) round(due map[*instance]*meter) {
	var workers errgroup.Group
	workers.SetLimit(4)
	for i, m := range due {
		workers.Go(func() error {
			sample, err := s.sample(i)
			if err != nil {
				sample = Stats{ID: i.id, Name: i.now().Name}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if i.isRemoved() {
				s.dismiss(i, m)
				return nil
			}
			if b := m.before; !b.At.IsZero() && b.run == sample.CPU.run {
				sample.Before = b
			}
			// Samples of all containers are made together, on the second.
			m.due = time.Now().Truncate(statsPeriod).Add(statsPeriod)
			if time.Until(m.due) < statsWindow {
				m.due = m.due.Add(statsPeriod)
			}
			m.before, m.latest = sample.CPU, &sample
			for r := range m.readers {
				select {
				case <-r: // not taken yet: it gets the newer one
				default:
				}
				r <- sample
			}
			return nil
		})
	}
	_ = workers.Wait()
}

// dismiss ends the samples of a container. The caller holds mu.
func (s *sampler) dismiss(i *instance, m *meter) {
	for r := range m.readers {
		close(r)
	}
	clear(m.readers)
	if s.watched[i] == m {
		delete(s.watched, i)
	}
}

// sample reads everything now. A container that does not run, or ends meanwhile, has its
// names alone.
func (s *sampler) sample(i *instance) (Stats, error) {
	c := i.now()
	out := Stats{ID: c.ID, Name: c.Name}
	if !counted(c) {
		return out, nil
	}
	g, err := cgroup.LoadFor(s.cgroup(c), "cpu", "cpuacct", "memory", "pids", "blkio")
	if err == nil {
		var used *cgroup.Stats
		if used, err = g.Brief("cpu", "cpuacct"); err == nil {
			out.CPU = s.reading(i, used)
			used, err = g.Brief("memory", "pids", "blkio")
		}
		if err == nil {
			out.Unified, out.Memory, out.Pids, out.BlockIO = g.Unified(), used.Memory, used.Pids, used.BlockIO
		}
	}
	if fail.Is(err, fail.NotFound) {
		return Stats{ID: c.ID, Name: c.Name}, nil
	}
	if err != nil {
		return Stats{}, fmt.Errorf("look at container %s: %w", c.ID, err)
	}
	kept := out.CPU
	i.measured.Store(&kept)
	out.MachineMemory = machineMemory()
	out.Interfaces = s.interfaces(c)
	return out, nil
}

// interfaces reads the counters of the interfaces that the container's network, or that of
// the container whose network it shares, gave it. What programs have made inside (bridges,
// tunnels) would count the same traffic twice.
func (s *sampler) interfaces(c Container) []InterfaceStats {
	box := c.Network
	if leader, err := s.idx.find(c.Sandbox); box == nil && err == nil {
		box = leader.now().Network
	}
	if box == nil || len(box.Endpoints) == 0 {
		return nil
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(c.State.Pid) + "/net/dev")
	if err != nil {
		return nil // it has ended
	}
	var names []string
	for _, e := range box.Endpoints {
		names = append(names, e.Interface)
	}
	return slices.DeleteFunc(parseNetDev(text), func(n InterfaceStats) bool { return !slices.Contains(names, n.Name) })
}

// parseNetDev reads proc_net_dev(5): under two lines of titles a line for each interface
// with eight counters of what came in and eight of what went out.
func parseNetDev(text []byte) []InterfaceStats {
	var out []InterfaceStats
	for line := range bytes.Lines(text) {
		at := bytes.LastIndexByte(line, ':') // a name may have a colon
		if at < 0 {
			continue
		}
		f := bytes.Fields(line[at+1:])
		if len(f) < 16 {
			continue
		}
		n := make([]uint64, len(f))
		for k := range f {
			v, err := strconv.ParseUint(string(f[k]), 10, 64)
			if err != nil {
				n = nil
				break
			}
			n[k] = v
		}
		if n == nil {
			continue
		}
		out = append(out, InterfaceStats{
			Name: string(bytes.TrimSpace(line[:at])),
			Rx:   Traffic{n[0], n[1], n[2], n[3]},
			Tx:   Traffic{n[8], n[9], n[10], n[11]},
		})
	}
	return out
}

func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// cpuClock counts the time of all processors together, used or idle. /proc/stat has the
// same sum, in steps of 10 ms and short of what the hypervisor took unseen: too coarse for
// the time between two samples.
type cpuClock struct {
	mu     sync.Mutex // guards all below
	at     time.Duration
	looked time.Duration // when processors were counted
	all    time.Duration
	online int
}

func (c *cpuClock) read() (all time.Duration, online int) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // fails for unknown clocks only
	now := time.Duration(ts.Nano())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.online == 0 || now-c.looked > statsWindow/2 {
		c.online, c.looked = onlineCPUs(), now
	}
	c.all += (now - c.at) * time.Duration(c.online)
	c.at = now
	return c.all, c.online
}
