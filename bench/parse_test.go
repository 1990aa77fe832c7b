package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestProcessNamesMayContainAnything(t *testing.T) {
	for _, c := range []struct {
		in   string
		want process
		ok   bool
	}{
		{"7 (sleep) S 3 7 7", process{pid: 7, parent: 3, name: "sleep", state: 'S'}, true},
		{"7 (a) Z 9 (b) R 3 7", process{pid: 7, parent: 3, name: "a) Z 9 (b", state: 'R'}, true},
		{"7 (cut", process{}, false},
		{"7 (cut) S", process{}, false},
	} {
		if got, ok := parseStat(7, c.in); ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %+v %v", c.in, got, ok)
		}
	}
}

func TestBusyCountsStolenTimeAndNotGuestsTwice(t *testing.T) {
	before := parseCPU("cpu 0 0 0 0 0 0 0 0 0 0")
	after := parseCPU("cpu 10 0 10 50 10 0 0 20 10 0")
	if got := busy(before, after); got != 0.4 {
		t.Errorf("busy %v, want 0.4", got)
	}
}

func TestAnonymousMemoryIsReadInBytes(t *testing.T) {
	got, err := parseAnonymous("Rss:   900 kB\nAnonymous:            12 kB\nLazyFree: 1 kB\n")
	if err != nil || got != 12*1024 {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := parseAnonymous("Rss: 1 kB\n"); err == nil {
		t.Error("a file without the line is accepted")
	}
}

func TestMemoryCountsWaitingShimsAndGrowthAlone(t *testing.T) {
	before := memory{engine: 6_000_000, keepers: map[string]keepers{"berth-shim": {2, 3_000_000}}}
	after := memory{engine: 10_000_000, keepers: map[string]keepers{"berth-shim": {12, 16_000_000}}}
	if got, text := before.perContainer(after, 10); got != 2 {
		t.Errorf("%v (%s), want (16 + 10 - 6) / 10", got, text)
	}
}

func TestDebianTreeBecomesLayersThatTogetherAreTheTree(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, data string) {
		h.Size, h.Mode = int64(len(data)), 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(data))
	}
	for _, d := range []string{"./", "./dev/", "./usr/", "./usr/bin/", "./usr/lib/", "./var/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: d}, "")
	}
	add(tar.Header{Typeflag: tar.TypeChar, Name: "./dev/null"}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "./usr/bin/dpkg"}, "base")
	for _, p := range []string{"cc", "git", "perl", "zsh"} {
		add(tar.Header{Typeflag: tar.TypeReg, Name: "./usr/bin/" + p}, "program "+p)
		add(tar.Header{Typeflag: tar.TypeReg, Name: "./var/lib/dpkg/info/" + p + ":amd64.list"}, "/.\n/bin\n/bin/"+p+"\n/usr/bin/"+p+"-link\n")
	}
	add(tar.Header{Typeflag: tar.TypeLink, Name: "./usr/bin/git-link", Linkname: "./usr/bin/git"}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "./var/lib/dpkg/info/dpkg.list"}, "/usr/bin/dpkg\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "./var/lib/dpkg/status"}, "Package: dpkg\nEssential: yes\n\nPackage: cc\nPriority: optional\n\nPackage: perl\n")
	if err := errors.Join(w.Close(), os.WriteFile(tree, b.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	assign, err := divide(in)
	if err != nil {
		t.Fatal(err)
	}
	if assign["/usr/bin/dpkg"] != 0 {
		t.Error("an essential package is not in the base")
	}
	used := map[int]bool{}
	for _, p := range []string{"cc", "git", "perl", "zsh"} {
		used[assign["/usr/bin/"+p]] = true
	}
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("other packages use the layers %v", got)
	}

	if _, err := in.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	layers := make([]*layerWriter, imageLayers)
	for i := range layers {
		if layers[i], err = newLayerWriter(dir); err != nil {
			t.Fatal(err)
		}
		defer layers[i].file.Close()
	}
	if err := distribute(tar.NewReader(in), assign, layers); err != nil {
		t.Fatal(err)
	}
	git := layers[assign["/usr/bin/git"]]
	if !git.has["/usr/bin"] || !git.has["/usr"] {
		t.Errorf("a layer does not repeat the directories above its files: %v", git.has)
	}
	if git.has["/var/lib/dpkg"] {
		t.Errorf("a layer has directories that it has no files for: %v", git.has)
	}
}
