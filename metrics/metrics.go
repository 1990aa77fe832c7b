// Package metrics counts and times what the engine does, and writes it in Prometheus's
// text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).
//
// It is the little of Prometheus's own client library that an exporter of a few dozen
// series needs: that library is 4 MB of program and eight modules, among them protobuf.
package metrics

import (
	"bufio"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Emit adds one series to a family: its value and those of the family's labels, in order.
type Emit func(value float64, labels ...string)

// Registry is a set of families of series, written in the order of their names. Its zero
// value is empty and ready.
type Registry struct {
	mu       sync.Mutex // guards families
	families []family
}

type family struct {
	name, help, kind string
	write            func(w *writer)
}

// Gauge and Counter register a family whose series are read when somebody asks. A name
// that is not one of Prometheus's, or is taken, is the programmer's mistake and panics.
func (r *Registry) Gauge(name, help string, labels []string, read func(Emit)) {
	r.add(name, help, "gauge", series(name, labels, read))
}

// Counter is a Gauge that only grows.
func (r *Registry) Counter(name, help string, labels []string, read func(Emit)) {
	r.add(name, help, "counter", series(name, labels, read))
}

func series(name string, labels []string, read func(Emit)) func(*writer) {
	return func(w *writer) {
		read(func(value float64, values ...string) {
			w.series(name, labels, values, "", "", value)
		})
	}
}

// buckets are the upper bounds of histograms in seconds, Prometheus's defaults.
var buckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// Timer is a histogram of durations for each value of a label.
type Timer struct {
	name, label string

	mu   sync.Mutex // guards below
	seen map[string]*histogram
}

type histogram struct {
	counts []uint64 // per bucket, not cumulated; the last one is what is above all bounds
	sum    float64
}

// Timer registers a histogram with one label; values are those that are there from the
// beginning. With an empty label it has one series.
func (r *Registry) Timer(name, help, label string, values ...string) *Timer {
	t := &Timer{name: name, label: label, seen: map[string]*histogram{}}
	for _, v := range values {
		t.of(v)
	}
	r.add(name, help, "histogram", t.write)
	return t
}

// of finds or makes the histogram of a label's value. The caller holds mu, or is the only
// one who knows of t.
func (t *Timer) of(value string) *histogram {
	h := t.seen[value]
	if h == nil {
		h = &histogram{counts: make([]uint64, len(buckets)+1)}
		t.seen[value] = h
	}
	return h
}

// Since counts what took from start until now. A nil Timer counts nothing.
func (t *Timer) Since(start time.Time, value string) {
	if t == nil {
		return
	}
	seconds := time.Since(start).Seconds()
	at, _ := slices.BinarySearch(buckets, seconds) // a bound belongs to its bucket
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.of(value)
	h.counts[at]++
	h.sum += seconds
}

func (t *Timer) write(w *writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var values []string
	for v := range t.seen {
		values = append(values, v)
	}
	slices.Sort(values)
	for _, v := range values {
		var labels, of []string
		if t.label != "" {
			labels, of = []string{t.label}, []string{v}
		}
		h, total := t.seen[v], uint64(0)
		for k, n := range h.counts {
			total += n
			bound := "+Inf"
			if k < len(buckets) {
				bound = number(buckets[k])
			}
			w.series(t.name+"_bucket", labels, of, "le", bound, float64(total))
		}
		w.series(t.name+"_sum", labels, of, "", "", h.sum)
		w.series(t.name+"_count", labels, of, "", "", float64(total))
	}
}

func (r *Registry) add(name, help, kind string, write func(*writer)) {
	if !goodName(name) {
		panic("metrics: bad name " + name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at, taken := slices.BinarySearchFunc(r.families, name, func(f family, name string) int { return strings.Compare(f.name, name) })
	if taken {
		panic("metrics: two families " + name)
	}
	r.families = slices.Insert(r.families, at, family{name, help, kind, write})
}

// goodName is [a-zA-Z_:][a-zA-Z0-9_:]*.
func goodName(name string) bool {
	for k, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == ':'
		if !letter && (k == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// WriteText writes all families.
func (r *Registry) WriteText(out io.Writer) error {
	r.mu.Lock()
	families := slices.Clone(r.families)
	r.mu.Unlock()
	w := &writer{Writer: bufio.NewWriter(out)}
	for _, f := range families {
		help := strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(f.help)
		w.words("# HELP ", f.name, " ", help, "\n# TYPE ", f.name, " ", f.kind, "\n")
		f.write(w)
	}
	return w.Flush()
}

// ServeHTTP answers a scrape.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET is served here", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = r.WriteText(w) // whoever left misses it
}

// writer keeps the first error until it is flushed, as bufio.Writer does.
type writer struct{ *bufio.Writer }

func (w *writer) words(all ...string) {
	for _, s := range all {
		_, _ = w.WriteString(s)
	}
}

// series writes one line. last is a label more, and its value.
func (w *writer) series(name string, labels, values []string, last, lastValue string, value float64) {
	w.words(name)
	between := "{"
	for k, l := range labels {
		w.words(between, l, `="`, escapeValue(values[k]), `"`)
		between = ","
	}
	if last != "" {
		w.words(between, last, `="`, lastValue, `"`)
		between = ","
	}
	if between == "," {
		w.words("}")
	}
	w.words(" ", number(value), "\n")
}

func escapeValue(v string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(v, "\uFFFD"))
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
