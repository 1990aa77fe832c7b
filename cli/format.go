package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
)

// A list (`ps`, `images` …) prints rows of one type. Its columns are the type's methods: the
// same ones that a --format template names, so what a table shows and what a template can ask
// for never differ. Tables that need no template cost none: they call the methods directly.

// column is one field of a list: its name in templates, its heading, its value.
type column[R any] struct {
	name, heading string
	value         func(R) string
}

// list is how rows of one type are printed.
type list[R any] struct {
	columns []column[R]
	// standard are the names of the columns shown without --format.
	standard []string
	// raw are the lines of the format "raw": "key Column"; a list without them has no such format.
	raw []string
	// quiet is what -q prints.
	quiet func(R) string
}

// listFormat is a --format value, sorted out.
type listFormat struct {
	table    bool
	template string // empty with table: the standard columns
	json     bool
	raw      bool
}

func parseListFormat(value string) listFormat {
	switch {
	case value == "" || value == "table":
		return listFormat{table: true}
	case value == "json":
		return listFormat{json: true}
	case value == "raw":
		return listFormat{raw: true}
	case strings.HasPrefix(value, "table "):
		return listFormat{table: true, template: unescapeFormat(strings.TrimSpace(strings.TrimPrefix(value, "table")))}
	}
	return listFormat{template: unescapeFormat(value)}
}

// uses reports whether the template speaks of a field, so that costly ones (sizes) are only
// asked for when they are shown.
func (f listFormat) uses(field string) bool { return strings.Contains(f.template, field) }

// unescapeFormat lets \t and \n be written in single quotes.
func unescapeFormat(format string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
}

// print writes the rows in the format; quiet wins over it unless a template was given.
func (l list[R]) print(w io.Writer, format string, quiet bool, rows []R) error {
	f := parseListFormat(format)
	if f.raw && len(l.raw) == 0 {
		f = listFormat{template: format}
	}
	switch {
	case quiet && f.template == "" && !f.json && !f.raw:
		for _, row := range rows {
			fmt.Fprintln(w, l.quiet(row))
		}
		return nil
	case f.json:
		return l.printJSON(w, rows)
	case f.raw:
		l.printRaw(w, rows, quiet)
		return nil
	case f.table && f.template == "":
		return l.printTable(w, rows)
	}
	return l.printTemplate(w, f, rows)
}

func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 10, 1, 3, ' ', 0) }

