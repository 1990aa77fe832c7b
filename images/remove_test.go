package images

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"berth/fail"
	"berth/oci"
)

func TestNamesAndPrefixesFindImages(t *testing.T) {
	s := newStore(t)
	img := put(t, s, gzipImage("find", layerTar("a", "x")), "demo/app:1", "debian")
	hex := img.ID.Encoded()
	for _, name := range []string{"demo/app:1", "docker.io/demo/app:1", "debian", "debian:latest", "docker.io/library/debian:latest",
		hex, hex[:12], hex[:3], "sha256:" + hex, "sha256:" + hex[:8]} {
		if got, err := s.Get(name); err != nil || got.ID != img.ID {
			t.Errorf("Get(%q) = %v, %v", name, got.ID, err)
		}
	}
	for name, want := range map[string]string{
		"nope":                              "No such image: nope:latest",
		"demo/app:2":                        "No such image: demo/app:2",
		"demo/app":                          "No such image: demo/app:latest",
		"sha256:" + strings.Repeat("0", 64): "No such image: sha256:" + strings.Repeat("0", 64),
		strings.Repeat("0", 64):             "No such image: " + strings.Repeat("0", 64),
	} {
		if _, err := s.Get(name); !fail.Is(err, fail.NotFound) || err.Error() != want {
			t.Errorf("Get(%q): %v (%v)", name, err, fail.Of(err))
		}
	}
	for _, name := range []string{"UPPER", "", "a b", "-x"} {
		if _, err := s.Get(name); !fail.Is(err, fail.Invalid) {
			t.Errorf("Get(%q): %v (%v)", name, err, fail.Of(err))
		}
	}
	// Enough images that some two share their first digit.
	for i := range 17 {
		put(t, s, gzipImage(fmt.Sprint("more", i), layerTar("a", "x")), fmt.Sprintf("more:%d", i))
	}
	ambiguous := 0
	for _, digit := range "0123456789abcdef" {
		if _, err := s.Get("sha256:" + string(digit)); fail.Is(err, fail.Invalid) && strings.Contains(err.Error(), "ambiguous") {
			ambiguous++
		}
	}
	if ambiguous == 0 {
		t.Error("no prefix was ambiguous")
	}
}

