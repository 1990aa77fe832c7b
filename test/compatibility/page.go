package compatibility

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"berth/cli"
	"berth/testkit"
)

// The states of a row.
const (
	works        = "works"
	differs      = "differs"
	notSupported = "not supported"
	unproven     = "unproven" // no test shows it
	missing      = "missing"  // Berth does not have it
)

// claim is one row of the page.
type claim struct {
	key      string // METHOD /path, or a command line without "berth"
	state    string
	statuses []int  // of an endpoint: what the test got
	test     string // that proves it; empty: none
	second   string // another client that got answers from it
	remark   string
	out      bool // an endpoint of what is out of scope
}

// evidence is what a run has shown, by row and test.
type evidence struct {
	outcome map[string]string              // of a test
	shown   map[string]map[string][]int    // row → test → statuses, or exit codes
	refused map[string]map[string]bool     // command line → test that saw it refused
	second  map[string]map[string]struct{} // row → clients
}

func gather(records []testkit.Record) evidence {
	e := evidence{map[string]string{}, map[string]map[string][]int{}, map[string]map[string]bool{}, map[string]map[string]struct{}{}}
	for _, r := range records {
		if e.outcome[r.Test] != "failed" {
			e.outcome[r.Test] = r.Outcome
		}
		if r.Outcome != "passed" {
			continue
		}
		for _, a := range r.Answers {
			if a.By != "" {
				put(e.second, a.Row, a.By, struct{}{})
				continue
			}
			e.show(a.Row, r.Test, a.Status)
		}
		for _, l := range r.Lines {
			e.line(r.Test, l)
		}
	}
	return e
}

func put[V any](m map[string]map[string]V, row, test string, v V) {
	if m[row] == nil {
		m[row] = map[string]V{}
	}
	m[row][test] = v
}

func (e evidence) show(row, test string, code int) {
	var codes []int
	if e.shown[row] != nil {
		codes = e.shown[row][test]
	}
	if !slices.Contains(codes, code) {
		codes = append(codes, code)
		slices.Sort(codes)
	}
	put(e.shown, row, test, codes)
}

// line enters what a command line shows: its command and options if it did its work, or that
// it was refused.
func (e evidence) line(test string, l *testkit.Line) {
	c, global, err := cli.Given(l.Args)
	name := canonical(c.Path)
	// The codes of run are the container's, but for 125.
	done := l.Code == 0 || name == "run" && l.Code != 125
	if err != nil || !done {
		for n := range l.Args {
			put(e.refused, strings.Join(l.Args[:n+1], " "), test, true)
		}
		for _, arg := range l.Args {
			if option, found := strings.CutPrefix(arg, "--"); found && option != "" {
				option, _, _ = strings.Cut(option, "=")
				put(e.refused, key(name, option), test, true)
			}
		}
		return
	}
	e.show(name, test, l.Code)
	for _, option := range c.Options {
		e.show(key(name, option), test, l.Code)
	}
	for _, option := range global {
		e.show(key("", option), test, l.Code)
	}
}

func key(command, option string) string { return strings.TrimSpace(command + " --" + option) }

// canonical is Docker's first name of a command.
func canonical(path string) string {
	for _, c := range commands() {
		if slices.Contains(c.aliases, path) {
			return c.name
		}
	}
	return path
}

// became is the outcome of a test, "skipped" if a test that it is a part of was skipped, or
// empty if it did not run.
func (e evidence) became(test string) string {
	for name := test; ; {
		if outcome := e.outcome[name]; outcome != "" && (name == test || outcome == "skipped") {
			return outcome
		}
		end := strings.LastIndexByte(name, '/')
		if end < 0 {
			return ""
		}
		name = name[:end]
	}
}

// proves reports whether test has shown c.
func (e evidence) proves(c claim, test string) bool {
	if e.outcome[test] != "passed" {
		return false
	}
	if c.state == notSupported && len(c.statuses) == 0 {
		return e.refused[c.key][test]
	}
	codes, shown := e.shown[c.key][test]
	if !shown {
		return false
	}
	return !slices.ContainsFunc(c.statuses, func(s int) bool { return !slices.Contains(codes, s) })
}

// settle finds who proves c: the test that the page names already, if it still does, was
// skipped or, in a part of a run, did not run; or else the first by name. One that is rather
// about something else gives way.
func (e evidence) settle(c claim, before map[string]claim, whole bool) claim {
	old := before[c.key]
	provers := slices.Sorted(maps.Keys(e.shown[c.key]))
	if c.state == notSupported && len(provers) == 0 {
		provers = slices.Sorted(maps.Keys(e.refused[c.key]))
	}
	if strings.Contains(c.key, " /") { // the test that is there for this row
		slices.SortStableFunc(provers, func(a, b string) int { return len(e.shown[c.key][b]) - len(e.shown[c.key][a]) })
	}
	slices.SortStableFunc(provers, func(a, b string) int { return aside(a) - aside(b) })
	better := len(provers) > 0 && aside(provers[0]) < aside(old.test)
	if !better && old.state == c.state && old.test != "" {
		c.statuses = old.statuses
		became := e.became(old.test)
		if became == "skipped" || became == "" && !whole || e.proves(c, old.test) {
			c.test, c.second = old.test, old.second
			e.widen(&c)
			return c
		}
		c.statuses = nil
	}
	if len(provers) == 0 {
		if c.state == works {
			c.state = unproven
		} else {
			c.remark += " (unproven)"
		}
		return c
	}
	c.test = provers[0]
	e.widen(&c)
	return c
}

