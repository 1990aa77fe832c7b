//go:build amd64 || arm64

package pid1

// program is the init's whole life. It is never called: its code is copied.
func program()

// text is where program begins.
func text() *byte

var _ = program
