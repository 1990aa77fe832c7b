package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/supervisor"
)

// reconciler brings the records in line with the truth when an engine opens: attach
// again, else record the end, else clean up; all containers at once, each under its
// own deadline.
type reconciler struct {
	life *lifecycle
	dirs layout
	log  *slog.Logger
	due  *dueStarts
}

// dueStarts are the containers that the engine is to start as soon as it knows all of them. Whoever needs
// another of them is started after it.
type dueStarts struct {
	mu   sync.Mutex // guards what follows
	all  map[string]*instance
	done bool // who comes later is on its own
}

// add is false if it is too late.
func (d *dueStarts) add(i *instance) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.done {
		d.all[i.id] = i
	}
	return !d.done
}

func (d *dueStarts) take() map[string]*instance {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = true
	return d.all
}

// openPatience bounds what an engine that opens spends on one container.
const openPatience = 5 * time.Second

func (r reconciler) run(ctx context.Context) error {
	records, known, err := r.life.rec.load()
	if err != nil {
		return err
	}
	r.due = &dueStarts{all: map[string]*instance{}}
	found := make(map[string]*instance, len(records))
	for id, rec := range records {
		if !r.restoreVolumes(id, rec) {
			delete(records, id)
			delete(known, id)
			continue
		}
		i := newInstance(r.dirs, rec.container(id))
		i.manual, i.boot, i.volatile = rec.Manual, rec.Boot, rec.volatile
		if rec.Boot == r.life.host.boot {
			i.backoff = rec.Backoff
		}
		if err := r.life.idx.reserve(rec.Name, id); err != nil {
			r.log.Error("two containers are recorded under one name; rename one of them", "name", rec.Name, "id", id)
		}
		r.life.idx.add(i)
		r.life.labels.reserve(i.now())
		found[id] = i
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for id, i := range found {
		g.Go(func() error { r.settle(ctx, i, records[id]); return ctx.Err() })
	}
	for _, id := range r.strays(known) {
		g.Go(func() error { r.clean(ctx, id); return ctx.Err() })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, id := range r.life.wire.nets.Sandboxes() {
		if found[id] == nil { // its container was ended above
			r.life.wire.leaveNow(id)
		}
	}
	if err := r.life.volumes.Settle(); err != nil {
		r.log.Error("volumes that nobody uses could not be unmounted", "error", err)
	}
	if err := r.life.volumes.CollectOrphans(func(id string) bool { return found[id] != nil }); err != nil {
		return err
	}
	r.life.sweeping.Add(1)
	r.life.work.Go(func() {
		defer r.life.sweeping.Add(-1)
		r.emptyTrash()
	})
	r.startDue()
	return nil
}

// restoreVolumes tells the volumes who uses them. It is false for a --rm container whose
// making was cut off before its volumes were recorded: it is dropped.
func (r reconciler) restoreVolumes(id string, rec record) bool {
	all, _ := rec.Plan.volumes()
	for _, name := range all {
		if r.life.volumes.Restore(id, name) {
			continue
		}
		if rec.volatile && rec.State.Status == created {
			r.life.volumes.Depart(id, all, nil).Done()
			if err := os.Remove(r.life.rec.file(id)); err != nil {
				r.log.Error("the record of a container that was not made to the end stays", "id", id, "error", err)
			}
			return false
		}
		r.log.Error("a volume of a container is not recorded", "id", id, "volume", name)
	}
	return true
}

// settle finds out what became of one container.
func (r reconciler) settle(ctx context.Context, i *instance, rec record) {
	short, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	err := r.attach(short, i)
	switch {
	case err == nil:
	case fail.Is(err, fail.NotFound):
		r.noShim(short, i, rec)
	default:
		r.log.Error("the supervisor of a container does not answer; trying on", "id", i.id, "error", err)
		r.life.adoptVolumes(i.now())
		r.life.work.Go(func() { r.keepTrying(i, rec) })
	}
}

// keepTrying goes on with a shim that exists and does not answer. Its container is not
// killed for that: the machine may just be slow.
func (r reconciler) keepTrying(i *instance, rec record) {
	for {
		t := time.NewTimer(openPatience)
		select {
		case <-t.C:
		case <-r.life.ctx.Done():
			t.Stop()
			return
		}
		ctx, cancel := context.WithTimeout(r.life.ctx, openPatience)
		err := r.attach(ctx, i)
		if fail.Is(err, fail.NotFound) {
			r.life.unmountVolumes(i.now())
			r.noShim(ctx, i, rec)
		}
		cancel()
		if err == nil || fail.Is(err, fail.NotFound) {
			return
		}
	}
}

// attach goes on with a container whose shim lives.
func (r reconciler) attach(ctx context.Context, i *instance) error {
	s, err := r.life.shims.Reattach(ctx, i.runDir)
	if err != nil {
		return err
	}
	st, err := s.State(ctx)
	if err != nil {
		_ = s.Close()
		return err
	}
	if !st.Running && st.Exit == nil {
		// Made and never started: the engine died in between, and nobody was told.
		err := s.Destroy(ctx)
		_ = s.Close()
		if err != nil && !fail.Is(err, fail.NotFound) {
			return err
		}
		return fail.New(fail.NotFound, "the container had not been started")
	}
	if err := letCommittedGoOn(ctx, s, i.runDir, &st); err != nil {
		_ = s.Close()
		return err
	}
	run := newRun(s)
	close(run.started)
	r.life.adoptVolumes(i.now())
	r.life.execs.adopt(i, st.Execs)
	i.mu.Lock()
	before := i.now()
	i.run, i.last = run, run
	i.boot = r.life.host.boot
	status := running
	if st.Paused {
		status = paused
	}
	i.change(func(c *Container) {
		c.State = State{Status: status, Pid: st.Pid, StartedAt: st.StartedAt.UTC(), FinishedAt: c.State.FinishedAt, OOMKilled: st.OOMKilled,
			Health: healthTold(st.Health)}
		c.Network = r.life.wire.found(i.id)
		c.AppArmorProfile = r.life.spec.profile.found(st, c.AppArmorProfile)
	})
	c := i.now()
	i.mu.Unlock()
	if st.Exit != nil {
		r.life.ended(i, run, *st.Exit)
	} else {
		r.life.rewire(ctx, i, run)
		r.life.healthMissed(before, c)
		r.life.ailed(i, run)
	}
	r.life.work.Go(func() { r.life.watch(i, run) })
	return nil
}

// noShim settles a container that does not run.
func (r reconciler) noShim(ctx context.Context, i *instance, rec record) {
	wasUp := rec.State.Running()
	rebooted := rec.Boot != r.life.host.boot
	exit, err := lastWord(ctx, i.dir, i.runDir)
	if err != nil && !fail.Is(err, fail.NotFound) {
		r.log.Error("an exit record is unreadable", "id", i.id, "error", err)
	}
	cut := unfinished(i.runDir)
	dropSharedMemory(i.runDir)
	if _, joined := r.life.wire.nets.Sandbox(i.id); joined {
		r.life.wire.leaveNow(i.id)
	}
	if err := os.RemoveAll(i.runDir); err != nil {
		r.log.Error("a run directory could not be deleted", "id", i.id, "error", err)
	}
	if err := durable.RemoveDebris(i.dir); err != nil { // of a shim that died with the machine
		r.log.Error("what an interrupted write left could not be deleted", "id", i.id, "error", err)
	}
	ran := wasUp && rec.State.Status != restarting
	switch {
	case err == nil && !exit.ExitedAt.Equal(rec.State.FinishedAt):
		r.record(i, rec, exit, rebooted)
		return
	case err == nil && !ran: // recorded before
	case ran || cut: // an exit record that a power failure has brought back is the run's before
		lost := supervisor.ExitRecord{Code: 137, Reason: supervisorLost, StartedAt: rec.State.StartedAt, ExitedAt: time.Now()}
		if rebooted {
			lost.Code, lost.Reason = 255, "" // Docker's code for an end nobody saw
		}
		r.record(i, rec, lost, rebooted)
		return
	case rec.HostConfig.AutoRemove && rebooted:
		r.life.follow(i, i.now(), -1)
		return
	}
	if rebooted { // the record is durable, the directory's name need not have been when the power failed
		if err := os.Mkdir(i.dir, containerDirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			r.log.Error("the directory of a container is missing and cannot be made", "id", i.id, "error", err)
		}
	}
	switch {
	case rec.State.Status == removing || rec.State.Status == dead:
		i.mu.Lock()
		i.change(func(c *Container) { c.State.Status = dead })
		i.mu.Unlock()
	case rec.State.Status == restarting || restartAtOpen(rec, rebooted):
		r.startAgain(i, pauseLeft(rec.State.FinishedAt, i.backoff))
	case rec.HostConfig.AutoRemove && rec.State.Status != created:
		r.life.follow(i, i.now(), -1)
	}
}

// unfinished reports whether a shim has been there since the last boot of which
// nothing but its state file is left: neither it nor its guardian could clear up.
func unfinished(runDir string) bool {
	_, err := os.Stat(filepath.Join(runDir, "state.json"))
	return err == nil
}

// record takes in an end that no engine saw, and what the policy says about it.
func (r reconciler) record(i *instance, rec record, exit supervisor.ExitRecord, rebooted bool) {
	i.mu.Lock()
	i.noRestart = i.manual
	if i.now().State.Status == created || i.now().State.Status == exited {
		i.change(func(c *Container) { c.State.Status = running }) // it was started, and that was not recorded
	}
	c, plan := r.life.recordExit(i, exit)
	again := plan < 0 && restartAtOpen(rec, rebooted)
	waiting := i.pick(anyExit)
	i.mu.Unlock()
	r.life.tellExit(i, c, exit, waiting)
	if again {
		r.startAgain(i, 0)
		return
	}
	if plan >= 0 {
		plan = pauseLeft(exit.ExitedAt, plan)
	}
	r.life.follow(i, c, plan)
}

// pauseLeft is what is left of a pause that began at the time given.
func pauseLeft(began time.Time, pause time.Duration) time.Duration {
	return min(max(pause-time.Since(began), 0), pause)
}

// startAgain starts a container by its policy after the pause.
func (r reconciler) startAgain(i *instance, pause time.Duration) {
	i.mu.Lock()
	i.noRestart = false
	i.change(func(c *Container) { c.State.Status = restarting })
	waits := pause == 0 && r.due.add(i)
	if waits {
		i.owed = make(chan struct{})
	}
	i.mu.Unlock()
	if !waits {
		r.life.planned(i, pause)
	}
}

// startDue starts what is due, each container when those that it needs run, or could not be started.
func (r reconciler) startDue() {
	due := r.due.take()
	before := map[string][]<-chan struct{}{}
	for id, needs := range startOrder(due, r.life.idx) {
		before[id] = nil
		for _, d := range needs {
			due[d].mu.Lock()
			if owed := due[d].owed; owed != nil {
				before[id] = append(before[id], owed)
			}
			due[d].mu.Unlock()
		}
	}
	for id, tried := range before {
		if len(tried) == 0 {
			r.life.planned(due[id], 0)
			continue
		}
		r.life.work.Go(func() { // ends with those, or the engine
			for _, t := range tried {
				select {
				case <-t:
				case <-r.life.ctx.Done():
					return
				}
			}
			r.life.planned(due[id], 0)
		})
	}
}

// strays lists ids that have a directory and no record: what was being created or
// removed when the engine died.
func (r reconciler) strays(known map[string]bool) []string {
	seen := map[string]bool{}
	for _, dir := range []string{r.dirs.containers(), r.dirs.runs()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			r.log.Error("cannot look for what a crash left", "dir", dir, "error", err)
		}
		for _, e := range entries {
			if !known[e.Name()] {
				seen[e.Name()] = true
			}
		}
	}
	return sortedKeys(seen)
}

// clean ends and deletes what belongs to no record.
func (r reconciler) clean(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	if s, err := r.life.shims.Reattach(ctx, filepath.Join(r.dirs.runs(), id)); err == nil {
		if err := end(ctx, s); err != nil {
			r.log.Error("a container without a record could not be ended", "id", id, "error", err)
		}
	}
	durable.Failpoint("engine.reconcile.clean")
	if err := r.life.discard(id); err != nil {
		r.log.Error("what a crash left could not be deleted", "id", id, "error", err)
	}
}

// end kills a container whatever its state, and waits for its shim to go.
func end(ctx context.Context, s shim) error {
	defer s.Close()
	st, err := s.State(ctx)
	if err != nil {
		return err
	}
	if !st.Running && st.Exit == nil {
		return s.Destroy(ctx)
	}
	if err := s.Signal(ctx, "", unix.SIGKILL, true); err != nil && !fail.Is(err, fail.NotFound) {
		return err
	}
	for {
		select {
		case _, ok := <-s.Events():
			if !ok {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("it did not end in time: %w", ctx.Err())
		}
	}
}

// emptyTrash deletes what was being deleted.
func (r reconciler) emptyTrash() {
	entries, err := os.ReadDir(r.dirs.trash())
	if err != nil {
		r.log.Error("cannot read the trash", "error", err)
	}
	for _, e := range entries {
		dir := filepath.Join(r.dirs.trash(), e.Name())
		if err := errors.Join(forgetStorage(dir), os.RemoveAll(dir)); err != nil {
			r.log.Error("a removed container's files cannot be deleted", "id", e.Name(), "error", err)
		}
	}
}
