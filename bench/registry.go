package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Every network namespace has two registries on its loopback: one that holds the image, over
// a storage that all namespaces share, and an empty one to push to.
const (
	sourcePort = 5000
	targetPort = 5001
	sourceRef  = "127.0.0.1:5000/bench/debian:1"
	loadedRef  = "127.0.0.1:5001/bench/loaded:1"
	pushRef    = "127.0.0.1:5001/bench/pushed:1"
)

// startRegistry starts Debian's docker-registry in the namespace and waits until it listens.
// It ends with the run.
func (s *space) startRegistry(ctx context.Context, root string, port int) error {
	config, err := os.CreateTemp("", "bench-registry-*.yml")
	if err != nil {
		return err
	}
	defer os.Remove(config.Name())
	address := fmt.Sprintf("127.0.0.1:%d", port)
	fmt.Fprintf(config, "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %q}\nhttp: {addr: %q}\n", root, address)
	if err := config.Close(); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "docker-registry", "serve", config.Name())
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := s.start(ctx, cmd); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- wait(cmd) }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := s.dial(ctx, address); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("docker-registry ended: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("docker-registry does not listen at %s", address)
		}
	}
}

// dial tries whether somebody listens at an address of the namespace.
func (s *space) dial(ctx context.Context, address string) (err error) {
	s.within(ctx, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", address, time.Second); err == nil {
			c.Close()
		}
	})
	return err
}

// emptyRegistry forgets all that was pushed to the storage at root. The registry keeps
// nothing of it in memory.
func emptyRegistry(root string) error {
	return os.RemoveAll(filepath.Join(root, "docker"))
}
