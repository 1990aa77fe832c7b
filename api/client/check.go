package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	mobyclient "github.com/moby/moby/client"

	"berth/fail"
)

// CheckMessage is one line of the answer to POST /berth/check; one field is set.
type CheckMessage struct {
	Progress string        `json:"progress"`
	Damage   *Damage       `json:"damage"`
	Summary  *CheckSummary `json:"summary"`
	Error    string        `json:"error"`
}

// Damage is one thing that the engine found to be wrong.
type Damage struct {
	Kind     string   `json:"kind"` // database, image, blob, layer, lease, container
	ID       string   `json:"id"`
	Problem  string   `json:"problem"`
	Images   []string `json:"images"` // that need it
	Repaired bool     `json:"repaired"`
	Hint     string   `json:"hint"` // how it was repaired, or why it was not and what to do
}

// CheckSummary is how much was checked.
type CheckSummary struct {
	Images int   `json:"images"`
	Blobs  int   `json:"blobs"`
	Layers int   `json:"layers"`
	Bytes  int64 `json:"bytes"` // of the blobs
}

// Check has the engine verify what it keeps on disk, and tells each message but the last,
// the summary. credentials is the value of X-Registry-Config, for repairs; it may be empty.
func Check(ctx context.Context, engine *mobyclient.Client, repair bool, credentials string, tell func(CheckMessage)) (CheckSummary, error) {
	query := url.Values{}
	if repair {
		query.Set("repair", "1")
	}
	request, err := newRequest(ctx, engine, http.MethodPost, "/berth/check", query, nil)
	if err != nil {
		return CheckSummary{}, err
	}
	if credentials != "" {
		request.Header.Set("X-Registry-Config", credentials)
	}
	conn, _, response, err := send(ctx, engine, request)
	if err != nil {
		return CheckSummary{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if response.StatusCode != http.StatusOK {
		return CheckSummary{}, refusal(response)
	}
	defer response.Body.Close()
	for lines := json.NewDecoder(response.Body); ; {
		var m CheckMessage
		switch err := lines.Decode(&m); {
		case ctx.Err() != nil:
			return CheckSummary{}, context.Cause(ctx)
		case err == io.EOF:
			return CheckSummary{}, fail.New(fail.Unavailable, "the engine ended before the check did")
		case err != nil:
			return CheckSummary{}, fmt.Errorf("the engine's answer about a check: %w", err)
		case m.Error != "":
			return CheckSummary{}, fail.New(fail.Internal, "%s", m.Error)
		case m.Summary != nil:
			return *m.Summary, nil
		}
		tell(m)
	}
}
