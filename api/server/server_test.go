package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/engine"
	"berth/events"
	"berth/fail"
	"berth/images"
	"berth/logs"
)

var update = flag.Bool("update", false, "write the goldens anew")

func message(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var m struct{ Message string }
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
		t.Fatalf("the body is no error: %q", w.Body)
	}
	return m.Message
}

func TestVersionsAreNegotiated(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		path    string
		status  int
		message string
	}{
		{"/v1.55/_ping", 200, ""},
		{"/v1.40/_ping", 200, ""},
		{"/_ping", 200, ""},
		{"/v1.56/_ping", 400, "client version 1.56 is too new. Maximum supported API version is 1.55"},
		{"/v2.0/_ping", 400, "client version 2.0 is too new. Maximum supported API version is 1.55"},
		{"/v1.39/_ping", 400, "client version 1.39 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version"},
		{"/v0.9/_ping", 400, "client version 0.9 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version"},
		{"/v1.50", 404, "page not found"},
		{"/v1.x/_ping", 404, "page not found"},
		{"/volumes", 200, ""},
	} {
		w := b.ask("GET", c.path, "")
		if w.Code != c.status || (c.message != "" && message(t, w) != c.message) {
			t.Errorf("%s: %d %s", c.path, w.Code, w.Body)
		}
	}
}

func TestEveryAnswerCarriesTheEnginesHeaders(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"/_ping", "/v1.41/containers/json", "/nowhere", "/v9.9/info"} {
		h := b.ask("GET", path, "").Header()
		if h.Get("Api-Version") != "1.55" || h.Get("Ostype") != "linux" || h.Get("Docker-Experimental") != "false" || !strings.HasPrefix(h.Get("Server"), "Berth/") {
			t.Errorf("%s: %v", path, h)
		}
	}
}

func TestPing(t *testing.T) {
	b := newBench(t)
	get, head := b.ask("GET", "/_ping", ""), b.ask("HEAD", "/_ping", "")
	if get.Body.String() != "OK" || head.Body.Len() != 0 || head.Code != 200 {
		t.Fatalf("GET %q, HEAD %d %q", get.Body, head.Code, head.Body)
	}
	for _, w := range []*httptest.ResponseRecorder{get, head} {
		if w.Header().Get("Builder-Version") != "1" || !strings.HasPrefix(w.Header().Get("Cache-Control"), "no-cache") || w.Header().Get("Swarm") != "inactive" {
			t.Errorf("headers %v", w.Header())
		}
	}
}

// tier1 are the endpoints every client relies on, with paths as clients send them.
var tier1 = strings.Fields(`
GET:/containers/json POST:/containers/create GET:/containers/web/json GET:/containers/web/top GET:/containers/web/logs
GET:/containers/web/changes GET:/containers/web/export GET:/containers/web/stats POST:/containers/web/resize POST:/containers/web/start
POST:/containers/web/stop POST:/containers/web/restart POST:/containers/web/kill POST:/containers/web/rename POST:/containers/web/pause
POST:/containers/web/unpause POST:/containers/web/attach POST:/containers/web/wait DELETE:/containers/web HEAD:/containers/web/archive
GET:/containers/web/archive PUT:/containers/web/archive POST:/containers/prune GET:/images/json POST:/build POST:/build/prune POST:/images/create
GET:/images/a/b:c/json GET:/images/busybox/history POST:/images/localhost:5000/a/b/push POST:/images/busybox/tag DELETE:/images/localhost:5000/a/b:1
POST:/images/prune POST:/auth GET:/info GET:/version GET:/_ping HEAD:/_ping POST:/commit GET:/events GET:/system/df GET:/images/busybox/get
GET:/images/get POST:/images/load POST:/containers/web/exec POST:/exec/1/start POST:/exec/1/resize GET:/exec/1/json GET:/volumes
POST:/volumes/create GET:/volumes/v DELETE:/volumes/v POST:/volumes/prune GET:/networks GET:/networks/n DELETE:/networks/n POST:/networks/create
POST:/networks/n/connect POST:/networks/n/disconnect POST:/networks/prune POST:/session
POST:/containers/web/update GET:/containers/web/attach/ws GET:/images/search GET:/distribution/localhost:5000/a:1/json POST:/grpc`)

func TestEveryEndpointOfTheAPIHasARoute(t *testing.T) {
	s := New(Config{})
	for _, e := range tier1 {
		method, path, _ := strings.Cut(e, ":")
		if _, _, err := s.find(method, path, newest); err != nil {
			t.Errorf("%s %s: %v", method, path, err)
		}
	}
}

