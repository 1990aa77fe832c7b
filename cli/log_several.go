package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
)

// severalLogs shows the logs of more than one container together: in the order of time, or,
// followed, as they come. Every line begins with its container's id or name.
func (a *app) severalLogs(ctx context.Context, engine *mobyclient.Client, all []container.InspectResponse, o mobyclient.ContainerLogsOptions, names bool) error {
	var lock sync.Mutex
	var outs, errs []*prefixer
	for _, c := range all {
		prefix := c.ID[:min(12, len(c.ID))] + " "
		if names {
			prefix = strings.TrimPrefix(c.Name, "/") + " "
		}
		outs = append(outs, &prefixer{lock: &lock, to: a.Out, prefix: prefix})
		errs = append(errs, &prefixer{lock: &lock, to: a.Err, prefix: prefix})
	}
	defer func() {
		for i := range all {
			outs[i].end()
			errs[i].end()
		}
	}()
	if !o.Follow {
		return mergeLogs(ctx, engine, all, o, outs, errs)
	}
	results := make(chan error, len(all))
	for i, c := range all {
		go func() { results <- followOne(ctx, engine, c, o, outs[i], errs[i]) }() // waited for below
	}
	var failed error
	for range all {
		failed = errors.Join(failed, <-results)
	}
	return failed
}

func followOne(ctx context.Context, engine *mobyclient.Client, c container.InspectResponse, o mobyclient.ContainerLogsOptions, out, errs io.Writer) error {
	if !hasTerminal(c) {
		f := logFollower{out: out, err: errs, timestamps: o.Timestamps}
		return f.follow(ctx, engine, c.ID, o)
	}
	body, err := engine.ContainerLogs(ctx, c.ID, o)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(out, body)
	return err
}

// mergeLogs shows entries of several logs in the order of their times.
func mergeLogs(ctx context.Context, engine *mobyclient.Client, all []container.InspectResponse, o mobyclient.ContainerLogsOptions, outs, errs []*prefixer) error {
	timestamps := o.Timestamps
	o.Timestamps = true
	type log struct {
		next  func() (logEntry, bool)
		entry logEntry
		more  bool
	}
	logs, failed := make([]log, len(all)), make([]error, len(all))
	for i, c := range all {
		body, err := engine.ContainerLogs(ctx, c.ID, o)
		if err != nil {
			return err
		}
		defer body.Close()
		next, stop := iter.Pull(logEntries(body, hasTerminal(c), &failed[i]))
		defer stop()
		logs[i].next = next
		logs[i].entry, logs[i].more = next()
	}
	for {
		first := -1
		for i := range logs {
			if logs[i].more && (first < 0 || bytes.Compare(logs[i].entry.stamp, logs[first].entry.stamp) < 0) {
				first = i
			}
		}
		if first < 0 {
			return errors.Join(failed...)
		}
		e, to := logs[first].entry, outs[first]
		if e.stderr {
			to = errs[first]
		}
		if timestamps {
			e.text = append(append(e.stamp, ' '), e.text...)
		}
		if _, err := to.Write(e.text); err != nil {
			return err
		}
		logs[first].entry, logs[first].more = logs[first].next()
	}
}

// logEntry is one entry of a log that was asked for with timestamps, valid until the next.
type logEntry struct {
	stderr      bool
	stamp, text []byte
}

// logEntries reads a log: in frames, or, of a container with a terminal, in lines.
func logEntries(body io.Reader, terminal bool, failed *error) iter.Seq[logEntry] {
	return func(yield func(logEntry) bool) {
		in := bufio.NewReader(body)
		for {
			stderr, raw, err := false, []byte(nil), error(nil)
			if terminal {
				if raw, err = in.ReadBytes('\n'); err == io.EOF && len(raw) > 0 {
					err = nil
				}
			} else {
				stderr, raw, err = readFrame(in)
			}
			if err != nil {
				if err != io.EOF {
					*failed = err
				}
				return
			}
			stamp, text, _ := bytes.Cut(raw, []byte(" "))
			if !yield(logEntry{stderr, stamp[:len(stamp):len(stamp)], text}) {
				return
			}
		}
	}
}

// readFrame reads one frame of a multiplexed stream.
func readFrame(r io.Reader) (stderr bool, data []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, nil, err
	}
	data = make([]byte, binary.BigEndian.Uint32(head[4:]))
	_, err = io.ReadFull(r, data)
	return stdcopy.StdType(head[0]) != stdcopy.Stdout, data, err
}

// prefixer writes whole lines, each behind a prefix.
type prefixer struct {
	lock   *sync.Mutex // of all that write to the same terminal
	to     io.Writer
	prefix string
	rest   []byte // of a line that has not ended
	out    []byte
}

func (p *prefixer) Write(data []byte) (int, error) {
	n := len(data)
	p.out = p.out[:0]
	for {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			p.rest = append(p.rest, data...)
			break
		}
		p.out = append(append(append(append(p.out, p.prefix...), p.rest...), line...), '\n')
		p.rest, data = p.rest[:0], rest
	}
	if len(p.out) == 0 {
		return n, nil
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	if _, err := p.to.Write(p.out); err != nil {
		return 0, err
	}
	return n, nil
}

// end writes a last line that has no newline.
func (p *prefixer) end() {
	if len(p.rest) > 0 {
		_, _ = p.Write([]byte("\n"))
	}
}
