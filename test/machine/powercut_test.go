package machine

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/testkit"
	"berth/testkit/vm"
)

// TestNothingAcknowledgedIsLostWhenThePowerFails cuts a machine's power again and again while
// clients work with its engine, and compares what the engine knows after each boot with what it
// had answered: the answers reach this process over TCP, so they survive the machine.
//
// Every second cut comes at a random moment of a storm. The others come right after the answer
// to a single request, when all before it has long been written: no flush that others needed
// hides one that is missing.
//
// BERTH_POWERCUTS is the number of cuts, BERTH_POWERCUT_SEED repeats a run's choices (not its
// timing), BERTH_POWERCUT_FS has the data root on a file system of that type (xfs, btrfs, ext4)
// on a disk of its own.
func TestNothingAcknowledgedIsLostWhenThePowerFails(t *testing.T) {
	testkit.Integration(t)
	if os.Getenv("BERTH_VM") == "" {
		t.Skip("boots a virtual machine: set BERTH_VM=1 (make test-vm does)")
	}
	number := setting(t, "BERTH_POWERCUTS", 4)
	seed := setting(t, "BERTH_POWERCUT_SEED", int(time.Now().UnixNano()%1_000_000))
	t.Logf("BERTH_POWERCUTS=%d BERTH_POWERCUT_SEED=%d", number, seed)
	w := newWorld(t, uint64(seed))
	for n := range number {
		begin := time.Now()
		if n%2 == 0 {
			w.storm()
		} else {
			w.single(n / 2)
		}
		w.compare(fmt.Sprintf("cut %d (%s)", n+1, w.what))
		t.Logf("cut %d: %s: compared after %s", n+1, w.what, time.Since(begin).Round(time.Second))
		if t.Failed() {
			t.Fatalf("cut %d of %d; the engine's log:\n%s", n+1, number, w.report().log)
		}
	}
	t.Logf("%d cuts; acknowledged: %v; unanswered at a cut: %d", number, w.acknowledged, w.unanswered)
	w.clearUp()
}

func setting(t *testing.T, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

const (
	apiPort    = 2375
	reportPort = 2376
	// fromGuest is where the guest reaches this machine's loopback.
	fromGuest = "10.0.2.2"
)

// world is the machine and what it must know.
type world struct {
	t       *testing.T
	m       *vm.Machine
	rnd     *rand.Rand
	images  []*madeImage
	workers []*worker
	what    string // was going on when the power was cut
	fs      string // type of the data root's own file system, if it has one

	client *http.Client // of this boot
	alive  context.Context
	off    context.CancelFunc

	mu           sync.Mutex // guards what follows
	content      map[string]string
	acknowledged map[string]int
	unanswered   int
}

func newWorld(t *testing.T, seed uint64) *world {
	r := testkit.Registry(t, testkit.RegistryOptions{})
	_, port, err := net.SplitHostPort(r.Addr)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), content: map[string]string{}, acknowledged: map[string]int{}}
	w.makeImages(r, 4, net.JoinHostPort(fromGuest, port))
	c := vm.Config{Forward: []int{apiPort, reportPort}}
	fs := os.Getenv("BERTH_POWERCUT_FS")
	w.fs = fs
	if fs != "" {
		c.Disks = []int{8}
	}
	w.m = vm.Boot(t, c)
	if err := w.m.InstallPrograms(context.Background()); err != nil {
		t.Fatal(err)
	}
	if fs != "" {
		w.m.Run(t, "mkfs."+fs+" /dev/vdb >/dev/null 2>&1 && mkdir -p /var/lib/berth")
	}
	w.m.Run(t, fmt.Sprintf(`set -e
ln -sf %[1]s/* /usr/local/bin/
cat > /sbin/powercut-init <<'END'
`+leanInit+`
END
mkdir -p /srv/cgi-bin
cat > /srv/cgi-bin/report <<'END'
`+reporter+`
END
chmod 755 /sbin/powercut-init /srv/cgi-bin/report
ln -sf powercut-init /sbin/init
sync`, vm.GuestBin, apiPort, net.JoinHostPort(fromGuest, port), fs, reportPort))
	w.alive, w.off = context.WithCancel(context.Background())
	w.client = &http.Client{}
	for n := range 4 {
		w.workers = append(w.workers, newWorker(w, n, seed))
	}
	w.cut()
	return w
}