func TestPathsAreMatched(t *testing.T) {
	s := New(Config{})
	for _, c := range []struct{ method, path, pattern, name string }{
		{"GET", "/images/json", "/images/json", ""},
		{"GET", "/images/a/json", "/images/{name...}/json", "a"},
		{"GET", "/images/localhost:5000/a/b:1/json", "/images/{name...}/json", "localhost:5000/a/b:1"},
		{"GET", "/images/json/json", "/images/{name...}/json", "json"},
		{"DELETE", "/images/a/b/c", "/images/{name...}", "a/b/c"},
		{"GET", "/containers/web/json", "/containers/{id}/json", "web"},
		{"GET", "/containers//web/json", "/containers/{id}/json", "web"},
		{"GET", "/containers/a/b/json", "/containers/{id}/json", "a/b"},
		{"GET", "/containers/a\nb/json", "", ""},
		{"GET", "/images//json", "/images/json", ""},
		{"PATCH", "/images/json", "", ""},
		{"HEAD", "/info", "", ""},
	} {
		r, values, err := s.find(c.method, c.path, newest)
		if c.pattern == "" {
			if err == nil {
				t.Errorf("%s %s is matched by %s", c.method, c.path, r.pattern)
			}
			continue
		}
		if err != nil || r.pattern != c.pattern || values["name"]+values["id"] != c.name {
			t.Errorf("%s %s: %v %v %v", c.method, c.path, r, values, err)
		}
	}
}

func TestPercentEncodedImageNamesAreOneName(t *testing.T) {
	b := newBench(t)
	b.img.list[0].RepoTags = []string{"localhost:5000/a/b:1"}
	if w := b.ask("GET", "/v1.47/images/localhost:5000%2Fa%2Fb:1/json", ""); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

func TestClassesBecomeStatuses(t *testing.T) {
	b := newBench(t)
	for class, want := range map[fail.Class]int{
		fail.Internal: 500, fail.NotFound: 404, fail.Invalid: 400, fail.Conflict: 409, fail.Unauthorized: 401,
		fail.Forbidden: 403, fail.Unavailable: 503, fail.NotImplemented: 501,
	} {
		b.eng.err = fmt.Errorf("start web: %w", fail.New(class, "because"))
		w := b.ask("POST", "/v1.47/containers/web/start", "")
		if w.Code != want || message(t, w) != "start web: because" || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%v: %d %q", class, w.Code, w.Body)
		}
	}
	b.eng.err = fail.New(fail.NotModified, "runs already")
	if w := b.ask("POST", "/containers/web/start", ""); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("not modified: %d %q", w.Code, w.Body)
	}
}

