package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
)

const sectionPorts = "Published ports"

// portsEach is how many ports each container of the crowd publishes.
const portsEach = 5

// dockerPorts is for how many containers docker shows the same: with its two processes per
// port, a thousand ports would take it minutes.
const dockerPorts = 10

// measurePorts compares a start with a published port where that is the first one with a
// start where many are published, the same number of containers running.
func (b *bench) measurePorts(ctx context.Context, o options, engines []*peer) (results []result) {
	for _, crowd := range slices.Compact([]int{min(dockerPorts, o.crowd), o.crowd}) {
		published := crowd * portsEach
		row := func(name, unit string) result { return result{section: sectionPorts, row: name, unit: unit} }
		first := row(fmt.Sprintf("run --rm -p: the first port, %d containers running", crowd), "ms")
		more := row(fmt.Sprintf("run --rm -p: one port more, %d containers with %d ports running", crowd, published), "ms")
		ratio := row(fmt.Sprintf("one port more with %d there, times the first", published), "times")
		ratio.goals = []goal{{atMost: 1.1}}
		removal := row(fmt.Sprintf("rm -f of %d containers with %d ports", crowd, published), "s")
		all := []*result{&first, &more, &ratio, &removal}
		for _, p := range engines {
			if p.name == "podman" {
				continue
			}
			cells := make([]cell, len(all))
			var err error
			if p.name == "docker" && crowd > dockerPorts {
				err = fmt.Errorf("two processes per port: only with %d ports", dockerPorts*portsEach)
				for i := range cells {
					cells[i].why = "not tried: " + err.Error()
				}
			} else if cells, err = p.comparePorts(ctx, o.n, crowd); err != nil {
				for i := range cells {
					cells[i].fail(err)
				}
			}
			for i, r := range all {
				cells[i].peer = p.name
				r.cells = append(r.cells, cells[i])
			}
		}
		for _, r := range all {
			results = append(results, *r)
			fmt.Fprintf(os.Stderr, "%s: %s: %s\n", r.section, r.row, r.cellsText())
		}
	}
	return results
}

// comparePorts gives one engine's cells: the first port, one more, their ratio, the removal.
func (p *peer) comparePorts(ctx context.Context, n, crowd int) ([]cell, error) {
	cells := make([]cell, 4)
	flags := []string{}
	for port := range portsEach {
		flags = append(flags, "-p", strconv.Itoa(80+port))
	}
	for i, ports := range [][]string{nil, flags} {
		r := gather(ctx, []*peer{p}, crowd, sectionPorts, "", slices.Concat(ports, onBridge))
		if why := r.cells[0].why; why != "" {
			return cells, fmt.Errorf("%s", strings.TrimPrefix(why, "failed: "))
		}
		pause(ctx, settle)
		for j := range n + 1 {
			took, err := p.do(ctx, "run", append([]string{"--rm"}, append(onPort, "true")...)...)
			if err != nil {
				return cells, err
			}
			if j > 0 { // the first does not count
				cells[i].values = append(cells[i].values, milliseconds(took))
			}
		}
		took, err := p.disperse(ctx, crowd)
		if err != nil {
			return cells, err
		}
		cells[3].values = samples{took.Seconds()}
		if left, err := p.publishedPorts(ctx); err != nil || left > 0 {
			return cells, fmt.Errorf("%d ports are still published after all containers are removed (%v)", left, err)
		}
	}
	cells[2].values = samples{cells[1].values.median() / cells[0].values.median()}
	return cells, nil
}

// portSets are the sets of our table that have elements only for published ports
// (network/firewall).
var portSets = []string{"any4", "any6", "one4", "one6", "loopback", "open4", "open6", "hairpin4", "hairpin6"}

// publishedPorts counts what the rules of the engine's namespace have for published ports:
// elements of sets of ours, DNAT rules of docker's.
func (p *peer) publishedPorts(ctx context.Context) (n int, err error) {
	if p.name != "berth" {
		rules, _, err := p.space.run(ctx, p.env, "iptables-save", "-t", "nat")
		return strings.Count(rules, "-j DNAT"), err
	}
	p.space.within(ctx, func() {
		var conn *nftables.Conn
		var tables []*nftables.Table
		var sets []*nftables.Set
		var elements []nftables.SetElement
		if conn, err = nftables.New(); err != nil {
			return
		}
		if tables, err = conn.ListTables(); err != nil {
			return
		}
		for _, t := range tables {
			if sets, err = conn.GetSets(t); err != nil {
				return
			}
			for _, s := range sets {
				if !slices.Contains(portSets, s.Name) {
					continue
				}
				if elements, err = conn.GetSetElements(s); err != nil {
					return
				}
				n += len(elements)
			}
		}
	})
	return n, err
}
