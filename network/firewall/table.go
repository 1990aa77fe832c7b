package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"berth/fail"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Table is an engine's table. All methods may be called at the same time; each returns when
// the kernel agrees.
type Table struct {
	table *nftables.Table
	off   bool
	log   *slog.Logger

	mu      sync.Mutex // guards what follows, and makes transactions one after the other
	conn    *nftables.Conn
	state   state
	present bool       // the table is in the kernel, as far as we know
	marking bool       // … in the form that marks connections
	beside  neighbours // as they were last seen
	blind   bool       // … for the last look failed
	closed  bool
	udp     map[uint16]bool // host ports whose flows have to be looked at, see flows.go

	port  atomic.Uint32 // conn's netlink port ID: how our own changes are told from others'
	watch *watch
	news  atomic.Uint64 // how often others have changed something

	remembered remembered
}

// Open makes the kernel's table what cfg says, in one transaction: what a killed engine left is
// replaced without a moment in which a port is closed or a connection cut. Without bridges no
// table is made, and one that is left goes. The table belongs to the network namespace of
// the calling thread. From now on it is watched.
func Open(cfg Config) (*Table, error) {
	t := &Table{
		table: &nftables.Table{Name: cfg.Table, Family: nftables.TableFamilyINet},
		off:   cfg.Off,
		log:   cfg.Log,
		udp:   map[uint16]bool{},
		state: state{elements: map[elementKey]entry{}, owned: map[string][]elementKey{}},
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	for _, b := range cfg.Bridges {
		want, err := b.elements()
		if err != nil {
			return nil, err
		}
		t.state.set(bridgeOwner(b.Name), want)
	}
	for _, p := range cfg.Published {
		want, err := p.elements(t.state.isolated)
		if err != nil {
			return nil, err
		}
		t.state.set(containerOwner(p.Container), want)
	}
	if t.off {
		return t, nil
	}
	if err := t.dial(); err != nil {
		return nil, err
	}
	w, err := t.startWatch() // before the table is made: what happens to it from then on is seen
	if err != nil {
		err = fmt.Errorf("following the kernel's news of nftables: %w", err)
		if t.needed() {
			t.conn.CloseLasting()
			return nil, err
		}
		t.log.Warn("there will be no bridge networks here", "error", err) // containers can do without
		w = newWatch(nil)
	}
	t.watch = w
	if err := t.begin(); err != nil {
		w.stop()
		t.conn.CloseLasting()
		return nil, err
	}
	return t, nil
}

// begin makes the table for the first time.
func (t *Table) begin() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.replace()
	if err != nil && !t.needed() { // as above, on a kernel without nftables
		t.log.Warn("there will be no bridge networks here", "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	var all change
	for k, e := range t.state.elements {
		all.new[k.set] = append(all.new[k.set], k.element(e.value))
	}
	t.touched(all)
	return nil
}

// needed tells whether there is anything to be judged.
func (t *Table) needed() bool {
	_, docker := t.state.owned[dockerOwner]
	return len(t.state.owned) > 1 || len(t.state.owned) == 1 && !docker
}

// dial opens the connection that changes are made through.
func (t *Table) dial() error {
	var raw *netlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw = c
		return roomy(c)
	}))
	if err == nil {
		var port uint32
		port, err = portOf(raw)
		t.port.Store(port)
	}
	if err != nil {
		return fmt.Errorf("connecting to the kernel's nftables: %w", err)
	}
	t.conn = conn
	return nil
}

// roomy gives a socket buffers for tables of thousands of ports. A message is sent as a whole, and
// an error's answer would repeat it.
func roomy(c *netlink.Conn) error {
	if err := c.SetWriteBuffer(16 << 20); err != nil {
		return err
	}
	if err := c.SetReadBuffer(4 << 20); err != nil {
		return err
	}
	return c.SetOption(netlink.CapAcknowledge, true)
}

