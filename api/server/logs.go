package server

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types"

	"berth/fail"
	"berth/logs"
)

// containerLogs streams what a container wrote, framed if it has no terminal.
func containerLogs(w *writer, r *request) error {
	c, err := r.s.Containers.Get(r.path["id"])
	if err != nil {
		return err
	}
	o := logs.ReadOptions{Stdout: r.boolean("stdout"), Stderr: r.boolean("stderr"), Follow: r.boolean("follow"), Tail: tail(r.query("tail"))}
	if !o.Stdout && !o.Stderr {
		return fail.New(fail.Invalid, "Bad parameters: you must choose at least one stream")
	}
	if o.Since, err = timestamp("since", r.query("since")); err != nil {
		return err
	}
	if o.Until, err = timestamp("until", r.query("until")); err != nil {
		return err
	}
	out := &logWriter{framed: !c.Config.Tty, timestamps: r.boolean("timestamps"), details: r.boolean("details")}
	begun := false
	begin := func() error {
		if begun {
			return nil
		}
		begun = true
		w.Header().Set("Content-Type", streamType(!c.Config.Tty, r.version))
		w.WriteHeader(http.StatusOK)
		return nil
	}
	if o.Follow {
		// The client wants the head now, the first line may be hours away. A driver that
		// cannot be read says so before that.
		probe := o
		probe.Follow, probe.Tail = false, 0
		if err := r.s.Containers.Logs(r.Context(), c.ID, probe, func(logs.Entry) error { return nil }); err != nil {
			return err
		}
		if err := begin(); err != nil {
			return err
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
	ctx, cancel := r.stream()
	defer cancel()
	const flushAt = 32 << 10
	send := func() error {
		if out.buf.Len() == 0 {
			return nil
		}
		if _, err := out.buf.WriteTo(w); err != nil {
			return err
		}
		return w.flush()
	}
	o.Idle = send
	err = r.s.Containers.Logs(ctx, c.ID, o, func(e logs.Entry) error {
		if err := begin(); err != nil {
			return err
		}
		out.add(e)
		if out.buf.Len() < flushAt {
			return nil
		}
		return send()
	})
	if err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	_, err = out.buf.WriteTo(w)
	return err
}

// tail reads how many of the last lines are wanted; all of them for "all" and for what
// is not a number or negative.
func tail(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// streamType is the content type of a container's streams. Versions before 1.42 know
// only one.
func streamType(framed bool, v version) string {
	if framed && v >= 42 {
		return types.MediaTypeMultiplexedStream
	}
	return types.MediaTypeRawStream
}

// logWriter turns entries into the bytes of the stream.
type logWriter struct {
	framed, timestamps, details bool
	buf                         bytes.Buffer
	line                        []byte
}

func (lw *logWriter) add(e logs.Entry) {
	lw.line = lw.line[:0]
	if lw.timestamps {
		lw.line = e.Time.UTC().AppendFormat(lw.line, logTime)
		lw.line = append(lw.line, ' ')
	}
	if lw.details {
		lw.line = append(lw.line, attrsText(e.Attrs)...)
		lw.line = append(lw.line, ' ')
	}
	lw.line = append(lw.line, e.Line...)
	if lw.framed {
		lw.buf.Write(frameHeader(e.Stream, len(lw.line)))
	}
	lw.buf.Write(lw.line)
}

// logTime is RFC 3339 with all nine digits, so that columns align.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

// frameHeader is Docker's: stream number, three zeros, length in big endian.
func frameHeader(stream string, n int) []byte {
	h := make([]byte, 8)
	h[0] = 1
	if stream == logs.Stderr {
		h[0] = 2
	}
	binary.BigEndian.PutUint32(h[4:], uint32(n))
	return h
}

// attrsText is "key=value,key=value", sorted and escaped as in a URL's query.
func attrsText(attrs map[string]string) string {
	parts := make([]string, 0, len(attrs))
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		parts = append(parts, url.QueryEscape(k)+"="+url.QueryEscape(attrs[k]))
	}
	return strings.Join(parts, ",")
}
