package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/moby/api/pkg/stdcopy"
	mobyclient "github.com/moby/moby/client"
	"github.com/moby/term"
)

// errDetached ends a conversation whose user typed the detach keys.
var errDetached = errors.New("read escape sequence")

// defaultDetachKeys is ctrl-p, ctrl-q.
var defaultDetachKeys = []byte{16, 17}

// conversation joins the user's streams to a container's over a hijacked connection.
type conversation struct {
	stdin          io.Reader // nil: the container's input is not attached
	stdout, stderr io.Writer // nil: not attached
	tty            bool
	detachKeys     string
	connection     mobyclient.HijackedResponse
}

// checkDetachKeys finds a sequence that no keyboard can type before anything is done.
func checkDetachKeys(keys string) error {
	if _, err := term.ToBytes(keys); keys != "" && err != nil {
		return fmt.Errorf("invalid detach escape keys provided: %s", keys)
	}
	return nil
}

// converse copies both ways until the container's output ends, the user detaches, or ctx
// ends. The terminal is raw in between when both sides have one. It closes the connection.
func (a *app) converse(ctx context.Context, c conversation) error {
	defer c.connection.Close()
	terminal := &rawTerminal{stopSignals: func() {}}
	input := c.stdin
	if c.stdin != nil && c.tty {
		keys := defaultDetachKeys
		if c.detachKeys != "" {
			custom, err := term.ToBytes(c.detachKeys)
			if err != nil {
				return checkDetachKeys(c.detachKeys)
			}
			keys = custom
		}
		input = term.NewEscapeProxy(c.stdin, keys)
		var err error
		if terminal, err = a.makeRaw(); err != nil {
			return fmt.Errorf("unable to set the terminal to raw mode: %w", err)
		}
		defer terminal.restore()
	}

	outputEnded := make(chan error, 1)
	go func() {
		defer terminal.restoreOnPanic()
		outputEnded <- c.copyOutput()
	}()
	inputEnded := make(chan error, 1)
	go func() {
		defer terminal.restoreOnPanic()
		inputEnded <- c.copyInput(input)
	}()

	hasOutput := c.stdout != nil || c.stderr != nil
	for {
		select {
		case err := <-outputEnded:
			if hasOutput {
				return err
			}
			// With no output asked for, the connection's end is the input's too.
			return nil
		case err := <-inputEnded:
			if errors.Is(err, errDetached) {
				return err
			}
			if !hasOutput {
				return nil
			}
			inputEnded = nil // the output decides from here on
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c conversation) copyOutput() error {
	var err error
	switch {
	case c.stdout == nil && c.stderr == nil:
		_, err = io.Copy(io.Discard, c.connection.Reader)
	case c.tty:
		_, err = io.Copy(output{orDiscard(c.stdout)}, c.connection.Reader)
	default:
		_, err = stdcopy.StdCopy(output{orDiscard(c.stdout)}, output{orDiscard(c.stderr)}, c.connection.Reader)
	}
	return err
}

func (c conversation) copyInput(input io.Reader) error {
	if input != nil {
		_, err := io.Copy(c.connection.Conn, input)
		if _, escaped := err.(term.EscapeError); escaped {
			return errDetached
		}
	}
	_ = c.connection.CloseWrite()
	return nil
}

// output is a stream of the user's: what it does not take is an outputError.
type output struct{ to io.Writer }

func (o output) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	if err != nil {
		err = outputError{err}
	}
	return n, err
}

// outputError ends a conversation whose user's output takes no more: the disk is full, or nobody
// reads the pipe. Nothing else would tell that what the container says is lost.
type outputError struct{ error }

func (e outputError) Unwrap() error { return e.error }

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