// portOf asks for a socket's netlink address.
func portOf(c *netlink.Conn) (port uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	control := raw.Control(func(fd uintptr) {
		var a unix.Sockaddr
		if a, err = unix.Getsockname(int(fd)); err == nil {
			port = a.(*unix.SockaddrNetlink).Pid
		}
	})
	if control != nil {
		return 0, control
	}
	return port, err
}

// flush commits what was queued. After an error the connection is a new one: answers to the
// messages behind the failed one may still be on their way in the old one.
func (t *Table) flush() error {
	err := t.conn.Flush()
	if err == nil {
		return nil
	}
	t.conn.CloseLasting()
	if e := t.dial(); e != nil {
		return e
	}
	var first unix.Errno // of as many as there were messages
	if errors.As(err, &first) {
		return first
	}
	return err
}

// replace makes the table anew from memory, or removes it if nothing should be in it, in one
// transaction.
func (t *Table) replace() error {
	found, _ := t.lookBeside()
	t.conn.AddTable(t.table) // so that there is one to delete
	t.conn.DelTable(t.table)
	wanted := t.needed()
	if wanted {
		if err := describe(t.conn, t.table, t.marking, t.state.elements); err != nil {
			return fmt.Errorf("nftables table %s: %w", t.table.Name, err)
		}
	}
	if err := t.flush(); err != nil {
		t.present = false
		return fmt.Errorf("the kernel refuses the nftables table %s: %w (--firewall-backend none does without)", t.table.Name, err)
	}
	t.present = wanted
	t.acceptBeside(found)
	return nil
}

// update gives owner its elements, in memory and in the kernel. It is called with the lock held.
func (t *Table) update(owner string, want map[elementKey]value) error {
	if t.closed {
		return fail.New(fail.Unavailable, "the firewall is closed")
	}
	had := t.state.wants(owner)
	c := t.state.set(owner, want)
	if t.off {
		return nil
	}
	if err := t.commit(c); err != nil {
		t.state.set(owner, had)
		return err
	}
	t.touched(c)
	return nil
}

func (t *Table) commit(c change) error {
	if c.empty() && t.present {
		return nil
	}
	if needed := t.needed(); !t.present || !needed {
		if !t.present && !needed {
			return nil
		}
		return t.replace()
	}
	for id := range setCount {
		set := id.set(t.table)
		if err := deleteElements(t.conn, set, c.gone[id]); err != nil {
			return err
		}
		if err := addElements(t.conn, set, c.new[id]); err != nil {
			return err
		}
	}
	if err := t.flush(); err != nil {
		t.log.Info("the firewall's table is not as it was left; it is made anew", "table", t.table.Name, "error", err)
		return t.replace()
	}
	return nil
}

// Bridge adds b, or replaces the bridge of that name.
func (t *Table) Bridge(b Bridge) error {
	want, err := b.elements()
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.update(bridgeOwner(b.Name), want)
}

// RemoveBridge forgets a bridge. With the last one the table goes. An unknown name is no error.
func (t *Table) RemoveBridge(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.update(bridgeOwner(name), nil)
}

// Publish adds p, or replaces the ports of that container. A host port that another container
// still has is taken over: who has bound the socket owns it.
func (t *Table) Publish(p Publication) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	want, err := p.elements(t.state.isolated)
	if err != nil {
		return err
	}
	return t.update(containerOwner(p.Container), want)
}

// Unpublish forgets a container's ports. An unknown container is no error.
func (t *Table) Unpublish(container string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.update(containerOwner(container), nil)
}

// Close ends the watch. With remove the table goes too, and what was put beside it for Docker's
// sake; else everything goes on as it is. No other method may be called after it.
func (t *Table) Close(remove bool) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.mu.Unlock()
	if t.off {
		return nil
	}
	t.watch.stop()
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.conn.CloseLasting()
	if !remove {
		return nil
	}
	t.state = state{elements: map[elementKey]entry{}, owned: map[string][]elementKey{}}
	return t.replace()
}
