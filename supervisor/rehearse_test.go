package supervisor

import (
	"encoding/json"
	"testing"

	"berth/runtime"
)

func TestTheRehearsedRequestIsOneThatCouldBeServed(t *testing.T) {
	var req createRequest
	if err := json.Unmarshal([]byte(sampleRequest), &req); err != nil {
		t.Fatal(err)
	}
	if err := runtime.Rehearse(req.Config.config().Spec); err != nil {
		t.Fatal(err)
	}
}
