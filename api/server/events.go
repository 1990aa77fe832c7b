package server

import (
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
	sinceTime, err := timestamp("since", r.query("since"))
	if err != nil {
		return err
	}
	until, err := timestamp("until", r.query("until"))
	if err != nil {
		return err
	}
	if r.has("until") && r.query("until") == "0" {
		until = time.Unix(0, 0)
	} else if !until.IsZero() && until.Before(sinceTime) {
		return fail.New(fail.Invalid, "`since` time (%s) cannot be after `until` time (%s)", r.query("since"), r.query("until"))
	}
	ctx, cancel := r.stream()
	defer cancel()
	sub := r.s.Events.Subscribe(ctx, sinceTime)
	contentType := eventsType(r.Header.Values("Accept"), r.version)
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	if err := w.flush(); err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	send := func(e berthevents.Event) error {
		if !f.takesEvent(e) || (!until.IsZero() && e.Time.After(until)) {
			return nil
		}
		if contentType == types.MediaTypeJSONSequence {
			if _, err := w.Write([]byte{0x1e}); err != nil { // RFC 7464: record separator before each text
				return err
			}
		}
		if err := enc.Encode(eventAnswer(e, r.version)); err != nil {
			return err
		}
		return w.flush()
	}
	for _, e := range sub.History {
		if err := send(e); err != nil {
			return err
		}
	}
	var end <-chan time.Time
	if !until.IsZero() {
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
			if !ok {
				return nil
			}
			if err := send(e); err != nil {
				return err
			}
		case <-end:
			return nil
		}
	}
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

// takesEvent applies the filters of GET /events. An object's filter takes its ID, a
// prefix of it for containers, or its name.
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
		if e.Type != kind {
			return false
		}
		if !f.any(kind, func(want string) bool {
			return e.ID == want || e.Attrs["name"] == want || (kind == "container" && len(want) >= 12 && strings.HasPrefix(e.ID, want))
		}) {
			return false
		}
	}
	if len(f["image"]) > 0 {
		name := e.Attrs["name"]
		if e.Type != "image" {
			name = e.Attrs["image"]
		}
		if !f.any("image", func(want string) bool { return e.ID == want || name == want || matchReference(want, name) }) {
			return false
		}
	}
	return true
}
