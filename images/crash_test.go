package images

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/distribution/reference"

	"berth/durable"
	"berth/oci"
	"berth/testkit"
)

// crashPoints are all the instants between durable steps that the work of crashWork
// passes.
var crashPoints = []string{
	"images.pull.resolved", "blob.commit.verified", "blob.commit.published", "layer.commit.staged",
	"layer.commit.published", "images.bring.layer", "images.pull.fetched", "images.pull.recorded",
	"images.load.read", "images.load.unpacked", "images.import.unpacked", "images.push.compressed",
	"images.remove.recorded", "images.discard.layer", "images.discard.blob", "layer.remove.trashed",
	"images.collect.purged", "images.collect.layer",
}

// crashWork does a bit of everything. Some of it may be done already.
func crashWork(s *Store, ref reference.Named, archive []byte) error {
	ctx := context.Background()
	if _, err := s.Pull(ctx, ref, nil, nil, nil); err != nil {
		return err
	}
	if _, err := s.Load(ctx, bytes.NewReader(archive), LoadOptions{}, nil); err != nil {
		return err
	}
	imported, _ := reference.ParseNormalizedNamed("imported:1")
	if _, err := s.Import(ctx, bytes.NewReader(layerTar("i", "imported")), ImportOptions{Ref: imported}); err != nil {
		return err
	}
	elsewhere, _ := reference.ParseNormalizedNamed(reference.Domain(ref) + "/nowhere:1")
	if err := s.Tag("old:1", elsewhere); err != nil {
		return err
	}
	if err := s.Push(ctx, elsewhere, PushOptions{}, nil, nil); err == nil {
		return errors.New("the push went through")
	}
	// One image goes at once, one leaves its layers to a container and Collect.
	if _, err := s.Remove(ctx, ref.String(), RemoveOptions{}); err != nil {
		return err
	}
	users := func(oci.Digest) ([]string, []string) { return []string{"container"}, nil }
	if _, err := s.Remove(ctx, "imported:1", RemoveOptions{Force: true, Users: users}); err != nil {
		return err
	}
	_, err := s.Collect(ctx, nil)
	return err
}

func TestCrashChild(t *testing.T) {
	root := os.Getenv("IMAGES_CRASH_ROOT")
	if root == "" {
		t.Skip("runs as a child of TestKillAtEveryStepLosesNothing")
	}
	db, err := durable.OpenDB(filepath.Join(root, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Root: root, DB: db})
	if err != nil {
		t.Fatal(err)
	}
	archive, _ := oldArchive("./l1/layer.tar")
	if err := crashWork(s, named(t, os.Getenv("IMAGES_CRASH_REF")), archive); err != nil {
		t.Fatal(err)
	}
}

func TestKillAtEveryStepLosesNothing(t *testing.T) {
	testkit.NeedRoot(t)
	f := newFakeRegistry(t)
	img := gzipImage("crash", layerTar("a", "one"), layerTar("b", "two"))
	f.add("1", img)
	ref := f.ref(t, ":1")
	archive, old := oldArchive("./l1/layer.tar")
	for _, point := range crashPoints {
		t.Run(point, func(t *testing.T) {
			root := t.TempDir()
			cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
			cmd.Env = append(os.Environ(), "IMAGES_CRASH_ROOT="+root, "IMAGES_CRASH_REF="+ref.String(), "BERTH_FAILPOINT="+point)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the child was not killed at %s: %v\n%s", point, err, out)
			}
			s := reopen(t, root)
			if err := s.layers.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			n := inventory(t, s)
			for _, debris := range []string{"leases", "layers/staging", "layers/trash"} {
				if n[debris] != 0 {
					t.Errorf("%s: %d left", debris, n[debris])
				}
			}
			all, err := s.List()
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range all {
				if _, err := s.Rootfs(t.Context(), i.ID, ""); err != nil {
					t.Errorf("image %v: %v", i.RepoTags, err)
				}
				if err := s.Save(t.Context(), []string{i.ID.String()}, SaveOptions{}, &bytes.Buffer{}); err != nil {
					t.Errorf("image %v: %v", i.RepoTags, err)
				}
			}
			if afterLoad := strings.HasPrefix(point, "images.import") || strings.HasPrefix(point, "images.push") ||
				strings.HasPrefix(point, "images.remove") || strings.HasPrefix(point, "images.collect"); afterLoad {
				if got, err := s.Get("old:1"); err != nil || got.ID != old || read(t, s, old, "a") != "old" {
					t.Errorf("the loaded image is lost: %v", err)
				}
			}
			if err := crashWork(s, ref, archive); err != nil {
				t.Fatalf("the same work again: %v", err)
			}
			// An import that the crash outlived is another image than the next one.
			if all, err = s.List(); err != nil {
				t.Fatal(err)
			}
			for _, i := range all {
				if len(i.RepoTags) > 0 {
					continue
				}
				if _, err := s.Remove(t.Context(), i.ID.String(), RemoveOptions{}); err != nil {
					t.Error(err)
				}
			}
			if n := inventory(t, s); len(n) != 2 || n["layers"] != 2 || n["blobs"] != 3 {
				t.Errorf("at the end there is %v", n)
			}
		})
	}
}