func (l list[R]) printTable(w io.Writer, rows []R) error {
	shown := make([]column[R], 0, len(l.standard))
	headings := make([]string, 0, len(l.standard))
	for _, name := range l.standard {
		c := l.column(name)
		shown, headings = append(shown, c), append(headings, c.heading)
	}
	table := newTable(w)
	fmt.Fprintln(table, strings.Join(headings, "\t"))
	cells := make([]string, len(shown))
	for _, row := range rows {
		for i, c := range shown {
			cells[i] = c.value(row)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

func (l list[R]) column(name string) column[R] {
	for _, c := range l.columns {
		if c.name == name {
			return c
		}
	}
	panic("no column " + name)
}

func (l list[R]) printJSON(w io.Writer, rows []R) error {
	for _, row := range rows {
		line, err := json.Marshal(l.fields(row))
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n", line)
	}
	return nil
}

func (l list[R]) fields(row R) map[string]string {
	fields := make(map[string]string, len(l.columns))
	for _, c := range l.columns {
		fields[c.name] = c.value(row)
	}
	return fields
}

// printRaw is the "key: value" form of Docker's oldest days.
func (l list[R]) printRaw(w io.Writer, rows []R, quiet bool) {
	for _, row := range rows {
		for _, line := range l.raw {
			key, name, _ := strings.Cut(line, " ")
			if c := l.column(name); !quiet {
				fmt.Fprintf(w, "%s: %s\n", key, c.value(row))
			} else if strings.HasSuffix(c.name, "ID") {
				fmt.Fprintf(w, "%s: %s\n", key, l.quiet(row))
			}
		}
		if !quiet {
			fmt.Fprintln(w)
		}
	}
}

// headingRow stands in for a row when a template prints the table's head.
type headingRow map[string]string

// Label is the heading of a column that shows one label: the last part of its key.
func (headingRow) Label(key string) string {
	parts := strings.Split(key, ".")
	return strings.NewReplacer("-", " ", "_", " ").Replace(parts[len(parts)-1])
}

func (l list[R]) printTemplate(w io.Writer, f listFormat, rows []R) error {
	t, err := parseTemplate(f.template)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	if !f.table {
		for _, row := range rows {
			if err := t.Execute(&body, row); err != nil {
				return fmt.Errorf("failed to execute template: %w", err)
			}
			body.WriteByte('\n')
		}
		_, err = w.Write(body.Bytes())
		return err
	}
	head, err := t.Clone()
	if err != nil {
		return err
	}
	headings := headingRow{}
	for _, c := range l.columns {
		headings[c.name] = c.heading
	}
	if err := head.Funcs(headingFunctions).Execute(&body, headings); err != nil {
		return fmt.Errorf("failed to execute template: %w", err)
	}
	body.WriteByte('\n')
	for _, row := range rows {
		if err := t.Execute(&body, row); err != nil {
			return fmt.Errorf("failed to execute template: %w", err)
		}
		body.WriteByte('\n')
	}
	table := newTable(w)
	if _, err := table.Write(body.Bytes()); err != nil {
		return err
	}
	return table.Flush()
}

func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(templateFunctions).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("failed to parse template: %w", err)
	}
	return t, nil
}

// templateFunctions are Docker's, by name and meaning.
var templateFunctions = template.FuncMap{
	"json":     encodeJSON,
	"split":    strings.Split,
	"join":     joinValues,
	"title":    titleCase,
	"lower":    strings.ToLower,
	"upper":    strings.ToUpper,
	"pad":      pad,
	"truncate": truncate,
}

// headingFunctions leave headings as they are, whatever the template does to values.
var headingFunctions = template.FuncMap{
	"json":     func(v string) string { return v },
	"title":    func(v string) string { return v },
	"lower":    func(v string) string { return v },
	"upper":    func(v string) string { return v },
	"truncate": func(v string, _ int) string { return v },
	"split":    func(v string, _ string) string { return v },
	"join":     func(v string, _ string) string { return v },
}

func joinValues(values any, separator string) (string, error) {
	switch v := values.(type) {
	case []string:
		return strings.Join(v, separator), nil
	case []any:
		words := make([]string, len(v))
		for i := range v {
			words[i] = fmt.Sprint(v[i])
		}
		return strings.Join(words, separator), nil
	}
	return "", fmt.Errorf("join: a list of strings is needed, not %T", values)
}

func titleCase(text string) string {
	return strings.Join(mapWords(strings.Fields(text), func(word string) string {
		return strings.ToUpper(word[:1]) + word[1:]
	}), " ")
}

func mapWords(words []string, f func(string) string) []string {
	for i := range words {
		words[i] = f(words[i])
	}
	return words
}

func pad(source string, prefix, suffix int) string {
	if source == "" {
		return source
	}
	return strings.Repeat(" ", max(prefix, 0)) + source + strings.Repeat(" ", max(suffix, 0))
}

func truncate(source string, length int) string {
	if length < 0 || len(source) < length {
		return source
	}
	return source[:length]
}

// ellipsis shortens text to width runes, the last of them an ellipsis.
func ellipsis(text string, width int) string {
	runes := []rune(text)
	if width <= 0 || len(runes) <= width {
		return text
	}
	return string(runes[:width-1]) + "…"
}

// encodeJSON is compact JSON with <, > and & as they are.
func encodeJSON(v any) (string, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
