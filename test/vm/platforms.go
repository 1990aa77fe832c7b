package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// factsScript tells of the machine that it runs on what matters to containers.
const factsScript = `. /etc/os-release
case $(stat -fc %T /sys/fs/cgroup) in cgroup2fs) groups="cgroup v2" ;; *) groups="cgroup v1" ;; esac
init="no systemd"; [ -d /run/systemd/system ] && init="systemd $(systemctl --version | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')"
armor="no AppArmor"; [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] && armor="AppArmor enforcing"
echo "$PRETTY_NAME, Linux $(uname -r | sed 's/[^0-9.].*//'), $groups, $init, $armor"`

// machineAction marks the line of a record that tells where the results come from.
const machineAction = "machine"

// origin is that line: its Output tells of the machine, its Time when the run began.
type origin struct {
	event
	Commit   string `json:",omitempty"` // of the tree; with a + if it had changes that are in no commit
	Settings string `json:",omitempty"` // variables that tell tests how to run
}

// results are what a record says of one machine: how each test ended, the last run counting.
type results struct {
	machine string
	runs    []run
	tests   map[testName]outcome
}

// run is one run of `vm test`.
type run struct {
	begun   time.Time
	commit  string
	outside bool // the tests drove the machine from another one
}

type testName struct{ pkg, test string }

type outcome struct {
	action, reason string
	run            int
}

func readResults(file string) (results, error) {
	f, err := os.Open(file)
	if err != nil {
		return results{}, err
	}
	defer f.Close()
	r := results{tests: map[testName]outcome{}}
	output := map[testName][]string{}
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e origin
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return r, fmt.Errorf("%s: %w", file, err)
		}
		switch at := len(r.runs) - 1; {
		case at < 0 && e.Action != machineAction:
			return r, fmt.Errorf("%s: no line before its results says which machine they are from", file)
		case at >= 0 && r.runs[at].begun.IsZero():
			r.runs[at].begun = e.Time
		}
		name := testName{strings.TrimPrefix(e.Package, "berth/"), e.Test}
		switch e.Action {
		case machineAction:
			machine := strings.TrimSuffix(e.Output+", "+e.Settings, ", ")
			r.machine = cmp.Or(r.machine, machine)
			r.runs = append(r.runs, run{e.Time, e.Commit, machine != r.machine})
		case "run":
			output[name] = nil
		case "output":
			output[name] = append(output[name], e.Output)
		case "pass", "fail":
			r.tests[name] = outcome{e.Action, "", len(r.runs) - 1}
		case "skip":
			r.tests[name] = outcome{"skip", reason(output[name]), len(r.runs) - 1}
		}
	}
	if err := in.Err(); err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	if r.machine == "" {
		return r, fmt.Errorf("%s holds no results", file)
	}
	return r, nil
}

// origins tells of the runs that the results are from, those of one day and commit together.
func (r results) origins() []string {
	type source struct {
		day, commit string
		outside     bool
	}
	counts := map[source]int{}
	for name, o := range r.tests {
		if name.test != "" {
			from := r.runs[o.run]
			counts[source{from.begun.UTC().Format(time.DateOnly), cmp.Or(from.commit, "not recorded"), from.outside}]++
		}
	}
	var all []string
	for s, n := range counts {
		text := fmt.Sprintf("%s, commit %s", s.day, s.commit)
		if s.outside {
			text += ", driven from another machine"
		}
		all = append(all, fmt.Sprintf("%s: %d results", text, n))
	}
	slices.Sort(all)
	return all
}

// platforms writes docs/platforms.md from the records of some machines.
func platforms(w io.Writer, files []string) error {
	var all []results
	packages := map[string]bool{}
	for _, file := range files {
		r, err := readResults(file)
		if err != nil {
			return err
		}
		all = append(all, r)
		for name := range r.tests {
			if name.test != "" {
				packages[name.pkg] = true
			}
		}
	}
	fmt.Fprint(w, "# Platforms\n\n<!-- Written by `bin/vm platforms` from the results of `bin/vm test`; `make platforms` makes it anew. -->\n\n"+
		"What ran where, and from which runs the table comes: where there are several, a test's last result counts.\n\n")
	for n, r := range all {
		fmt.Fprintf(w, "- **%c**: %s\n", 'A'+n, r.machine)
		for _, from := range r.origins() {
			fmt.Fprintf(w, "  - %s\n", from)
		}
	}
	fmt.Fprint(w, "\nTests that passed, sub-tests counted; in brackets those that were skipped.\n\n| package |")
	for n := range all {
		fmt.Fprintf(w, " %c |", 'A'+n)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("--:|", len(all)))
	for _, pkg := range slices.Sorted(maps.Keys(packages)) {
		fmt.Fprintf(w, "| %s |", pkg)
		for _, r := range all {
			count := map[string]int{}
			for name, o := range r.tests {
				if name.pkg == pkg && name.test != "" {
					count[o.action]++
				}
			}
			cell := "–"
			if len(count) > 0 {
				cell = fmt.Sprint(count["pass"])
			}
			if n := count["skip"]; n > 0 {
				cell += fmt.Sprintf(" (%d)", n)
			}
			if n := count["fail"]; n > 0 {
				cell += fmt.Sprintf(", **%d failed**", n)
			}
			fmt.Fprintf(w, " %s |", cell)
		}
		fmt.Fprintln(w)
	}
	for n, r := range all {
		var failed []string
		for name, o := range r.tests {
			if o.action == "fail" && name.test != "" {
				failed = append(failed, fmt.Sprintf("- %s (%s), commit %s\n", name.test, name.pkg, cmp.Or(r.runs[o.run].commit, "not recorded")))
			}
		}
		if len(failed) > 0 {
			slices.Sort(failed)
			fmt.Fprintf(w, "\n## Failed on %c\n\n%s", 'A'+n, strings.Join(failed, ""))
		}
		fmt.Fprintf(w, "\n## Skipped on %c\n\n", 'A'+n)
		skips := map[string][]string{} // by reason
		for name, o := range r.tests {
			if o.action == "skip" && name.test != "" {
				skips[o.reason] = append(skips[o.reason], fmt.Sprintf("%s (%s)%s", name.test, name.pkg, ranOn(all, n, name)))
			}
		}
		if len(skips) == 0 {
			fmt.Fprintln(w, "Nothing.")
		}
		for _, why := range slices.Sorted(maps.Keys(skips)) {
			slices.Sort(skips[why])
			fmt.Fprintf(w, "- %s: %s\n", strings.TrimSpace(why), strings.Join(skips[why], ", "))
		}
	}
	return nil
}

// ranOn tells on which other machines a test passed.
func ranOn(all []results, not int, name testName) string {
	var where []string
	for n, r := range all {
		if n != not && r.tests[name].action == "pass" {
			where = append(where, string(rune('A'+n)))
		}
	}
	if len(where) == 0 {
		return ""
	}
	return ", passed on " + strings.Join(where, " and ")
}
