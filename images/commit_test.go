package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/oci"
)

// imported is a store with one image, and a writable layer on it with the file "new".
func imported(t *testing.T) (s *Store, id oci.Digest, dir string) {
	t.Helper()
	s = newStore(t)
	id, err := s.Import(t.Context(), bytes.NewReader(layerTar("a", "imported")), ImportOptions{Ref: named(t, "base"), Changes: []string{"ENV A=1"}})
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	root, err := s.Rootfs(t.Context(), id, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root.Upper, "new"), []byte("committed"), 0o644); err != nil {
		t.Fatal(err)
	}
	return s, id, dir
}

func held(context.Context) (func(), error) { return func() {}, nil }

func TestCommitAddsOneLayerToThoseOfTheImage(t *testing.T) {
	s, base, dir := imported(t)
	steps := ""
	id, err := s.Commit(t.Context(), base, dir, CommitOptions{
		Ref: named(t, "made"), Author: "Ada", Comment: "why", CreatedBy: "sh -c x",
		Config: json.RawMessage(`{"Hostname":"h","Env":["A=1"],"Cmd":["run"],"Healthcheck":{"Test":["NONE"]}}`), Changes: []string{"ENV B=$A"},
		Hold: func(context.Context) (func(), error) { steps += "hold "; return func() { steps += "release" }, nil },
	})
	if err != nil || steps != "hold release" {
		t.Fatal(err, steps)
	}
	img, err := s.Get("made")
	if err != nil || img.ID != id {
		t.Fatal(img, err)
	}
	var raw struct {
		Author, Comment string
		Config          json.RawMessage
		History         []ocispec.History
	}
	if err := json.Unmarshal(img.RawConfig, &raw); err != nil {
		t.Fatal(err)
	}
	last := raw.History[len(raw.History)-1]
	if got, want := string(raw.Config), `{"Env":["A=1","B=1"],"Cmd":["run"],"Healthcheck":{"Test":["NONE"]}}`; got != want {
		t.Errorf("config %s, want %s", got, want)
	}
	if raw.Author != "Ada" || raw.Comment != "why" || last.CreatedBy != "sh -c x" || last.Author != "Ada" || last.Comment != "why" || len(raw.History) != 2 || time.Since(*last.Created) > time.Minute {
		t.Errorf("%s", img.RawConfig)
	}
	before, after := s.entry(base), s.entry(id)
	if len(after.Chains) != 2 || after.Chains[0] != before.Chains[0] || after.current().Layers[0].Digest != before.current().Layers[0].Digest {
		t.Errorf("layers %v do not stand on %v", after.Chains, before.Chains)
	}
	if d := img.Config.RootFS.DiffIDs; len(d) != 2 || d[1] != after.current().Layers[1].Digest {
		t.Errorf("diff IDs %v", d)
	}
	if read(t, s, id, "new") != "committed" || read(t, s, id, "a") != "imported" {
		t.Error("the image lacks a file")
	}
	if n := inventory(t, s); n["blobs"] != 6 || n["layers"] != 2 || len(n) != 2 {
		t.Errorf("there is %v", n)
	}
	if _, err := s.Remove(t.Context(), "base", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if read(t, s, id, "a") != "imported" {
		t.Error("the layer went with the image below")
	}
}

func TestCommitWithoutChangesAddsHistoryOnly(t *testing.T) {
	s, base, _ := imported(t)
	id, err := s.Commit(t.Context(), base, t.TempDir(), CommitOptions{Config: json.RawMessage(`{}`), Hold: held}) // was never started
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.entry(id).config()
	if err != nil || len(c.image.RootFS.DiffIDs) != 1 || len(c.image.History) != 2 || !c.image.History[1].EmptyLayer {
		t.Errorf("%s, %v", c.raw, err)
	}
}

func TestCommitOfAnOCIImageIsOne(t *testing.T) {
	s, f := newStore(t), newFakeRegistry(t)
	f.add("1", gzipImage("oci", layerTar("a", "x")))
	img, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, func(Step) {})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := s.Rootfs(t.Context(), img.ID, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root.Upper, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	id, err := s.Commit(t.Context(), img.ID, dir, CommitOptions{Config: json.RawMessage(`{}`), Hold: held})
	if err != nil {
		t.Fatal(err)
	}
	v := s.entry(id).current()
	if v.Manifest.MediaType != ocispec.MediaTypeImageManifest || v.Config.MediaType != ocispec.MediaTypeImageConfig ||
		v.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip || v.Layers[1].MediaType != ocispec.MediaTypeImageLayer {
		t.Errorf("%+v", v)
	}
}

func TestFailedCommitsLeaveNothing(t *testing.T) {
	s, base, dir := imported(t)
	good := CommitOptions{Config: json.RawMessage(`{}`), Hold: held}
	bad := filepath.Join(dir, "upper", ".wh.x")
	for name, tt := range map[string]struct {
		change func(o *CommitOptions)
		class  fail.Class
		says   string
	}{
		"bad change": {func(o *CommitOptions) { o.Changes = []string{"COPY a b"} }, fail.Invalid, "COPY is not a valid change command"},
		"digest":     {func(o *CommitOptions) { o.Ref = named(t, "a@"+base.String()) }, fail.Invalid, "digest"},
		"cannot hold": {func(o *CommitOptions) {
			o.Hold = func(context.Context) (func(), error) { return nil, errors.New("frozen solid") }
		}, fail.Internal, "frozen solid"},
		"no such image": {nil, fail.NotFound, "No such image"},
		"unreadable":    {func(*CommitOptions) { _ = os.WriteFile(bad, nil, 0o600) }, fail.Invalid, "would be taken for a whiteout"},
	} {
		t.Run(name, func(t *testing.T) {
			defer os.Remove(bad)
			o, id := good, base
			if tt.change != nil {
				tt.change(&o)
			} else {
				id = "sha256:" + oci.Digest(strings.Repeat("0", 64))
			}
			_, err := s.Commit(t.Context(), id, dir, o)
			if !fail.Is(err, tt.class) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v (%v)", err, fail.Of(err))
			}
			if n := inventory(t, s); n["blobs"] != 3 || n["layers"] != 1 || len(n) != 2 {
				t.Errorf("left %v", n)
			}
		})
	}
}
