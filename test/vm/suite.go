package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"berth/testkit"
	"berth/testkit/vm"
)

// suite is what to test, and how.
type suite struct {
	in, run, skip, json string
	timeout             time.Duration
	verbose             bool
	host                bool // test this machine itself
}

// test runs the packages' tests in the guest and reports them as go test does. Its status is
// 1 if a test fails, or if none ran.
func (s suite) test(ctx context.Context, c vm.Config, patterns []string) (int, error) {
	packages, err := list(ctx, patterns, s.run)
	if err != nil {
		return 1, err
	}
	var m *vm.Machine // nil: this machine
	if !s.host {
		var end func()
		if m, end, err = s.machine(ctx, c); err != nil {
			return 1, err
		}
		defer end()
		if err := m.InstallPrograms(ctx); err != nil {
			return 1, err
		}
		if err := m.InstallTools(ctx); err != nil {
			return 1, err
		}
	}
	r := &report{out: os.Stdout, verbose: s.verbose}
	if s.json != "" {
		f, err := os.OpenFile(s.json, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return 1, err
		}
		defer f.Close()
		r.record = f
		facts, err := shellOn(ctx, m, factsScript).Output()
		if err != nil {
			return 1, fmt.Errorf("the machine does not tell what it is: %w", err)
		}
		line, err := json.Marshal(origin{event{Action: machineAction, Time: time.Now(), Output: strings.TrimSpace(string(facts))}, commit(ctx), strings.TrimSpace(settings())})
		if err != nil {
			return 1, err
		}
		fmt.Fprintf(f, "%s\n", line)
	}
	for _, p := range packages {
		if err := s.one(ctx, m, p, r); err != nil {
			return 1, err
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	switch {
	case r.failed > 0 || r.broken:
		return 1, nil
	case r.passed == 0:
		return 1, fmt.Errorf("no test ran")
	}
	return 0, nil
}

// commit names the tree's commit, if git knows it.
func commit(ctx context.Context) string {
	git := func(args ...string) string {
		out, _ := exec.CommandContext(ctx, "git", append([]string{"-C", testkit.Root()}, args...)...).Output()
		return strings.TrimSpace(string(out))
	}
	hash := git("rev-parse", "--short", "HEAD")
	if hash != "" && git("status", "--porcelain", "--untracked-files=no") != "" {
		hash += "+"
	}
	return hash
}

func (s suite) machine(ctx context.Context, c vm.Config) (m *vm.Machine, end func(), err error) {
	if s.in != "" {
		m, err = vm.Open(s.in)
		return m, func() {}, err
	}
	dir, err := os.MkdirTemp("", "berth-vm-")
	if err != nil {
		return nil, nil, err
	}
	if m, err = vm.Start(ctx, dir, c); err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return m, func() { m.Kill(); os.RemoveAll(dir) }, nil
}

// selection is the tests of a package, by its directory in the tree, that match run.
type selection struct{ dir, run string }

// list expands PATTERN and PATTERN=REGEXP to packages that have tests.
func list(ctx context.Context, patterns []string, run string) ([]selection, error) {
	var all []selection
	for _, p := range patterns {
		p, only, given := strings.Cut(p, "=")
		if !given {
			only = run
		}
		cmd := exec.CommandContext(ctx, "go", "list", "-f", `{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}`, p)
		cmd.Dir, cmd.Stderr = testkit.Root(), os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		for _, dir := range strings.Fields(string(out)) {
			all = append(all, selection{dir, only})
		}
	}
	return all, nil
}

// shellOn is a shell's command line in the guest, or here.
func shellOn(ctx context.Context, m *vm.Machine, line string) *exec.Cmd {
	if m == nil {
		cmd := exec.CommandContext(ctx, "sh", "-c", line)
		cmd.WaitDelay = 10 * time.Second
		return cmd
	}
	return m.Command(ctx, line)
}

// testProgram builds a package's tests and returns the command line that runs them.
func testProgram(ctx context.Context, m *vm.Machine, dir string) (line string, err error) {
	name := strings.ReplaceAll(strings.Trim(strings.TrimPrefix(dir, testkit.Root()), "/"), "/", "_") + ".test"
	if m == nil {
		file := filepath.Join(testkit.Root(), "bin", "tests", name)
		return fmt.Sprintf("cd %s && %s", quote(dir), quote(file)), vm.Go(ctx, "test", "-c", "-o", file, dir)
	}
	err = vm.Go(ctx, "test", "-c", "-o", filepath.Join(m.Share(), "tests", name), dir)
	// A copy, as the tests run themselves again and again.
	return fmt.Sprintf("mkdir -p %[2]s/tests && cp /share/tests/%[3]s %[2]s/tests/ && cd %[1]s && %[4]sBERTH_TEST_BIN=%[2]s %[2]s/tests/%[3]s", quote(dir), vm.GuestBin, name, settings()), err
}

// settings are the variables that tell tests how to run (BERTH_TEST_…), as words of a shell.
func settings() string {
	var words strings.Builder
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "BERTH_TEST_") && name != "BERTH_TEST_BIN" {
			fmt.Fprintf(&words, "%s=%s ", name, quote(value))
		}
	}
	return words.String()
}

