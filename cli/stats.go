package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type statsFlags struct {
	all, noStream, noTrunc bool
	format                 string
}

func newStats(a *app) *cobra.Command {
	var o statsFlags
	cmd := &cobra.Command{
		Use:               "stats [OPTIONS] [CONTAINER...]",
		Short:             "Display a live stream of container(s) resource usage statistics",
		RunE:              func(cmd *cobra.Command, args []string) error { return a.stats(cmd.Context(), args, &o) },
		ValidArgsFunction: a.completeContainers(running),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	flags.BoolVar(&o.noStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	flags.StringVar(&o.format, "format", "", formatHelp)
	return cmd
}

// statsRefresh is how often the live table is drawn.
const statsRefresh = 500 * time.Millisecond

func (a *app) stats(ctx context.Context, names []string, o *statsFlags) error {
	format := o.format
	if format == "" {
		format = a.config().StatsFormat
	}
	if _, err := parseTemplate(parseListFormat(format).template); err != nil {
		return err
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b := &statsBoard{engine: engine, stream: !o.noStream, trunc: !o.noTrunc}
	var ended <-chan error
	if len(names) == 0 && b.stream {
		// Listen first: whoever starts after the list was made is heard of.
		if ended, err = b.follow(ctx, o.all); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		list, err := engine.ContainerList(ctx, mobyclient.ContainerListOptions{All: o.all})
		if err != nil {
			return err
		}
		for _, c := range list.Items {
			b.add(ctx, c.ID, false)
		}
	} else {
		for _, name := range names {
			b.add(ctx, name, true)
		}
	}
	b.awaitFirst(ctx)
	if len(names) > 0 || o.noStream {
		if err := b.failures(len(names) > 0); err != nil {
			return err
		}
	}
	_, terminal := terminalOf(a.Out)
	for {
		var page strings.Builder
		if err := statsList.print(&page, format, false, b.rows()); err != nil {
			return err
		}
		if o.noStream {
			_, err := io.WriteString(a.Out, page.String())
			return err
		}
		if err := drawPage(a.Out, page.String(), terminal); err != nil {
			return err
		}
		if len(names) > 0 && b.empty() {
			return nil
		}
		select {
		case <-time.After(statsRefresh):
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drawPage writes the table over the previous one, line by line, so that nothing flickers.
func drawPage(w io.Writer, page string, terminal bool) error {
	if terminal {
		page = "\x1b[H" + strings.ReplaceAll(page, "\n", "\x1b[K\n") + "\x1b[J"
	}
	_, err := io.WriteString(w, page)
	return err
}

// statsBoard holds the latest figures of the containers that are shown.
type statsBoard struct {
	engine        *mobyclient.Client
	stream, trunc bool

	mu   sync.Mutex // guards all below
	list []*statsEntry
}

// statsEntry is one container. Its first figures, or the failure to get any, close first.
type statsEntry struct {
	asked string // as it was named
	first chan struct{}
	stop  context.CancelFunc

	mu    sync.Mutex // guards all below
	once  sync.Once
	known *container.StatsResponse // nil: none
	err   error
}

// add begins to watch a container, unless it is watched already.
func (b *statsBoard) add(ctx context.Context, name string, named bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.ContainsFunc(b.list, func(e *statsEntry) bool { return e.asked == name }) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	e := &statsEntry{asked: name, first: make(chan struct{}), stop: cancel}
	b.list = append(b.list, e)
	go func() {
		defer cancel()
		ask := func(ctx context.Context) error { return b.watch(ctx, e) }
		err := ask(ctx)
		if b.stream && e.hasFigures() {
			// The container was removed, or the engine ended: the next one knows.
			err = persist(ctx, nil, ask)
		}
		e.settle(nil, err)
		if b.stream && errdefs.IsNotFound(err) && (e.hasFigures() || !named) {
			b.remove(name)
		}
	}()
}

func (b *statsBoard) remove(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = slices.DeleteFunc(b.list, func(e *statsEntry) bool {
		if e.asked != name {
			return false
		}
		e.stop()
		return true
	})
}

// watch reads a container's figures until there are no more.
func (b *statsBoard) watch(ctx context.Context, e *statsEntry) error {
	answer, err := b.engine.ContainerStats(ctx, e.asked, mobyclient.ContainerStatsOptions{Stream: b.stream, IncludePreviousSample: true})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	decoder := json.NewDecoder(answer.Body)
	for {
		s := new(container.StatsResponse)
		if err := decoder.Decode(s); err != nil {
			return err
		}
		e.settle(s, nil)
		if !b.stream {
			return nil
		}
	}
}

func (e *statsEntry) settle(s *container.StatsResponse, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s != nil {
		e.known = s
	}
	e.err = err
	e.once.Do(func() { close(e.first) })
}

func (e *statsEntry) hasFigures() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known != nil
}

// follow keeps up with containers that come and go.
func (b *statsBoard) follow(ctx context.Context, all bool) (<-chan error, error) {
	filter := make(mobyclient.Filters).Add("type", string(events.ContainerEventType))
	for _, action := range []string{"create", "start", "die", "destroy"} {
		filter.Add("event", action)
	}
	if err := present(ctx, b.engine); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	since := ""
	go func() {
		ended <- persist(ctx, nil, func(ctx context.Context) error {
			stream := b.engine.Events(ctx, mobyclient.EventsListOptions{Filters: filter, Since: since})
			for {
				select {
				case e := <-stream.Messages:
					since = unixTime(e.TimeNano + 1)
					switch {
					case e.Action == events.ActionStart, e.Action == events.ActionCreate && all:
						b.add(ctx, e.Actor.ID, false)
					case e.Action == events.ActionDie && !all, e.Action == events.ActionDestroy:
						b.remove(e.Actor.ID)
					}
				case err := <-stream.Err:
					return err
				}
			}
		})
	}()
	return ended, nil
}

func (b *statsBoard) entries() []*statsEntry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.list)
}

func (b *statsBoard) empty() bool { return len(b.entries()) == 0 }

// awaitFirst waits until every container has shown figures once.
func (b *statsBoard) awaitFirst(ctx context.Context) {
	for _, e := range b.entries() {
		select {
		case <-e.first:
		case <-ctx.Done():
			return
		}
	}
}

// failures are those of the containers that figures were asked of. One that is gone since
// it was listed is no failure.
func (b *statsBoard) failures(named bool) error {
	var lines []string
	for _, e := range b.entries() {
		e.mu.Lock()
		err := e.err
		e.mu.Unlock()
		if err != nil && (named || !errdefs.IsNotFound(err)) {
			lines = append(lines, explain(err))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return errors.New(strings.Join(lines, "\n"))
}

func (b *statsBoard) rows() []*statsRow {
	var rows []*statsRow
	for _, e := range b.entries() {
		e.mu.Lock()
		rows = append(rows, newStatsRow(e.asked, b.trunc, e.known))
		e.mu.Unlock()
	}
	return rows
}

// statsList is what `stats` can show of a container.
var statsList = list[*statsRow]{
	columns: []column[*statsRow]{
		{"Container", "CONTAINER", (*statsRow).Container},
		{"ID", "CONTAINER ID", (*statsRow).ID},
		{"Name", "NAME", (*statsRow).Name},
		{"CPUPerc", "CPU %", (*statsRow).CPUPerc},
		{"MemUsage", "MEM USAGE / LIMIT", (*statsRow).MemUsage},
		{"MemPerc", "MEM %", (*statsRow).MemPerc},
		{"NetIO", "NET I/O", (*statsRow).NetIO},
		{"BlockIO", "BLOCK I/O", (*statsRow).BlockIO},
		{"PIDs", "PIDS", (*statsRow).PIDs},
	},
	standard: []string{"ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"},
	quiet:    (*statsRow).ID,
}

// statsRow is one container's figures. Those of a container that nothing is known of are
// dashes, those of one that does not run zeros.
type statsRow struct {
	asked string
	trunc bool
	s     *container.StatsResponse // nil: nothing is known

	cpu, memory, limit float64 // per cent of one processor; bytes
	received, sent     float64 // bytes
	read, written      uint64  // bytes
}

func newStatsRow(asked string, trunc bool, s *container.StatsResponse) *statsRow {
	r := &statsRow{asked: asked, trunc: trunc, s: s}
	if s == nil {
		return r
	}
	r.cpu = cpuShare(s)
	r.memory, r.limit = float64(memoryInUse(s.MemoryStats)), float64(s.MemoryStats.Limit)
	for _, n := range s.Networks {
		r.received += float64(n.RxBytes)
		r.sent += float64(n.TxBytes)
	}
	for _, b := range s.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(b.Op) {
		case "read":
			r.read += b.Value
		case "write":
			r.written += b.Value
		}
	}
	return r
}

// cpuShare is the processor time used since the earlier reading, in per cent of one
// processor's. Without an earlier reading nothing can be said.
func cpuShare(s *container.StatsResponse) float64 {
	used := float64(s.CPUStats.CPUUsage.TotalUsage) - float64(s.PreCPUStats.CPUUsage.TotalUsage)
	all := float64(s.CPUStats.SystemUsage) - float64(s.PreCPUStats.SystemUsage)
	cpus := float64(s.CPUStats.OnlineCPUs)
	if cpus == 0 {
		cpus = float64(len(s.CPUStats.CPUUsage.PercpuUsage))
	}
	if used <= 0 || all <= 0 || s.PreCPUStats.SystemUsage == 0 {
		return 0
	}
	return used / all * cpus * 100
}

// memoryInUse leaves out the part of the page cache that can be dropped at any time:
// total_inactive_file of cgroup v1, inactive_file of v2.
func memoryInUse(m container.MemoryStats) uint64 {
	idle, v1 := m.Stats["total_inactive_file"]
	if !v1 {
		idle = m.Stats["inactive_file"]
	}
	if idle < m.Usage {
		return m.Usage - idle
	}
	return m.Usage
}

const unknownFigure = "--"

func (r *statsRow) MarshalJSON() ([]byte, error) { return json.Marshal(statsList.fields(r)) }

func (r *statsRow) Container() string { return r.asked }

func (r *statsRow) ID() string {
	id := r.asked
	if r.s != nil && r.s.ID != "" {
		id = r.s.ID
	}
	if r.trunc {
		return shortID(id)
	}
	return id
}

func (r *statsRow) Name() string {
	if r.s == nil || len(r.s.Name) < 2 {
		return unknownFigure
	}
	return strings.TrimPrefix(r.s.Name, "/")
}

func (r *statsRow) figure(text string) string {
	if r.s == nil {
		return unknownFigure
	}
	return text
}

func (r *statsRow) pair(left, right string) string {
	return r.figure(left) + " / " + r.figure(right)
}

func (r *statsRow) CPUPerc() string { return r.figure(fmt.Sprintf("%.2f%%", r.cpu)) }

func (r *statsRow) MemUsage() string {
	return r.pair(units.BytesSize(r.memory), units.BytesSize(r.limit))
}

func (r *statsRow) MemPerc() string {
	share := 0.0
	if r.limit > 0 {
		share = r.memory / r.limit * 100
	}
	return r.figure(fmt.Sprintf("%.2f%%", share))
}

func (r *statsRow) NetIO() string {
	return r.pair(units.HumanSizeWithPrecision(r.received, 3), units.HumanSizeWithPrecision(r.sent, 3))
}

func (r *statsRow) BlockIO() string {
	return r.pair(units.HumanSizeWithPrecision(float64(r.read), 3), units.HumanSizeWithPrecision(float64(r.written), 3))
}

func (r *statsRow) PIDs() string {
	if r.s == nil {
		return unknownFigure
	}
	return strconv.FormatUint(r.s.PidsStats.Current, 10)
}