func TestAPanicIsAnAnswerOfItsOwn(t *testing.T) {
	b := newBench(t)
	b.eng.panics = true
	if w := b.ask("POST", "/containers/web/start", ""); w.Code != 500 || !strings.Contains(message(t, w), "boom") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

func TestWhatIsNotThereSaysSo(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		method, path string
		status       int
		text         string
	}{
		{"POST", "/build", 501, "building images is not supported"},
		{"GET", "/services", 503, "This node is not a swarm manager."},
		{"POST", "/swarm/init", 501, "swarm"},
		{"POST", "/plugins/pull", 501, "plugins"},
		{"GET", "/nowhere", 404, "page not found"},
		{"GET", "/debug/vars", 403, "local socket"},
	} {
		w := b.ask(c.method, c.path, "")
		if w.Code != c.status || !strings.Contains(message(t, w), c.text) {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
}

func TestCreateReadsTheWholeRequest(t *testing.T) {
	b := newBench(t)
	body := `{"Image":"busybox","Cmd":"ls","Entrypoint":["/bin/sh","-c"],"Unknown":1,"HostConfig":{"Binds":null,"CapAdd":[],"NetworkMode":"none"}}`
	w := b.ask("POST", "/v1.50/containers/create?name=%2Fbox&platform=linux/amd64", body)
	if w.Code != 201 || strings.TrimSpace(w.Body.String()) != `{"Id":"`+strings.Repeat("c", 64)+`","Warnings":[]}` {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	r := b.eng.created
	if r.Name != "box" || r.Config.Image != "busybox" || len(r.Config.Cmd) != 1 || r.Config.Cmd[0] != "ls" || len(r.Config.Entrypoint) != 2 {
		t.Errorf("request %+v %+v", r, r.Config)
	}
	if r.HostConfig.Binds != nil || r.HostConfig.CapAdd == nil {
		t.Error("null and [] must stay what they were")
	}
	if r.Platform == nil || r.Platform.Architecture != "amd64" || r.Networking == nil {
		t.Errorf("platform %v, networking %v", r.Platform, r.Networking)
	}
}

func TestBadCreateRequestsAreRefused(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct{ body, ctype string }{
		"not JSON":             {"{", "application/json"},
		"no body":              {"", "application/json"},
		"null":                 {"null", "application/json"},
		"more than one value":  {"{\"Image\":\"a\"} {}", "application/json"},
		"another content type": {"{\"Image\":\"a\"}", "text/plain"},
		"no content type":      {"{\"Image\":\"a\"}", ""},
		"a wrong type":         {`{"Image":5}`, "application/json"},
	} {
		req := httptest.NewRequest("POST", "/containers/create", strings.NewReader(c.body))
		req.Header.Set("Content-Type", c.ctype)
		w := httptest.NewRecorder()
		b.ServeHTTP(w, req)
		if w.Code != 400 || message(t, w) == "" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	big := `{"Image":"` + strings.Repeat("a", maxBody+1) + `"}`
	if w := b.ask("POST", "/containers/create", big); w.Code != 400 || !strings.Contains(message(t, w), "larger") {
		t.Errorf("too large: %d", w.Code)
	}
}

func TestStopTakesItsTimeout(t *testing.T) {
	b := newBench(t)
	if w := b.ask("POST", "/v1.47/containers/web/stop?t=-1&signal=INT", ""); w.Code != 204 || *b.eng.stopped.Timeout != -1 || b.eng.stopped.Signal != "INT" {
		t.Errorf("%d %+v", w.Code, b.eng.stopped)
	}
	if b.ask("POST", "/v1.41/containers/web/stop?signal=INT", ""); b.eng.stopped.Timeout != nil || b.eng.stopped.Signal != "" {
		t.Errorf("1.41 knows no signal: %+v", b.eng.stopped)
	}
	if w := b.ask("POST", "/containers/web/stop?t=soon", ""); w.Code != 400 {
		t.Errorf("t=soon: %d", w.Code)
	}
}

func TestUpdateTakesLimitsAndAPolicy(t *testing.T) {
	b := newBench(t)
	const body = `{"Memory":67108864,"PidsLimit":-1,"RestartPolicy":{"Name":"always"}}`
	w := b.ask("POST", "/v1.47/containers/web/update", body)
	if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"Warnings":[]}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if u := b.eng.updated; u.Resources.Memory != 64<<20 || *u.Resources.PidsLimit != -1 || !u.RestartPolicy.IsAlways() {
		t.Errorf("%+v", u)
	}
	if w := b.ask("POST", "/containers/web/update", `{"Memory":`); w.Code != 400 {
		t.Errorf("a body that breaks off: %d", w.Code)
	}
}

func TestWaitSendsItsHeadBeforeTheEnd(t *testing.T) {
	b := newBench(t)
	srv := httptest.NewServer(b)
	defer srv.Close()
	resp, err := http.Post(srv.URL+"/containers/web/wait?condition=next-exit", "", nil) // returns with the head
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	b.eng.waits <- engine.WaitResult{ExitCode: 9}
	var body bytes.Buffer
	body.ReadFrom(resp.Body)
	if strings.TrimSpace(body.String()) != `{"StatusCode":9}` {
		t.Fatalf("body %q", body.String())
	}
	if w := b.ask("POST", "/containers/web/wait?condition=soon", ""); w.Code != 400 {
		t.Errorf("unknown condition: %d", w.Code)
	}
	b.eng.waits <- engine.WaitResult{ExitCode: 1, Err: errors.New("lost")}
	if w := b.ask("POST", "/v1.41/containers/web/wait", ""); strings.TrimSpace(w.Body.String()) != `{"Error":{"Message":"lost"},"StatusCode":1}` {
		t.Errorf("1.41: %s", w.Body)
	}
}

func TestLogsAreFramedUnlessThereIsATerminal(t *testing.T) {
	b := newBench(t)
	b.eng.entries = []logs.Entry{
		{Stream: "stdout", Time: day, Line: []byte("a\n")},
		{Stream: "stderr", Time: day, Line: []byte("bb"), Attrs: map[string]string{"x": "1", "k k": "v,w"}},
	}
	for _, c := range []struct{ path, ctype, body string }{
		{"/v1.47/containers/web/logs?stdout=1&stderr=1", "application/vnd.docker.multiplexed-stream", "\x01\x00\x00\x00\x00\x00\x00\x02a\n\x02\x00\x00\x00\x00\x00\x00\x02bb"},
		{"/v1.41/containers/web/logs?stdout=1", "application/vnd.docker.raw-stream", "\x01\x00\x00\x00\x00\x00\x00\x02a\n\x02\x00\x00\x00\x00\x00\x00\x02bb"},
		{"/v1.47/containers/job/logs?stdout=1", "application/vnd.docker.raw-stream", "a\nbb"},
		{"/v1.47/containers/job/logs?stdout=1&timestamps=1", "application/vnd.docker.raw-stream", "2026-01-02T03:04:05.000006000Z a\n2026-01-02T03:04:05.000006000Z bb"},
		{"/v1.47/containers/job/logs?stdout=1&details=1", "application/vnd.docker.raw-stream", " a\nk+k=v%2Cw,x=1 bb"},
		{"/v1.47/containers/job/logs?stdout=1&follow=1", "application/vnd.docker.raw-stream", "a\nbb"},
	} {
		w := b.ask("GET", c.path, "")
		if w.Code != 200 || w.Header().Get("Content-Type") != c.ctype || !strings.HasSuffix(w.Body.String(), c.body) {
			t.Errorf("%s: %d %s %q", c.path, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
	}
	if w := b.ask("GET", "/containers/web/logs", ""); w.Code != 400 {
		t.Errorf("no stream chosen: %d", w.Code)
	}
	b.ask("GET", "/containers/web/logs?stderr=1&tail=5&since=100.5&until=200", "")
	if o := b.eng.read; o.Stdout || !o.Stderr || o.Tail != 5 || !o.Since.Equal(time.Unix(100, 5e8)) || !o.Until.Equal(time.Unix(200, 0)) {
		t.Errorf("options %+v", o)
	}
	b.eng.err = fail.New(fail.NotImplemented, "configured logging driver does not support reading")
	if w := b.ask("GET", "/containers/web/logs?stdout=1&follow=1", ""); w.Code != 501 {
		t.Errorf("unreadable driver: %d", w.Code)
	}
}

func TestTailReadsWhatClientsSend(t *testing.T) {
	for s, want := range map[string]int{"": -1, "all": -1, "0": 0, "7": 7, "-3": -1, "many": -1} {
		if got := tail(s); got != want {
			t.Errorf("tail %q: %d", s, got)
		}
	}
}

func TestQueryBooleans(t *testing.T) {
	for s, want := range map[string]bool{"": false, "0": false, "no": false, "False": false, "NONE": false, " ": false, "1": true, "true": true, "yes": true, "x": true} {
		if truthy(s) != want {
			t.Errorf("%q", s)
		}
	}
}

func TestTimestamps(t *testing.T) {
	for s, want := range map[string]time.Time{
		"": {}, "0": {}, "1": time.Unix(1, 0), "1.5": time.Unix(1, 5e8), "1.000000001": time.Unix(1, 1), "-1.5": time.Unix(-1, -5e8),
		"1970-01-01T00:00:02Z": time.Unix(2, 0),
	} {
		if got, err := timestamp("since", s); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
	for _, s := range []string{"x", "1.x", "1.-5", "yesterday"} {
		if _, err := timestamp("since", s); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func ids(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var rows []struct{ Id, Name string }
	if err := json.Unmarshal(w.Body.Bytes(), &rows); err != nil {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var out []string
	for _, r := range rows {
		switch {
		case r.Name != "":
			out = append(out, r.Name)
		default:
			out = append(out, r.Id[:1])
		}
	}
	return strings.Join(out, " ")
}

func TestContainerListFilters(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ query, want string }{
		{"", "1"},
		{"all=1", "1 2"},
		{"limit=1", "1"},
		{"limit=5", "1 2"},
		{`filters={"status":["exited"]}`, "2"},
		{`filters={"status":{"exited":true}}`, "2"},
		{`all=1&filters={"name":["^we"]}`, "1"},
		{`all=1&filters={"name":["^/we"]}`, "1"},
		{`all=1&filters={"id":["22"]}`, "2"},
		{`all=1&filters={"label":["app=web"]}`, "1"},
		{`all=1&filters={"label":["app"]}`, "1"},
		{`all=1&filters={"label":["app=db"]}`, ""},
		{`all=1&filters={"ancestor":["busybox"]}`, "1 2"},
		{`all=1&filters={"ancestor":["nothing"]}`, ""},
		{`all=1&filters={"before":["web"]}`, "2"},
		{`all=1&filters={"since":["job"]}`, "1"},
		{`all=1&filters={"exited":["3"]}`, "2"},
		{`all=1&filters={"exited":["0"]}`, ""},
		{`all=1&filters={"network":["host"]}`, "1"},
		{`all=1&filters={"volume":["/data"]}`, "1"},
		{`all=1&filters={"health":["none"]}`, "1 2"},
		{`all=1&filters={"health":["healthy"]}`, ""},
		{`all=1&filters={"is-task":["true"]}`, ""},
		{`all=1&filters={"publish":["80"]}`, ""},
	} {
		q := strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22", "^", "%5E").Replace(c.query)
		if got := ids(t, b.ask("GET", "/containers/json?"+q, "")); got != c.want {
			t.Errorf("%s: %q, want %q", c.query, got, c.want)
		}
	}
	for _, bad := range []string{`{"colour":["red"]}`, `{"status":["asleep"]}`, `[]`, `{"exited":["x"]}`, `{"name":["("]}`, `{"since":["nobody"]}`, `{"is-task":["maybe"]}`} {
		if w := b.ask("GET", "/containers/json?filters="+url.QueryEscape(bad), ""); w.Code != 400 && w.Code != 404 {
			t.Errorf("%s: %d", bad, w.Code)
		}
	}
}

func TestImageListFilters(t *testing.T) {
	b := newBench(t)
	old := busybox()
	old.ID, old.RepoTags = "sha256:0000000000000000000000000000000000000000000000000000000000000000", nil
	early := day.Add(-time.Hour)
	old.Config.Created, old.Config.Config.Labels = &early, nil
	b.img.list = append(b.img.list, old)
	for _, c := range []struct{ filter, want string }{
		{`{}`, "2"},
		{`{"dangling":["true"]}`, "1"},
		{`{"dangling":["0"]}`, "1"},
		{`{"label":["maker=us"]}`, "1"},
		{`{"label!":["maker"]}`, "1"},
		{`{"reference":["busy*"]}`, "1"},
		{`{"reference":["busybox"]}`, "1"},
		{`{"reference":["busybox:1"]}`, "0"},
		{`{"before":["busybox"]}`, "1"},
		{`{"until":["2026-01-02T03:00:00Z"]}`, "1"},
	} {
		var rows []map[string]any
		w := b.ask("GET", "/images/json?filters="+url.QueryEscape(c.filter), "")
		if err := json.Unmarshal(w.Body.Bytes(), &rows); err != nil || fmt.Sprint(len(rows)) != c.want {
			t.Errorf("%s: %d rows, %s", c.filter, len(rows), w.Body)
		}
	}
}

func TestPullStreamsProgressAndErrors(t *testing.T) {
	b := newBench(t)
	b.img.err = fail.New(fail.NotFound, "manifest for nothing:latest not found")
	if w := b.ask("POST", "/images/create?fromImage=nothing&tag=latest", ""); w.Code != 404 || message(t, w) != "manifest for nothing:latest not found" {
		t.Fatalf("before the first byte: %d %s", w.Code, w.Body)
	}
	b.img.steps = []images.Step{{Status: "Pulling from library/a"}, {ID: "0123", Status: "Downloading", Current: 512, Total: 1024}, {Aux: map[string]int{"n": 1}}}
	w := b.ask("POST", "/images/create?fromImage=a&tag=latest", "")
	lines := strings.Split(strings.TrimSpace(w.Body.String()), "\r\n")
	if w.Code != 200 || len(lines) != 4 {
		t.Fatalf("%d %q", w.Code, lines)
	}
	for i, want := range []string{
		`{"status":"Pulling from library/a"}`,
		`{"status":"Downloading","progressDetail":{"current":512,"total":1024},"progress":"[=========================\u003e                        ]     512B/1.024kB","id":"0123"}`,
		`{"aux":{"n":1}}`,
		`{"errorDetail":{"message":"manifest for nothing:latest not found"},"error":"manifest for nothing:latest not found"}`,
	} {
		if lines[i] != want {
			t.Errorf("line %d: %s", i, lines[i])
		}
	}
}

func TestPullReferences(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, c := range []struct {
		image, tag, want string
		all              bool
	}{
		{"debian", "12", "docker.io/library/debian:12", false},
		{"debian:11", "12", "docker.io/library/debian:12", false},
		{"localhost:5000/a/b", digest, "localhost:5000/a/b@" + digest, false},
		{"debian:12", "", "docker.io/library/debian:12", false},
		{"debian", "", "docker.io/library/debian", true},
	} {
		ref, all, err := pullReference(c.image, c.tag)
		if err != nil || ref.String() != c.want || all != c.all {
			t.Errorf("%s %s: %v %v %v", c.image, c.tag, ref, all, err)
		}
	}
	for _, bad := range [][2]string{{"UPPER", ""}, {"a", "t a g"}, {"a", "sha256:12"}, {"", "x"}} {
		if _, _, err := pullReference(bad[0], bad[1]); !fail.Is(err, fail.Invalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestImportNamesAndTellsTheImage(t *testing.T) {
	b := newBench(t)
	w := b.ask("POST", "/images/create?fromSrc=-&repo=mine&tag=1&message=m&changes=CMD+sh&changes=ENV+a%3Db", "tar")
	if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"status":"`+busyboxID.String()+`"}` {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if o := b.img.opts; o.Ref.String() != "docker.io/library/mine:1" || len(o.Changes) != 2 || o.Message != "m" {
		t.Errorf("%+v", o)
	}
}

func TestLoadReportsUnlessQuiet(t *testing.T) {
	b := newBench(t)
	b.img.steps = []images.Step{{ID: "0123", Status: "Loading layer", Current: 1, Total: 2}}
	if w := b.ask("POST", "/images/load?quiet=1", "tar"); strings.TrimSpace(w.Body.String()) != `{"stream":"Loaded image: busybox:latest\n"}` || b.img.loaded != "tar" {
		t.Errorf("quiet: %q", w.Body)
	}
	if w := b.ask("POST", "/images/load?quiet=0", "tar"); !strings.Contains(w.Body.String(), "Loading layer") {
		t.Errorf("loud: %q", w.Body)
	}
}

func TestImagePruneLeavesWhatIsUsed(t *testing.T) {
	b := newBench(t)
	dangling := busybox()
	dangling.ID, dangling.RepoTags = "sha256:0000000000000000000000000000000000000000000000000000000000000000", nil
	b.img.list = append(b.img.list, dangling)
	b.ask("POST", "/images/prune", "")
	if len(b.img.removed) != 1 || b.img.removed[0] != dangling.ID.String() {
		t.Fatalf("removed %v", b.img.removed)
	}
	b.img.removed = nil
	b.ask("POST", "/images/prune?filters="+url.QueryEscape(`{"dangling":["false"]}`), "")
	if len(b.img.removed) != 1 {
		t.Fatalf("containers use busybox: removed %v", b.img.removed)
	}
}

func TestContainerPruneFilters(t *testing.T) {
	b := newBench(t)
	if w := b.ask("POST", "/containers/prune", ""); !strings.Contains(w.Body.String(), b.eng.list[1].ID) || strings.Contains(w.Body.String(), b.eng.list[0].ID) {
		t.Errorf("%s", w.Body)
	}
	for _, f := range []string{`{"label":["app"]}`, `{"until":["2020-01-01T00:00:00Z"]}`} {
		if w := b.ask("POST", "/containers/prune?filters="+url.QueryEscape(f), ""); strings.TrimSpace(w.Body.String()) != `{"ContainersDeleted":null,"SpaceReclaimed":7}` {
			t.Errorf("%s: %s", f, w.Body)
		}
	}
}

func TestLogin(t *testing.T) {
	b := newBench(t)
	if w := b.ask("POST", "/auth", `{"username":"u","password":"right"}`); w.Code != 200 || !strings.Contains(w.Body.String(), `"Status":"Login Succeeded"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := b.ask("POST", "/auth", `{"username":"u","password":"wrong"}`); w.Code != 401 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestEventsStreamHistoryAndFilters(t *testing.T) {
	b := newBench(t)
	b.Events.Publish(events.Event{Type: "container", Action: "start", ID: "c1", Attrs: map[string]string{"image": "busybox", "name": "web"}, Time: day})
	b.Events.Publish(events.Event{Type: "container", Action: "exec_create: sh -c ls", ID: "c1", Time: day})
	b.Events.Publish(events.Event{Type: "image", Action: "pull", ID: "busybox:latest", Attrs: map[string]string{"name": "busybox"}, Time: day})
	span := fmt.Sprintf("since=%d&until=%d", day.Unix()-1, day.Unix()+1)
	count := func(filter string) int {
		w := b.ask("GET", "/events?"+span+"&filters="+url.QueryEscape(filter), "")
		return strings.Count(w.Body.String(), "\n")
	}
	for filter, want := range map[string]int{
		`{}`: 3, `{"type":["container"]}`: 2, `{"event":["start"]}`: 1, `{"event":["exec_create"]}`: 1, `{"container":["web"]}`: 1,
		`{"container":["c1"]}`: 2, `{"image":["busybox"]}`: 2, `{"label":["name=web"]}`: 1, `{"network":["x"]}`: 0,
	} {
		if got := count(filter); got != want {
			t.Errorf("%s: %d events, want %d", filter, got, want)
		}
	}
	for _, c := range []struct{ path, accept, ctype, first string }{
		{"/v1.51/events?", "", "application/json", `{"status":"start","id":"c1","from":"busybox","Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"image":"busybox","name":"web"}},"scope":"local","time":1767323045,"timeNano":1767323045000006000}`},
		{"/v1.52/events?", "", "application/jsonl", `{"Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"image":"busybox","name":"web"}},"scope":"local","time":1767323045,"timeNano":1767323045000006000}`},
		{"/v1.55/events?", "application/x-ndjson;q=0.5, application/json-seq", "application/json-seq", "\x1e{\"Type\""},
	} {
		req := httptest.NewRequest("GET", c.path+span, nil)
		req.Header.Set("Accept", c.accept)
		w := httptest.NewRecorder()
		b.ServeHTTP(w, req)
		if w.Header().Get("Content-Type") != c.ctype || !strings.HasPrefix(w.Body.String(), c.first) {
			t.Errorf("%s: %s %s", c.path, w.Header().Get("Content-Type"), w.Body)
		}
	}
}

func TestStatusTexts(t *testing.T) {
	now := day.Add(5 * time.Minute)
	for want, s := range map[string]engine.State{
		"Created":                       {Status: "created"},
		"Up 5 minutes":                  {Status: "running", StartedAt: day},
		"Up 5 minutes (Paused)":         {Status: "paused", StartedAt: day},
		"Up Less than a second":         {Status: "running", StartedAt: now.Add(time.Hour)},
		"Exited (137) 3 seconds ago":    {Status: "exited", ExitCode: 137, FinishedAt: now.Add(-3 * time.Second)},
		"Restarting (1) 4 seconds ago":  {Status: "restarting", ExitCode: 1, FinishedAt: now.Add(-4 * time.Second)},
		"Removal In Progress":           {Status: "removing"},
		"Dead":                          {Status: "dead"},
		"Exited (0) About a minute ago": {Status: "exited", FinishedAt: now.Add(-time.Minute)},
	} {
		if got := statusText(s, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestAnswersOfEveryVersion holds the shapes of the answers against goldens. A golden is
// named for the first version that answers so.
func TestAnswersOfEveryVersion(t *testing.T) {
	for _, c := range []struct {
		name, path string
		versions   []string
	}{
		{"inspect", "/containers/web/json?size=1", []string{"1.40", "1.42", "1.55"}},
		{"served", "/containers/served/json", []string{"1.40", "1.44", "1.45", "1.52"}},
		{"stopped", "/containers/stopped/json", []string{"1.40", "1.44", "1.52"}},
		{"list", "/containers/json?all=1", []string{"1.40", "1.55"}},
		{"image", "/images/busybox/json", []string{"1.40", "1.44", "1.45", "1.48", "1.50", "1.52"}},
		{"images", "/images/json", []string{"1.40", "1.44", "1.48", "1.51"}},
		{"history", "/images/busybox/history", []string{"1.40"}},
		{"info", "/info", []string{"1.40", "1.42", "1.47", "1.49", "1.50"}},
		{"version", "/version", []string{"1.40"}},
		{"df", "/system/df", []string{"1.40", "1.52", "1.53"}},
		{"networks", "/networks", []string{"1.40", "1.52"}},
		{"network", "/networks/front", []string{"1.40", "1.52"}},
		{"volumes", "/volumes", []string{"1.40"}},
		{"top", "/containers/web/top", []string{"1.40"}},
	} {
		for _, v := range c.versions {
			t.Run(c.name+"-"+v, func(t *testing.T) {
				w := withNetworks(t).ask("GET", "/v"+v+c.path, "")
				if w.Code != 200 {
					t.Fatalf("%d %s", w.Code, w.Body)
				}
				compare(t, filepath.Join("testdata", c.name+"-"+v+".json"), stable(t, w.Body.Bytes()))
			})
		}
	}
}

// stable takes out of an answer what depends on the machine and the moment, keeping the
// kind of each value.
func stable(t *testing.T, body []byte) []byte {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	if m, ok := v.(map[string]any); ok {
		if _, info := m["NGoroutines"]; info {
			for _, k := range []string{"NFd", "NGoroutines", "NCPU", "MemTotal"} {
				m[k] = 0
			}
			for _, k := range []string{"SystemTime", "KernelVersion", "OperatingSystem", "OSVersion", "Name", "Architecture", "HttpProxy", "HttpsProxy", "NoProxy", "CgroupVersion"} {
				m[k] = "…"
			}
			for _, k := range []string{"MemoryLimit", "SwapLimit", "CpuCfsPeriod", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit", "OomKillDisable", "IPv4Forwarding"} {
				m[k] = true
			}
			m["SecurityOptions"], m["Warnings"] = nil, nil
		}
		if _, version := m["GoVersion"]; version {
			blank := func(d map[string]any) {
				for _, k := range []string{"GoVersion", "KernelVersion", "Arch", "GitCommit", "Version", "BuildTime"} {
					if _, ok := d[k]; ok {
						d[k] = "…"
					}
				}
			}
			delete(m, "BuildTime") // it is there if the build knows it
			blank(m)
			for _, c := range m["Components"].([]any) {
				blank(c.(map[string]any))
				if d, ok := c.(map[string]any)["Details"].(map[string]any); ok {
					blank(d)
				}
			}
		}
	}
	if rows, ok := v.([]any); ok {
		for _, r := range rows {
			if m, ok := r.(map[string]any); ok && m["Status"] != nil {
				m["Status"] = "…"
			}
		}
	}
	if m, ok := v.(map[string]any); ok {
		for _, list := range []any{m["Containers"], nested(m, "ContainerUsage", "Items")} {
			rows, _ := list.([]any)
			for _, r := range rows {
				r.(map[string]any)["Status"] = "…"
			}
		}
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func nested(m map[string]any, keys ...string) any {
	var v any = m
	for _, k := range keys {
		next, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = next[k]
	}
	return v
}

func compare(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (run the test with -update to make it)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs:\n%s", file, got)
	}
}

func TestSearchesAreNarrowedByTheirFilters(t *testing.T) {
	b := newBench(t)
	for query, want := range map[string]string{
		"term=box": `200 [{"name":"box","description":"","star_count":25,"is_official":true,"is_automated":false},{"name":"other/box","description":"","star_count":1,"is_official":false,"is_automated":false}]`,
		"term=box&limit=3&filters=" + url.QueryEscape(`{"is-official":["false"]}`): `200 [{"name":"other/box","description":"","star_count":1,"is_official":false,"is_automated":false}]`,
		"term=box&filters=" + url.QueryEscape(`{"stars":["30"]}`):                  `200 []`,
		"term=box&filters=" + url.QueryEscape(`{"stars":["many"]}`):                `400 {"message":"invalid filter 'stars=many': not a number"}`,
		"term=box&limit=101":  `400 {"message":"limit 101 is outside the range of [1, 100]"}`,
		"":                    `400 {"message":"a search needs a term"}`,
		"term=nowhere.test/x": `404 {"message":"nowhere.test cannot be searched: it has no /v1/search"}`,
	} {
		w := b.ask("GET", "/images/search?"+query, "")
		if got := fmt.Sprintf("%d %s", w.Code, strings.TrimSpace(w.Body.String())); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", query, got, want)
		}
	}
}

func TestManifestsThatCannotBePushedAreRefused(t *testing.T) {
	b := newBench(t)
	for _, tt := range []struct{ path, mediaType, body, want string }{
		{"/distribution/Wrong/manifest", "application/vnd.oci.image.index.v1+json", "{}", "invalid reference"},
		{"/distribution/box/manifest", "text/plain", "{}", "is not the media type of a manifest or index"},
		{"/distribution/box/manifest", "application/vnd.oci.image.index.v1+json", "{", "the manifest is not JSON"},
		{"/distribution/box/manifest", "application/vnd.oci.image.index.v1+json", strings.Repeat(" ", 5<<20), "the manifest is larger than"},
		{"/distribution/box@sha256:" + strings.Repeat("0", 64) + "/manifest", "application/vnd.oci.image.index.v1+json", "{}", "the manifest is sha256:"},
		{"/distribution/box/manifest?from=box:1", "application/vnd.oci.image.index.v1+json", "{}", "does not name a digest"},
	} {
		req := httptest.NewRequest("PUT", tt.path, strings.NewReader(tt.body))
		req.Header.Set("Content-Type", tt.mediaType)
		w := httptest.NewRecorder()
		b.ServeHTTP(w, req)
		if w.Code != 400 || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("PUT %s: %d %s", tt.path, w.Code, w.Body)
		}
	}
}
