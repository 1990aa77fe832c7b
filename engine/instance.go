package engine

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"berth/fail"
	"berth/logs"
	"berth/supervisor"
)

var errClosed = fail.New(fail.Unavailable, "the engine is shutting down")

// instance is one container and the only owner of its state.
//
// Two locks with two purposes. The turn is held, across slow work, by the one verb that
// starts, removes or renames the container. The mutex guards the fields below it, is
// held for memory operations only, and is all that an exit needs. Readers need
// neither: they load the current snapshot.
type instance struct {
	id     string
	dir    string // <DataRoot>/containers/<id>
	runDir string // <ExecRoot>/containers/<id>

	volatile bool // the record lies under the exec root; set before anybody else knows of the container

	turn chan struct{}             // capacity 1; whoever sent into it has the turn
	snap atomic.Pointer[Container] // replaced under mu, read by anyone

	measured atomic.Pointer[CPUReading] // the latest one that somebody asked for

	lent lending                 // files of a run, see files.go
	copy atomic.Pointer[copying] // what the holder of the turn sends a client or takes from it

	mu        sync.Mutex              // guards all below
	run       *run                    // the life under way, nil if there is none
	last      *run                    // the latest life; its shim may still be clearing up
	pending   []supervisor.Attachment // clients that came before the start
	waiters   map[*waiter]struct{}    // see wait.go
	removed   bool                    // the record is gone
	manual    bool                    // stopped or killed by hand; see restart.go
	noRestart bool                    // the next exit is not followed by a restart
	noRemove  bool                    // a manual restart is under way: --rm does not apply
	boot      string                  // boot ID of the latest start
	backoff   time.Duration           // the last pause before an automatic restart
	ailing    bool                    // the run is being ended because it is unhealthy
	pausing   chan struct{}           // closed when a restart that was planned is done, or off; nil: there is none
	owed      chan struct{}           // closed when the start that the engine owed as it opened was tried, or is off; nil: none is owed
	timer     func()                  // cancels a planned restart
}

// run is one life of a container, from the making of its shim to the end of that.
type run struct {
	shim    shim
	started chan struct{} // closed when the outcome of the start is recorded
	failed  bool          // valid after started: the start failed, there is no exit to come
	exited  chan struct{} // closed when the exit is recorded and told
	gone    chan struct{} // closed when the shim has let go of everything
	left    chan struct{} // closed when it is off its networks
	probe   string        // what the probe under way is called in events; the watch's own
}

func newRun(s shim) *run {
	return &run{shim: s, started: make(chan struct{}), exited: make(chan struct{}),
		gone: make(chan struct{}), left: make(chan struct{})}
}

func newInstance(dirs layout, c Container) *instance {
	i := &instance{
		id:      c.ID,
		dir:     filepath.Join(dirs.containers(), c.ID),
		runDir:  filepath.Join(dirs.runs(), c.ID),
		turn:    make(chan struct{}, 1),
		waiters: map[*waiter]struct{}{},
	}
	c.HostConfig, c.Networking = settled(c.HostConfig, c.Networking)
	leader := filepath.Join(dirs.containers(), c.Sandbox)
	c.LogPath, c.HostsPath = "", filepath.Join(leader, "hosts")
	c.HostnamePath, c.ResolvConfPath = filepath.Join(leader, "hostname"), filepath.Join(leader, "resolv.conf")
	if c.HostConfig.LogConfig.Type == logs.DriverJSONFile {
		c.LogPath = filepath.Join(i.dir, logs.Options{}.File(c.ID)) // of others, like Docker, we tell nothing
	}
	i.snap.Store(&c)
	return i
}

// now is the current snapshot.
func (i *instance) now() Container { return *i.snap.Load() }

// change replaces the snapshot. The caller holds mu.
func (i *instance) change(fn func(*Container)) Container {
	next := *i.snap.Load()
	fn(&next)
	i.snap.Store(&next)
	return next
}

// become changes the status by the table, and more of the snapshot by fn. The caller
// holds mu.
func (i *instance) become(status string, fn func(*Container)) (Container, error) {
	if err := mayBecome(i.snap.Load().State.Status, status); err != nil {
		return i.now(), err
	}
	return i.change(func(c *Container) {
		c.State.Status = status
		fn(c)
	}), nil
}

// take waits for the turn. The returned function gives it back.
func (i *instance) take(ctx context.Context) (giveBack func(), err error) {
	giveBack = func() { <-i.turn }
	select {
	case i.turn <- struct{}{}:
		return giveBack, nil
	default:
	}
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case i.turn <- struct{}{}:
			return giveBack, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-look.C:
			i.copy.Load().endIfStill()
		}
	}
}

// live returns the shim of a container that runs; verb completes the refusal.
func (i *instance) live() (*run, Container, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.now()
	if !c.State.Running() || c.State.Status == restarting {
		return nil, c, notRunning(c)
	}
	if i.run == nil {
		return nil, c, fail.New(fail.Unavailable, "the supervisor of container %s does not answer", c.ID)
	}
	return i.run, c, nil
}

func notRunning(c Container) error {
	if c.State.Status == restarting {
		return fail.New(fail.Conflict, "container %s is restarting, wait until the container is running", c.ID)
	}
	return fail.New(fail.Conflict, "container %s is not running", c.ID)
}

// busy reports whether an engine must stay for this container.
func (i *instance) busy() bool {
	if i.now().State.Running() || len(i.turn) > 0 {
		return true
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.present()) > 0 || len(i.waiters) > 0
}

// letGo tells all who wait that the engine ends.
func (i *instance) letGo() {
	i.mu.Lock()
	attached := i.pending
	i.pending = nil
	if i.timer != nil {
		i.timer()
		i.timer = nil
	}
	i.endPause()
	i.tell(func(*waiter) bool { return true }, WaitResult{Err: errClosed})
	i.mu.Unlock()
	closeAll(attached)
}

func closeAll(a []supervisor.Attachment) {
	for _, x := range a {
		_ = x.Conn.Close()
	}
}

func without(ids []string, id string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(s string) bool { return s == id })
}
