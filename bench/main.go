// Command bench measures Berth beside the peers that are installed, in one run: the same
// work on each in turn, so that a change of the machine's mood hits all alike. What counts
// is the ratio.
//
//	make bench                              everything, into docs/benchmarks.md (33 minutes)
//	make bench BENCH=-quick                 a look at every row (4 minutes)
//	bin/bench -only 'exec|memory'           some rows
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	n      int
	rounds int
	crowd  int
	idle   time.Duration
	rest   time.Duration
	quick  bool
	only   *regexp.Regexp
	out    string
}

func main() {
	if len(os.Args) == 3 { // a peer's server or client
		var err error
		switch os.Args[1] {
		case serveVerb:
			err = serveConnections(os.Args[2])
		case connectVerb:
			err = makeConnections(os.Args[2])
		}
		if os.Args[1] == serveVerb || os.Args[1] == connectVerb {
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	var o options
	only := ""
	flag.IntVar(&o.n, "n", 15, "measured runs per row and peer")
	flag.IntVar(&o.rounds, "rounds", 3, "measured runs of what moves images")
	flag.IntVar(&o.crowd, "crowd", 200, "containers that run on every engine in the rows with a crowd; 0 leaves them out")
	flag.DurationVar(&o.idle, "idle", time.Minute, "time for which the crowd is idle before its memory is read")
	flag.StringVar(&only, "only", "", "`regexp` of the rows to measure, written as SECTION: ROW")
	flag.BoolVar(&o.quick, "quick", false, "few runs, a small image, a crowd of 20: shows that every row works")
	flag.StringVar(&o.out, "o", "", "`file` to write the document to; what was written by hand in it stays")
	flag.Parse()
	if o.quick {
		o.n, o.rounds, o.crowd, o.idle = 3, 1, 20, 5*time.Second
	}
	o.rest = time.Second
	var err error
	if o.only, err = regexp.Compile("(?i)" + only); err != nil {
		fmt.Fprintln(os.Stderr, "bench: -only:", err)
		os.Exit(2)
	}
	if flag.NArg() > 0 || o.n < 1 || o.rounds < 1 || o.crowd < 0 {
		fmt.Fprintln(os.Stderr, "bench: takes no arguments, and counts that are positive")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = measure(ctx, o)
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted: nothing is reported, and what was started is removed")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measure makes a run and reports it. Whatever happens, it leaves nothing behind.
func measure(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root: it starts engines")
	}
	if o.out != "" { // before half an hour of work, not after it
		old, err := os.ReadFile(o.out)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if _, err := handWritten(string(old)); err != nil {
			return fmt.Errorf("%s: %w", o.out, err)
		}
	}
	if err := becomeSubreaper(); err != nil {
		return err
	}
	b := &bench{}
	if b.bin, err = filepath.Abs("bin"); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bb"); err != nil {
		return err
	}
	// Reaping outlives ctx: closing needs it.
	reaping, stopReaping := context.WithCancel(context.Background())
	go reap(reaping)
	defer stopReaping()
	defer func() { err = errors.Join(err, b.close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	r := &report{when: time.Now(), command: strings.Join(append([]string{"bench"}, os.Args[1:]...), " "), machine: machine(b.dir), method: method(o)}
	if err := b.measureAll(ctx, o, r); err != nil {
		return err
	}
	r.notes = append(r.notes, b.notes...)
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	if o.out != "" {
		return r.write(o.out)
	}
	return nil
}

// measureAll fills the report, section by section.
func (b *bench) measureAll(ctx context.Context, o options, r *report) error {
	if err := b.openEngines(ctx); err != nil {
		return err
	}
	tools, err := b.openTools(ctx)
	if err != nil {
		return err
	}
	runtimes, err := b.openRuntimes(ctx)
	if err != nil {
		return err
	}
	for _, p := range append(append(append([]*peer{}, b.engines...), tools...), runtimes...) {
		r.peers = append(r.peers, fact{p.name, p.version(ctx)})
	}
	rootfs := filepath.Join(b.dir, "busybox.tar")
	if err := busyboxTar(rootfs); err != nil {
		return err
	}
	for _, p := range b.engines {
		if _, err := p.do(ctx, "import", rootfs, "busybox"); err != nil {
			return err
		}
	}
	dense := pace{n: o.n, burst: 5}
	spaced := pace{n: o.n, burst: 1, rest: o.rest}

	// Each part is left out if -only wants none of its rows.
	if rows := o.wanted(lonelyRows(b.engines)); len(rows) > 0 {
		r.checkLoad(ctx, rows[0].section)
		r.results = append(r.results, measureBoth(ctx, rows, dense, spaced)...)
	}
	bundle, err := b.bundle(ctx, runtimes[0], rootfs)
	if err != nil {
		return err
	}
	r.results = append(r.results, measureBoth(ctx, o.wanted(runtimeRows(runtimes, bundle)), dense, spaced)...)
	r.results = append(r.results, measureRows(ctx, o.wanted(clientRows(b.engines)), dense)...)
	if o.wants("Images", "pull push save rmi load") && ctx.Err() == nil {
		image, err := debianImage(ctx, o.quick)
		if err != nil {
			return err
		}
		r.checkLoad(ctx, "Images")
		r.notes = append(r.notes, fmt.Sprintf("The image has %d layers, %d MB compressed and %d MB unpacked.", image.layers, image.packed/1_000_000, image.unpacked/1_000_000))
		results, err := b.measureTransfers(ctx, append(append([]*peer{}, b.engines...), tools...), image, o.rounds)
		if err != nil {
			return err
		}
		r.results = append(r.results, results...)
	}
	if err := b.measureNetworks(ctx, o, r, dense, spaced); err != nil {
		return err
	}
	if err := b.measureLoad(ctx, o, r, dense); err != nil {
		return err
	}
	if err := b.measureCrowd(ctx, o, r, dense, spaced); err != nil {
		return err
	}
	r.results = append(r.results, r.last...)
	return ctx.Err()
}

// measureCrowd measures what needs many containers that run.
func (b *bench) measureCrowd(ctx context.Context, o options, r *report, dense, spaced pace) error {
	rows := o.wanted(crowdedRows(b.engines, o.crowd))
	memory := o.wants(sectionMemory, "per container")
	if o.crowd == 0 || len(rows) == 0 && !memory && !o.wants(sectionCrowd(o.crowd), "run -d in a row") {
		return nil
	}
	// Fresh engines: what went before has left its mark on their memory.
	before := b.baseline(ctx, b.engines)
	r.checkLoad(ctx, sectionCrowd(o.crowd))
	starts := gather(ctx, b.engines, o.crowd, sectionCrowd(o.crowd), "-d", []string{"--network", "none", "busybox"})
	r.results = append(r.results, starts)
	if memory && ctx.Err() == nil {
		result, notes := weighAll(ctx, b.engines, before, o.crowd, o.idle, starts)
		r.last = slices.Insert(r.last, 0, result)
		r.notes = append(r.notes, notes...)
	}
	r.results = append(r.results, measureBoth(ctx, rows, dense, spaced)...)
	return ctx.Err()
}

// wants says whether a row is to be measured.
func (o options) wants(section, row string) bool { return o.only.MatchString(section + ": " + row) }

func (o options) wanted(rows []row) (wanted []row) {
	for _, r := range rows {
		if o.wants(r.section, r.name) {
			wanted = append(wanted, r)
		}
	}
	return wanted
}

// checkLoad notes how busy the machine is by others' work before a section.
func (r *report) checkLoad(ctx context.Context, section string) {
	share := otherWork(ctx)
	line := fmt.Sprintf("Before “%s”: load average %s, processors %.0f %% busy with nothing of this run going on.", section, loadAverage(), share*100)
	if share > tooBusy {
		line += " **Other work disturbs this run: its figures are not to be kept.**"
		fmt.Fprintf(os.Stderr, "bench: warning: other work runs on this machine: %.0f %% of the processors are busy before “%s”\n", share*100, section)
	}
	r.load = append(r.load, line)
}

func measureRows(ctx context.Context, rows []row, p pace) (results []result) {
	for _, r := range rows {
		if ctx.Err() == nil {
			results = append(results, r.progress(ctx, p))
		}
	}
	return results
}

// measureBoth measures the rows back to back, and those that start processes of containers
// with rests between the starts as well.
func measureBoth(ctx context.Context, rows []row, dense, spaced pace) (results []result) {
	for _, r := range rows {
		if !r.bothPaces {
			results = append(results, measureRows(ctx, []row{r}, dense)...)
			continue
		}
		name := r.name
		for _, p := range []pace{dense, spaced} {
			r.name = name + p.suffix()
			results = append(results, measureRows(ctx, []row{r}, p)...)
		}
	}
	return results
}

func (p pace) suffix() string {
	if p.backToBack() {
		return ", back to back"
	}
	return fmt.Sprintf(", %g s apart", p.rest.Seconds())
}

// progress measures a row and tells of it.
func (r row) progress(ctx context.Context, p pace) result {
	begin := time.Now()
	result := r.measure(ctx, p)
	fmt.Fprintf(os.Stderr, "%s: %s (%.0f s): %s\n", r.section, r.name, time.Since(begin).Seconds(), result.cellsText())
	return result
}

// method says in the document how the figures came about.
func method(o options) []string {
	return []string{
		"Times are whole commands, from the start of the client's process to its end.",
		fmt.Sprintf("Every row is measured %d times on every peer, in turns. Back to back: five runs on one peer before another's turn, after one that does not count. %g s apart: a rest before every start, and a peer's turn is one run; on cgroup v1 that makes it slow to move a process to a group. On networks half as many are so far apart.", o.n, o.rest.Seconds()),
		"Every peer has state, cgroups and a network namespace of its own; run directories are on a tmpfs, as /run is. Without networks dockerd has no bridge and no iptables rules; podman uses runc and cgroupfs, as dockerd does.",
		"Networks: engines of their own, each with its default bridge network and the firewall rules that it makes by itself, on a host of its own: a namespace with loopback and one uplink, a pair of interfaces to a second host. So all ways have the same number of interfaces for all. Traffic is made by iperf3, 1 s at a time, one stream, a third as many times; what counts is what the receiver got. Connections are made by a client of ours, 4 at a time, 1,000 in all, each until the server's first byte; client, server, proxies and kernel share the machine's processors.",
		fmt.Sprintf("Published ports: containers with %d ports each. The first port and one more are both measured with the same number of containers running, so the ratio tells what ports cost, not what containers do. The removal counts only if the engine's rules have no published port left. Docker has %d containers at most: it starts two processes per port.", portsEach, dockerPorts),
		fmt.Sprintf("Rows with a crowd: %d containers run on every engine at the same time, started in turns of a tenth of them; the rate is the median of the turns.", o.crowd),
		"Memory: the `Anonymous` of smaps_rollup of all processes that stay with containers (berth-shim and its guardian, with those that wait for a container; containerd-shim and docker-proxy; conmon), plus the growth of the daemons since they were started for this, divided by the number of containers. Log drivers are on (json-file; podman: k8s-file). Megabytes of a million bytes.",
		"Images: pull, push, save and load start after sync and drop_caches, with an emptied store or registry, and end when `syncfs` has returned: what one engine syncs by itself the others have to pay for too. (By themselves, counted by strace in a pull of four layers: Berth 4 syncfs, so that every layer is on the disk before it is known, 36 fsync, 11 fdatasync; dockerd 39 fsync and 39 fdatasync and podman 1 and 86, for their records, and the files of layers not at all.) The registry is Debian's docker-registry on the loopback of the engine's namespace. After a pull the image's ID is compared. Removal ends when the store is empty, also for who answers before. What was pulled is pushed to a registry that has nothing; who has kept the compressed layers need not compress again. A loaded image is compressed by all.",
		fmt.Sprintf("Load: engines with a daemon, by API 1.41; clients begin a next container at once, in %d turns of a quarter of the time; a container that writes has json-file's default, which for Berth means rotation, and is timed from the start of run -d to the end of wait; followers are this program's, and every one must have got something.", loadTurns),
		fmt.Sprintf("What moves images is measured up to %d times, within %s; warm-up would defeat the cold caches.", o.rounds, roundsTime),
	}
}
