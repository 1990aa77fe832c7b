package images

import (
	"io"
	"sync"
	"time"

	"berth/oci"
)

// Progress is told what a pull, push or load does. ID is a short layer ID or empty;
// Current and Total are bytes, zero when they do not apply. It is called from several
// goroutines, one call at a time.
type Progress func(p Step)

// Step is one progress message, in Docker's own words ("Pulling fs layer",
// "Downloading", "Verifying Checksum", "Download complete", "Extracting",
// "Pull complete", "Already exists", "Pushing", "Pushed", …).
type Step struct {
	ID, Status     string
	Current, Total int64
	// Aux carries a result for API clients: a Pushed at the end of a push.
	Aux any
}

// serial makes p callable from several goroutines, and from none after the end.
func serial(p Progress) Progress {
	if p == nil {
		return func(Step) {}
	}
	var mu sync.Mutex
	return func(s Step) {
		mu.Lock()
		defer mu.Unlock()
		p(s)
	}
}

// short is a digest as progress and errors show it.
func short(d oci.Digest) string {
	hex := d.Encoded()
	return hex[:min(12, len(hex))]
}

// reportEvery bounds how often bytes are reported.
const reportEvery = 100 * time.Millisecond

// meter reports how far a transfer is.
type meter struct {
	report     Progress
	id, status string
	total, at  int64
	last       time.Time
}

func (m *meter) add(n int64) { m.set(m.at + n) }

func (m *meter) set(at int64) {
	m.at = at
	now := time.Now()
	if now.Sub(m.last) < reportEvery && (m.at != m.total || m.total == 0) {
		return
	}
	m.last = now
	m.report(Step{ID: m.id, Status: m.status, Current: m.at, Total: m.total})
}

// metered is r, reported on by m.
type metered struct {
	r io.Reader
	m *meter
}

func (r metered) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.m.add(int64(n))
	}
	return n, err
}
