package server

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"berth/fail"
	"berth/images"
	"berth/oci"
	"berth/registry"
)

// checkMessage is a line of the answer to POST /berth/check; one field is set.
type checkMessage struct {
	Progress string               `json:"progress,omitempty"`
	Damage   *images.Damage       `json:"damage,omitempty"`
	Summary  *images.CheckSummary `json:"summary,omitempty"` // the last line of a check that came to its end
	Error    string               `json:"error,omitempty"`   // the last line of one that did not
}

// checkStore verifies all that the engine keeps on disk, and repairs it if "repair" is
// set. X-Registry-Config gives the credentials to fetch with: base64 of JSON, by host.
func checkStore(w *writer, r *request) error {
	auths, err := r.authByHost()
	if err != nil {
		return err
	}
	out := &checkStream{w: w}
	o := images.CheckOptions{
		Repair: r.boolean("repair"), Users: r.s.Containers.Using,
		Auth: func(host string) *registry.Auth {
			if host == "docker.io" {
				host = "https://index.docker.io/v1/" // as clients call it
			}
			return auths[host]
		},
		Found:    func(d images.Damage) { out.send(checkMessage{Damage: &d}) },
		Progress: func(s images.Step) { out.progress(s.Status + " " + s.ID) },
	}
	sum, err := r.s.Images.Check(r.Context(), o)
	if err == nil {
		err = r.s.checkContainers(o.Found)
	}
	if err != nil {
		if !w.wrote {
			return err
		}
		out.send(checkMessage{Error: err.Error()})
		return nil
	}
	out.send(checkMessage{Summary: &sum})
	return nil
}

// checkContainers finds containers whose image is not there.
func (s *Server) checkContainers(found func(images.Damage)) error {
	all := s.Containers.List()
	known := map[oci.Digest]error{}
	for _, c := range all {
		err, asked := known[c.Image]
		if !asked {
			_, err = s.Images.Get(c.Image.String())
			known[c.Image] = err
		}
		if fail.Is(err, fail.NotFound) {
			found(images.Damage{Kind: "container", ID: c.ID, Problem: "its image " + c.Image.String() + " is missing", Hint: "pull or load that image again, or remove the container " + c.Name})
		}
	}
	return nil
}

// authByHost decodes X-Registry-Config, as for builds.
func (r *request) authByHost() (map[string]*registry.Auth, error) {
	header := r.Header.Get("X-Registry-Config")
	if header == "" {
		return nil, nil
	}
	data, err := decodeBase64(header)
	if err != nil {
		return nil, fail.New(fail.Invalid, "invalid X-Registry-Config header: not base64")
	}
	var all map[string]*registry.Auth
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fail.New(fail.Invalid, "invalid X-Registry-Config header: not the JSON of credentials by host")
	}
	return all, nil
}

// checkStream sends lines as they come.
type checkStream struct {
	w    *writer
	mu   sync.Mutex // guards the rest
	told time.Time
	err  error
}

// progressEvery is how often a client is told what is being checked: a store can have
// thousands of small blobs.
const progressEvery = 100 * time.Millisecond

func (s *checkStream) progress(text string) {
	s.mu.Lock()
	now := time.Now()
	tell := now.Sub(s.told) >= progressEvery
	if tell {
		s.told = now
	}
	s.mu.Unlock()
	if tell {
		s.send(checkMessage{Progress: text})
	}
}

func (s *checkStream) send(m checkMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	if !s.w.wrote {
		s.w.Header().Set("Content-Type", "application/x-ndjson")
		s.w.WriteHeader(http.StatusOK)
	}
	line, err := json.Marshal(m)
	if err == nil {
		_, err = s.w.Write(append(line, '\n'))
	}
	if err == nil {
		err = s.w.flush()
	}
	s.err = err
}
