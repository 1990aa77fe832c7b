package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"berth/test/compatibility"
	"berth/testkit"

	mobyclient "github.com/moby/moby/client"
)

// apiCase is the test of one row of the Engine API.
type apiCase struct {
	row  string // METHOD /path/{id}
	test func(*apiTest)
	// never are documented statuses that no request can provoke here. 500 is one for all rows:
	// it would be a fault of the engine's.
	never []int
}

// apiTest asks one engine, as the test of one row. What the row answers is recorded.
type apiTest struct {
	*testing.T
	e    *testkit.Engine
	hub  *testkit.RegistryServer // without passwords; nil: there is none
	row  string
	seen map[int]bool
	sdk  *mobyclient.Client // of the newest version that both speak
}

// TestAPI asks every row of the API for what it answers when all is well and for each
// documented refusal, by the official Go client and, where that hides something, by plain
// HTTP.
func TestAPI(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	hub := testkit.Registry(t, testkit.RegistryOptions{})
	cases := slices.Concat(apiSystem, apiContainers, apiStreams, apiFiles, apiImages, apiVolumes, apiNetworks, apiBuilds, apiOutside)
	byRow := map[string]apiCase{}
	for _, c := range cases {
		byRow[c.row] = c
	}
	for _, row := range compatibility.Rows() {
		c, found := byRow[row.Name]
		delete(byRow, row.Name)
		t.Run(row.Name, func(t *testing.T) {
			if !found {
				t.Fatal("has no test")
			}
			a := &apiTest{T: t, e: e, hub: hub, row: row.Name, seen: map[int]bool{}}
			a.sdk = a.client("")
			c.test(a)
			for _, s := range row.Statuses {
				if row.Tier != "out" && s != 500 && !slices.Contains(c.never, s) && !a.seen[s] && !t.Failed() && !t.Skipped() {
					t.Errorf("is documented to answer %d, and this test saw %v", s, a.seen)
				}
			}
		})
	}
	for row := range byRow {
		t.Errorf("%s: is not a row of the API", row)
	}
}

// note records an answer if it is the row's.
func (a *apiTest) note(method, path string, status int) {
	if compatibility.RowOf(method, path) == a.row {
		a.seen[status] = true
		testkit.NoteAnswer(a.T, testkit.Answer{Row: a.row, Status: status})
	}
}

// client is the official client, of a fixed version; "" has it negotiate.
func (a *apiTest) client(version string) *mobyclient.Client {
	a.Helper()
	options := []mobyclient.Opt{mobyclient.WithHost(a.e.Host), mobyclient.WithHTTPResponseHook(func(r *http.Response) {
		a.note(r.Request.Method, r.Request.URL.Path, r.StatusCode)
	})}
	if version != "" {
		options = append(options, mobyclient.WithAPIVersion(version))
	}
	c, err := mobyclient.New(options...)
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { c.Close() })
	return c
}

// apiAnswer is one of plain HTTP.
type apiAnswer struct {
	a      *apiTest
	what   string
	status int
	header http.Header
	body   string
	v      any // body's JSON; nil: it is none
}

// ask puts a request to the API and fails the test if the status is another. A path without a
// version gets the newest. Filters may be written as plain JSON.
func (a *apiTest) ask(status int, method, path, body string, headers ...string) apiAnswer {
	a.Helper()
	path = strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22", "[", "%5B", "]", "%5D", " ", "%20").Replace(path)
	req, err := http.NewRequestWithContext(a.Context(), method, "http://engine"+path, strings.NewReader(body))
	if err != nil {
		a.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for n := 0; n < len(headers); n += 2 {
		req.Header.Set(headers[n], headers[n+1])
	}
	resp, err := plainClient(a.e).Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		a.Fatalf("%s %s: %v", method, path, err)
	}
	a.note(method, req.URL.Path, resp.StatusCode)
	out := apiAnswer{a: a, what: method + " " + path, status: resp.StatusCode, header: resp.Header, body: string(data)}
	_ = json.Unmarshal(data, &out.v) // not every answer is JSON
	if resp.StatusCode != status {
		a.Fatalf("%s: %d %s, want %d", out.what, resp.StatusCode, bytes.TrimSpace(data), status)
	}
	if status >= 400 && method != "HEAD" {
		if m, _ := out.v.(map[string]any); m == nil || m["message"] == "" || m["message"] == nil || len(m) != 1 || resp.Header.Get("Content-Type") != "application/json" {
			a.Errorf("%s: the error is %s %q", out.what, resp.Header.Get("Content-Type"), data)
		}
	}
	return out
}

func plainClient(e *testkit.Engine) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(e.Host, "unix://"))
	}}}
}

// says checks an error's message.
func (r apiAnswer) says(text string) apiAnswer {
	r.a.Helper()
	if m, _ := r.v.(map[string]any); m == nil || !strings.Contains(fmt.Sprint(m["message"]), text) {
		r.a.Errorf("%s: %s, want a message with %q", r.what, r.body, text)
	}
	return r
}

