package server

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"berth/durable"
	"berth/volumes"
)

// someVolumes is an empty store.
func someVolumes(t testing.TB) *volumes.Store {
	t.Helper()
	dir := t.TempDir()
	db, err := durable.OpenDB(filepath.Join(dir, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s, err := volumes.Open(volumes.Config{Root: dir, DB: db})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVolumesEndpoints(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"POST", "/volumes/create", `{"Name":"data","Labels":{"tier":"db"}}`, 201, `"Name":"data"`},
		{"POST", "/volumes/create", `{"Name":"data"}`, 201, `"Labels":{"tier":"db"},"Mountpoint"`},
		{"POST", "/volumes/create", `{"Name":"other"}`, 201, `"Options":null,"Scope":"local"`},
		{"POST", "/volumes/create", `{}`, 201, `"com.docker.volume.anonymous":""`},
		{"POST", "/volumes/create", `{"Name":"data","DriverOpts":{"type":"tmpfs","device":"tmpfs"}}`, 409, "exists with other options"},
		{"POST", "/volumes/create", `{"Name":"x"}`, 400, "create x: volume name is too short, names should be at least two alphanumeric characters"},
		{"POST", "/volumes/create", `{"Name":"a/b"}`, 400, `create a/b: \"a/b\" includes invalid characters for a local volume name`},
		{"POST", "/volumes/create", `{"Name":"../x"}`, 400, "includes invalid characters"},
		{"POST", "/volumes/create", `{"Name":"new","Driver":"foo"}`, 404, `create new: error looking up volume plugin foo: plugin \"foo\" not found`},
		{"POST", "/volumes/create", `{"Name":"new","DriverOpts":{"foo":"bar"}}`, 400, `create new: invalid option: \"foo\"`},
		{"POST", "/volumes/create", `{"Name":"new","DriverOpts":{"type":"tmpfs"}}`, 400, `create new: missing required option: \"device\"`},
		{"POST", "/volumes/create", `{"Name":"new","DriverOpts":{"size":"1g"}}`, 400, "quota size requested but no quota support"},
		{"GET", "/volumes/data", "", 200, `"Name":"data"`},
		{"GET", "/volumes/nope", "", 404, "get nope: no such volume"},
		{"GET", `/volumes?filters={"foo":["x"]}`, "", 400, "invalid filter 'foo'"},
		{"GET", `/volumes?filters={"dangling":["maybe"]}`, "", 400, "invalid filter 'dangling=[maybe]'"},
		{"GET", `/volumes?filters={"name":["ata"],"label":["tier=db"],"driver":["local"]}`, "", 200, `"Name":"data"`},
		{"GET", `/volumes?filters={"label":["tier=web"]}`, "", 200, `"Volumes":[]`},
		{"GET", `/volumes?filters={"dangling":["false"]}`, "", 200, `"Volumes":[]`},
		{"GET", "/v1.44/system/df?type=volume", "", 200, `"UsageData":{"RefCount":0,"Size":0}`},
		{"GET", "/v1.52/system/df?type=volume", "", 200, `"TotalCount":3`},
		{"POST", `/v1.41/volumes/prune?filters={"all":["true"]}`, "", 400, "invalid filter 'all'"},
		{"POST", `/volumes/prune?filters={"until":["1h"]}`, "", 400, "invalid filter 'until'"},
		{"DELETE", "/volumes/nope", "", 404, "get nope: no such volume"},
		{"DELETE", "/volumes/nope?force=1", "", 204, ""},
		{"DELETE", "/volumes/other", "", 204, ""},
	} {
		w := b.ask(c.method, c.path, c.body)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.text) {
			t.Errorf("%s %s %s: %d %s, want %d %s", c.method, c.path, c.body, w.Code, w.Body, c.status, c.text)
		}
	}
}

func TestPruneTakesAnonymousVolumesUnlessAllAreAskedFor(t *testing.T) {
	for _, c := range []struct {
		path string
		want int
		left string
	}{
		{"/volumes/prune", 1, "data kept"},
		{`/volumes/prune?filters={"all":["true"]}`, 3, ""},
		{`/volumes/prune?filters={"all":["1"],"label!":["keep"]}`, 2, "kept"},
		{`/volumes/prune?filters={"all":["1"],"label":["keep"]}`, 1, "data ANON"},
		{"/v1.41/volumes/prune", 3, ""},
	} {
		b := newBench(t)
		for _, body := range []string{`{"Name":"data"}`, `{"Name":"kept","Labels":{"keep":"1"}}`, `{}`} {
			b.ask("POST", "/volumes/create", body)
		}
		var report struct{ VolumesDeleted []string }
		w := b.ask("POST", c.path, "")
		if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil || len(report.VolumesDeleted) != c.want {
			t.Errorf("%s: %d %s", c.path, w.Code, w.Body)
		}
		var left []string
		for _, v := range b.Volumes.List() {
			name := v.Name
			if v.Anonymous() {
				name = "ANON"
			}
			left = append(left, name)
		}
		for _, want := range strings.Fields(c.left) {
			if !strings.Contains(strings.Join(left, " "), want) {
				t.Errorf("%s left %v, want %s", c.path, left, c.left)
			}
		}
		if len(left) != len(strings.Fields(c.left)) {
			t.Errorf("%s left %v, want %s", c.path, left, c.left)
		}
	}
}
