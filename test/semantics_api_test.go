package test

import (
	"archive/tar"
	"fmt"
	"regexp"
	"strings"

	"berth/testkit"
)

var apiSemantics = []semantic{
	{
		name:  "how an object is found",
		holds: "id lookup: full id > name > unique prefix; ambiguous is an error 400 (500 on old); names carry leading / in API",
		test:  lookup,
	},
	{
		name:  "what is missing",
		holds: "rm -f missing exits 0 (message on stderr), volume rm -f missing exits 0, inspect missing prints [] and exits 1",
		test:  missingObjects,
	},
	{
		name:  "events",
		holds: `events: exec_create action carries ": cmd"; die has exitCode; errors after streaming starts come in-band with HTTP 200 (pull/build)`,
		test:  eventStream,
	},
	{
		name:    "the history of events",
		holds:   "events: ring of 256 for --since",
		differs: "the history outlives the engine, which comes and goes with what there is to do",
		test:    eventHistory,
	},
	{
		name:  "statuses of create and start, and versions",
		holds: "API: /containers/create without Content-Type json = 400, missing image = 404 (CLI then pulls), name clash = 409, started again = 304, too-new version = 400; _ping headers drive negotiation",
		test:  statuses,
	},
}

func lookup(s *subject) {
	a := s.must("create", "--name", "looked", "busybox")
	b := s.must("create", "--name", a[:12], "busybox") // a name that is the other's prefix
	c := s.must("create", "--name", b, "busybox")      // and one that is an id
	for name, want := range map[string]string{a: a, "looked": a, "/looked": a, a[:12]: b, b: b, a[:20]: a, c[:20]: c} {
		if got := s.inspect(name, "{{.Id}}"); got != want {
			s.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	s.says("/looked", "inspect", "-f", "{{.Name}}", a)
	if got := s.api("GET", "/containers/json?all=1&filters=%7B%22name%22:%5B%22looked%22%5D%7D", ""); !strings.Contains(got.body, `"Names":["/looked"]`) {
		s.Errorf("the list: %s", got.body)
	}
	// Twenty containers have two whose ids begin alike.
	var ids []string
	for range 17 {
		ids = append(ids, s.must("create", "busybox"))
	}
	seen, ambiguous := map[string]bool{}, ""
	for _, id := range ids {
		if seen[id[:1]] {
			ambiguous = id[:1]
		}
		seen[id[:1]] = true
	}
	status := 400
	if s.dockerd() { // 20.10
		status = 500
	}
	if got := s.api("GET", "/containers/"+ambiguous+"/json", ""); got.status != status || !regexp.MustCompile(`(?i)multiple IDs found with provided prefix: `+ambiguous).MatchString(got.message) {
		s.Errorf("an ambiguous prefix: %d %s", got.status, got.body)
	}
	s.must(append([]string{"rm", a, b, c}, ids...)...)
}

func missingObjects(s *subject) {
	r := s.ends(0, `No such container: nosuch`, "rm", "-f", "nosuch")
	if r.Stdout != "" {
		s.Errorf("rm -f prints %q", r.Stdout)
	}
	s.ends(1, `No such container: nosuch`, "rm", "nosuch")
	s.ends(0, `^$`, "volume", "rm", "-f", "nosuch")
	s.ends(1, `(?i)no such volume`, "volume", "rm", "nosuch")
	for _, kind := range [][]string{{"inspect"}, {"container", "inspect"}, {"image", "inspect"}, {"network", "inspect"}, {"volume", "inspect"}} {
		if r := s.ends(1, `(?i)no such|not found`, append(kind, "nosuch")...); r.Stdout != "[]\n" {
			s.Errorf("%s of what is missing prints %q", strings.Join(kind, " "), r.Stdout)
		}
	}
	r = s.ends(1, `No such object: nosuch`, "inspect", "busybox", "nosuch")
	if !strings.Contains(r.Stdout, `"Id"`) {
		s.Errorf("what is there is not shown: %q", r.Stdout)
	}
}

func eventStream(s *subject) {
	told := s.events("eventful")
	s.must("run", "-d", "--name", "eventful", "--label", "l=1", "busybox", "sh", "-c", "until [ -e /go ]; do sleep 0.05; done; exit 5")
	s.must("exec", "eventful", "touch", "/go")
	s.must("wait", "eventful")
	told.await("die")
	told.await("exec_die")
	found := map[string]event{}
	for _, e := range told.all() {
		found[e.Action] = e
	}
	for _, action := range []string{"create", "start", "exec_create: touch /go", "exec_start: touch /go", "exec_die", "die"} {
		e, ok := found[action]
		if !ok {
			s.Errorf("there is no %q among %v", action, found)
			continue
		}
		if a := e.Actor.Attributes; a["name"] != "eventful" || a["image"] != "busybox" || a["l"] != "1" {
			s.Errorf("%s has attributes %v", action, a)
		}
	}
	if code := found["die"].Actor.Attributes["exitCode"]; code != "5" {
		s.Errorf("die has exitCode %q", code)
	}
	if a := found["exec_die"].Actor.Attributes; a["exitCode"] != "0" || len(a["execID"]) != 64 {
		s.Errorf("exec_die has %v", a)
	}
	s.must("rm", "eventful")

	// A pull that breaks when it has begun: the status has been sent.
	reg := s.registry()
	name := reg.PushConfig("broken:1", map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + strings.Repeat("0", 64)}}},
		layerTar(tarEntry{tar.Header{Name: "x"}, "x"})).Ref
	a := s.api("POST", "/images/create?fromImage="+name, "")
	last := a.body[strings.LastIndex(strings.TrimSpace(a.body), "\n")+1:]
	if a.status != 200 || !regexp.MustCompile(`^{"errorDetail":{.*"message":".+"},"error":".+"}\s*$`).MatchString(last) {
		s.Errorf("a pull of what is broken: %d, its last line is %s", a.status, last)
	}
}

