package contexts

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/fail"
)

func sample(name string) *Context {
	c := &Context{Name: name}
	c.Describe("a <sample>")
	c.SetEndpoint(Endpoint{Host: "tcp://far:2376"}, map[string][]byte{CAFile: []byte("ca"), KeyFile: []byte("key")})
	c.Metadata["Other"] = json.RawMessage(`{"a":1}`)
	c.Endpoints["kubernetes"] = json.RawMessage(`{"x":[1]}`)
	return c
}

func TestAContextIsReadAsItWasWritten(t *testing.T) {
	s := At(t.TempDir())
	if err := s.Create(sample("far")); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load("far")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample("far"), got); diff != "" {
		t.Error(diff)
	}
	for path, mode := range map[string]os.FileMode{s.TLSDir("far"): 0o700, filepath.Join(s.TLSDir("far"), Engine, KeyFile): 0o600, filepath.Join(s.MetaDir("far"), metaFile): 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
	if err := s.Create(sample("far")); !fail.Is(err, fail.Conflict) {
		t.Errorf("created twice: %v", err)
	}
}

func TestAReplacedContextLosesItsOldKeys(t *testing.T) {
	s := At(t.TempDir())
	if err := s.Put(sample("far")); err != nil {
		t.Fatal(err)
	}
	c := sample("far")
	c.SetEndpoint(Endpoint{Host: "unix:///x"}, nil)
	if err := s.Put(c); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load("far"); err != nil || len(got.TLS) != 0 {
		t.Fatalf("%+v %v", got, err)
	}
	if err := s.Remove("far"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Meta("far"); !fail.Is(err, fail.NotFound) || s.Exists("far") {
		t.Fatalf("after its removal: %v", err)
	}
}

func TestNamesThatAContextMayHave(t *testing.T) {
	for _, good := range []string{"ab", "a.b", "A_1+-"} {
		if err := CheckName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "a", "default", ".a", "a/b", "../x", "a b", "ä1", "a\x00b", "-a"} {
		if err := CheckName(bad); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestABrokenContextDoesNotHideTheOthers(t *testing.T) {
	dir := t.TempDir()
	s := At(dir)
	for _, name := range []string{"good", "broken", "moved"} {
		if err := s.Put(sample(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.MetaDir("broken"), metaFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.MetaDir("moved"), filepath.Join(dir, "contexts", "meta", "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "contexts", "meta", ".DS_Store"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	good, bad := 0, 0
	for _, e := range all {
		if e.Err == nil && e.Context.Name == "good" {
			good++
		} else if e.Err != nil {
			bad++
		}
	}
	if good != 1 || bad != 2 {
		t.Errorf("%+v", all)
	}
}

func TestAnExportedContextIsImported(t *testing.T) {
	var b bytes.Buffer
	if err := Export(sample("far"), &b); err != nil {
		t.Fatal(err)
	}
	got, err := Import("near", &b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample("near"), got); diff != "" {
		t.Error(diff)
	}
}

type member struct {
	name string
	kind byte
	data string
}

func tarOf(members ...member) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if m.kind == 0 {
			m.kind = tar.TypeReg
		}
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Mode: 0o644}
		if m.kind == tar.TypeReg {
			h.Size = int64(len(m.data))
		} else {
			h.Linkname = m.data
		}
		if w.WriteHeader(h) != nil {
			panic(m.name)
		}
		if m.kind == tar.TypeReg {
			_, _ = io.WriteString(w, m.data)
		}
	}
	w.Close()
	return b.Bytes()
}

func zipOf(members ...member) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range members {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate}
		if m.kind == tar.TypeDir {
			h.Name = strings.TrimSuffix(m.name, "/") + "/"
		}
		if m.kind == tar.TypeSymlink {
			h.SetMode(os.ModeSymlink | 0o777)
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(f, m.data)
	}
	w.Close()
	return b.Bytes()
}

const metaJSON = `{"Name":"evil","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///x"}}}`

func TestAnArchiveMayHoldOnlyAContext(t *testing.T) {
	meta := member{name: "meta.json", data: metaJSON}
	many := []member{meta}
	for range maxEntries {
		many = append(many, member{name: "tls/", kind: tar.TypeDir})
	}
	for _, c := range []struct {
		name    string
		members []member
		says    string // empty: taken
	}{
		{"a context", []member{meta}, ""},
		{"with directories and keys", []member{meta, {"tls", tar.TypeDir, ""}, {"tls/docker/ca.pem", 0, "x"}}, ""},
		{"keys first", []member{{"tls/docker/ca.pem", 0, "x"}, meta}, ""},
		{"nothing", nil, "no metadata"},
		{"keys alone", []member{{"tls/docker/ca.pem", 0, "x"}}, "no metadata"},
		{"a way up", []member{meta, {"tls/../../../etc/cron.d/x", 0, "x"}}, "unexpected path"},
		{"a way up by the endpoint", []member{meta, {"tls/../ca.pem", 0, "x"}}, "unexpected path"},
		{"a way up by the file", []member{meta, {"tls/docker/..", 0, "x"}}, "unexpected path"},
		{"a way down", []member{meta, {"tls/docker/a/b", 0, "x"}}, "unexpected path"},
		{"an empty step", []member{meta, {"tls//ca.pem", 0, "x"}}, "unexpected path"},
		{"a backslash", []member{meta, {`tls/docker/..\x`, 0, "x"}}, "unexpected path"},
		{"an absolute path", []member{meta, {"/etc/passwd", 0, "x"}}, "unexpected context file"},
		{"another file", []member{meta, {"config.json", 0, "x"}}, "unexpected context file"},
		{"a dotted name", []member{{"./meta.json", 0, metaJSON}}, "unexpected context file"},
		{"a link", []member{meta, {"tls/docker/ca.pem", tar.TypeSymlink, "/etc/shadow"}}, "neither a file"},
		{"metadata twice", []member{meta, meta}, "twice"},
		{"a key twice", []member{meta, {"tls/docker/ca.pem", 0, "x"}, {"tls/docker/ca.pem", 0, "y"}}, "twice"},
		{"metadata that is no JSON", []member{{"meta.json", 0, "{"}}, "cannot be read"},
		{"an endpoint of another shape", []member{{"meta.json", 0, `{"Endpoints":{"docker":[]}}`}}, "cannot be read"},
		{"too much", []member{meta, {"tls/docker/ca.pem", 0, strings.Repeat("x", maxArchive+1)}}, "larger than"},
		{"too much in pieces", []member{meta, {"tls/docker/a", 0, strings.Repeat("x", 6<<20)}, {"tls/docker/b", 0, strings.Repeat("x", 6<<20)}}, "larger than"},
		{"too many", many, "more than"},
	} {
		for form, data := range map[string][]byte{"tar": tarOf(c.members...), "zip": zipOf(c.members...)} {
			if form == "zip" && len(c.members) == 0 {
				continue
			}
			t.Run(c.name+" as "+form, func(t *testing.T) {
				got, err := Import("near", bytes.NewReader(data))
				switch {
				case c.says == "" && (err != nil || got.Name != "near"):
					t.Errorf("%+v %v", got, err)
				case c.says != "" && (!fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), c.says)):
					t.Errorf("%v, want %q", err, c.says)
				}
			})
		}
	}
}

// FuzzImport reads any archive; what it takes is stored below the context's own directories.
func FuzzImport(f *testing.F) {
	f.Add(tarOf(member{name: "meta.json", data: metaJSON}, member{name: "tls/docker/ca.pem", data: "x"}))
	f.Add(zipOf(member{name: "meta.json", data: metaJSON}, member{name: "tls/docker/key.pem", data: "x"}))
	f.Add([]byte("PK\x03\x04"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Import("near", bytes.NewReader(data))
		if err != nil {
			if !fail.Is(err, fail.Invalid) {
				t.Fatalf("class %v: %v", fail.Of(err), err)
			}
			return
		}
		dir := t.TempDir()
		if err := At(dir).Create(c); err != nil {
			t.Fatalf("cannot be kept: %v", err)
		}
		again, err := At(dir).Load("near")
		if err != nil {
			t.Fatal(err)
		}
		for endpoint, files := range c.TLS {
			for name, data := range files {
				if !bytes.Equal(again.TLS[endpoint][name], data) {
					t.Errorf("%s/%s is lost", endpoint, name)
				}
			}
		}
		top, _ := os.ReadDir(dir)
		if len(top) != 1 || top[0].Name() != "contexts" {
			t.Errorf("written beside the contexts: %v", top)
		}
	})
}
