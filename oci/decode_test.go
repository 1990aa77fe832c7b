package oci

import (
	"strings"
	"testing"

	"berth/fail"
)

func TestADocumentOfMillionsOfNothingsIsRefused(t *testing.T) {
	for _, nothing := range []string{"{}", "0", `""`, "null"} {
		list := "[" + strings.Repeat(nothing+",", maxParts) + nothing + "]"
		for _, c := range []struct {
			of   string
			into any
		}{{"layers", new(Manifest)}, {"manifests", new(Index)}, {"history", new(Image)}} {
			err := Decode([]byte(`{"`+c.of+`":`+list+`}`), c.into)
			if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "elements") {
				t.Errorf("%s of %s: %v", c.of, nothing, err)
			}
		}
	}
	var m Manifest
	if err := Decode([]byte(`{"layers":[{"size":1},{"size":2}]}`), &m); err != nil || len(m.Layers) != 2 {
		t.Errorf("%+v, %v", m, err)
	}
	if err := Decode([]byte(`{"layers":[`), &m); !fail.Is(err, fail.Invalid) {
		t.Errorf("a document that is cut off: %v", err)
	}
}
