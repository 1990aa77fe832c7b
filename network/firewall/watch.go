package firewall

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch follows the kernel's news of rule sets. One goroutine reads, one mends our table, one looks
// after who is beside us, and one after flows that have become wrong.
type watch struct {
	conn   *netlink.Conn
	done   chan struct{} // closed: stop
	lost   chan struct{} // holds one: something of ours was taken away
	beside chan struct{} // … a chain that our accept goes to may have changed
	flows  chan struct{} // … UDP ports changed
	wg     sync.WaitGroup
}

func newWatch(conn *netlink.Conn) *watch {
	return &watch{conn: conn, done: make(chan struct{}), lost: make(chan struct{}, 1), beside: make(chan struct{}, 1), flows: make(chan struct{}, 1)}
}

func (w *watch) stop() {
	close(w.done)
	if w.conn != nil {
		w.conn.Close()
	}
	w.wg.Wait()
}

// How long a table that is destroyed again and again waits to be made anew: who fights us wins in
// the end, but pays no attention of ours.
const (
	mendPause    = 50 * time.Millisecond // after the second time; then doubled
	mendPauseMax = 10 * time.Second
	mendQuiet    = 30 * time.Second // without trouble: all is forgotten
)

// besidePause lets others finish: Docker and ufw make their rules one by one.
const besidePause = 100 * time.Millisecond

func (t *Table) startWatch() (*watch, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	if err := conn.SetReadBuffer(4 << 20); err != nil {
		conn.Close()
		return nil, err
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		conn.Close()
		return nil, err
	}
	w := newWatch(conn)
	w.wg.Go(func() { t.listen(w) })
	w.wg.Go(func() { t.mend(w) })
	w.wg.Go(func() { t.followOthers(w) })
	w.wg.Go(func() { t.forget(w) })
	return w, nil
}

// listen sorts the kernel's news.
func (t *Table) listen(w *watch) {
	for {
		messages, err := w.conn.Receive()
		if errors.Is(err, unix.ENOBUFS) { // some were lost
			t.news.Add(1)
			notify(w.lost)
			notify(w.beside)
			continue
		}
		if err != nil {
			select {
			case <-w.done:
			default:
				t.log.Error("the kernel's news of nftables ended; a flushed table will not be made again until the engine restarts", "error", err)
			}
			return
		}
		for _, m := range messages {
			if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < sizeofNfgenmsg || m.Header.PID == t.port.Load() {
				continue
			}
			t.news.Add(1)
			family, table := m.Data[0], tableOf(m)
			switch {
			case family == unix.NFPROTO_INET && table == t.table.Name && takesAway(m.Header.Type):
				notify(w.lost)
			case isShared(family, table):
				notify(w.beside)
			}
		}
	}
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// takesAway tells whether a kind of news is of something that went. What others add to our table
// is theirs to answer for.
func takesAway(kind netlink.HeaderType) bool {
	switch kind & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
		return true
	}
	return false
}

// tableOf reads the name of the table that a message is about: all kinds have it in attribute 1.
func tableOf(m netlink.Message) string {
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return ""
	}
	for ad.Next() {
		if ad.Type() == unix.NFTA_TABLE_NAME {
			return string(bytes.TrimRight(ad.Bytes(), "\x00"))
		}
	}
	return ""
}

// mend makes the table anew, at once the first time.
func (t *Table) mend(w *watch) {
	pause, last := time.Duration(0), time.Time{}
	for w.wait(w.lost) {
		if time.Since(last) > mendQuiet {
			pause = 0
		}
		if !w.sleep(pause) {
			return
		}
		select { // what came meanwhile is mended too
		case <-w.lost:
		default:
		}
		t.mu.Lock()
		var err error
		if !t.closed {
			t.log.Warn("somebody removed rules of the firewall; they are made again", "table", t.table.Name)
			err = t.replace()
		}
		t.mu.Unlock()
		if err != nil {
			t.log.Error("the firewall's rules could not be made again", "error", err)
			notify(w.lost)
		}
		last = time.Now()
		pause = min(max(mendPause, 2*pause), mendPauseMax)
	}
}

// followOthers keeps our accept where it has to be, while Docker daemons and host firewalls come, go and change.
func (t *Table) followOthers(w *watch) {
	pause := besidePause
	for w.wait(w.beside) {
		if !w.sleep(pause) {
			return
		}
		select {
		case <-w.beside:
		default:
		}
		t.mu.Lock()
		if !t.closed && t.needed() {
			if err := t.besideOthers(); err != nil {
				t.log.Warn("the firewall does not fit to the rules of the host", "error", err)
			}
		}
		if t.blind {
			pause = min(2*pause, mendPauseMax)
		} else {
			pause = besidePause
		}
		t.mu.Unlock()
	}
}

// wait returns false when the watch ends.
func (w *watch) wait(c <-chan struct{}) bool {
	select {
	case <-w.done:
		return false
	case <-c:
		return true
	}
}

func (w *watch) sleep(d time.Duration) bool {
	if d == 0 {
		return true
	}
	select {
	case <-w.done:
		return false
	case <-time.After(d):
		return true
	}
}