// leanInit is all that runs in the machine from the first cut on, besides an engine that starts
// by itself: a distribution's boot takes ten times as long, and has its own tests.
const leanInit = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
$b mount -t tmpfs -o mode=755 run /run
$b mkdir -p /dev/pts /dev/shm /run/lock
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs shm /dev/shm
modprobe -a virtio_net virtio_rng overlay
$b ip link set lo up
$b ip address add 10.0.2.15/24 dev eth0
$b ip link set eth0 up
$b ip route add default via 10.0.2.2
[ -z "%[4]s" ] || mount -t "%[4]s" /dev/vdb /var/lib/berth
%[1]s/berthd -H unix:///run/berth/berth.sock -H tcp://0.0.0.0:%[2]d --tls=false --insecure-registry %[3]s >/run/berthd.log 2>&1 &
$b httpd -p %[5]d -h /srv
while :; do wait; sleep 1; done`

// connect waits until the engine of this boot answers.
func (w *world) connect() {
	w.t.Helper()
	w.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	w.alive, w.off = context.WithCancel(context.Background())
	end := time.Now().Add(3 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(w.alive, 10*time.Second)
		_, _, err := w.call(ctx, "GET", "/_ping", nil)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("the engine does not answer: %v\n%s\n%s", err, w.report().log, vm.Tail(w.m.Console(), 20))
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// cut takes the power away and waits for the engine of the next boot.
func (w *world) cut() {
	w.t.Helper()
	w.takePower()
	w.connect()
}

func (w *world) takePower() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	err := w.m.Cut(ctx)
	w.off() // what has not been answered by now will never be
	w.client.CloseIdleConnections()
	if err != nil {
		w.t.Fatal(err)
	}
}

// storm has all workers work until the power is cut.
func (w *world) storm() {
	w.t.Helper()
	length := time.Duration(4+w.rnd.IntN(20))*time.Second + time.Duration(w.rnd.IntN(1000))*time.Millisecond
	w.what = "a storm of " + length.String()
	var g sync.WaitGroup
	for _, k := range w.workers {
		g.Go(func() {
			for w.alive.Err() == nil && !w.t.Failed() {
				k.anything()
			}
		})
	}
	time.Sleep(length) // the random moment
	w.takePower()
	g.Wait()
	w.connect()
}

// single cuts the power after one answer. The machine is at rest before: a journalling file
// system has committed by itself what happened more than its five seconds ago.
func (w *world) single(n int) {
	w.t.Helper()
	k := w.workers[n%len(w.workers)]
	one := singles[n%len(singles)]
	w.what = "after " + one.name
	last := one.prepare(k)
	if w.t.Failed() {
		w.t.Fatal("the preparations failed")
	}
	time.Sleep(8 * time.Second)
	w.report() // which ends with a sync
	last()
	if w.t.Failed() || k.doubt != nil {
		w.t.Fatal(w.what + ": it was not acknowledged")
	}
	w.cut()
}

// compare finds what is not as it was acknowledged.
func (w *world) compare(when string) {
	w.t.Helper()
	now := w.look()
	for _, k := range w.workers {
		if k.doubt != nil {
			k.doubt(now)
			k.doubt = nil
			w.unanswered++
		}
		k.compare(when, now)
	}
	for _, what := range now.strangers() {
		w.t.Errorf("%s: there is %s, which nobody has made, or which was removed", when, what)
	}
	w.compareRunning(when)
	w.compareContent(when)
	w.compareDisk(when)
}

// compareRunning waits for the containers that the boot has to start.
func (w *world) compareRunning(when string) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
		now, waits := w.look(), ""
		for _, k := range w.workers {
			for _, b := range k.boxes {
				got := now.boxes[b.name]
				if got.running != b.runsAfterBoot() {
					waits = fmt.Sprintf("container %s (policy %q, started %v, stopped %v) is %s", b.name, b.policy, b.started, b.stopped, got.state)
				}
			}
		}
		if waits == "" {
			break
		}
		if time.Now().After(end) {
			w.t.Errorf("%s: %s", when, waits)
			break
		}
	}
	for _, k := range w.workers {
		for _, b := range k.boxes {
			b.running = b.runsAfterBoot()
		}
	}
}

var checkFiles = []string{"sh", "-c", `cd / && sha256sum -c -s sums && echo whole; cat written 2>/dev/null; true`}

// compareContent runs an image and starts a container of each worker, and reads the files of all
// of their layers.
func (w *world) compareContent(when string) {
	w.t.Helper()
	var g sync.WaitGroup
	for _, k := range w.workers {
		g.Go(func() {
			if len(k.tags) > 0 {
				ref := pick(k, keys(k.tags))
				if got, err := k.runImage(ref); err != nil || got != w.wanted(k.tags[ref]) {
					w.t.Errorf("%s: image %s holds %q, not %q (%v)", when, ref, got, w.wanted(k.tags[ref]), err)
				}
			}
			if len(k.boxes) > 0 {
				b := pick(k, k.boxes)
				if got, err := k.readBox(b); err != nil || got != w.wanted(b.image) && !b.mayHold(got, w.wanted(b.image)) {
					w.t.Errorf("%s: container %s holds %q, not %q (%v)", when, b.name, got, w.wanted(b.image), err)
				}
			}
		})
	}
	g.Wait()
}

// reporter tells this process, over HTTP, what only the guest can see: what no start of the engine
// may leave (what was being made or deleted when the power failed), the containers' directories,
// what du says, and the engine's log.
const reporter = `#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
cd /var/lib/berth || exit
ls -d layers/staging/* layers/trash/* content/ingest/new-* volumes/.gone-* trash/* 2>/dev/null | sed 's/^/left /'
find . -maxdepth 3 -name '.tmp-*' | sed 's/^/left /'
awk '$5 ~ "^/var/lib/berth/" {print "left mount " $5}' /proc/self/mountinfo
for c in containers/*; do [ -d $c ] && echo "container ${c#*/}"; done
find containers volumes layers/sha256 content/ingest content/blobs/sha256 -mindepth 1 -maxdepth 1 | sed 's/^/object /'
awk '$2 == "/var/lib/berth" {print "fs " $3}' /proc/mounts
echo "du $(du -s --block-size=1 /var/lib/berth)"
tail -40 /run/berthd.log | sed 's/^/log /'
sync`

// report is what reporter says.
type report struct {
	left, containers, objects []string
	du                        int64
	fs, log                   string
}

func (w *world) report() (r report) {
	client := http.Client{Timeout: 2 * time.Minute}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/cgi-bin/report", w.m.Ports[reportPort]))
	if err != nil {
		w.t.Errorf("no report from the guest: %v", err)
		return r
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		switch kind {
		case "left":
			r.left = append(r.left, rest)
		case "container":
			r.containers = append(r.containers, rest)
		case "object":
			r.objects = append(r.objects, rest)
		case "du":
			_, _ = fmt.Sscan(rest, &r.du)
		case "fs":
			r.fs = rest
		case "log":
			r.log += rest + "\n"
		}
	}
	return r
}

// compareDisk looks for debris, and has the engine's own account of its disk compared with du's.
func (w *world) compareDisk(when string) {
	w.t.Helper()
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(time.Second) {
		r := w.report()
		var told struct{ Content, Cache, Logs, Overhead, Total int64 }
		w.ask("/berth/df", &told)
		wrong := r.left
		for _, id := range r.containers {
			if !slices.ContainsFunc(w.workers, func(k *worker) bool {
				return slices.ContainsFunc(k.boxes, func(b *box) bool { return b.id == id })
			}) {
				wrong = append(wrong, "the directory of container "+id)
			}
		}
		if off := told.Total - r.du; off < -r.du/100 || off > r.du/100 || r.du == 0 {
			wrong = append(wrong, fmt.Sprintf("system df tells of %d bytes, du of %d", told.Total, r.du))
		}
		if r.fs != w.fs {
			wrong = append(wrong, fmt.Sprintf("the data root is on %q, not on %q", r.fs, w.fs))
		}
		if told.Overhead < 0 || told.Cache < 0 || told.Content < 0 {
			wrong = append(wrong, fmt.Sprintf("system df: %+v", told))
		}
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(end) { // deletions go on in the background
			w.t.Errorf("%s: %s", when, strings.Join(wrong, "\n"))
			return
		}
	}
}

// clearUp removes everything, and expects nothing to be left.
func (w *world) clearUp() {
	w.t.Helper()
	for _, k := range w.workers {
		for _, b := range slices.Clone(k.boxes) {
			k.remove(b)
		}
		for _, v := range keys(k.volumes) {
			k.dropVolume(v)
		}
		for _, n := range keys(k.networks) {
			k.dropNetwork(n)
		}
	}
	k := w.workers[0]
	k.do("image prune", "POST", `/images/prune?filters={"dangling":["false"]}`, nil, func([]byte) {}, nil)
	now := w.look()
	if n := len(now.boxes) + len(now.tags) + len(now.volumes) + len(now.networks); n > 0 {
		w.t.Errorf("%d objects are left: %+v", n, now)
	}
	w.compareDisk("at the end")
	if rest := w.report().objects; len(rest) > 0 {
		w.t.Errorf("left at the end:\n%s", strings.Join(rest, "\n"))
	}
}
