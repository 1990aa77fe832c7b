package main

import (
	"errors"
	"net"
	"testing"
)

func TestWhatTheReceiverGotCounts(t *testing.T) {
	cases := []struct {
		name, out string
		err       error
		want      float64
		fails     bool
	}{
		{name: "an answer", out: `{"end":{"sum_sent":{"bits_per_second":2e9},"sum_received":{"bits_per_second":1.5e9}}}`, want: 1.5},
		{name: "a busy server", out: `{"end":{},"error":"the server is busy running a test. try again later"}`, fails: true},
		{name: "no answer", out: "", fails: true},
		{name: "a failed client", out: `{"end":{"sum_received":{"bits_per_second":1e9}}}`, err: errors.New("exit status 1"), fails: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := gigabits(c.out, c.err)
			if (err != nil) != c.fails || err == nil && got != c.want {
				t.Errorf("got %v, %v; want %v, failure %v", got, err, c.want, c.fails)
			}
		})
	}
}

func TestAConnectionCountsWhenItsFirstByteHasCome(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = greet(l) }()
	if err := connectOnce(l.Addr().String()); err != nil {
		t.Errorf("a server that greets: %v", err)
	}
	l.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		if c, err := silent.Accept(); err == nil {
			c.Close()
		}
	}()
	if err := connectOnce(silent.Addr().String()); err == nil {
		t.Error("a server that says nothing counts as well")
	}
}
