package supervisor

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHealthFollowsItsProbes(t *testing.T) {
	start := time.Now()
	for _, c := range []struct {
		name    string
		cfg     Health
		results string // one probe a second: + succeeds, - fails
		status  string
		streak  int
	}{
		{"nothing yet", Health{Retries: 3}, "", HealthStarting, 0},
		{"first success", Health{Retries: 3}, "+", Healthy, 0},
		{"failures below the retries", Health{Retries: 3}, "--", HealthStarting, 2},
		{"as many as the retries", Health{Retries: 3}, "---", Unhealthy, 3},
		{"the streak grows on", Health{Retries: 3}, "-----", Unhealthy, 5},
		{"one success heals", Health{Retries: 1}, "---+", Healthy, 0},
		{"a healthy one stays so until the retries", Health{Retries: 3}, "+--", Healthy, 2},
		{"failures in the start period", Health{Retries: 2, StartPeriod: 4 * time.Second}, "---", HealthStarting, 0},
		{"failures after the start period", Health{Retries: 2, StartPeriod: 4 * time.Second}, "-----", Unhealthy, 2},
		{"a success ends the start period", Health{Retries: 2, StartPeriod: time.Minute}, "-+--", Unhealthy, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := HealthState{Status: HealthStarting}
			for n, r := range c.results {
				p := Probe{Start: start.Add(time.Duration(n+1) * time.Second)}
				if r == '-' {
					p.ExitCode = 1
				}
				h.took(p, &c.cfg, start)
			}
			if h.Status != c.status || h.Streak != c.streak || len(h.Log) != min(len(c.results), 5) {
				t.Errorf("%+v, want %s and %d", h, c.status, c.streak)
			}
			if n := len(c.results); n > 0 && !h.Log[len(h.Log)-1].Start.Equal(start.Add(time.Duration(n)*time.Second)) {
				t.Errorf("the last result is not the latest: %+v", h.Log)
			}
		})
	}
}

func TestPauseBetweenProbes(t *testing.T) {
	cfg := Health{Interval: 30, StartInterval: 5, StartPeriod: time.Hour}
	for _, c := range []struct {
		status string
		age    time.Duration
		want   time.Duration
	}{
		{HealthStarting, 0, 5},
		{Healthy, 0, 30},
		{Unhealthy, 0, 30},
		{HealthStarting, 2 * time.Hour, 30},
	} {
		h := HealthState{Status: c.status}
		if got := h.pause(&cfg, time.Now().Add(-c.age)); got != c.want {
			t.Errorf("%s after %s: %d, want %d", c.status, c.age, got, c.want)
		}
	}
}

// said is what is kept of an output.
func said(t testing.TB, out []byte) string {
	t.Helper()
	r, w, err := pipe(true)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() { // ends when all is read
		_, _ = w.Write(out)
		w.Close()
	}()
	return readProbe(&output{f: r})
}

func TestOutputOfAProbeIsCut(t *testing.T) {
	for _, c := range []struct{ out, want string }{
		{"", ""},
		{"fine\n", "fine\n"},
		{strings.Repeat("x", 4096), strings.Repeat("x", 4096)},
		{strings.Repeat("x", 4097), strings.Repeat("x", 4096) + "..."},
		{strings.Repeat("y\n", 1<<18), strings.Repeat("y\n", 2048) + "..."},
	} {
		if got := said(t, []byte(c.out)); got != c.want {
			t.Errorf("%d bytes: %d are kept", len(c.out), len(got))
		}
	}
}

func TestOutputThatChildrenHoldOpenIsNotWaitedFor(t *testing.T) {
	r, w, err := pipe(true)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.WriteString("so far"); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got := readProbe(&output{f: r}); got != "so far" {
		t.Errorf("%q", got)
	}
}

func TestWhatComesAfterTheEndIsNotReadForEver(t *testing.T) {
	for _, size := range []int{4096, 64 << 10, 1 << 20} {
		r, w, err := pipe(true)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, size); err != nil {
			t.Skip(err) // more than this user may
		}
		before := bytes.Repeat([]byte("x"), size)
		if _, err := w.Write(before); err != nil {
			t.Fatal(err)
		}
		if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		// Somebody fills up what has been read, each time.
		var got []byte
		o, buf := &output{f: r}, make([]byte, 4096)
		for err == nil && len(got) <= 2*size {
			var n int
			n, err = o.Read(buf)
			got = append(got, buf[:n]...)
			if _, err := w.Write(bytes.Repeat([]byte("y"), n)); err != nil {
				t.Fatal(err)
			}
		}
		if err != io.EOF || !bytes.Equal(got, before) {
			t.Errorf("a pipe of %d bytes: %d were read, %v", size, len(got), err)
		}
	}
}

func FuzzReadProbe(f *testing.F) {
	f.Add([]byte("fine\n"))
	f.Add(bytes.Repeat([]byte{0xff}, 5000))
	f.Fuzz(func(t *testing.T, out []byte) {
		got := said(t, out)
		if len(out) <= probeOutput && got != string(out) || len(got) > probeOutput+3 || !strings.HasPrefix(string(out), strings.TrimSuffix(got, "...")) && len(out) > probeOutput {
			t.Errorf("%d bytes become %d", len(out), len(got))
		}
	})
}
