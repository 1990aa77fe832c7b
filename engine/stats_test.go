package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCountersOfInterfacesAreRead(t *testing.T) {
	got := parseNetDev([]byte(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 1296 16 1 2 0 0 0 0 936 12 3 4 0 0 0 0
eth0:1:2 2 2 2 0 0 0 0 2 2 2 2 0 0 0 0
broken: 1 2 three 4 5 6 7 8 9 10 11 12 13 14 15 16
short: 1 2
`))
	want := []InterfaceStats{
		{"lo", Traffic{100, 1, 0, 0}, Traffic{100, 1, 0, 0}},
		{"eth0", Traffic{1296, 16, 1, 2}, Traffic{936, 12, 3, 4}},
	}
	if d := cmp.Diff(want, got[:2]); d != "" {
		t.Error(d)
	}
	if len(got) > 3 {
		t.Errorf("broken lines were taken: %+v", got[2:])
	}
}

func TestTheClockOfAllProcessorsGoesOn(t *testing.T) {
	var c cpuClock
	first, online := c.read()
	second, _ := c.read()
	if online < 1 || second <= first {
		t.Errorf("%d processors, %v then %v", online, first, second)
	}
}
