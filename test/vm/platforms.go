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
)

// factsScript tells of the machine that it runs on what matters to containers.
const factsScript = `. /etc/os-release
case $(stat -fc %T /sys/fs/cgroup) in cgroup2fs) groups="cgroup v2" ;; *) groups="cgroup v1" ;; esac
init="no systemd"; [ -d /run/systemd/system ] && init="systemd $(systemctl --version | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')"
armor="no AppArmor"; [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] && armor="AppArmor enforcing"
echo "$PRETTY_NAME, Linux $(uname -r | sed 's/[^0-9.].*//'), $groups, $init, $armor"`

// machineAction marks the line of a record that tells where the results come from.
const machineAction = "machine"

// results are what a record says of one machine: how each test ended, the last run counting.
type results struct {
	machine string
	tests   map[testName]outcome
}

type testName struct{ pkg, test string }

type outcome struct{ action, reason string }

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
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return r, fmt.Errorf("%s: %w", file, err)
		}
		name := testName{strings.TrimPrefix(e.Package, "berth/"), e.Test}
		switch e.Action {
		case machineAction:
			r.machine = cmp.Or(r.machine, e.Output) // tests that drive a machine from outside follow
		case "run":
			output[name] = nil
		case "output":
			output[name] = append(output[name], e.Output)
		case "pass", "fail":
			r.tests[name] = outcome{action: e.Action}
		case "skip":
			r.tests[name] = outcome{"skip", reason(output[name])}
		}
	}
	if r.machine == "" {
		return r, fmt.Errorf("%s: no line says which machine these results are from", file)
	}
	return r, in.Err()
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
		"What ran where. Tests are counted with their sub-tests.\n\n")
	for n, r := range all {
		fmt.Fprintf(w, "- **%c**: %s\n", 'A'+n, r.machine)
	}
	fmt.Fprint(w, "\n| package |")
	for n := range all {
		fmt.Fprintf(w, " %c passed | skipped | failed |", 'A'+n)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("--:|--:|--:|", len(all)))
	for _, pkg := range slices.Sorted(maps.Keys(packages)) {
		fmt.Fprintf(w, "| %s |", pkg)
		for _, r := range all {
			count := map[string]int{}
			for name, o := range r.tests {
				if name.pkg == pkg && name.test != "" {
					count[o.action]++
				}
			}
			if len(count) == 0 {
				fmt.Fprint(w, " – | – | – |")
				continue
			}
			fmt.Fprintf(w, " %d | %d | %d |", count["pass"], count["skip"], count["fail"])
		}
		fmt.Fprintln(w)
	}
	for n, r := range all {
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