// aside ranks tests that are about something else, or look at an option with one short use,
// behind the others.
func aside(test string) int {
	switch {
	case strings.HasPrefix(test, "TestOptionsThatNoOtherTestNeeds"):
		return 2
	case strings.HasPrefix(test, "TestBadInput"):
		return 1
	}
	return 0
}

// widen adds to an endpoint's claim all that its test has got now.
func (e evidence) widen(c *claim) {
	if codes := e.shown[c.key][c.test]; codes != nil && strings.Contains(c.key, " /") {
		c.statuses = codes
	}
	if who := slices.Sorted(maps.Keys(e.second[c.key])); len(who) > 0 {
		c.second = strings.Join(who, ", ")
	}
}

// Page is the page that records prove. Of tests that did not run it keeps what the page
// before says, unless the run was a whole one: then they are gone. Exists says whether there
// is a top-level test of that name.
func Page(before string, records []testkit.Record, exists func(string) bool, whole bool) string {
	there := func(test string) bool {
		top, _, _ := strings.Cut(test, "/")
		return exists(top)
	}
	e := gather(slices.DeleteFunc(slices.Clone(records), func(r testkit.Record) bool { return !there(r.Test) }))
	old := map[string]claim{}
	for _, c := range parse(before) {
		if there(c.test) {
			old[c.key] = c
		}
	}
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("\n## Engine API\n\n" + columns)
	out := false
	for _, c := range endpoints() {
		if c.out && !out {
			b.WriteString("\n### Out of scope\n\n" + columns)
		}
		out = c.out
		b.WriteString(e.settle(c, old, whole).String())
	}
	b.WriteString("\n## Command line\n")
	section := "?"
	for _, c := range lines() {
		name, _, _ := strings.Cut(c.key, " --")
		if strings.HasPrefix(c.key, "--") {
			name = ""
		}
		if name != section {
			section = name
			b.WriteString("\n" + strings.TrimSpace("### berth "+name) + "\n\n")
			if i := slices.IndexFunc(commands(), func(c command) bool { return c.name == name && len(c.aliases) > 0 }); i >= 0 {
				b.WriteString("Also `berth " + strings.Join(commands()[i].aliases, "`, `berth ") + "`.\n\n")
			}
			b.WriteString(columns)
		}
		b.WriteString(e.settle(c, old, whole).String())
	}
	return b.String()
}

const head = `# Compatibility with Docker

Made from what the tests of ` + "`./test`" + ` have shown (` + "`make compatibility`" + `); a row that no test proves says so, and the
tests fail when this page claims something that they do not show. Docker's side is the Engine
API 1.56 and the docker command line 29, as far as they are in daily or production use.

- **works**: the named test passed. Of an endpoint it is the test that is there for it, and the numbers are the
  statuses that it provoked and looked at. Of a command or an option it is a test that ran it successfully on the way; how closely
  it looks at what the option does differs. A remark tells what else there is to know.
- **differs**, **not supported**: so on purpose or so far, with the reason; not supported is proven by the refusal.
- **unproven**: it is there, but no test shows it. **missing**: it is not there.
`

const columns = "| | | proven by | |\n|---|---|---|---|\n"

func (c claim) String() string {
	state := c.state
	if len(c.statuses) > 0 {
		var codes []string
		for _, s := range c.statuses {
			codes = append(codes, strconv.Itoa(s))
		}
		state += ": " + strings.Join(codes, ", ")
	}
	test := c.test
	if test != "" {
		test = "`" + test + "`"
	}
	if c.second != "" {
		test += ", " + c.second
	}
	name := c.key
	if !strings.Contains(c.key, " /") {
		name = strings.TrimSpace("berth " + c.key)
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, state, test, c.remark)
}

var claimLine = regexp.MustCompile("^\\| `([^`]+)` \\| ([a-z ]+)(?:: ([0-9, ]+))? \\| (?:`([^`]+)`)?(?:, ([^|]+?))? ?\\| ?(.*?) ?\\|$")

// parse reads a page back.
func parse(page string) []claim {
	var out []claim
	for _, line := range strings.Split(page, "\n") {
		m := claimLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		c := claim{key: strings.TrimPrefix(strings.TrimPrefix(m[1], "berth"), " "), state: m[2], test: m[4], second: m[5], remark: m[6]}
		for _, s := range strings.Split(m[3], ", ") {
			if n, err := strconv.Atoi(s); err == nil {
				c.statuses = append(c.statuses, n)
			}
		}
		out = append(out, c)
	}
	return out
}

