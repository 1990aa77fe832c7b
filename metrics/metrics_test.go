package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func text(t *testing.T, r *Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if got := w.Header().Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	return w.Body.String()
}

func TestFamiliesAreWrittenInOrder(t *testing.T) {
	var r Registry
	r.Counter("b_total", "Things \\ and\nlines.", nil, func(emit Emit) { emit(1e21) })
	r.Gauge("a", "States.", []string{"state", "of"}, func(emit Emit) {
		emit(1.5, `a "quoted\`, "two\nlines")
		emit(-2, "bad \xff", "")
	})
	want := `# HELP a States.
# TYPE a gauge
a{state="a \"quoted\\",of="two\nlines"} 1.5
a{state="bad �",of=""} -2
# HELP b_total Things \\ and\nlines.
# TYPE b_total counter
b_total 1e+21
`
	if got := text(t, &r); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestATimerCumulatesItsBuckets(t *testing.T) {
	var r Registry
	timer := r.Timer("actions_seconds", "Times.", "action", "never")
	timer.Since(time.Now().Add(-30*time.Millisecond), "start")
	timer.Since(time.Now().Add(-time.Hour), "start")
	got := text(t, &r)
	for _, want := range []string{
		"# TYPE actions_seconds histogram\n",
		`actions_seconds_bucket{action="never",le="+Inf"} 0` + "\n",
		`actions_seconds_bucket{action="start",le="0.025"} 0` + "\n",
		`actions_seconds_bucket{action="start",le="0.05"} 1` + "\n",
		`actions_seconds_bucket{action="start",le="10"} 1` + "\n",
		`actions_seconds_bucket{action="start",le="+Inf"} 2` + "\n",
		`actions_seconds_count{action="start"} 2` + "\n",
		`actions_seconds_sum{action="start"} 3600.03`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	(*Timer)(nil).Since(time.Now(), "nothing")
}

func TestTheProcessIsDescribed(t *testing.T) {
	var r Registry
	r.AddProcess()
	got := text(t, &r)
	for _, want := range []string{"go_goroutines ", "go_info{version=\"go", "process_resident_memory_bytes ", "process_open_fds ", "process_cpu_seconds_total ", "go_memstats_heap_alloc_bytes "} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("lacks %q", want)
		}
	}
	if strings.Contains(got, "\nprocess_resident_memory_bytes 0\n") {
		t.Error("a process without memory")
	}
}

func TestMistakesOfTheProgrammerPanic(t *testing.T) {
	for _, name := range []string{"", "1a", "a-b", "twice"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q was taken", name)
				}
			}()
			var r Registry
			r.Gauge("twice", "", nil, nil)
			r.Gauge(name, "", nil, nil)
		}()
	}
}
