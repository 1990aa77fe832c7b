package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	mobyclient "github.com/moby/moby/client"
)

// logFollower prints a log that is being written. It always asks for timestamps, so that when
// the engine ends and comes back it can go on behind the last entry it has shown.
type logFollower struct {
	out, err   io.Writer
	timestamps bool // the user wants them too

	pending []byte // of what is shown, not yet written to to
	to      io.Writer

	last  string // the timestamp of the last entry shown
	shown int    // how many entries with that timestamp were shown
	skip  int    // how many of them a new stream will begin with
}

// follow prints the log of a container without a terminal until it ends.
func (f *logFollower) follow(ctx context.Context, engine *mobyclient.Client, id string, o mobyclient.ContainerLogsOptions) error {
	o.Timestamps = true
	return persist(ctx, nil, func(ctx context.Context) error {
		if f.last != "" {
			o.Since, o.Tail, f.skip = f.last, "all", f.shown
		}
		body, err := engine.ContainerLogs(ctx, id, o)
		if err != nil {
			return err
		}
		defer body.Close()
		return f.print(bufio.NewReader(body))
	})
}

// print shows the entries of one stream, each of which is a frame of its own.
func (f *logFollower) print(r *bufio.Reader) (err error) {
	defer func() {
		if e := f.flush(); err == nil {
			err = e
		}
	}()
	var head [8]byte
	var entry []byte
	for {
		if r.Buffered() < len(head) || len(f.pending) > 32<<10 {
			if err := f.flush(); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		size := int(binary.BigEndian.Uint32(head[4:]))
		if size > cap(entry) {
			entry = make([]byte, size)
		}
		entry = entry[:size]
		if r.Buffered() < size {
			if err := f.flush(); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(r, entry); err != nil {
			return fmt.Errorf("a cut log entry: %w", err)
		}
		to := f.out
		if stdcopy.StdType(head[0]) != stdcopy.Stdout {
			to = f.err
		}
		if err := f.show(to, entry); err != nil {
			return err
		}
	}
}

// show prints an entry unless an earlier stream has.
func (f *logFollower) show(to io.Writer, entry []byte) error {
	stamp, text, found := bytes.Cut(entry, []byte(" "))
	if _, err := time.Parse(time.RFC3339Nano, string(stamp)); !found || err != nil {
		return f.write(to, entry) // a message of the engine's, not an entry
	}
	if string(stamp) == f.last {
		if f.skip > 0 {
			f.skip--
			return nil
		}
		f.shown++
	} else {
		f.last, f.shown, f.skip = string(stamp), 1, 0
	}
	if f.timestamps {
		text = entry
	}
	return f.write(to, text)
}

// write keeps what is for the same output together, as long as more is at hand.
func (f *logFollower) write(to io.Writer, text []byte) error {
	if to != f.to {
		if err := f.flush(); err != nil {
			return err
		}
		f.to = to
	}
	f.pending = append(f.pending, text...)
	return nil
}

func (f *logFollower) flush() error {
	if len(f.pending) == 0 {
		return nil
	}
	_, err := f.to.Write(f.pending)
	f.pending = f.pending[:0]
	return err
}
