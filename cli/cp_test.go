package cli

import (
	"archive/tar"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// archiveOf answers as an engine does of which a file called name is copied.
func archiveOf(name string, mode os.FileMode, entries ...*tar.Header) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		stat, _ := json.Marshal(map[string]any{"name": name, "mode": mode})
		w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(stat))
		w.Header().Set("Content-Type", "application/x-tar")
		out := tar.NewWriter(w)
		for _, h := range entries {
			_ = out.WriteHeader(h)
		}
		_ = out.Close()
	}
}

func TestCpTakesFromAnEngineOnlyWhatItAskedFor(t *testing.T) {
	file := func(name string) *tar.Header { return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	dir := &tar.Header{Name: "motd/", Typeflag: tar.TypeDir, Mode: 0o755}
	for name, c := range map[string]struct {
		top     string // what the engine calls it
		entries []*tar.Header
		want    string // what is made
		fails   bool
	}{
		"the file":                     {"motd", []*tar.Header{file("motd")}, ".bashrc motd", false},
		"a directory":                  {"motd", []*tar.Header{dir, file("motd/x")}, ".bashrc motd", false},
		"a file beside":                {"motd", []*tar.Header{file("motd"), file(".profile")}, ".bashrc motd", true},
		"a directory beside":           {"motd", []*tar.Header{file("motd"), file(".ssh/authorized_keys")}, ".bashrc motd", true},
		"a link to what is beside":     {"motd", []*tar.Header{{Name: "motd", Typeflag: tar.TypeLink, Linkname: ".bashrc"}}, ".bashrc", true},
		"another name for the top":     {".profile", []*tar.Header{file(".profile")}, ".bashrc motd", false},
		"another name, and one beside": {".profile", []*tar.Header{file(".profile"), file(".bash_logout")}, ".bashrc motd", true},
		"the directory itself":         {"motd", []*tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o777}}, ".bashrc", true},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			if err := os.WriteFile(filepath.Join(home, ".bashrc"), []byte("own"), 0o600); err != nil {
				t.Fatal(err)
			}
			e := newFakeEngine(t, map[string]http.HandlerFunc{"GET /containers/c/archive": archiveOf(c.top, 0o644, c.entries...)})
			if r := e.berth(t, "", "cp", "c:/motd", home); (r.code != 0) != c.fails || c.fails && r.err == "" {
				t.Errorf("code %d: %s", r.code, r.err)
			}
			var got []string
			made, _ := os.ReadDir(home)
			for _, d := range made {
				got = append(got, d.Name())
			}
			slices.Sort(got)
			if own, _ := os.ReadFile(filepath.Join(home, ".bashrc")); strings.Join(got, " ") != c.want || string(own) != "own" {
				t.Errorf("made %s, want %s", got, c.want)
			}
		})
	}
}

func TestCpLendsTheCallersPowerToNoFile(t *testing.T) {
	id := func(h tar.Header) *tar.Header { h.Uid, h.Gid = 1000, 1000; return &h }
	e := newFakeEngine(t, map[string]http.HandlerFunc{"GET /containers/c/archive": archiveOf("d", os.ModeDir|0o755,
		id(tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}),
		id(tar.Header{Name: "d/evil", Typeflag: tar.TypeReg, Mode: 0o4755}),
		id(tar.Header{Name: "d/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}))})
	to := t.TempDir()
	r := e.berth(t, "", "cp", "c:/d", to)
	if r.code != 0 || !strings.Contains(r.err, `1 left out, "d/null" first`) {
		t.Errorf("code %d: %s", r.code, r.err)
	}
	info, err := os.Stat(filepath.Join(to, "d/evil"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := os.Lstat(filepath.Join(to, "d/null")); err == nil {
		t.Error("there is a device")
	}
	if os.Geteuid() == 0 {
		to := t.TempDir()
		if r := e.berth(t, "", "cp", "-a", "c:/d", to); r.code != 0 {
			t.Errorf("code %d: %s", r.code, r.err)
		}
		if info, err := os.Stat(filepath.Join(to, "d/evil")); err != nil || info.Mode() != 0o755|os.ModeSetuid {
			t.Errorf("by root with -a: %v, %v", info, err)
		}
		if info, err := os.Lstat(filepath.Join(to, "d/null")); err != nil || info.Mode()&os.ModeDevice == 0 {
			t.Errorf("by root with -a: %v, %v", info, err)
		}
	}
	e = newFakeEngine(t, map[string]http.HandlerFunc{"GET /containers/c/archive": archiveOf("null", os.ModeDevice|os.ModeCharDevice|0o666)})
	if r := e.berth(t, "", "cp", "c:/dev/null", to); r.code != 1 || !strings.Contains(r.err, `"c:/dev/null" is a device`) {
		t.Errorf("code %d: %s", r.code, r.err)
	}
}
