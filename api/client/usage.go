package client

import (
	"context"
	"encoding/json"
	"fmt"

	mobyclient "github.com/moby/moby/client"
)

// DataUse is what the engine keeps beside what Docker's disk usage tells of, in bytes.
type DataUse struct {
	Content  int64 // blobs of images
	Cache    int64 // what no image needs
	Logs     int64
	Overhead int64 // all the rest
	Total    int64 // everything together
}

// DataUsage asks for it. Another engine than Berth is class NotImplemented.
func DataUsage(ctx context.Context, engine *mobyclient.Client) (u DataUse, err error) {
	_, body, err := Call(ctx, engine, "GET", "/berth/df", nil, nil, nil)
	if err == nil {
		if err = json.Unmarshal(body, &u); err != nil {
			err = fmt.Errorf("the engine's answer: %w", err)
		}
	}
	return u, err
}