func TestImagesAreRemovedByDockersRules(t *testing.T) {
	const stopped, running = "0123456789abcdef", "fedcba9876543210"
	tests := []struct {
		name    string
		tags    []string
		remove  string // ID stands for the image's
		force   bool
		users   string
		log     string // with ID, CHAIN and DIGEST in place of the digests
		refused string
		left    string // tags afterwards; "gone" if the image is
	}{
		{name: "one of two tags", tags: []string{"a:1", "a:2"}, remove: "a:1", log: "-a:1", left: "a:2"},
		{name: "one of two tags under a container", tags: []string{"a:1", "a:2"}, remove: "a:1", users: "running", log: "-a:1", left: "a:2"},
		{name: "the last tag", tags: []string{"a:1"}, remove: "a:1", log: "-a:1 xID xCHAIN", left: "gone"},
		{name: "the last tag under a stopped container", tags: []string{"a:1"}, remove: "a:1", users: "stopped",
			refused: `conflict: unable to remove repository reference "a:1" (must force) - container 0123456789ab is using its referenced image ID`, left: "a:1"},
		{name: "the last tag under a running container", tags: []string{"a:1"}, remove: "a:1", users: "running",
			refused: `conflict: unable to remove repository reference "a:1" (must force) - container fedcba987654 is using its referenced image ID`, left: "a:1"},
		{name: "the last tag by force under a running container", tags: []string{"a:1"}, remove: "a:1", users: "running", force: true, log: "-a:1", left: ""},
		{name: "the last tag by force under a stopped container", tags: []string{"a:1"}, remove: "a:1", users: "stopped", force: true, log: "-a:1 xID", left: "gone"},
		{name: "an ID with one tag", tags: []string{"a:1"}, remove: "ID", log: "-a:1 xID xCHAIN", left: "gone"},
		{name: "an ID without tags", remove: "ID", log: "xID xCHAIN", left: "gone"},
		{name: "an ID with two tags", tags: []string{"a:1", "b:1"}, remove: "ID",
			refused: "conflict: unable to delete ID (must be forced) - image is referenced in multiple repositories", left: "a:1 b:1"},
		{name: "an ID with two tags by force", tags: []string{"a:1", "b:1"}, remove: "ID", force: true, log: "-a:1 -b:1 xID xCHAIN", left: "gone"},
		{name: "an ID under a stopped container", tags: []string{"a:1"}, remove: "ID", users: "stopped",
			refused: "conflict: unable to delete ID (must be forced) - image is being used by stopped container 0123456789ab", left: "a:1"},
		{name: "an ID by force under a stopped container", tags: []string{"a:1"}, remove: "ID", users: "stopped", force: true, log: "-a:1 xID", left: "gone"},
		{name: "an ID by force under a running container", tags: []string{"a:1"}, remove: "ID", users: "running", force: true,
			refused: "conflict: unable to delete ID (cannot be forced) - image is being used by running container fedcba987654", left: "a:1"},
		{name: "a missing name", tags: []string{"a:1"}, remove: "a:2", refused: "No such image: a:2", left: "a:1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			data := layerTar("a", "x")
			id, err := s.Import(t.Context(), strings.NewReader(string(data)), ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, tag := range tt.tags {
				if err := s.Tag(id.String(), named(t, tag)); err != nil {
					t.Fatal(err)
				}
			}
			inUse := true
			o := RemoveOptions{Force: tt.force, Users: func(of oci.Digest) (all, run []string) {
				switch {
				case of != id || !inUse:
				case tt.users == "stopped":
					return []string{stopped}, nil
				case tt.users == "running":
					return []string{running}, []string{running}
				}
				return nil, nil
			}}
			done, err := s.Remove(t.Context(), strings.Replace(tt.remove, "ID", id.String(), 1), o)
			hide := strings.NewReplacer(id.String(), "ID", short(id), "ID", oci.ChainID(s.chainsOf(id)).String(), "CHAIN")
			if tt.refused != "" {
				want := fail.Conflict
				if strings.HasPrefix(tt.refused, "No such") {
					want = fail.NotFound
				}
				if !fail.Is(err, want) || hide.Replace(err.Error()) != tt.refused {
					t.Errorf("got %v (%v), want %s", err, fail.Of(err), tt.refused)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			var log []string
			for _, r := range done {
				switch {
				case r.Untagged != "":
					log = append(log, "-"+r.Untagged)
				case r.Deleted == id.String():
					log = append(log, "xID")
				default:
					log = append(log, "xCHAIN")
				}
			}
			if strings.Join(log, " ") != tt.log {
				t.Errorf("did %v, want %s", log, tt.log)
			}
			img, err := s.Get(id.Encoded()[:20])
			left := strings.Join(img.RepoTags, " ")
			if fail.Is(err, fail.NotFound) {
				left = "gone"
			}
			if left != tt.left {
				t.Errorf("left %q, want %q", left, tt.left)
			}
			if _, err := s.Rootfs(t.Context(), id, ""); (tt.users != "" || left != "gone") != (err == nil) {
				t.Errorf("containers %q, root file system: %v", tt.users, err)
			}
			if left != "gone" {
				return
			}
			if _, err := s.Collect(t.Context(), func(oci.Digest) bool { return tt.users != "" }); err != nil {
				t.Fatal(err)
			}
			if n := inventory(t, s); (n["layers"] == 1) != (tt.users != "") {
				t.Errorf("after a collection with users %q: %v", tt.users, n)
			}
			inUse = false
			if _, err := s.Collect(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if n := inventory(t, s); n["layers"]+n["blobs"] != 0 {
				t.Errorf("left %v", n)
			}
		})
	}
}

func (s *Store) chainsOf(id oci.Digest) []oci.Digest {
	if e := s.entry(id); e != nil {
		return e.Chains
	}
	return nil
}

func TestDigestsGoWithTheLastTagOfTheirRepository(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	img := gzipImage("digests", layerTar("a", "x"))
	f.add("1", img)
	f.add("2", img)
	for _, tag := range []string{":1", ":2"} {
		if _, err := s.Pull(t.Context(), f.ref(t, tag), nil, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	repo := f.ref(t, "").Name()
	digest := repo + "@" + img.manifest.Digest.String()
	done, err := s.Remove(t.Context(), repo+":1", RemoveOptions{})
	if err != nil || len(done) != 1 || done[0].Untagged != repo+":1" {
		t.Fatalf("%v, %v", done, err)
	}
	done, err = s.Remove(t.Context(), repo+":2", RemoveOptions{})
	want := []Removal{{Untagged: repo + ":2"}, {Untagged: digest}, {Deleted: img.config.Digest.String()}, {Deleted: img.diffs[0].String()}}
	if err != nil || fmt.Sprint(done) != fmt.Sprint(want) {
		t.Errorf("did %v, %v, want %v", done, err, want)
	}
	if n := inventory(t, s); n["layers"]+n["blobs"] != 0 {
		t.Errorf("left %v", n)
	}
}

func TestSharedLayersStayWhenOneImageGoes(t *testing.T) {
	s := newStore(t)
	base := layerTar("a", "base")
	put(t, s, gzipImage("one", base), "one")
	two := put(t, s, gzipImage("two", base, layerTar("b", "x")), "two")
	done, err := s.Remove(t.Context(), "two", RemoveOptions{})
	if err != nil || len(done) != 3 {
		t.Fatalf("%v, %v", done, err)
	}
	if n := inventory(t, s); n["layers"] != 1 || n["blobs"] != 3 {
		t.Errorf("left %v", n)
	}
	if err := s.Use(t.Context(), two.ID, func() error { return nil }); !fail.Is(err, fail.NotFound) {
		t.Errorf("Use of a removed image: %v", err)
	}
}

func TestImageIsNotRemovedWhileItIsBeingUsed(t *testing.T) {
	s := newStore(t)
	img := put(t, s, gzipImage("use", layerTar("a", "x")), "use:1")
	removed := make(chan error)
	var users []string
	boom := errors.New("boom")
	err := s.Use(t.Context(), img.ID, func() error {
		go func() {
			_, err := s.Remove(t.Context(), "use:1", RemoveOptions{Users: func(oci.Digest) ([]string, []string) { return users, nil }})
			removed <- err
		}()
		select {
		case err := <-removed:
			t.Errorf("removed under its user: %v", err)
		case <-time.After(20 * time.Millisecond): // long enough to be caught if it did not wait
		}
		users = []string{"new container"}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("Use gave %v", err)
	}
	if err := <-removed; !fail.Is(err, fail.Conflict) {
		t.Errorf("Remove after the container was recorded: %v", err)
	}
}

func TestTagsMoveAndAreChecked(t *testing.T) {
	s := newStore(t)
	one := put(t, s, gzipImage("one", layerTar("a", "1")), "app:1")
	two := put(t, s, gzipImage("two", layerTar("a", "2")), "app:2")
	if err := s.Tag(two.ID.String(), named(t, "app:1")); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[oci.Digest]string{one.ID: "", two.ID: "app:1 app:2"} {
		if got, err := s.Get(id.String()); err != nil || strings.Join(got.RepoTags, " ") != want {
			t.Errorf("%v, %v, want %q", got.RepoTags, err, want)
		}
	}
	if err := s.Tag("none", named(t, "x")); !fail.Is(err, fail.NotFound) {
		t.Errorf("got %v", err)
	}
	if err := s.Tag("app:1", named(t, "x@"+one.ID.String())); !fail.Is(err, fail.Invalid) {
		t.Errorf("got %v", err)
	}
}

func TestRecordsSurviveAReopen(t *testing.T) {
	s := newStore(t)
	img := put(t, s, gzipImage("kept", layerTar("a", "1")), "app:1", "app:2")
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s.root)
	got, err := s.Get("app:2")
	if err != nil || got.ID != img.ID || len(got.RepoTags) != 2 || read(t, s, got.ID, "a") != "1" {
		t.Errorf("%+v, %v", got, err)
	}
	skopeo(t, "inspect", "oci:"+s.root+"/content:docker.io/library/app:1")
}
