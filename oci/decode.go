package oci

import (
	"bytes"
	"encoding/json"

	"berth/fail"
)

// maxParts bounds the elements of a document. The longest that people have made are histories and
// indexes of some thousands.
const maxParts = 500_000

// Decode reads a JSON document that somebody else wrote. Of one that is longer than its meaning,
// such as a list of millions of empty descriptors, encoding/json would make a hundred times its
// size: it is class Invalid, as is what cannot be read.
func Decode(data []byte, v any) error {
	if bytes.Count(data, []byte(",")) >= maxParts { // also those within strings
		return fail.New(fail.Invalid, "it has more than %d elements", maxParts)
	}
	return fail.Mark(fail.Invalid, json.Unmarshal(data, v))
}
