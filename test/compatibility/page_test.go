package compatibility

import (
	"slices"
	"strings"
	"testing"

	"berth/testkit"
)

func passed(test string, code int, args ...string) testkit.Record {
	return testkit.Record{Test: test, Outcome: "passed", Lines: []*testkit.Line{{Args: args, Code: code}}}
}

func claims(t *testing.T, page string) map[string]claim {
	t.Helper()
	out := map[string]claim{}
	for _, c := range parse(page) {
		out[c.key] = c
	}
	return out
}

func always(string) bool { return true }

func TestThePageSaysWhatTheRecordsShow(t *testing.T) {
	page := Page("", []testkit.Record{
		passed("TestOne", 3, "container", "run", "--rm", "-it", "busybox"),
		passed("TestTwo", 125, "run", "--cap-add", "X", "busybox"),
		{Test: "TestFails", Outcome: "failed", Lines: []*testkit.Line{{Args: []string{"run", "--env", "A=1", "x"}}}},
		passed("TestNoBuilder", 1, "build", "."),
		{Test: "TestAPI/x", Outcome: "passed", Answers: []*testkit.Answer{{Row: "GET /info", Status: 200}, {Row: "GET /info", Status: 200, By: "python3-docker"}}},
		passed("TestGone", 0, "ps"),
	}, func(name string) bool { return name != "TestGone" }, true)
	got := claims(t, page)
	for key, want := range map[string]struct{ state, test, second string }{
		"run":            {works, "TestOne", ""},
		"run --rm":       {works, "TestOne", ""},
		"run --tty":      {works, "TestOne", ""},
		"run --cap-add":  {unproven, "", ""},
		"run --env":      {unproven, "", ""},
		"build":          {notSupported, "TestNoBuilder", ""},
		"GET /info":      {works, "TestAPI/x", "python3-docker"},
		"GET /version":   {unproven, "", ""},
		"GET /plugins":   {notSupported, "", ""},
		"--host":         {unproven, "", ""},
		"ps":             {unproven, "", ""},
		"network create": {unproven, "", ""},
	} {
		c, found := got[key]
		if !found || c.state != want.state || c.test != want.test || c.second != want.second {
			t.Errorf("%s: %+v (there: %v), want %+v", key, c, found, want)
		}
	}
	if wrong := Check(page, nil, always, false); len(wrong) > 0 {
		t.Errorf("a fresh page is said to be wrong: %q", wrong)
	}
}

func TestAPageThatClaimsTooMuchIsWrong(t *testing.T) {
	record := passed("TestOne", 0, "run", "--rm", "busybox")
	exists := func(name string) bool { return name == "TestOne" }
	page := Page("", []testkit.Record{record}, exists, true)
	for _, tt := range []struct {
		what, page string
		records    []testkit.Record
		whole      bool
		want       string
	}{
		{"as it is", page, []testkit.Record{record}, true, ""},
		{"the test was skipped", page, []testkit.Record{{Test: "TestOne", Outcome: "skipped"}}, true, ""},
		{"the test did not run", page, nil, false, ""},
		{"the test is no part of a whole run", page, nil, true, `"run --rm": no test TestOne has run`},
		{"the sub-test is no part of a whole run", strings.ReplaceAll(page, "TestOne", "TestOne/old"), []testkit.Record{record}, true, `"run --rm": no test TestOne/old has run`},
		{"the test that the sub-test is a part of was skipped", strings.ReplaceAll(page, "TestOne", "TestOne/part"), []testkit.Record{{Test: "TestOne", Outcome: "skipped"}}, true, ""},
		{"the test failed", page, []testkit.Record{{Test: "TestOne", Outcome: "failed"}}, true, `"run --rm": TestOne has failed`},
		{"the test does not give the option any more", page, []testkit.Record{passed("TestOne", 0, "run", "busybox")}, false, `"run --rm" is said to be "works", and TestOne does not show it`},
		{"somebody wrote works", strings.Replace(page, "| `berth ps` | unproven |  |", "| `berth ps` | works | `TestOne` |", 1), []testkit.Record{record}, false, `"ps" is said to be "works"`},
		{"no test is named", strings.Replace(page, "| `berth ps` | unproven |  |", "| `berth ps` | works |  |", 1), nil, false, `"ps" is said to work, but no test is named`},
		{"the test is gone", strings.ReplaceAll(page, "TestOne", "TestGone"), nil, false, "there is no test TestGone"},
		{"another client is said to have seen it", strings.Replace(page, "| `GET /info` | unproven |  |", "| `GET /info` | works: 200 | `TestOne`, python |", 1),
			[]testkit.Record{{Test: "TestPython", Outcome: "passed", Answers: []*testkit.Answer{{Row: "GET /version", Status: 200, By: "python"}}}}, false, `"GET /info": python does not show it`},
		{"a row is gone", strings.Replace(page, "| `berth ps` ", "| `berth xx` ", 1), nil, false, `"ps" is not listed`},
	} {
		wrong := Check(tt.page, tt.records, exists, tt.whole)
		if tt.want == "" && len(wrong) > 0 || tt.want != "" && !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, tt.want) }) {
			t.Errorf("%s: %q, want %q", tt.what, wrong, tt.want)
		}
	}
}

