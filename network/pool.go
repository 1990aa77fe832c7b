package network

import (
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	poolDepth    = 2 // namespaces that wait per network
	poolNetworks = 4 // networks that have some, the ones used last
	// poolPause is how long after a start the next namespace is made: not while the container
	// itself is, which has to share the processors with it.
	poolPause = 8 * time.Millisecond
	// reapAfter is how long the kernel has to remove interfaces with their namespaces.
	reapAfter = time.Second
)

// pool keeps namespaces that are wired to a network already: bridge, interface, redirect to
// the resolver; what is missing is the address. They are held by this process's
// descriptors alone, and so end with it, however it ends.
type pool struct {
	n    *Networks
	mu   sync.Mutex
	wait map[string][]*wired // by network
	used []string            // networks, the last one used first
	wake chan struct{}
	stop chan struct{}
	done chan struct{}
}

func newPool(n *Networks) *pool {
	p := &pool{n: n, wait: map[string][]*wired{}, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go p.run()
	return p
}

// take returns a namespace that waits on a network, or nil.
func (p *pool) take(network string) *wired {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.wait[network]
	if len(w) == 0 {
		return nil
	}
	p.wait[network] = w[1:]
	return w[0]
}

// want says that a sandbox was made: the next one will probably be alike.
func (p *pool) want(eps []endpoint) {
	if len(eps) == 0 || eps[0].Link == "" {
		return
	}
	id := eps[0].Network
	p.mu.Lock()
	p.used = slices.Insert(slices.DeleteFunc(p.used, func(o string) bool { return o == id }), 0, id)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// drop lets go of what waits on a network.
func (p *pool) drop(network string) {
	p.mu.Lock()
	left := p.wait[network]
	delete(p.wait, network)
	p.used = slices.DeleteFunc(p.used, func(o string) bool { return o == network })
	p.mu.Unlock()
	for _, w := range left {
		w.drop()
	}
}

func (p *pool) close() {
	close(p.stop)
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, left := range p.wait {
		for _, w := range left {
			w.drop()
		}
		delete(p.wait, id)
	}
}

func (p *pool) run() {
	defer close(p.done)
	for {
		select {
		case <-p.stop:
			return
		case <-p.wake:
		}
		for {
			select {
			case <-p.stop:
				return
			case <-time.After(poolPause):
			}
			id := p.next()
			if id == "" {
				break
			}
			if !p.fill(id) {
				break // the next use will try again
			}
		}
	}
}

// next is a network that has too few waiting.
func (p *pool) next() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.used) > poolNetworks {
		last := p.used[poolNetworks]
		p.used = p.used[:poolNetworks]
		for _, w := range p.wait[last] {
			w.drop()
		}
		delete(p.wait, last)
	}
	for _, id := range p.used {
		if len(p.wait[id]) < poolDepth {
			return id
		}
	}
	return ""
}

// fill makes one namespace for a network.
func (p *pool) fill(id string) bool {
	p.n.mu.Lock()
	nw := p.n.nets[id]
	p.n.mu.Unlock()
	if nw == nil {
		p.drop(id)
		return false
	}
	w, err := p.n.wire(nw.rec.EnableIPv6, true)
	if err != nil {
		p.n.log.Warn("no namespace can be prepared for the next container", "network", nw.rec.Name, "error", err)
		return false
	}
	name, _ := interfaceName(sandbox{}, nw.set.prefix, "")
	w.link = newLinkName()
	e := endpoint{Endpoint: Endpoint{Interface: name, Network: id, MAC: randomMAC()}, Link: w.link}
	if w.index, err = p.n.plug(w.ns, w.conn, sandbox{}, e); err == nil {
		if err = w.conn.do(setUp(w.index, name)); err == nil {
			err = p.n.carry(w.conn, w.index, e)
		}
	}
	if err != nil {
		w.drop()
		if p.n.present(nw) { // else it was removed meanwhile
			p.n.log.Warn("no namespace can be prepared for the next container", "network", nw.rec.Name, "error", err)
		}
		return false
	}
	p.mu.Lock()
	kept := slices.Contains(p.used, id)
	if kept {
		p.wait[id] = append(p.wait[id], w)
	}
	p.mu.Unlock()
	if !kept { // the network was removed meanwhile
		w.drop()
	}
	return kept
}

// cutOff takes a port off its bridge's traffic at once, and lets the bridge forget who was
// behind it: the next one with the address may be there already. It is a bridge's message
// (AF_BRIDGE): the same attribute in an interface's is followed by the bridge's look at the
// port's carrier, which switches it on again.
func cutOff(index int, name string) message {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_BRIDGE)
	info.Index = int32(index)
	req.AddData(info)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(nl.IFLA_BRPORT_STATE, nl.Uint8Attr(0))
	port.AddRtAttr(nl.IFLA_BRPORT_FLUSH, nil)
	req.AddData(port)
	return message{req, "cut off " + name, []syscall.Errno{
		unix.ENODEV,                  // it is gone
		unix.EOPNOTSUPP, unix.EINVAL, // it is no port (yet)
		unix.ENETDOWN, // it is down
	}}
}

// reaper deletes interfaces on the host that have been cut off, unless the kernel is
// quicker: it takes them down with their namespaces, many at a time, which costs less. It
// is not when somebody else is in the namespace still.
type reaper struct {
	host *conn
	log  *slog.Logger
	mu   sync.Mutex
	left map[string]time.Time
	wake chan struct{}
	stop chan struct{}
	done chan struct{}
}

// newReaper takes a connection of its own: a deletion takes the kernel tens of milliseconds,
// in which starts shall not wait.
func newReaper(log *slog.Logger) (*reaper, error) {
	host, err := dial()
	if err != nil {
		return nil, err
	}
	r := &reaper{host: host, log: log, left: map[string]time.Time{}, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r, nil
}

func (r *reaper) add(links []string) {
	r.mu.Lock()
	for _, l := range links {
		r.left[l] = time.Now()
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reaper) run() {
	defer close(r.done)
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
		}
		for again := true; again; {
			select {
			case <-r.stop:
				return
			case <-time.After(reapAfter):
			}
			var err error
			if again, err = r.sweep(time.Now().Add(-reapAfter)); err != nil {
				r.log.Warn("an interface that nobody uses could not be deleted", "error", err)
			}
		}
	}
}

// sweep deletes what was cut off before then; more: there is some left.
func (r *reaper) sweep(then time.Time) (more bool, err error) {
	r.mu.Lock()
	var batch []message
	for l, at := range r.left {
		if !at.After(then) {
			batch = append(batch, deleteLink(l))
			delete(r.left, l)
		}
	}
	more = len(r.left) > 0
	r.mu.Unlock()
	for _, m := range batch { // one by one: others wait for the kernel's lock too
		if e := r.host.do(m); e != nil {
			err = e
		}
	}
	return more, err
}

// close deletes what is left at once.
func (r *reaper) close() error {
	close(r.stop)
	<-r.done
	_, err := r.sweep(time.Now())
	r.host.close()
	return err
}
