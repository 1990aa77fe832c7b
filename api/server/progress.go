package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"github.com/docker/go-units"

	"berth/images"
)

// progressMessage is one line of a progress stream.
type progressMessage struct {
	Stream         string          `json:"stream,omitempty"`
	Status         string          `json:"status,omitempty"`
	ProgressDetail *progressDetail `json:"progressDetail,omitempty"`
	Progress       string          `json:"progress,omitempty"`
	ID             string          `json:"id,omitempty"`
	Aux            any             `json:"aux,omitempty"`
	ErrorDetail    *errorDetail    `json:"errorDetail,omitempty"`
	Error          string          `json:"error,omitempty"`
}

type progressDetail struct {
	Current int64 `json:"current,omitempty"`
	Total   int64 `json:"total,omitempty"`
}

type errorDetail struct {
	Code    int    `json:"code,omitempty"`
	Message string `json:"message"`
}

// progressStream sends messages as they come. Its head goes out with the first one, so
// that an error before has a status of its own; an error after it is the last message.
type progressStream struct {
	w   *writer
	mu  sync.Mutex // guards the stream and err
	err error
}

func (p *progressStream) send(m progressMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	if !p.w.wrote {
		p.w.Header().Set("Content-Type", "application/json")
		p.w.WriteHeader(http.StatusOK)
	}
	line, err := json.Marshal(m)
	if err == nil {
		_, err = p.w.Write(append(line, '\r', '\n'))
	}
	if err == nil {
		err = p.w.flush()
	}
	p.err = err
}

// step is an images.Progress.
func (p *progressStream) step(s images.Step) {
	m := progressMessage{Status: s.Status, ID: s.ID, Aux: s.Aux}
	if s.Aux == nil {
		m.ProgressDetail = &progressDetail{Current: s.Current, Total: s.Total}
		m.Progress = bar(s.Current, s.Total)
	}
	if s.ID == "" && s.Current == 0 && s.Total == 0 {
		m.ProgressDetail = nil
	}
	p.send(m)
}

// end finishes the stream: an error before the first message is returned, to be
// answered by a status; a later one is told in the stream.
func (p *progressStream) end(err error) error {
	if err == nil {
		if !p.w.wrote {
			p.w.Header().Set("Content-Type", "application/json")
			p.w.WriteHeader(http.StatusOK)
		}
		return nil
	}
	if !p.w.wrote {
		return err
	}
	p.send(progressMessage{ErrorDetail: &errorDetail{Message: err.Error()}, Error: err.Error()})
	return nil
}

// bar is the line that clients print which do not draw by themselves.
func bar(current, total int64) string {
	if current <= 0 && total <= 0 {
		return ""
	}
	if total <= 0 || current > total {
		return units.HumanSize(float64(current))
	}
	const width = 50
	done := int(current * width / total)
	const full, empty = "==================================================", "                                                  "
	text := full[:done]
	if done < width {
		text += ">" + empty[:width-done-1]
	}
	return fmt.Sprintf("[%s] %8s/%s", text, units.HumanSize(float64(current)), units.HumanSize(float64(total)))
}
