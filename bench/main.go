// Command bench measures Berth beside the peers that are installed, in one run: the same
// work on each in turn, so that a change of the machine's mood hits all alike. It prints
// medians and ratios; what counts is the ratio.
//
//	make bench                    all rows, a table on standard output
//	go run ./bench -n 5 -only exec
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	n := flag.Int("n", 15, "measured runs per row and peer")
	only := flag.String("only", "", "rows whose name contains this")
	crowd := flag.Int("crowd", 0, "containers that run meanwhile on the engine being measured")
	flag.Parse()
	if err := measure(*n, *crowd, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// peer is an engine with its client, started for this run in directories of its own.
type peer struct {
	name   string
	client []string // command line up to the subcommand
	env    []string
	stop   func()
}

// row is one piece of work. before and after are not measured.
type row struct {
	name         string
	before       []string
	work         []string
	after        []string
	oncePer      bool // before and after run once per peer, not per run
	spacedAsWell bool // measured back to back, and with starts one second apart
}

var rows = []row{
	{name: "run --rm --network none true", work: []string{"run", "--rm", "--network", "none", "busybox", "true"}, spacedAsWell: true},
	{name: "run -d --network none", work: []string{"run", "-d", "--name", "bench", "--network", "none", "busybox", "sleep", "1000"}, after: []string{"rm", "-f", "bench"}},
	{name: "exec true", before: []string{"run", "-d", "--name", "bench", "--network", "none", "busybox", "sleep", "1000"},
		work: []string{"exec", "bench", "true"}, after: []string{"rm", "-f", "bench"}, oncePer: true, spacedAsWell: true},
	{name: "stop -t 0", before: []string{"run", "-d", "--name", "bench", "--network", "none", "busybox", "sleep", "1000"},
		work: []string{"stop", "-t", "0", "bench"}, after: []string{"rm", "-f", "bench"}},
	{name: "rm", before: []string{"create", "--name", "bench", "--network", "none", "busybox", "true"}, work: []string{"rm", "bench"}},
	{name: "ps", work: []string{"ps"}},
	{name: "version", work: []string{"version"}},
}

func measure(n, crowd int, only string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root: it starts engines")
	}
	dir, err := os.MkdirTemp("", "bb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rootfs := filepath.Join(dir, "busybox.tar")
	if err := busyboxTar(rootfs); err != nil {
		return err
	}
	berth, err := startBerth(filepath.Join(dir, "b"))
	if err != nil {
		return err
	}
	defer berth.stop()
	peers := []*peer{berth}
	if _, err := exec.LookPath("dockerd"); err == nil {
		docker, err := startDocker(filepath.Join(dir, "d"))
		if err != nil {
			return err
		}
		defer docker.stop()
		peers = append(peers, docker)
	} else {
		fmt.Println("dockerd is not installed (Debian: docker.io): no peer to compare with")
	}
	for _, p := range peers {
		if err := p.run("import", rootfs, "busybox"); err != nil {
			return err
		}
		for i := range crowd {
			if err := p.run("run", "-d", "--name", fmt.Sprintf("crowd%d", i), "--network", "none", "busybox", "sleep", "100000"); err != nil {
				return err
			}
		}
	}
	fmt.Printf("%s, %s, %d cores, %d runs per row, %d containers running meanwhile\n", time.Now().Format("2006-01-02"), kernel(), runtime.NumCPU(), n, crowd)
	fmt.Printf("%-45s", "median ms [min max]")
	for _, p := range peers {
		fmt.Printf(" %24s", p.name)
	}
	fmt.Printf(" %8s\n", "ratio")
	for _, r := range rows {
		if !strings.Contains(r.name, only) {
			continue
		}
		if err := r.measure(peers, n, 0); err != nil {
			return err
		}
		if r.spacedAsWell {
			if err := r.measure(peers, n, time.Second); err != nil {
				return err
			}
		}
	}
	for _, p := range peers {
		for i := range crowd {
			if err := p.run("rm", "-f", fmt.Sprintf("crowd%d", i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// burst is how many runs of one peer follow one another when runs are back to back: each
// then starts in what the run before it has left, and not in what another engine has.
const burst = 5

// settle lets an engine finish what it does after its answer, before the other's turn.
const settle = 300 * time.Millisecond

// measure runs the row n times on every peer, in turn, after one run that does not count.
// A pause makes every start a cold one; without it the runs come in bursts.
func (r row) measure(peers []*peer, n int, pause time.Duration) error {
	times := make([][]time.Duration, len(peers))
	prepare := func(p *peer, args []string) error {
		if args == nil {
			return nil
		}
		return p.run(args...)
	}
	if r.oncePer {
		for _, p := range peers {
			if err := prepare(p, r.before); err != nil {
				return err
			}
		}
	}
	turn, wait := burst, settle
	if pause > 0 {
		turn, wait = 1, pause
	}
	for done := 0; done < n; done += turn {
		for j, p := range peers {
			time.Sleep(wait)
			for i := range turn + 1 {
				if i == 0 && (turn == 1 && done > 0) {
					continue // warmed up already
				}
				took, err := r.once(p, prepare)
				if err != nil {
					return err
				}
				if i > 0 {
					times[j] = append(times[j], took)
				} else {
					time.Sleep(pause)
				}
			}
		}
	}
	if r.oncePer {
		for _, p := range peers {
			if err := prepare(p, r.after); err != nil {
				return err
			}
		}
	}
	name := r.name
	if r.spacedAsWell {
		name += map[bool]string{true: ", 1 s apart", false: ", back to back"}[pause > 0]
	}
	fmt.Printf("%-45s", name)
	for _, t := range times {
		slices.Sort(t)
		fmt.Printf(" %9.1f [%5.1f %6.1f]", ms(median(t)), ms(t[0]), ms(t[len(t)-1]))
	}
	if len(times) > 1 {
		fmt.Printf(" %7.1fx", ms(median(times[1]))/ms(median(times[0])))
	}
	fmt.Println()
	return nil
}

// once prepares, measures and clears up one run.
func (r row) once(p *peer, prepare func(*peer, []string) error) (took time.Duration, err error) {
	if !r.oncePer {
		if err := prepare(p, r.before); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	if err := p.run(r.work...); err != nil {
		return 0, err
	}
	took = time.Since(start)
	if !r.oncePer {
		err = prepare(p, r.after)
	}
	return took, err
}

func median(sorted []time.Duration) time.Duration { return sorted[len(sorted)/2] }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (p *peer) run(args ...string) error {
	cmd := exec.Command(p.client[0], append(slices.Clone(p.client[1:]), args...)...)
	cmd.Env = p.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", p.name, strings.Join(args, " "), err, out)
	}
	return nil
}

func kernel() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + strings.TrimSpace(string(data))
}
