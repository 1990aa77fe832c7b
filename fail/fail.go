// Package fail gives every error a class at the place where it arises.
//
// A class says what kind of thing went wrong, so that one place at the edge can
// choose an HTTP status or an exit code without reading texts. Layers in between
// add one sentence each with fmt.Errorf("...: %w", err); the class survives.
package fail

import (
	"context"
	"errors"
	"fmt"
)

// Class is the kind of a failure.
type Class uint8

// The classes, each with the HTTP status of the Docker Engine API it stands for.
const (
	Internal       Class = iota // 500: ours, or the kernel's; also the class of a foreign error
	NotFound                    // 404: the named object does not exist
	Invalid                     // 400: the request can never succeed as it is
	Conflict                    // 409: the object's state forbids it now
	NotModified                 // 304: it is already so
	Unauthorized                // 401: credentials are missing or wrong
	Forbidden                   // 403: known, and not allowed
	Unavailable                 // 503: something we depend on does not answer
	NotImplemented              // 501: a part of Berth that does not exist (yet)
	Canceled                    // the caller gave up
)

var names = [...]string{"internal", "not found", "invalid", "conflict", "not modified",
	"unauthorized", "forbidden", "unavailable", "not implemented", "canceled"}

func (c Class) String() string {
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("class %d", uint8(c))
}

type classed struct {
	class Class
	err   error
}

func (e *classed) Error() string { return e.err.Error() }
func (e *classed) Unwrap() error { return e.err }

// New makes an error of class c. The format takes %w like fmt.Errorf; a class
// given here covers the class of a wrapped cause.
func New(c Class, format string, args ...any) error {
	return &classed{class: c, err: fmt.Errorf(format, args...)}
}

// Mark gives err the class c without touching its text. Mark(c, nil) is nil.
func Mark(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &classed{class: c, err: err}
}

// Of tells the class of err: the outermost one given by New or Mark, Canceled for
// context errors, Internal otherwise.
func Of(err error) Class {
	var e *classed
	if errors.As(err, &e) {
		return e.class
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return Canceled
	}
	return Internal
}

// Is reports whether err is of class c. A nil error has no class.
func Is(err error, c Class) bool { return err != nil && Of(err) == c }
