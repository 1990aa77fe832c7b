package engine

import (
	"slices"

	"berth/fail"
)

// The statuses of a container, Docker's words.
const (
	created    = "created"
	running    = "running"
	paused     = "paused"
	restarting = "restarting"
	exited     = "exited"
	removing   = "removing"
	dead       = "dead"
)

// transitions is the life of a container: which status may follow which. Nothing else
// in the package decides that.
var transitions = map[string][]string{
	created:    {running, exited, removing},
	running:    {paused, exited, restarting},
	paused:     {running, exited, restarting},
	restarting: {running, exited},
	exited:     {running, restarting, removing},
	removing:   {dead},
	dead:       {removing},
}

// mayBecome refuses a step that the table does not hold.
func mayBecome(from, to string) error {
	if slices.Contains(transitions[from], to) {
		return nil
	}
	return fail.New(fail.Conflict, "a container that is %s cannot become %s", from, to)
}