// at is a part of the answer: keys of objects and indices of lists.
func (r apiAnswer) at(keys ...string) any {
	r.a.Helper()
	v := r.v
	for _, k := range keys {
		switch w := v.(type) {
		case map[string]any:
			v = w[k]
		case []any:
			n, err := strconv.Atoi(k)
			if err != nil || n >= len(w) {
				r.a.Fatalf("%s: no %q in %s", r.what, k, r.body)
			}
			v = w[n]
		default:
			r.a.Fatalf("%s: no %q in %s", r.what, k, r.body)
		}
	}
	return v
}

// is checks a part of the answer.
func (r apiAnswer) is(want any, keys ...string) apiAnswer {
	r.a.Helper()
	got := r.at(keys...)
	if n, isNumber := got.(float64); isNumber {
		got = int64(n)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		r.a.Errorf("%s: %s is %v, want %v", r.what, strings.Join(keys, "."), got, want)
	}
	return r
}

// shape checks what fields an answer has. A line of spec is "object: Field kinds …", the object
// by its path ("." for the answer, "[]" for the elements of a list, "{}" for the values of a map);
// kinds are letters: s string, n number, b boolean, o object, l list, 0 null, ? may be absent,
// - is absent. No other fields may be there unless the line ends in "…".
func (r apiAnswer) shape(spec string) apiAnswer {
	r.a.Helper()
	for line := range strings.Lines(spec) {
		where, fields, found := strings.Cut(strings.TrimSpace(line), ":")
		if !found {
			continue
		}
		objects := parts(r.v, strings.TrimPrefix(where, "."))
		if len(objects) == 0 {
			r.a.Errorf("%s: there is no %s in %.2000s", r.what, where, r.body)
		}
		words := strings.Fields(fields)
		open := len(words) > 0 && words[len(words)-1] == "…"
		if open {
			words = words[:len(words)-1]
		}
		for _, o := range objects {
			m, isObject := o.(map[string]any)
			if !isObject {
				r.a.Errorf("%s: %s is %v, not an object", r.what, where, o)
				continue
			}
			known := map[string]bool{}
			for n := 0; n+1 < len(words); n += 2 {
				name, kinds := words[n], words[n+1]
				known[name] = true
				v, there := m[name]
				if kind := kindOf(v); there && !strings.Contains(kinds, kind) || !there && !strings.ContainsAny(kinds, "?-") {
					if !there {
						kind = "absent"
					}
					r.a.Errorf("%s: %s.%s is %s (%v), want %s", r.what, where, name, kind, v, kinds)
				}
			}
			for name := range m {
				if !known[name] && !open {
					r.a.Errorf("%s: %s has %s, which is not known", r.what, where, name)
				}
			}
		}
	}
	return r
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "0"
	case string:
		return "s"
	case float64:
		return "n"
	case bool:
		return "b"
	case map[string]any:
		return "o"
	default:
		return "l"
	}
}

// parts are the values at a path like Mounts[].x{}.
func parts(v any, path string) []any {
	if path == "" {
		return []any{v}
	}
	step := regexp.MustCompile(`^\.?([A-Za-z_]+|\[\]|\{\})`).FindStringSubmatch(path)
	if step == nil {
		return nil
	}
	rest := path[len(step[0]):]
	var out []any
	switch w := v.(type) {
	case []any:
		if step[1] == "[]" {
			for _, e := range w {
				out = append(out, parts(e, rest)...)
			}
		}
	case map[string]any:
		if step[1] == "{}" {
			for _, e := range w {
				out = append(out, parts(e, rest)...)
			}
		} else if e, there := w[step[1]]; there {
			out = parts(e, rest)
		}
	}
	return out
}

// create makes a container of busybox by the API and returns its id; settings are the body's
// fields beside Image.
func (a *apiTest) create(name, settings string) string {
	a.Helper()
	if settings == "" {
		settings = `"HostConfig":{"NetworkMode":"none"}`
	}
	path := "/containers/create"
	if name != "" {
		path += "?name=" + url.QueryEscape(name)
	}
	id := a.ask(201, "POST", path, `{"Image":"busybox",`+settings+`}`).at("Id").(string)
	a.Cleanup(func() { a.e.Berth("rm", "-fv", id) })
	return id
}

// sleeper is a running container.
func (a *apiTest) sleeper(name string) string {
	a.Helper()
	id := a.create(name, `"Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"none"}`)
	a.ask(204, "POST", "/containers/"+id+"/start", "")
	return id
}

// must fails the test on an error of the Go client.
func (a *apiTest) must(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

// drain reads a stream to its end.
func (a *apiTest) drain(r io.ReadCloser, err error) string {
	a.Helper()
	a.must(err)
	defer r.Close()
	data, err := io.ReadAll(r)
	a.must(err)
	return string(data)
}

// everyVersion are versions of the API between which answers differ.
var everyVersion = []int{40, 41, 42, 43, 44, 45, 47, 48, 49, 50, 51, 52, 53, 55}

func v(minor int, path string) string { return fmt.Sprintf("/v1.%d%s", minor, path) }

// until is spec for versions before minor, and otherwise for those since.
func until(minor, version int, before, since string) string {
	if version < minor {
		return before
	}
	return since
}