// endpoints are the rows of the API, not settled yet; what is out of scope is drawn together
// at the end.
func endpoints() []claim {
	special := differences()
	var out []claim
	for _, r := range Rows() {
		if r.Tier == "out" {
			continue
		}
		out = append(out, with(claim{key: r.Name, state: works}, special))
	}
	for _, r := range Rows() {
		if r.Tier != "out" {
			continue
		}
		group := "swarm"
		if strings.Contains(r.Name, " /plugins") {
			group = "plugins"
		}
		out = append(out, claim{key: r.Name, state: notSupported, remark: special[group].sentence, out: true})
	}
	return out
}

// lines are the commands and options of Docker's tiers 1 and 2 and of Berth, not settled yet.
func lines() []claim {
	special := differences()
	ours := map[string][]string{}
	var names []string
	for _, c := range cli.Commands() {
		name := canonical(c.Path)
		if _, known := ours[name]; !known {
			names = append(names, name)
		}
		for _, o := range c.Options {
			if o != "help" && !slices.Contains(ours[name], o) {
				ours[name] = append(ours[name], o)
			}
		}
		if ours[name] == nil {
			ours[name] = []string{}
		}
	}
	dockers := map[string][]string{}
	for _, c := range commands() {
		if !slices.Contains(names, c.name) {
			names = append(names, c.name)
		}
		dockers[c.name] = append(c.options, "")
	}
	slices.Sort(names)
	var out []claim
	for _, name := range names {
		options, have := ours[name]
		c := with(claim{key: name, state: works}, special)
		if name != "" {
			if !have && c.state == works {
				c.state = missing
			}
			if dockers[name] == nil && !groups[name] {
				c.remark = "Berth's own."
			}
			out = append(out, c)
		}
		if c.state == notSupported || c.state == missing {
			continue
		}
		all := slices.Clone(options)
		for _, o := range dockers[name] {
			if o != "" && o != "help" && !slices.Contains(all, o) {
				all = append(all, o)
			}
		}
		slices.Sort(all)
		for _, o := range all {
			c := with(claim{key: key(name, o), state: works}, special)
			if !slices.Contains(options, o) && c.state == works {
				c.state = missing
			}
			out = append(out, c)
		}
	}
	return out
}

// groups only hold other commands.
var groups = map[string]bool{"container": true, "image": true, "network": true, "volume": true, "system": true, "manifest": true, "context": true, "builder": true}

func with(c claim, special map[string]difference) claim {
	if d, found := special[c.key]; found {
		c.state, c.remark = d.state, d.sentence
	}
	return c
}

// Check tells what is wrong with the page: claims of tests that ran and do not prove them,
// rows that are not there and, after a whole run, claims of tests that were no part of it. Exists says
// whether there is a top-level test of that name.
func Check(page string, records []testkit.Record, exists func(string) bool, whole bool) []string {
	e := gather(records)
	var wrong []string
	seen := map[string]bool{}
	others := map[string]bool{} // clients that ran
	for _, clients := range e.second {
		for who := range clients {
			others[who] = true
		}
	}
	for _, c := range parse(page) {
		seen[c.key] = true
		for who := range strings.SplitSeq(c.second, ", ") {
			if _, shown := e.second[c.key][who]; others[who] && !shown {
				wrong = append(wrong, fmt.Sprintf("%q: %s does not show it", c.key, who))
			}
		}
		top, _, _ := strings.Cut(c.test, "/")
		outcome := e.became(c.test)
		switch {
		case c.test == "":
			if c.state == works {
				wrong = append(wrong, fmt.Sprintf("%q is said to work, but no test is named", c.key))
			}
		case !exists(top):
			wrong = append(wrong, fmt.Sprintf("%q: there is no test %s", c.key, top))
		case outcome == "" && whole:
			wrong = append(wrong, fmt.Sprintf("%q: no test %s has run", c.key, c.test))
		case outcome == "failed":
			wrong = append(wrong, fmt.Sprintf("%q: %s has failed", c.key, c.test))
		case outcome == "passed" && !e.proves(c, c.test):
			wrong = append(wrong, fmt.Sprintf("%q is said to be %q, and %s does not show it", c.key, c.state, c.test))
		}
	}
	for _, c := range slices.Concat(endpoints(), lines()) {
		if !seen[c.key] {
			wrong = append(wrong, fmt.Sprintf("%q is not listed", c.key))
		}
	}
	return wrong
}

// Skipped are the tests that rows of the page name and that were skipped, by name, with the
// number of their rows: what they show depends on what the machine has, so it is no mistake.
func Skipped(page string, records []testkit.Record) map[string]int {
	e := gather(records)
	out := map[string]int{}
	for _, c := range parse(page) {
		if c.test != "" && e.became(c.test) == "skipped" {
			out[c.test]++
		}
	}
	return out
}
