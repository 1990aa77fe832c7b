package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"berth/durable"
	"berth/events"
	"berth/fail"
)

// house is a store that can be opened again.
type house struct {
	*Store
	t    *testing.T
	root string
	bus  *events.Bus
}

func newHouse(t *testing.T) *house {
	t.Helper()
	root := t.TempDir()
	db, err := durable.OpenDB(filepath.Join(root, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{t: t, root: root, bus: events.NewBus(), Store: &Store{db: db}}
	h.open()
	return h
}

func (h *house) open() {
	h.t.Helper()
	s, err := Open(Config{Root: h.root, DB: h.db, Events: h.bus})
	if err != nil {
		h.t.Fatal(err)
	}
	h.Store = s
}

func (h *house) create(name string) Volume {
	h.t.Helper()
	v, err := h.Create(CreateRequest{Name: name})
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

func (h *house) put(name, file string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.Mountpoint(name), file), []byte("12345"), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// names are the volumes; files what is in their directory.
func (h *house) names() (out []string) {
	for _, v := range h.List() {
		out = append(out, v.Name)
	}
	return out
}

func (h *house) files() (out []string) {
	entries, err := os.ReadDir(filepath.Join(h.root, "volumes"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestAVolumeIsADirectoryForRootAlone(t *testing.T) {
	h := newHouse(t)
	v := h.create("data")
	for path, mode := range map[string]os.FileMode{filepath.Dir(filepath.Dir(v.Mountpoint)): 0o701, filepath.Dir(v.Mountpoint): 0o701, v.Mountpoint: 0o755} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %v", path, info.Mode(), err, mode)
		}
	}
	h.open()
	if again, err := h.Get("data"); err != nil || !again.Created.Equal(v.Created) || again.Mountpoint != v.Mountpoint {
		t.Errorf("after opening again: %+v %v", again, err)
	}
}

func TestNamesOfVolumes(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"ab", "a.b", "A_b-c.9", "0a", strings.Repeat("x", 240)} {
		h.create(name)
	}
	for _, name := range []string{"a", ".", "..", ".a", "-a", "_a", "a/b", "/a", "a b", "a\x00", "ä", strings.Repeat("x", 250)} {
		if _, err := h.Create(CreateRequest{Name: name}); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if len(h.files()) != 5 {
		t.Errorf("files %v", h.files())
	}
}

func TestCreateIsIdempotent(t *testing.T) {
	h := newHouse(t)
	tmpfs := map[string]string{"type": "tmpfs", "device": "tmpfs"}
	first, err := h.Create(CreateRequest{Name: "data", Labels: map[string]string{"a": "b"}, Options: tmpfs})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []CreateRequest{{Name: "data"}, {Name: "data", Driver: Local, Options: tmpfs}, {Name: "data", Labels: map[string]string{"c": "d"}}} {
		if v, err := h.Create(r); err != nil || v.Labels["a"] != "b" || !v.Created.Equal(first.Created) {
			t.Errorf("%+v: %+v %v", r, v, err)
		}
	}
	if _, err := h.Create(CreateRequest{Name: "data", Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}}); !fail.Is(err, fail.Conflict) {
		t.Errorf("other options: %v", err)
	}
}

func TestAVolumeInUseStays(t *testing.T) {
	h := newHouse(t)
	h.create("data")
	r, err := h.Reserve("c1", []Need{{CreateRequest: CreateRequest{Name: "data"}}})
	if err != nil {
		t.Fatal(err)
	}
	r.Done()
	if err := h.Remove(t.Context(), "data"); !fail.Is(err, fail.Conflict) || err.Error() != "remove data: volume is in use - [c1]" {
		t.Errorf("%v", err)
	}
	if names, _, err := h.Prune(t.Context(), func(Volume) bool { return false }); err != nil || len(names) != 0 {
		t.Errorf("prune took %v, %v", names, err)
	}
	h.Depart("c1", []string{"data"}, nil).Done()()
	if err := h.Remove(t.Context(), "data"); err != nil {
		t.Error(err)
	}
	if err := h.Remove(t.Context(), "data"); !fail.Is(err, fail.NotFound) {
		t.Errorf("twice: %v", err)
	}
	if len(h.files()) != 0 {
		t.Errorf("files %v", h.files())
	}
}

func TestACancelledReservationLeavesNothing(t *testing.T) {
	h := newHouse(t)
	h.create("old")
	need := func(name string) Need { return Need{CreateRequest: CreateRequest{Name: name}} }
	r, err := h.Reserve("c1", []Need{need("old"), need("new"), need("new")})
	if err != nil || !r.Changes() {
		t.Fatal(err)
	}
	r.Cancel()
	if _, err := h.Reserve("c1", []Need{need("old"), need("newer"), need("x")}); !fail.Is(err, fail.Invalid) {
		t.Errorf("a bad name: %v", err)
	}
	if !slices.Equal(h.names(), []string{"old"}) || !slices.Equal(h.files(), []string{"old"}) || len(h.Users("old")) != 0 {
		t.Errorf("volumes %v, files %v, users %v", h.names(), h.files(), h.Users("old"))
	}
}

func TestWhatACrashLeavesIsSettled(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"kept", "hidden", "removed"} {
		h.create(name)
		h.put(name, "f")
	}
	dir := filepath.Join(h.root, "volumes")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// A removal that was not recorded, one that was, two volumes that were being made, a
	// directory that somebody put there, and a volume whose directory is lost.
	must(os.Rename(filepath.Join(dir, "hidden"), filepath.Join(dir, ".gone-0-hidden")))
	must(os.Rename(filepath.Join(dir, "removed"), filepath.Join(dir, ".gone-3-removed")))
	must(h.db.Update(func(tx *durable.Tx) error { return tx.Delete(bucket, "removed") }))
	must(os.MkdirAll(filepath.Join(dir, "made", dataName), 0o700))
	must(os.MkdirAll(filepath.Join(dir, "begun"), 0o700))
	must(os.MkdirAll(filepath.Join(dir, "brought", dataName), 0o700))
	must(os.WriteFile(filepath.Join(dir, "brought", dataName, "f"), nil, 0o600))
	h.create("lost")
	must(os.RemoveAll(filepath.Join(dir, "lost")))
	h.open()
	if want := []string{"brought", "hidden", "kept", "lost"}; !slices.Equal(h.names(), want) || !slices.Equal(h.files(), want) {
		t.Errorf("volumes %v, files %v, want %v", h.names(), h.files(), want)
	}
	for _, name := range []string{"kept", "hidden", "brought"} {
		if _, err := os.Stat(filepath.Join(h.Mountpoint(name), "f")); err != nil {
			t.Error(err)
		}
	}
}

func TestAVolumeWhoseRecordIsUnreadableIsLeftAlone(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"broken", "hidden", "empty"} {
		h.create(name)
		if err := h.db.Update(func(tx *durable.Tx) error { return tx.PutRaw(bucket, name, []byte("{")) }); err != nil {
			t.Fatal(err)
		}
	}
	h.put("broken", "f")
	dir := filepath.Join(h.root, "volumes")
	if err := os.Rename(filepath.Join(dir, "hidden"), filepath.Join(dir, ".gone-0-hidden")); err != nil {
		t.Fatal(err)
	}
	h.open()
	if want := []string{"broken", "empty", "hidden"}; !slices.Equal(h.files(), want) || len(h.names()) != 0 {
		t.Errorf("files %v, volumes %v", h.files(), h.names())
	}
	if _, err := h.Create(CreateRequest{Name: "broken"}); err == nil || !strings.Contains(err.Error(), "is unreadable: its files are in") {
		t.Errorf("made anew: %v", err)
	}
}

func TestOrphansOfContainersThatRemoveThemselvesGo(t *testing.T) {
	h := newHouse(t)
	for _, owner := range []string{"dead", "lives", ""} {
		r, err := h.Reserve("c-"+owner, []Need{{CreateRequest: CreateRequest{Name: "of-" + owner + "-"}, Owner: owner}})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.db.Update(r.Record); err != nil {
			t.Fatal(err)
		}
		r.Done()
	}
	h.open()
	if err := h.CollectOrphans(func(c string) bool { return c == "lives" }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"of--", "of-lives-"}; !slices.Equal(h.names(), want) || !slices.Equal(h.files(), want) {
		t.Errorf("volumes %v, files %v", h.names(), h.files())
	}
}

func TestAVolumeThatOthersUseLosesItsOwner(t *testing.T) {
	h := newHouse(t)
	r, err := h.Reserve("owner", []Need{{CreateRequest: CreateRequest{Name: "shared"}, Owner: "owner"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.db.Update(r.Record); err != nil {
		t.Fatal(err)
	}
	r.Done()
	if !h.Restore("borrower", "shared") || h.Restore("borrower", "nope") {
		t.Error("restored wrongly")
	}
	d := h.Depart("owner", []string{"shared"}, []string{"shared"})
	if err := h.db.Update(d.Record); err != nil {
		t.Fatal(err)
	}
	d.Done()()
	h.open()
	if err := h.CollectOrphans(func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if v, err := h.Get("shared"); err != nil || v.Owner != "" {
		t.Errorf("%+v %v", v, err)
	}
}

func TestADepartureThatIsNotRecordedTakesNothing(t *testing.T) {
	h := newHouse(t)
	h.create("data")
	h.put("data", "f")
	d := h.Depart("c1", []string{"data"}, []string{"data"})
	if len(h.files()) != 1 || h.files()[0] == "data" {
		t.Errorf("files %v", h.files())
	}
	d.Cancel()
	if _, err := os.Stat(filepath.Join(h.Mountpoint("data"), "f")); err != nil {
		t.Error(err)
	}
	h.create("other") // the lock is free
}

func TestAllAtOnce(t *testing.T) {
	h := newHouse(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			c := string(rune('a' + i))
			for range 20 {
				r, err := h.Reserve(c, []Need{{CreateRequest: CreateRequest{Name: "common"}}, {CreateRequest: CreateRequest{Name: "own-" + c}}})
				if err != nil {
					t.Error(err)
					return
				}
				if r.Changes() {
					if err := h.db.Update(r.Record); err != nil {
						t.Error(err)
					}
				}
				r.Done()
				_ = h.Remove(t.Context(), "common")
				if err := h.Remove(t.Context(), "own-"+c); !fail.Is(err, fail.Conflict) {
					t.Errorf("a used volume was removed: %v", err)
				}
				d := h.Depart(c, []string{"common", "own-" + c}, []string{"own-" + c})
				if err := h.db.Update(d.Record); err != nil {
					t.Error(err)
				}
				d.Done()()
			}
		})
	}
	all.Wait()
	if names := h.names(); len(names) > 1 || len(h.files()) != len(names) {
		t.Errorf("volumes %v, files %v", names, h.files())
	}
}

func TestSizeCountsAFileOnce(t *testing.T) {
	h := newHouse(t)
	h.create("data")
	h.put("data", "f")
	if err := os.Link(filepath.Join(h.Mountpoint("data"), "f"), filepath.Join(h.Mountpoint("data"), "g")); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(h.Mountpoint("data"), "in Latin-1: \xe9")
	if err := errors.Join(os.Mkdir(odd, 0o755), os.Link(filepath.Join(h.Mountpoint("data"), "f"), filepath.Join(odd, "g"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(odd, "h"), []byte("678"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := h.Size(t.Context(), "data"); err != nil || n != 8 {
		t.Errorf("%d %v", n, err)
	}
	names, freed, err := h.Prune(t.Context(), func(Volume) bool { return false })
	if err != nil || len(names) != 1 || freed != 8 {
		t.Errorf("prune: %v %d %v", names, freed, err)
	}
}

func TestPruneCountsNothingForAVolumeWhoseFilesAreElsewhere(t *testing.T) {
	h := newHouse(t)
	h.create("plain")
	h.put("plain", "a")
	if _, err := h.Create(CreateRequest{Name: "scratch", Options: map[string]string{"type": "tmpfs", "device": "tmpfs"}}); err != nil {
		t.Fatal(err)
	}
	names, freed, err := h.Prune(t.Context(), func(v Volume) bool { return v.Name != "scratch" })
	if err != nil || len(names) != 1 || freed != 0 {
		t.Fatalf("pruned %v, freed %d bytes, %v", names, freed, err)
	}
	names, freed, err = h.Prune(t.Context(), func(Volume) bool { return false })
	if err != nil || len(names) != 1 || freed != 5 {
		t.Fatalf("pruned %v, freed %d bytes, %v", names, freed, err)
	}
}

func TestMountCalls(t *testing.T) {
	resolve := func(_ context.Context, host string) (string, error) {
		if host == "server" || host == "files.example.org" {
			return "192.0.2.7", nil
		}
		return "", errors.New("no such host")
	}
	for _, c := range []struct {
		name    string
		options map[string]string
		want    mountCall
		text    string
	}{
		{"tmpfs", map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,nosuid,uid=7"}, mountCall{source: "tmpfs", fsType: "tmpfs", data: "size=1m,uid=7", flags: 2}, ""},
		{"bind", map[string]string{"type": "none", "device": "/a", "o": "bind,ro,rshared"}, mountCall{source: "/a", fsType: "none", flags: 0x1001, propagation: 0x104000}, ""},
		{"the last word counts", map[string]string{"type": "ext4", "device": "/dev/x", "o": "ro,rw,,noexec,exec"}, mountCall{source: "/dev/x", fsType: "ext4"}, ""},
		{"nfs by name", map[string]string{"type": "nfs", "device": ":/export", "o": "addr=server,rw,nfsvers=4"}, mountCall{source: ":/export", fsType: "nfs", data: "addr=192.0.2.7,nfsvers=4"}, ""},
		{"nfs4 by address", map[string]string{"type": "nfs4", "device": ":/export", "o": "addr=2001:db8::1"}, mountCall{source: ":/export", fsType: "nfs4", data: "addr=2001:db8::1"}, ""},
		{"nfs of a server that is not there", map[string]string{"type": "nfs", "device": ":/export", "o": "addr=nobody"}, mountCall{}, `resolve "nobody": no such host`},
		{"cifs by name", map[string]string{"type": "cifs", "device": "//files.example.org/my share", "o": "username=u,password=p"}, mountCall{source: "//192.0.2.7/my share", fsType: "cifs", data: "username=u,password=p"}, ""},
		{"cifs by address", map[string]string{"type": "cifs", "device": "//192.0.2.9/s"}, mountCall{source: "//192.0.2.9/s", fsType: "cifs"}, ""},
		{"cifs with addr", map[string]string{"type": "cifs", "device": "//nobody/s", "o": "addr=server"}, mountCall{source: "//nobody/s", fsType: "cifs", data: "addr=192.0.2.7"}, ""},
		{"cifs of a server that is not there", map[string]string{"type": "cifs", "device": "//nobody/s"}, mountCall{}, `resolve "nobody"`},
	} {
		got, err := mountOf(t.Context(), c.options, resolve)
		if c.text != "" {
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v, want %s", c.name, err, c.text)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %+v %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestSizesOfVolumes(t *testing.T) {
	for text, want := range map[string]int64{"1g": 1 << 30, "10M": 10 << 20, "4096": 4096, "0": -1, "-1": -1, "many": -1, "": -1} {
		n, err := sizeOf(map[string]string{optSize: text})
		if err != nil && want >= 0 || err == nil && n != want {
			t.Errorf("%q: %d %v, want %d", text, n, err, want)
		}
	}
	if _, err := sizeOf(map[string]string{optSize: "1g", optType: "tmpfs"}); !fail.Is(err, fail.Invalid) {
		t.Errorf("of a tmpfs: %v", err)
	}
}

// Where the file system has project quotas the limit holds; elsewhere it is refused.
func TestAVolumeWithASizeIsLimitedOrRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := newHouse(t)
	v, err := h.Create(CreateRequest{Name: "small", Options: map[string]string{optSize: "1m"}})
	if err != nil {
		if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "create small: quota size requested but no quota support") || len(h.files()) != 0 {
			t.Errorf("%v, files %v", err, h.files())
		}
		t.Skip("no project quotas here")
	}
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), make([]byte, 2<<20), 0o600); err == nil {
		t.Error("more was written than the limit allows")
	}
	if err := h.Remove(t.Context(), "small"); err != nil {
		t.Error(err)
	}
}

func TestSecretsAreNotTold(t *testing.T) {
	if got := withoutSecrets("username=u,password=geheim,pass=x,uid=3"); got != "username=u,password=***,pass=***,uid=3" {
		t.Error(got)
	}
}

func FuzzMountOf(f *testing.F) {
	f.Add("nfs", ":/x", "addr=server,rw")
	f.Add("cifs", "//h/s", "username=u,,password=a=b")
	f.Add("none", "/x", "bind,ro,rshared")
	f.Add("cifs", "//[::1", "")
	f.Fuzz(func(t *testing.T, fsType, device, words string) {
		m, err := mountOf(t.Context(), map[string]string{"type": fsType, "device": device, "o": words}, func(context.Context, string) (string, error) { return "192.0.2.1", nil })
		if err == nil && (m.fsType != fsType || strings.Contains(","+m.data+",", ",ro,")) {
			t.Errorf("%+v", m)
		}
	})
}
