package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const sectionTraffic = "Traffic"

// trafficNames is what -only is matched against.
const trafficNames = "container → container, host → published port by loopback, by the host's address, another host → published port, " +
	"container → host, connections to a published port, from another host"

// The ports of the servers: in a container and on the host.
const (
	iperfPort = "5201"
	webPort   = "8080"
	hostPort  = "5301"
)

// measureTraffic compares how fast bytes and connections go through networks.
func (b *bench) measureTraffic(ctx context.Context, o options, engines []*peer) ([]result, error) {
	iperf, err := exec.LookPath("iperf3")
	if err != nil {
		return nil, fmt.Errorf("%w (Debian: iperf3)", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	image := filepath.Join(b.dir, "traffic.tar")
	if err := programsTar(ctx, image, iperf, self); err != nil {
		return nil, err
	}
	peers, broken := []*peer{}, map[*peer]error{}
	for _, p := range engines {
		if p.name == "podman" { // its networks are the same kernel's, by the same rules as docker's
			continue
		}
		broken[p] = p.openTraffic(ctx, image, iperf, self)
		peers = append(peers, p)
	}
	open := func(_ context.Context, p *peer) error { return broken[p] }
	byteGoals := []goal{{against: "docker", factor: 0.9}}
	var rows []row
	throughput := func(name string, work func(context.Context, *peer) (float64, error)) {
		rows = append(rows, row{name: name, few: true, moreIsBetter: true, goals: byteGoals, open: open, work: unlessBusy(work)})
	}
	iperfTo := func(address, port string) []string {
		return []string{iperf, "--json", "--time", "1", "--client", address, "--port", port}
	}
	throughput("container → container, by address", func(ctx context.Context, p *peer) (float64, error) {
		return gigabits(p.ask(ctx, "exec", append([]string{"client"}, iperfTo(p.server, iperfPort)...)...))
	})
	throughput("host → published port, by the host's address", func(ctx context.Context, p *peer) (float64, error) {
		return gigabits(p.space.ask(ctx, p.env, iperfTo(hostAddress, iperfPort)...))
	})
	throughput("host → published port, by loopback", func(ctx context.Context, p *peer) (float64, error) {
		return gigabits(p.space.ask(ctx, p.env, iperfTo("127.0.0.1", iperfPort)...))
	})
	throughput("another host → published port", func(ctx context.Context, p *peer) (float64, error) {
		return gigabits(p.outside.ask(ctx, p.env, iperfTo(hostAddress, iperfPort)...))
	})
	throughput("container → host", func(ctx context.Context, p *peer) (float64, error) {
		return gigabits(p.ask(ctx, "exec", append([]string{"client"}, iperfTo(hostAddress, hostPort)...)...))
	})
	rows = on(peers, sectionTraffic, rows)
	for i := range rows {
		rows[i].unit = "Gbit/s"
	}
	results := measureRows(ctx, o.wanted(rows), pace{n: o.n, burst: 4})

	rows = nil
	for _, way := range []struct{ name, address string }{{"by the host's address", hostAddress}, {"by loopback", "127.0.0.1"}, {"from another host", ""}} {
		rows = append(rows, row{name: "connections to a published port, " + way.name, few: true, moreIsBetter: true, goals: []goal{{against: "docker", factor: 1}}, open: open,
			work: func(ctx context.Context, p *peer) (float64, error) {
				from, address := p.space, way.address
				if address == "" {
					from, address = p.outside, hostAddress
				}
				out, err := from.ask(ctx, p.env, self, connectVerb, net.JoinHostPort(address, webPort))
				if err != nil {
					return 0, err
				}
				return strconv.ParseFloat(out, 64)
			}})
	}
	rows = on(peers, sectionTraffic, rows)
	for i := range rows {
		rows[i].unit = "/s"
	}
	results = append(results, measureRows(ctx, o.wanted(rows), pace{n: 2 * o.n, burst: 4})...)
	for _, p := range peers {
		if broken[p] == nil {
			if _, err := p.do(ctx, "rm", "-f", "client", "iperf", "web"); err != nil {
				return nil, err
			}
		}
	}
	return results, ctx.Err()
}

// openTraffic starts an engine's servers, in containers and on its host.
func (p *peer) openTraffic(ctx context.Context, image, iperf, self string) error {
	if _, err := p.do(ctx, "import", image, "traffic"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"--name", "client", "traffic", "sleep", "100000"},
		{"--name", "iperf", "-p", iperfPort + ":" + iperfPort, "traffic", iperf, "--server", "--port", iperfPort},
		{"--name", "web", "-p", webPort + ":" + webPort, "traffic", self, serveVerb, ":" + webPort},
	} {
		if _, err := p.do(ctx, "run", append([]string{"-d", "--network", "bridge"}, args...)...); err != nil {
			return err
		}
	}
	var err error
	if p.server, err = p.ask(ctx, "inspect", "--format", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "iperf"); err != nil {
		return err
	}
	server := exec.Command(iperf, "--server", "--port", hostPort)
	if err := p.space.start(ctx, server); err != nil {
		return err
	}
	go func() { _ = wait(server) }() // ended with the run
	for _, address := range []string{net.JoinHostPort(hostAddress, webPort), net.JoinHostPort("127.0.0.1", webPort), net.JoinHostPort(hostAddress, hostPort)} {
		for deadline := time.Now().Add(10 * time.Second); ; pause(ctx, 50*time.Millisecond) {
			err := p.space.dial(ctx, address)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("nobody answers: %w", err)
			}
		}
	}
	return nil
}

// gigabits reads what iperf3 has measured at the receiver, in gigabits a second.
func gigabits(out string, err error) (float64, error) {
	var answer struct {
		Error string
		End   struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if decodeErr := json.Unmarshal([]byte(out), &answer); err == nil {
		err = decodeErr
	}
	if answer.Error != "" {
		err = fmt.Errorf("iperf3: %s", answer.Error)
	}
	return answer.End.SumReceived.BitsPerSecond / 1e9, err
}

// unlessBusy repeats work while an iperf3 server still ends its last client's test.
func unlessBusy(work func(context.Context, *peer) (float64, error)) func(context.Context, *peer) (float64, error) {
	return func(ctx context.Context, p *peer) (float64, error) {
		for deadline := time.Now().Add(5 * time.Second); ; pause(ctx, 50*time.Millisecond) {
			rate, err := work(ctx, p)
			if err == nil || !strings.Contains(err.Error(), "server is busy") || time.Now().After(deadline) {
				return rate, err
			}
		}
	}
}

// ask runs a program and returns what it wrote.
func (s *space) ask(ctx context.Context, env []string, argv ...string) (string, error) {
	out, _, err := s.run(ctx, env, argv...)
	return strings.TrimSpace(out), err
}