func TestAPartOfTheTestsKeepsTheOthersRows(t *testing.T) {
	first := Page("", []testkit.Record{passed("TestOne", 0, "run", "--rm", "busybox"), passed("TestTwo", 0, "ps", "-a")}, always, true)
	second := claims(t, Page(first, []testkit.Record{passed("TestOne", 0, "run", "--tty", "busybox"), passed("TestNew", 0, "ps", "-a")}, always, false))
	if c := second["run --rm"]; c.state != unproven {
		t.Errorf("run --rm stays: %+v", c)
	}
	if c := second["run --tty"]; c.test != "TestOne" {
		t.Errorf("run --tty: %+v", c)
	}
	if c := second["ps --all"]; c.test != "TestTwo" {
		t.Errorf("ps --all, whose test did not run, is now %+v", c)
	}
}

func TestAWholeRunForgetsTestsThatAreGoneAndKeepsSkippedOnes(t *testing.T) {
	first := Page("", []testkit.Record{passed("TestOne/a", 0, "run", "--rm", "busybox"), passed("TestTwo/b", 0, "ps", "-a")}, always, true)
	records := []testkit.Record{passed("TestOne", 0, "images"), {Test: "TestTwo", Outcome: "skipped"}}
	if skipped := Skipped(first, records); skipped["TestTwo/b"] != 2 || len(skipped) != 1 {
		t.Errorf("skipped: %v", skipped)
	}
	second := Page(first, records, always, true)
	got := claims(t, second)
	if c := got["run --rm"]; c.state != unproven {
		t.Errorf("run --rm, whose test is gone: %+v", c)
	}
	if c := got["ps --all"]; c.test != "TestTwo/b" {
		t.Errorf("ps --all, whose test was skipped: %+v", c)
	}
	if wrong := Check(second, records, always, true); len(wrong) > 0 {
		t.Errorf("the page that the run made is said to be wrong: %q", wrong)
	}
}

func TestATestThatLooksCloserTakesTheRow(t *testing.T) {
	catchAll := passed("TestOptionsThatNoOtherTestNeeds", 0, "logs", "--details", "--timestamps", "box")
	first := Page("", []testkit.Record{catchAll}, always, true)
	both := []testkit.Record{catchAll, passed("TestZ", 0, "logs", "--details", "box")}
	for what, before := range map[string]string{"a page that names the other": first, "a new page": ""} {
		got := claims(t, Page(before, both, always, true))
		if c := got["logs --details"]; c.test != "TestZ" {
			t.Errorf("%s: logs --details: %+v", what, c)
		}
		if c := got["logs --timestamps"]; c.test != "TestOptionsThatNoOtherTestNeeds" {
			t.Errorf("%s: logs --timestamps: %+v", what, c)
		}
	}
}

func TestEveryRequestHasItsRow(t *testing.T) {
	for request, want := range map[string]string{
		"GET /v1.41/containers/json":               "GET /containers/json",
		"GET /containers/json/json":                "GET /containers/{id}/json",
		"GET /images/a/b:c/json":                   "GET /images/{name}/json",
		"GET /images/get":                          "GET /images/get",
		"GET /images/a/b/get":                      "GET /images/{name}/get",
		"DELETE /containers/a/b":                   "DELETE /containers/{id}",
		"GET /volumes":                             "GET /volumes",
		"PUT /containers/x/archive":                "PUT /containers/{id}/archive",
		"GET /nosuch":                              "",
		"POST /v1.56/networks/prune":               "POST /networks/prune",
		"GET /distribution/localhost:5/a/b:1/json": "GET /distribution/{name}/json",
	} {
		method, path, _ := strings.Cut(request, " ")
		if got := RowOf(method, path); got != want {
			t.Errorf("%s: %q, want %q", request, got, want)
		}
	}
}
