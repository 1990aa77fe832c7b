package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func sampleReport() *report {
	return &report{
		when: time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC), command: "bench -n 3",
		machine: []fact{{"kernel", "Linux 6.1"}}, peers: []fact{{"docker", "20.10"}},
		load: []string{"load average 0.1"}, method: []string{"as told"}, notes: []string{"crun is not installed"},
		results: []result{
			{section: "Containers", row: "run", unit: "ms", goals: []goal{{against: "docker", factor: 10}, {against: "podman", factor: 4}},
				cells: []cell{{peer: "berth", values: samples{20, 25, 30}}, {peer: "docker", values: samples{250}}, {peer: "podman", values: samples{90}}}},
			{section: "Containers", row: "starts", unit: "starts/s", moreIsBetter: true,
				cells: []cell{{peer: "berth", values: samples{40}}, {peer: "docker", values: samples{4}}, {peer: "podman", why: "failed: no | room"}}},
			{section: "Memory", row: "each", unit: "MB", goals: []goal{{atMost: 2}}, cells: []cell{{peer: "berth", values: samples{2.5}}}},
		},
	}
}

func TestVerdicts(t *testing.T) {
	cells := []cell{{peer: "berth", values: samples{10}}, {peer: "a", values: samples{20}}, {peer: "b", values: samples{15}}, {peer: "c", why: "failed: x"}}
	rate := []cell{{peer: "berth", values: samples{10}}, {peer: "a", values: samples{2}}, {peer: "b", values: samples{8}}}
	for _, c := range []struct {
		name string
		r    result
		g    goal
		want string
	}{
		{"a goal reached exactly is met", result{cells: cells}, goal{against: "a", factor: 2}, met},
		{"a goal not quite reached is missed", result{cells: cells}, goal{against: "a", factor: 2.01}, missed},
		{"the fastest peer is the one with the shortest time", result{cells: cells}, goal{against: fastest, factor: 1.6}, missed},
		{"the fastest peer is the one with the highest rate", result{cells: rate, moreIsBetter: true}, goal{against: fastest, factor: 1.3}, missed},
		{"a peer that failed proves nothing", result{cells: cells}, goal{against: "c", factor: 1}, unproven},
		{"a peer that is absent proves nothing", result{cells: cells}, goal{against: "d", factor: 1}, unproven},
		{"a bound holds for ours alone", result{cells: cells}, goal{atMost: 10}, met},
		{"a bound that is passed is missed", result{cells: cells}, goal{atMost: 9}, missed},
		{"without our figure nothing is met", result{cells: []cell{{peer: "berth", why: "not built: x"}}}, goal{atMost: 9}, unproven},
	} {
		if got := c.r.verdict(c.g); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestDocumentPutsRatiosFirstAndTellsWhatFailed(t *testing.T) {
	text := sampleReport().markdown()
	for _, want := range []string{
		"2026-01-02 03:04 UTC, `bench -n 3`",
		"| kernel | Linux 6.1 |",
		"| work | × docker | × podman | goal | met | berth | docker | podman |",
		"| run, ms | 10 | 3.6 | ≥ 10× docker, ≥ 4× podman | yes, **no** | 25.0 [20.0 30.0] | 250.0 | 90.0 |",
		"| starts, starts/s | 10 | – |  |  | 40.0 | 4.00 | failed |",
		"- podman failed: no | room (starts)",
		"## Memory\n\n| work | goal | met | berth |\n|---|---|---|---|\n| each, MB | ≤ 2 MB | **no** | 2.50 |",
		"- crun is not installed",
		"- as told",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the document lacks %q:\n%s", want, text)
		}
	}
}

func TestDocumentKeepsWhatPeopleWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	r := sampleReport()
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	first, _ := os.ReadFile(path)
	if !strings.HasSuffix(string(first), keepFrom+"\n"+emptyTail) {
		t.Errorf("a new document ends with:\n%s", first[max(0, len(first)-200):])
	}
	const mine = "\n## Where a goal is missed\n\nBecause.\n"
	if err := os.WriteFile(path, []byte("old figures\n"+keepFrom+"\n"+mine), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	again, _ := os.ReadFile(path)
	if want := r.markdown() + "\n" + keepFrom + "\n" + mine; string(again) != want {
		t.Errorf("got:\n%s\nwant:\n%s", again, want)
	}
}

func TestDocumentWithoutTheLineIsNotOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	if err := os.WriteFile(path, []byte("all mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := sampleReport().write(path); err == nil || !strings.Contains(err.Error(), "has no line") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadFile(path); string(left) != "all mine\n" {
		t.Errorf("the file has become %q", left)
	}
}
