package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// This program is also its own server and client for the rate of connections; the words are
// the first argument.
const (
	serveVerb   = "serve-connections"
	connectVerb = "make-connections"
)

// A client makes so many connections, so many at a time. Few enough that the ports of one
// pair of addresses last, with a proxy between too.
const (
	connections        = 1000
	connectionsAtATime = 4
)

// serveConnections greets every client with a byte and waits until it goes.
func serveConnections(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return greet(l)
}

func greet(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = c.Write([]byte{'.'})
			_, _ = io.Copy(io.Discard, c)
		}()
	}
}

// makeConnections prints how many connections a second come about, each until its first byte.
func makeConnections(address string) error {
	begin := time.Now()
	var all sync.WaitGroup
	failed := make([]error, connectionsAtATime)
	for i := range connectionsAtATime {
		all.Go(func() {
			for range connections / connectionsAtATime {
				if failed[i] = connectOnce(address); failed[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	rate := connections / time.Since(begin).Seconds()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	fmt.Printf("%.0f\n", rate)
	return nil
}

func connectOnce(address string) error {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return err
	}
	// A reset instead of an orderly end: no port waits for stragglers.
	return c.(*net.TCPConn).SetLinger(0)
}
