package server

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	berthevents "berth/events"
	"berth/fail"
)

// eventMessage adds to moby's newest type the fields that versions before 1.52 answer.
type eventMessage struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

// streamEvents sends what happens, after what happened since the asked time. It ends
// at until, or with the client.
func streamEvents(w *writer, r *request) error {
	f, err := r.filters("builder", "config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service", "type", "volume")
	if err != nil {
		return err
	}
	since, err := eventTime(r, "since")
	if err != nil {
		return err
	}
	until, err := eventTime(r, "until")
	if err != nil {
		return err
	}
	bounded := !until.IsZero()
	if bounded && until.Before(since) {
		return fail.New(fail.Invalid, "`since` time (%s) cannot be after `until` time (%s)", r.query("since"), r.query("until"))
	}
	if bounded && since.IsZero() {
		since = time.Unix(0, 0) // all there is
	}
	ctx, cancel := r.stream()
	defer cancel()
	out := &eventWriter{writer: w, version: r.version, form: eventsType(r.Header.Values("Accept"), r.version)}
	control := http.NewResponseController(w.ResponseWriter)
	// A client that does not read holds the handler in a write: that fails then.
	sub := r.s.Events.Subscribe(ctx, since, func() { _ = control.SetWriteDeadline(time.Now()) })
	w.Header().Set("Content-Type", out.form)
	w.WriteHeader(http.StatusOK)
	wanted := func(e berthevents.Event) bool { return f.takesEvent(e) && (!bounded || !e.Time.After(until)) }
	for _, e := range sub.History {
		if wanted(e) {
			if err := out.send(e); err != nil {
				return err
			}
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	var end <-chan time.Time
	if bounded {
		left := time.Until(until)
		if left <= 0 {
			return nil
		}
		t := time.NewTimer(left)
		defer t.Stop()
		end = t.C
	}
	for {
		select {
		case e, ok := <-sub.C:
			// What came meanwhile goes with it: one write for all.
			for sent := false; ; {
				if !ok {
					if ctx.Err() != nil {
						return nil
					}
					return fail.New(fail.Unavailable, "the client does not keep up with the events")
				}
				if wanted(e) {
					if err := out.send(e); err != nil {
						return err
					}
					sent = true
				}
				if len(sub.C) == 0 {
					if sent {
						err = w.flush()
					}
					break
				}
				e, ok = <-sub.C
			}
			if err != nil {
				return err
			}
		case <-end:
			return nil
		}
	}
}

// tellPrune publishes that objects of a kind were pruned, and how many bytes that freed.
func (s *Server) tellPrune(kind string, reclaimed uint64) {
	s.Events.Publish(berthevents.Event{Type: kind, Action: "prune", Attrs: map[string]string{"reclaimed": strconv.FormatUint(reclaimed, 10)}})
}

// eventTime reads since or until: unlike elsewhere 0 is a time, the beginning of 1970.
func eventTime(r *request, name string) (time.Time, error) {
	if r.query(name) == "0" {
		return time.Unix(0, 0), nil
	}
	return timestamp(name, r.query(name))
}

// eventWriter writes events in the form that was agreed on.
type eventWriter struct {
	*writer
	version version
	form    string
}

func (w *eventWriter) send(e berthevents.Event) error {
	form := "new"
	if w.version < 52 {
		form = "old"
	}
	line, err := e.Text(form, w.encode)
	if err != nil {
		return err
	}
	if w.form == types.MediaTypeJSONSequence {
		if _, err := w.Write([]byte{0x1e}); err != nil { // RFC 7464: record separator before each text
			return err
		}
	}
	_, err = w.Write(line)
	return err
}

func (w *eventWriter) encode(e berthevents.Event) ([]byte, error) {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	err := enc.Encode(eventAnswer(e, w.version))
	return line.Bytes(), err
}

// eventsType chooses the form of the stream. Until 1.51 there is only one name for it.
func eventsType(accept []string, v version) string {
	if v < 52 {
		return types.MediaTypeJSON
	}
	known := []string{types.MediaTypeJSONLines, types.MediaTypeNDJSON, types.MediaTypeJSONSequence}
	best, bestQ := types.MediaTypeJSONLines, -1.0
	for _, part := range strings.Split(strings.Join(accept, ","), ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil || !slices.Contains(known, t) {
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil {
				continue
			}
		}
		if q > bestQ && q > 0 {
			best, bestQ = t, q
		}
	}
	return best
}

func eventAnswer(e berthevents.Event, v version) eventMessage {
	attrs := e.Attrs
	if attrs == nil {
		attrs = map[string]string{}
	}
	m := eventMessage{Message: events.Message{
		Type:     events.Type(e.Type),
		Action:   events.Action(e.Action),
		Actor:    events.Actor{ID: e.ID, Attributes: attrs},
		Scope:    "local",
		Time:     e.Time.Unix(),
		TimeNano: e.Time.UnixNano(),
	}}
	if v < 52 && (e.Type == "container" || e.Type == "image") {
		m.Status, m.ID = e.Action, e.ID
		if e.Type == "container" {
			m.From = attrs["image"]
		}
	}
	return m
}

// takesEvent applies the filters of GET /events. An object's filter takes the beginning
// of its ID or name, as Docker's does; an image's the whole, with or without the tag.
func (f filters) takesEvent(e berthevents.Event) bool {
	// "exec_create: sh" matches the filter exec_create, "health_status: healthy" health_status.
	verb, _, _ := strings.Cut(e.Action, ":")
	if !f.exact("type", e.Type) || !f.exact("scope", "local") || !f.labels("label", e.Attrs) ||
		!f.any("event", func(want string) bool { return want == e.Action || want == verb }) {
		return false
	}
	for _, kind := range []string{"container", "daemon", "network", "volume", "plugin", "service", "node", "secret", "config", "builder"} {
		if len(f[kind]) == 0 {
			continue
		}
		if e.Type != kind || !f.any(kind, func(want string) bool {
			return strings.HasPrefix(e.ID, want) || strings.HasPrefix(e.Attrs["name"], want)
		}) {
			return false
		}
	}
	name := e.Attrs["image"]
	if e.Type == "image" {
		name = e.Attrs["name"]
	}
	return f.any("image", func(want string) bool {
		return want == e.ID || want == untagged(e.ID) || want == name || want == untagged(name) || want == strings.TrimPrefix(e.ID, "sha256:")
	})
}

// untagged is a familiar reference without its tag.
func untagged(ref string) string {
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return ref[:i]
	}
	return ref
}
