package firewall

import (
	"net/netip"
	"os"
)

// Table is an engine's table. All methods may be called at the same time; each returns when
// the kernel agrees.
type Table struct{}

// Open makes the kernel's table what cfg says, in one transaction: what a killed engine left is
// replaced without a moment in which a port is closed or a connection cut. Without bridges no
// table is made, and one that is left goes. The table belongs to the network namespace of
// the calling thread. From now on it is watched.
func Open(cfg Config) (*Table, error) { return nil, nil }

// Bridge adds b, or replaces the bridge of that name.
func (t *Table) Bridge(b Bridge) error { return nil }

// RemoveBridge forgets a bridge. With the last one the table goes. An unknown name is no error.
func (t *Table) RemoveBridge(name string) error { return nil }

// Publish adds p, or replaces the ports of that container; without ports and bridges it is
// Unpublish. A host port that another container still has is taken over: who has bound the
// socket owns it.
func (t *Table) Publish(p Publication) error { return nil }

// Unpublish forgets a container's ports. An unknown container is no error.
func (t *Table) Unpublish(container string) error { return nil }

// Hints tells, a sentence each, what on this host stands in the way of the table's bridges, and
// what to do about it. It looks at the kernel anew with each call.
func (t *Table) Hints() []string { return nil }

// Close ends the watch. With remove the table goes too, and what was put beside it for Docker's
// sake; else everything goes on as it is.
func (t *Table) Close(remove bool) error { return nil }

// Redirect makes UDP and TCP that a namespace's processes send to addr, an IPv4 address that is
// reached through loopback, arrive at port to of the same address, and the answers come from
// addr. It needs no connection tracking. The rules end with the namespace.
func Redirect(netns *os.File, addr netip.AddrPort, to uint16) error { return nil }
