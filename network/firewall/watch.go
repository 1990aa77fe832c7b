package firewall

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch follows the kernel's news of rule sets. One goroutine reads, one mends.
type watch struct {
	conn *netlink.Conn
	done chan struct{} // closed: stop
	wg   sync.WaitGroup
}

func (w *watch) stop() {
	close(w.done)
	w.conn.Close()
	w.wg.Wait()
}

// How long a table that is destroyed again and again waits to be made anew: who fights us wins in
// the end, but pays no attention of ours.
const (
	mendPause    = 50 * time.Millisecond // after the second time; then doubled
	mendPauseMax = 10 * time.Second
	mendQuiet    = 30 * time.Second // without trouble: all is forgotten
)

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
	w := &watch{conn: conn, done: make(chan struct{})}
	ours := make(chan struct{}, 1)
	w.wg.Go(func() { t.listen(w, ours) })
	w.wg.Go(func() { t.mend(w, ours) })
	return w, nil
}

// listen tells mend when somebody else took something out of our table.
func (t *Table) listen(w *watch, ours chan<- struct{}) {
	for {
		messages, err := w.conn.Receive()
		if errors.Is(err, unix.ENOBUFS) { // news were lost
			notify(ours)
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
			if t.lost(m) {
				notify(ours)
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

// lost tells whether m reports that somebody else deleted something of our table.
func (t *Table) lost(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
		return false
	}
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
	default:
		return false
	}
	return m.Header.PID != t.port.Load() && m.Data[0] == unix.NFPROTO_INET && tableOf(m) == t.table.Name
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
func (t *Table) mend(w *watch, ours chan struct{}) {
	pause, last := time.Duration(0), time.Time{}
	for {
		select {
		case <-w.done:
			return
		case <-ours:
		}
		if time.Since(last) > mendQuiet {
			pause = 0
		}
		if pause > 0 {
			select {
			case <-w.done:
				return
			case <-time.After(pause):
			}
		}
		select { // what came meanwhile is mended too
		case <-ours:
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
			notify(ours)
		}
		last = time.Now()
		pause = min(max(mendPause, 2*pause), mendPauseMax)
	}
}
