// Package compatibility makes docs/compatibility.md out of what the tests have shown
// (testkit.Record), and checks that the page claims nothing else.
package compatibility

import (
	_ "embed"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

//go:embed api.tsv
var apiTable string

//go:embed cli.tsv
var cliTable string

//go:embed differences.tsv
var differenceTable string

// Row is one endpoint of the Engine API.
type Row struct {
	Name     string // METHOD /path/{id}
	Tier     string // 1, 2 or out
	Statuses []int  // that Docker documents
}

// Rows is the Engine API.
func Rows() []Row {
	var out []Row
	for _, f := range records(apiTable, 4) {
		r := Row{Name: f[0] + " " + f[1], Tier: f[2]}
		for _, s := range strings.Split(f[3], ",") {
			n, err := strconv.Atoi(s)
			if err != nil {
				panic("api.tsv: " + err.Error())
			}
			r.Statuses = append(r.Statuses, n)
		}
		out = append(out, r)
	}
	return out
}

type pattern struct {
	row   string
	fixed int // characters outside of wildcards
	re    *regexp.Regexp
}

var patterns = func() (out []pattern) {
	wildcard := regexp.MustCompile(`\\\{[a-z]+\\\}`)
	for _, r := range Rows() {
		method, path, _ := strings.Cut(r.Name, " ")
		quoted := regexp.QuoteMeta(path)
		any := "([^/]+)"
		if strings.HasPrefix(path, "/images/") || strings.HasPrefix(path, "/distribution/") || strings.HasPrefix(path, "/plugins/") || method == "DELETE" {
			any = "(.+)"
		}
		out = append(out, pattern{r.Name, len(wildcard.ReplaceAllString(quoted, "")),
			regexp.MustCompile("^" + method + ` (/v[0-9.]+)?` + wildcard.ReplaceAllString(quoted, any) + "$")})
	}
	// The most exact row first.
	slices.SortStableFunc(out, func(a, b pattern) int { return b.fixed - a.fixed })
	return out
}()

// RowOf is the row that a request belongs to; empty: none.
func RowOf(method, path string) string {
	for _, p := range patterns {
		if p.re.MatchString(method + " " + path) {
			return p.row
		}
	}
	return ""
}

// command is a command of the docker command line.
type command struct {
	name    string // without "docker"
	tier    string
	aliases []string
	options []string // of tiers 1 and 2
}

func commands() []command {
	var out []command
	for _, f := range records(cliTable, 5) {
		name := f[0]
		if name == "-" {
			name = ""
		}
		out = append(out, command{name, f[1], strings.FieldsFunc(f[2], func(r rune) bool { return r == ',' }),
			strings.Fields(f[3] + " " + f[4])})
	}
	return out
}

// difference is a row of which more is to tell than that it works, in the words of whoever decided it.
type difference struct{ key, state, sentence string }

func differences() map[string]difference {
	out := map[string]difference{}
	for _, f := range records(differenceTable, 3) {
		out[f[0]] = difference{f[0], f[1], f[2]}
	}
	return out
}

// records are a table's lines of n fields, comments apart.
func records(table string, n int) [][]string {
	var out [][]string
	for _, line := range strings.Split(table, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != n {
			panic("a line of " + strconv.Itoa(len(f)) + " fields: " + line)
		}
		out = append(out, f)
	}
	return out
}
