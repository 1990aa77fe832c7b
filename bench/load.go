package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Load that a shared machine puts on an engine: clients that never pause, many containers that
// run, logs that are written without end and read by many. Only daemons take part, by the API
// that they share.

const (
	loadClients  = 64
	loadTurns    = 4
	loadCrowd    = 500
	logFollowers = 200
	newsReaders  = 100
)

const sectionLoad = "Load"

// caller speaks the Engine API to a peer's daemon.
type caller struct {
	http.Client
	peer *peer
}

func (p *peer) caller() *caller {
	i := slices.Index(p.client, "-H")
	path := strings.TrimPrefix(p.client[i+1], "unix://")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &caller{Client: http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: loadClients}}, peer: p}
}

// call makes a request and reads its answer into out, which may be nil.
func (c *caller) call(ctx context.Context, method, path string, body, out any) error {
	var sent io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://engine/v1.41"+path, sent)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, bytes.TrimSpace(data))
	}
	if err == nil && out != nil {
		err = json.Unmarshal(data, out)
	}
	return err
}

// stream makes a request whose answer does not end, and counts its bytes until ctx is done.
func (c *caller) stream(ctx context.Context, path string, read *atomic.Int64) error {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://engine/v1.41"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		read.Add(int64(n))
		if err != nil {
			if ctx.Err() != nil || err == io.EOF { // a log ends with its container
				return nil
			}
			return fmt.Errorf("GET %s ended: %w", path, err)
		}
	}
}

// life creates, starts and removes a container.
func (c *caller) life(ctx context.Context) error {
	var made struct{ Id string }
	body := map[string]any{"Image": "busybox", "Cmd": []string{"sleep", "100000"}, "HostConfig": map[string]any{"NetworkMode": "none"}}
	if err := c.call(ctx, "POST", "/containers/create", body, &made); err != nil {
		return err
	}
	if err := c.call(ctx, "POST", "/containers/"+made.Id+"/start", nil, nil); err != nil {
		return err
	}
	return c.call(ctx, "DELETE", "/containers/"+made.Id+"?force=1", nil, nil)
}

