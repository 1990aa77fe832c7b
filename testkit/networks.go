package testkit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// id is the engine's, empty if it never started.
func (e *Engine) id() string {
	data, _ := os.ReadFile(filepath.Join(e.DataRoot, "engine-id"))
	return strings.TrimSpace(string(data))
}

// Interfaces lists what the engine has on the host: bridges, the containers' links, and
// those that wait for the next container.
func (e *Engine) Interfaces() (names []string) {
	for _, l := range e.links() {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func (e *Engine) links() (out []netlink.Link) {
	id := e.id()
	if id == "" {
		return nil
	}
	var all []netlink.Link
	for range 100 { // until nobody has changed anything while the kernel was listing
		var err error
		if all, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	for _, l := range all {
		if strings.HasPrefix(l.Attrs().Alias, "berth "+id+" ") {
			out = append(out, l)
		}
	}
	return out
}

// tables lists the engine's nftables.
func (e *Engine) tables() (out []*nftables.Table) {
	id := e.id()
	if id == "" {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	var all []*nftables.Table
	for range 100 {
		if all, err = c.ListTables(); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	for _, t := range all {
		if t.Name == "berth_"+id[:8] {
			out = append(out, t)
		}
	}
	return out
}

// NetworkLeaks lists what is left of the containers' networks.
func (e *Engine) NetworkLeaks() (left []string) {
	for _, name := range e.Interfaces() {
		left = append(left, "interface "+name)
	}
	for _, t := range e.tables() {
		left = append(left, "nft table "+t.Name)
	}
	for _, pattern := range []string{"sandboxes/*", "*.names", ".tmp-*"} {
		files, _ := filepath.Glob(filepath.Join(e.ExecRoot, "networks", pattern))
		left = append(left, files...)
	}
	return left
}

// clearNetworks deletes what is left, so that one test's failure is not the next one's.
func (e *Engine) clearNetworks() {
	for _, l := range e.links() {
		_ = netlink.LinkDel(l)
	}
	for _, t := range e.tables() {
		if c, err := nftables.New(); err == nil {
			c.DelTable(t)
			_ = c.Flush()
		}
	}
}
