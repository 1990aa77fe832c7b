package testkit

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports that tests give to programs are none of those that the kernel gives to whoever asks for any
// (ip_local_port_range begins at 32768): between the choice and the program's bind a connection of
// anybody's could have it otherwise. Each is given once.
const firstPort, lastPort = 20000, 32000

var givenPorts struct {
	mu   sync.Mutex
	next int // guarded by mu
}

// FreePort is a port that nobody listens on, by TCP or UDP, at any address of this machine.
func FreePort(t testing.TB) string {
	t.Helper()
	return strconv.Itoa(FreePorts(t, 1))
}

// FreePorts is the first of n such ports in a row.
func FreePorts(t testing.TB, n int) int {
	t.Helper()
	givenPorts.mu.Lock()
	defer givenPorts.mu.Unlock()
	if givenPorts.next == 0 { // other processes with tests begin elsewhere
		givenPorts.next = firstPort + rand.IntN(lastPort-firstPort)
	}
	for range lastPort - firstPort {
		if givenPorts.next+n > lastPort {
			givenPorts.next = firstPort
		}
		first := givenPorts.next
		givenPorts.next++
		if allFree(first, n) {
			givenPorts.next = first + n
			return first
		}
	}
	t.Fatalf("no %d free ports in a row", n)
	return 0
}

func allFree(first, n int) bool {
	for port := first; port < first+n; port++ {
		address := ":" + strconv.Itoa(port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			return false
		}
		l.Close()
		u, err := net.ListenPacket("udp", address)
		if err != nil {
			return false
		}
		u.Close()
	}
	return true
}