func statuses(s *subject) {
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
	}{
		{"POST", "/containers/create", `{"Image":"busybox"}`, []string{"Content-Type: text/plain"}, 400},
		{"POST", "/containers/create", `{"Image":"busybox"}`, []string{"Content-Type: "}, 400},
		{"POST", "/containers/create", `{"Image":"nosuchimage"}`, nil, 404},
		{"POST", "/containers/create?name=status", `{"Image":"busybox","Cmd":["sleep","1000"]}`, []string{"Content-Type: application/json; charset=utf-8"}, 201},
		{"POST", "/containers/create?name=status", `{"Image":"busybox"}`, nil, 409},
		{"POST", "/containers/status/start", ``, nil, 204},
		{"POST", "/containers/status/start", ``, nil, 304},
		{"POST", "/containers/status/stop?t=0", ``, nil, 204},
		{"POST", "/containers/status/stop", ``, nil, 304},
		{"DELETE", "/containers/status", ``, nil, 204},
		{"GET", "/v1.99/version", ``, nil, 400},
		{"GET", "/v1.10/version", ``, nil, 400},
		{"GET", "/v1.41/version", ``, nil, 200},
	} {
		if a := s.api(c.method, c.path, c.body, c.header...); a.status != c.status || c.status >= 400 && a.body == "" {
			s.Errorf("%s %s %v: %d %s, want %d", c.method, c.path, c.header, a.status, a.body, c.status)
		}
	}
	for _, method := range []string{"GET", "HEAD"} {
		a := s.api(method, "/_ping", "")
		if a.status != 200 || a.body != map[string]string{"GET": "OK"}[method] || !regexp.MustCompile(`^1\.\d\d$`).MatchString(a.header.Get("Api-Version")) || a.header.Get("Ostype") != "linux" || a.header.Get("Docker-Experimental") != "false" {
			s.Errorf("%s _ping: %d %q %v", method, a.status, a.body, a.header)
		}
		highest := a.header.Get("Api-Version")
		if s.says(highest, "version", "--format", "{{.Server.APIVersion}}"); s.api("GET", fmt.Sprintf("/v%s/version", highest), "").status != 200 {
			s.Errorf("version %s of _ping is not spoken", highest)
		}
	}
	// The client pulls what is missing.
	s.ends(125, `(?s)Unable to find image 'localhost:1/nosuch:latest' locally.*`, "run", "localhost:1/nosuch")
}

func eventHistory(s *subject) {
	e := testkit.StartEngine(s.T, testkit.EngineOptions{})
	e.Busybox()
	e.Must("create", "--name", "remembered", "busybox")
	e.Stop()
	e.Start()
	testkit.Eventually(s.T, "the creation is told again", func() bool { // --until is of whole seconds
		return e.Must("events", "--since", "1h", "--until", "0s", "--filter", "container=remembered", "--format", "{{.Action}}") == "create"
	})
}
