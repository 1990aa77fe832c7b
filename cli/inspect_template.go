package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/template"
)

// templateInspectPrinter prints one line per object.
type templateInspectPrinter struct {
	typed, raw *template.Template
	out        bytes.Buffer
}

func newTemplateInspectPrinter(format string) (*templateInspectPrinter, error) {
	typed, err := parseTemplate(unescapeFormat(format))
	if err != nil {
		return nil, err
	}
	raw, err := typed.Clone()
	if err != nil {
		return nil, err
	}
	// A field that the object lacks is a mistake to tell, not "<no value>".
	return &templateInspectPrinter{typed: typed, raw: raw.Option("missingkey=error")}, nil
}

// add runs the template on the API's type; what that does not know (fields by their wire
// names, fields of other API versions) is found in the raw object.
func (p *templateInspectPrinter) add(o inspected) error {
	var line bytes.Buffer
	if err := p.typed.Execute(&line, o.typed); err != nil {
		line.Reset()
		var object any
		decoder := json.NewDecoder(bytes.NewReader(o.raw))
		decoder.UseNumber()
		if err := decoder.Decode(&object); err != nil {
			return fmt.Errorf("unable to read inspect data: %w", err)
		}
		if err := p.raw.Execute(&line, object); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
	}
	line.WriteByte('\n')
	_, err := p.out.Write(line.Bytes())
	return err
}

func (p *templateInspectPrinter) flush(w io.Writer) error {
	out := p.out.Bytes()
	if len(out) == 0 {
		out = []byte{'\n'}
	}
	_, err := w.Write(out)
	return err
}
