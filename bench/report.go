package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"berth/durable"
)

// report is a whole run: where it was made, and what came out.
type report struct {
	when    time.Time
	command string
	machine []fact
	peers   []fact // name and version
	load    []string
	method  []string
	results []result
	last    []result // for the end
	notes   []string // what could not be measured and why, figures behind a row
}

type fact struct{ name, value string }

// keepFrom is the line of the document below which people write: what follows it survives
// when the document is generated again.
const keepFrom = "<!-- Written by hand from here on: `make bench` keeps it. -->"

// emptyTail is what a new document has below keepFrom.
const emptyTail = "\n## Where a goal is missed\n\nNothing is written yet.\n"

// sections lists the sections in the order of their first row.
func (r *report) sections() (names []string) {
	for _, x := range r.results {
		if !slices.Contains(names, x.section) {
			names = append(names, x.section)
		}
	}
	return names
}

// columns lists the peers of a section, ours first.
func (r *report) columns(section string) (ours string, others []string) {
	for _, x := range r.results {
		if x.section != section {
			continue
		}
		ours = x.cells[0].peer
		for _, c := range x.cells[1:] {
			if !slices.Contains(others, c.peer) {
				others = append(others, c.peer)
			}
		}
	}
	return ours, others
}

// table is a section as rows of text, the heading first.
func (r *report) table(section string) [][]string {
	ours, others := r.columns(section)
	head := []string{"work"}
	for _, p := range others {
		head = append(head, "× "+p)
	}
	head = append(head, "goal", "met", ours)
	table := [][]string{append(head, others...)}
	for _, x := range r.results {
		if x.section != section {
			continue
		}
		line := []string{x.row + ", " + x.unit}
		for _, p := range others {
			line = append(line, ratioText(times(x.ours(), x.cell(p).values, x.moreIsBetter)))
		}
		goals, verdicts := x.goalColumns()
		line = append(line, goals, verdicts)
		for _, p := range append([]string{ours}, others...) {
			line = append(line, x.cell(p).text())
		}
		table = append(table, line)
	}
	return table
}

func ratioText(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x < 10:
		return fmt.Sprintf("%.2g", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// text is "median [min max]", or the first word of why there is none: reasons has the rest.
func (c cell) text() string {
	if len(c.values) == 0 {
		if c.why == "" {
			return "–"
		}
		word, _, _ := strings.Cut(c.why, ":")
		return word
	}
	if len(c.values) == 1 {
		return number(c.values[0])
	}
	return fmt.Sprintf("%s [%s %s]", number(c.values.median()), number(c.values.min()), number(c.values.max()))
}

// cellsText is the row's figures in one line.
func (r result) cellsText() string {
	var cells []string
	for _, c := range r.cells {
		cells = append(cells, c.peer+" "+c.text())
	}
	return strings.Join(cells, ", ")
}

// reasons tells why cells are empty, each reason once with the rows it is for.
func (r *report) reasons() (lines []string) {
	rows := map[string][]string{}
	for _, x := range r.results {
		for _, c := range x.cells {
			if c.why == "" {
				continue
			}
			line := c.peer + " " + c.why
			if rows[line] == nil {
				lines = append(lines, line)
			}
			rows[line] = append(rows[line], x.row)
		}
	}
	for i, line := range lines {
		lines[i] = fmt.Sprintf("%s (%s)", line, strings.Join(rows[line], "; "))
	}
	return lines
}

func number(x float64) string {
	switch {
	case math.Abs(x) >= 1000:
		return fmt.Sprintf("%.0f", x)
	case math.Abs(x) >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// print writes the report for a terminal.
func (r *report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, f := range slices.Concat(r.machine, r.peers) {
		fmt.Fprintf(w, "%s\t%s\n", f.name, f.value)
	}
	for _, s := range r.sections() {
		fmt.Fprintf(w, "\n%s\n", s)
		for _, line := range r.table(s) {
			fmt.Fprintln(w, strings.ReplaceAll(strings.Join(line, "\t"), "**", ""))
		}
	}
	for _, n := range slices.Concat(r.load, r.reasons(), r.notes) {
		fmt.Fprintf(w, "\n- %s", n)
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// markdown is the document without what is written by hand.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWhat counts is the ratio: all do the same work in one run, in turn, on the same machine.\n" +
		"`× docker` says how many times better Berth is than docker: faster, smaller, more per second.\n" +
		"The cells of a peer are median [min max]. `make bench` makes such a table anywhere.\n")
	fmt.Fprintf(&b, "\n%s, `%s`\n\n| | |\n|---|---|\n", r.when.Format("2006-01-02 15:04 MST"), r.command)
	for _, f := range slices.Concat(r.machine, r.peers) {
		fmt.Fprintf(&b, "| %s | %s |\n", f.name, escape(f.value))
	}
	for _, s := range r.sections() {
		fmt.Fprintf(&b, "\n## %s\n\n", s)
		for i, line := range r.table(s) {
			for j := range line {
				line[j] = escape(line[j])
			}
			fmt.Fprintf(&b, "| %s |\n", strings.Join(line, " | "))
			if i == 0 {
				b.WriteString(strings.Repeat("|---", len(line)) + "|\n")
			}
		}
	}
	list := func(title string, lines []string) {
		if len(lines) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n", title)
		for _, l := range lines {
			fmt.Fprintf(&b, "- %s\n", l)
		}
	}
	list("Notes of this run", slices.Concat(r.load, r.reasons(), r.notes))
	list("How it is measured", r.method)
	return b.String()
}

func escape(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// write writes the document to path and keeps what people wrote there. A file without the
// line that divides the two is nobody's to overwrite.
func (r *report) write(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	tail, err := handWritten(string(old))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return durable.WriteFile(path, []byte(r.markdown()+"\n"+keepFrom+"\n"+tail), 0o644)
}

// handWritten is the part of a document below keepFrom.
func handWritten(document string) (string, error) {
	if document == "" {
		return emptyTail, nil
	}
	_, tail, ok := strings.Cut(document, keepFrom+"\n")
	if !ok {
		return "", fmt.Errorf("has no line %q, below which its own text is kept: move it away or add the line", keepFrom)
	}
	return tail, nil
}