// one builds a package's tests here and runs them there.
func (s suite) one(ctx context.Context, m *vm.Machine, p selection, r *report) error {
	name := strings.TrimSuffix("berth/"+strings.Trim(strings.TrimPrefix(p.dir, testkit.Root()), "/"), "/")
	line, err := testProgram(ctx, m, p.dir)
	if err != nil {
		return err
	}
	// -test.run is always given: such a run is never the whole that pages are made from.
	line += fmt.Sprintf(" -test.v=test2json -test.timeout=%s -test.run %s", s.timeout, quote(p.run))
	if s.skip != "" {
		line += " -test.skip " + quote(s.skip)
	}
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, s.timeout+3*time.Minute)
	defer cancel()
	guest := shellOn(ctx, m, line+" 2>&1")
	convert := exec.Command("go", "tool", "test2json", "-t", "-p", name)
	if convert.Stdin, err = guest.StdoutPipe(); err != nil {
		return err
	}
	events, err := convert.StdoutPipe()
	if err != nil {
		return err
	}
	if err := convert.Start(); err != nil {
		return err
	}
	if err := guest.Start(); err != nil {
		return err
	}
	start := time.Now()
	readErr := r.read(events)
	guestErr := guest.Wait()
	if err := convert.Wait(); err != nil || readErr != nil {
		return fmt.Errorf("results of %s: %w", name, firstOf(readErr, err))
	}
	r.end(name, guestErr, time.Since(start))
	switch {
	case ctx.Err() == nil:
	case whole.Err() != nil:
		return errors.New("interrupted")
	case m == nil:
		return fmt.Errorf("%s: the tests did not end within %s", name, s.timeout)
	default:
		return fmt.Errorf("%s: the guest did not end its tests within %s; the end of its console:\n%s", name, s.timeout, vm.Tail(m.Console(), 30))
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// event is a line of go test -json (go doc test2json).
type event struct {
	Time    time.Time
	Action  string
	Package string
	Test    string  `json:",omitempty"`
	Elapsed float64 `json:",omitempty"`
	Output  string  `json:",omitempty"`
}

// report tells of tests as they end: failures with their output, skips with their reason.
type report struct {
	out, record             io.Writer
	verbose, broken         bool
	passed, failed, skipped int
	output                  map[string][]string
}

func (r *report) read(events io.Reader) error {
	r.output = map[string][]string{}
	in := bufio.NewScanner(events)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		if r.record != nil {
			fmt.Fprintf(r.record, "%s\n", in.Bytes())
		}
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return err
		}
		switch e.Action {
		case "output":
			r.output[e.Test] = append(r.output[e.Test], e.Output)
			continue
		case "pass", "fail", "skip":
		default:
			continue
		}
		text := r.output[e.Test]
		if e.Test == "" {
			continue // the package: see end
		}
		delete(r.output, e.Test)
		switch e.Action {
		case "pass":
			r.passed++
			if r.verbose {
				fmt.Fprintf(r.out, "--- PASS: %s (%.2fs)\n", e.Test, e.Elapsed)
			}
		case "fail":
			r.failed++
			fmt.Fprint(r.out, strings.Join(text, ""))
		case "skip":
			r.skipped++
			fmt.Fprintf(r.out, "--- SKIP: %s: %s\n", e.Test, reason(text))
		}
	}
	return in.Err()
}

// reason is what a test said when it was skipped.
func reason(output []string) string {
	for _, line := range output {
		line = strings.TrimSpace(line)
		if _, said, ok := strings.Cut(line, ".go:"); ok && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			_, said, _ = strings.Cut(said, ": ")
			return said
		}
	}
	return "no reason given"
}

// end tells of a package. A program that dies takes the output of its tests along.
func (r *report) end(name string, err error, took time.Duration) {
	if err == nil {
		fmt.Fprintf(r.out, "ok  \t%s\t%.1fs\n", name, took.Seconds())
		return
	}
	r.broken = true
	for _, text := range r.output {
		fmt.Fprint(r.out, strings.Join(text, ""))
	}
	fmt.Fprintf(r.out, "FAIL\t%s\t%.1fs: %v\n", name, took.Seconds(), err)
}
