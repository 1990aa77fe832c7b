package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"berth/fail"
	"berth/metrics"
	"berth/network"
)

// checkMetricsAddr refuses what is no address to listen on.
func checkMetricsAddr(addr string) error {
	if addr == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fail.New(fail.Invalid, "--metrics-addr %q is not HOST:PORT, such as 127.0.0.1:9323", addr)
	}
	return nil
}

// serveMetrics answers Prometheus at the address until the engine ends.
func (d *daemon) serveMetrics(addr string, r *metrics.Registry) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	r.AddProcess()
	mux := http.NewServeMux()
	mux.Handle("/metrics", r)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // until Close
	}()
	d.later(func() { _ = s.Close(); <-done })
	d.log.Info("serving metrics", "address", l.Addr().String())
	return nil
}

// timedNetworks are the networks, and how long a container's way onto and off them takes.
type timedNetworks struct {
	*network.Networks
	time *metrics.Timer
}

func timeNetworks(n *network.Networks, r *metrics.Registry) timedNetworks {
	return timedNetworks{n, r.Timer("engine_daemon_network_actions_seconds", "The number of seconds it takes to process each network action", "action",
		"allocate", "connect", "release")}
}

func (n timedNetworks) Join(ctx context.Context, r network.SandboxRequest) (*network.Sandbox, error) {
	defer n.time.Since(time.Now(), "allocate")
	return n.Networks.Join(ctx, r)
}

func (n timedNetworks) Connect(ctx context.Context, containerID string, netns *os.File, e network.EndpointRequest) (*network.Sandbox, error) {
	defer n.time.Since(time.Now(), "connect")
	return n.Networks.Connect(ctx, containerID, netns, e)
}

func (n timedNetworks) Leave(ctx context.Context, containerID string) error {
	defer n.time.Since(time.Now(), "release")
	return n.Networks.Leave(ctx, containerID)
}