// lives lets clients live for a time, each life at once after another, and gives their rate.
// Lives that have begun are lived to the end.
func (c *caller) lives(ctx context.Context, clients int, span time.Duration) (rate float64, lived int, err error) {
	var (
		all   sync.WaitGroup
		done  atomic.Int64
		once  sync.Once
		begin = time.Now()
	)
	for range clients {
		all.Go(func() {
			for time.Since(begin) < span && ctx.Err() == nil {
				if failed := c.life(ctx); failed != nil {
					once.Do(func() { err = failed })
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	return float64(done.Load()) / time.Since(begin).Seconds(), int(done.Load()), err
}

// traces are what is left of containers in an engine.
type traces struct{ containers, keepers, files, cgroups int }

func (b *bench) traces(ctx context.Context, c *caller) (t traces, err error) {
	var list []struct{}
	if err := c.call(ctx, "GET", "/containers/json?all=1", nil, &list); err != nil {
		return t, err
	}
	t.containers = len(list)
	for _, k := range c.peer.weigh().keepers {
		t.keepers += k.n
	}
	if c.peer.live != nil {
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.peer.live.Process.Pid))
		t.files = len(fds)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + b.cgroup() + "/*/cgroup.procs", "/sys/fs/cgroup/" + b.cgroup() + "/*/cgroup.procs"} {
		found, _ := filepath.Glob(pattern)
		t.cgroups += len(found)
	}
	return t, nil
}

// spare is how many waiting processes, open files and cgroups an engine may keep for what comes next.
const spare = 8

func (t traces) moreThan(before traces) bool {
	return t.containers > before.containers || t.keepers > before.keepers+spare || t.files > before.files+spare || t.cgroups > before.cgroups+spare
}

func (t traces) String() string {
	return fmt.Sprintf("%d containers, %d processes that stay with containers, %d open files of the daemon, %d cgroups", t.containers, t.keepers, t.files, t.cgroups)
}

// daemons are the engines that have one.
func daemons(engines []*peer) (out []*peer) {
	for _, p := range engines {
		if p.engine != nil {
			out = append(out, p)
		}
	}
	return out
}

// measureClients lets clients create, start and remove containers, in turns.
func (b *bench) measureClients(ctx context.Context, peers []*peer, span time.Duration) (result, []string) {
	r := result{section: sectionLoad, row: fmt.Sprintf("%d clients that create, start and remove, %s", loadClients, span), unit: "containers/s", moreIsBetter: true,
		goals: []goal{{against: "docker", factor: 10}}}
	var notes []string
	type work struct {
		*caller
		before traces
		lived  int
	}
	var all []*work
	for _, p := range peers {
		w := &work{caller: p.caller()}
		defer w.CloseIdleConnections()
		c := cell{peer: p.name}
		if err := w.life(ctx); err != nil {
			c.fail(err)
		}
		all, r.cells = append(all, w), append(r.cells, c)
	}
	pause(ctx, 3*time.Second)
	for i, w := range all {
		var err error
		if w.before, err = b.traces(ctx, w.caller); err != nil {
			r.cells[i].fail(err)
		}
	}
	for range loadTurns {
		for i, w := range all {
			if r.cells[i].why != "" || ctx.Err() != nil {
				continue
			}
			pause(ctx, settle)
			rate, lived, err := w.lives(ctx, loadClients, span/loadTurns)
			w.lived += lived
			if err != nil {
				r.cells[i].fail(err)
				continue
			}
			r.cells[i].values = append(r.cells[i].values, rate)
		}
	}
	for i, w := range all {
		w.CloseIdleConnections()
		pause(ctx, 5*time.Second)
		after, err := b.traces(ctx, w.caller)
		switch {
		case err != nil:
			r.cells[i].fail(err)
		default:
			if after.moreThan(w.before) {
				r.cells[i].fail(fmt.Errorf("something is left: before %s, after %s", w.before, after))
			}
			notes = append(notes, fmt.Sprintf("Load, %s: %d containers lived. Before: %s; after: %s.", w.peer.name, w.lived, w.before, after))
		}
	}
	return r, notes
}

// logRows measure what a container can write while its log is kept.
func logRows(peers []*peer, megabytes int) []row {
	line := strings.Repeat("x", 99)
	write := []string{"-d", "--name", subject, "--network", "none", "busybox", "sh", "-c", fmt.Sprintf("yes %s | head -c %d", line, megabytes*1_000_000)}
	written := func(ctx context.Context, p *peer) (float64, error) {
		begin := time.Now()
		if _, err := p.do(ctx, "run", write...); err != nil {
			return 0, err
		}
		if _, err := p.do(ctx, "wait", subject); err != nil {
			return 0, err
		}
		return float64(megabytes) / time.Since(begin).Seconds(), nil
	}
	followed := func(ctx context.Context, p *peer) (float64, error) {
		reading, stop := context.WithCancel(ctx)
		defer stop()
		c := p.caller()
		defer c.CloseIdleConnections()
		begin := time.Now()
		if _, err := p.do(ctx, "run", write...); err != nil {
			return 0, err
		}
		var read atomic.Int64
		var all sync.WaitGroup
		var failed error
		all.Go(func() { failed = c.stream(reading, "/containers/"+subject+"/logs?follow=1&stdout=1", &read) })
		_, err := p.do(ctx, "wait", subject)
		took := time.Since(begin)
		stop()
		all.Wait()
		switch {
		case err != nil:
			return 0, err
		case failed != nil:
			return 0, failed
		case read.Load() == 0:
			return 0, errors.New("the reader got nothing")
		}
		return float64(megabytes) / took.Seconds(), nil
	}
	goals := []goal{{against: "docker", factor: 0.5}}
	rows := []row{
		{name: fmt.Sprintf("a container writes %d MB of lines", megabytes), goals: goals, work: written, after: removeSubject},
		{name: fmt.Sprintf("a container writes %d MB of lines, logs -f reads", megabytes), goals: goals, work: followed, after: removeSubject},
	}
	rows = on(peers, sectionLoad, rows)
	for i := range rows {
		rows[i].unit, rows[i].moreIsBetter, rows[i].few = "MB/s", true, true
	}
	return rows
}

// audience is who reads while a row is measured.
type audience struct {
	stop    context.CancelFunc
	readers sync.WaitGroup
	mu      sync.Mutex
	failed  error
	read    []*atomic.Int64
}

func (a *audience) add(ctx context.Context, c *caller, path string) {
	read := new(atomic.Int64)
	a.read = append(a.read, read)
	a.readers.Go(func() {
		if err := c.stream(ctx, path, read); err != nil {
			a.mu.Lock()
			a.failed = err
			a.mu.Unlock()
		}
	})
}

// end lets everybody go. Nobody may have been sent away before, or left without news.
func (a *audience) end() error {
	a.stop()
	a.readers.Wait()
	for i, r := range a.read {
		if a.failed == nil && r.Load() == 0 {
			return fmt.Errorf("reader %d of %d got nothing", i, len(a.read))
		}
	}
	return a.failed
}

// audienceRows are measured while many follow a container's log and the events.
func audienceRows(peers []*peer) []row {
	audiences := map[*peer]*audience{}
	open := func(ctx context.Context, p *peer) error {
		if _, err := p.do(ctx, "run", "-d", "--name", subject, "--network", "none", "busybox", "sh", "-c", "while :; do echo a line; sleep 0.1; done"); err != nil {
			return err
		}
		ctx, stop := context.WithCancel(ctx)
		a, c := &audience{stop: stop}, p.caller()
		audiences[p] = a
		for range logFollowers {
			a.add(ctx, c, "/containers/"+subject+"/logs?follow=1&stdout=1&tail=0")
		}
		for range newsReaders {
			a.add(ctx, c, "/events")
		}
		pause(ctx, 2*time.Second)
		return nil
	}
	done := func(ctx context.Context, p *peer) error {
		var failed error
		if a := audiences[p]; a != nil {
			failed = a.end()
		}
		if err := removeSubject(ctx, p); failed == nil {
			failed = err
		}
		return failed
	}
	return on(peers, sectionLoad, []row{{
		name: fmt.Sprintf("run --rm true, with %d followers of a log and %d of events", logFollowers, newsReaders),
		open: open, close: done, work: timed("run", "--rm", "--network", "none", "busybox", "true"),
	}})
}

// measureLoad measures the engines that have a daemon.
func (b *bench) measureLoad(ctx context.Context, o options, r *report, dense pace) error {
	peers, clients, crowd, megabytes := daemons(b.engines), 2*time.Minute, loadCrowd, 1000
	if o.quick {
		clients, crowd, megabytes = 8*time.Second, 20, 20
	}
	rows := append(logRows(peers, megabytes), audienceRows(peers)...)
	many := on(peers[:1], sectionLoad, []row{
		{name: fmt.Sprintf("ps with %d running", crowd), goals: []goal{{atMost: 50}}, work: timed("ps")},
		{name: fmt.Sprintf("stats --no-stream with %d running", crowd), goals: []goal{{atMost: 1000}}, few: true, work: timed("stats", "--no-stream")},
	})
	memory := o.wants(sectionLoad, "memory per container")
	if o.wants(sectionLoad, "clients") && ctx.Err() == nil {
		b.baseline(ctx, peers)
		r.checkLoad(ctx, sectionLoad)
		result, notes := b.measureClients(ctx, peers, clients)
		fmt.Fprintf(os.Stderr, "%s: %s: %s\n", result.section, result.row, result.cellsText())
		r.results, r.notes = append(r.results, result), append(r.notes, notes...)
	}
	r.results = append(r.results, measureRows(ctx, o.wanted(rows), dense)...)
	if many = o.wanted(many); (len(many) > 0 || memory) && ctx.Err() == nil && o.crowd > 0 {
		// Ours alone: these goals are no ratios, and dockerd needs minutes for such a crowd.
		peers := peers[:1]
		before := b.baseline(ctx, peers)
		starts := gather(ctx, peers, crowd, sectionLoad, "-d", []string{"--network", "none", "busybox"})
		starts.goals = nil
		r.results = append(r.results, starts)
		if memory {
			result, notes := weighAll(ctx, peers, before, crowd, o.idle, starts)
			result.section, result.row = sectionLoad, fmt.Sprintf("memory per container with %d running", crowd)
			r.results, r.notes = append(r.results, result), append(r.notes, notes...)
		}
		r.results = append(r.results, measureRows(ctx, many, dense)...)
		for i, p := range peers {
			if _, err := p.disperse(ctx, crowd); err != nil && starts.cells[i].why == "" {
				return err
			}
		}
	}
	return ctx.Err()
}
