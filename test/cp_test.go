package test

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/archive"
	"berth/testkit"
)

func TestCpOfARunningAndAStoppedContainer(t *testing.T) {
	for _, driver := range []string{"overlay", "copy"} {
		t.Run(driver, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--storage-driver", driver}})
			e.Busybox()
			bind := filepath.Join(e.Dir, "bind")
			if err := os.Mkdir(bind, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, c := range clients {
				t.Run(c.name, func(t *testing.T) {
					c.must(e, "run", "-d", "--name", "cc", "--network", "none", "-v", "vol:/vol", "-v", bind+":/bind", "--tmpfs", "/tm", "busybox", "sleep", "1000")
					src := filepath.Join(e.Dir, "src")
					must(t, os.MkdirAll(filepath.Join(src, "sub"), 0o755), os.WriteFile(filepath.Join(src, "sub/f"), []byte("content\n"), 0o640))
					for _, state := range []string{"running", "stopped"} {
						dirs := []string{"/root", "/vol", "/bind"}
						if state == "running" {
							dirs = append(dirs, "/tm")
						} else {
							c.must(e, "kill", "cc")
							c.must(e, "wait", "cc")
						}
						for _, dir := range dirs {
							c.must(e, "cp", src, "cc:"+dir+"/"+state)
							to := filepath.Join(t.TempDir(), "out")
							c.must(e, "cp", "cc:"+dir+"/"+state, to)
							data, err := os.ReadFile(filepath.Join(to, "sub/f"))
							if err != nil || string(data) != "content\n" {
								t.Errorf("%s, %s: %q, %v", state, dir, data, err)
							}
						}
					}
					if _, err := os.Stat(filepath.Join(bind, "stopped/sub/f")); err != nil {
						t.Error(err)
					}
					c.must(e, "rm", "cc")
					c.must(e, "volume", "rm", "vol")
					must(t, os.RemoveAll(filepath.Join(bind, "running")), os.RemoveAll(filepath.Join(bind, "stopped")))
				})
			}
		})
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// copyCases are command lines of cp; H/ is a directory of this machine, cc: the container.
// The same layout is in H and in the container's /w.
var copyCases = [][]string{
	// into a container
	{"H/f", "cc:/w/new"},
	{"H/f", "cc:/w/new/"},
	{"H/f", "cc:/w/none/new"},
	{"H/f", "cc:/w/g"},
	{"H/f", "cc:/w/g/"},
	{"H/f", "cc:/w/g/x"},
	{"H/f", "cc:/w/d"},
	{"H/f", "cc:/w/d/"},
	{"H/f", "cc:/w/d/."},
	{"H/f", "cc:w/d"},
	{"H/f", "cc:/w/conflict"},
	{"H/f/", "cc:/w/d"},
	{"H/none", "cc:/w/d"},
	{"H/d", "cc:/w/new"},
	{"H/d", "cc:/w/new/"},
	{"H/d", "cc:/w/new/."},
	{"H/d/", "cc:/w/new"},
	{"H/d/.", "cc:/w/new"},
	{"H/d/.", "cc:/w/none/new"},
	{"H/d", "cc:/w/none/new"},
	{"H/d", "cc:/w/e"},
	{"H/d/", "cc:/w/e/"},
	{"H/d/.", "cc:/w/e"},
	{"H/d", "cc:/w/g"},
	{"H/d/.", "cc:/w/g"},
	{"H/d", "cc:/"},
	{"H/d/.", "cc:/"},
	{"H/tofile", "cc:/w/e"},
	{"H/todir", "cc:/w/e"},
	{"H/todir/", "cc:/w/e"},
	{"H/todir/.", "cc:/w/e"},
	{"H/todir", "cc:/w/new"},
	{"-L", "H/tofile", "cc:/w/e"},
	{"-L", "H/tofile", "cc:/w/new"},
	{"-L", "H/todir", "cc:/w/e"},
	{"-L", "H/todir/", "cc:/w/e"},
	{"-L", "H/todir", "cc:/w/new"},
	{"-L", "H/todir/.", "cc:/w/e"},
	{"H/dangling", "cc:/w/e"},
	{"-L", "H/dangling", "cc:/w/e"},
	{"H/f", "cc:/w/tofile"},
	{"H/f", "cc:/w/todir"},
	{"H/f", "cc:/w/todir/"},
	{"H/f", "cc:/w/dangling"},
	{"H/d", "cc:/w/todir"},
	{"H/d", "cc:/w/tofile"},
	{"H/d", "cc:/w/dangling"},
	{"H/f", "cc:/w/todir/new"},
	{"H/f", "cc:/w/d/../new"},
	{"H/e", "cc:/w/d"},
	{"-q", "H/fifo", "cc:/w/new"},
	{"H/f", "none:/w"},
	// out of a container
	{"cc:/w/f", "H/new"},
	{"cc:/w/f", "H/new/"},
	{"cc:/w/f", "H/none/new"},
	{"cc:/w/f", "H/g"},
	{"cc:/w/f", "H/g/"},
	{"cc:/w/f", "H/d"},
	{"cc:/w/f", "H/d/"},
	{"cc:/w/f", "H/conflict"},
	{"cc:/w/f/", "H/new"},
	{"cc:/w/none", "H/new"},
	{"cc:w/f", "H/new"},
	{"cc:/w/d", "H/new"},
	{"cc:/w/d", "H/new/"},
	{"cc:/w/d/.", "H/new"},
	{"cc:/w/d", "H/e"},
	{"cc:/w/d/", "H/e"},
	{"cc:/w/d/.", "H/e"},
	{"cc:/w/d", "H/g"},
	{"cc:/w/d", "H/none/new"},
	{"cc:/w/tofile", "H/e"},
	{"cc:/w/todir", "H/e"},
	{"cc:/w/todir/", "H/e"},
	{"cc:/w/todir/.", "H/e"},
	{"cc:/w/todir", "H/new"},
	{"cc:/w/todir/f1", "H/new"},
	{"-L", "cc:/w/tofile", "H/e"},
	{"-L", "cc:/w/tofile", "H/new"},
	{"-L", "cc:/w/todir", "H/e"},
	{"-L", "cc:/w/todir", "H/new"},
	{"-L", "cc:/w/dangling", "H/e"},
	{"cc:/w/dangling", "H/e"},
	{"cc:/w/f", "H/tofile"},
	{"cc:/w/f", "H/todir"},
	{"cc:/w/f", "H/dangling"},
	{"cc:/w/d", "H/todir"},
	{"cc:/w/d", "H/tofile"},
	{"cc:/w/e", "H/d"},
	{"cc:/w/fifo", "H/new"},
	{"cc:/w/abs", "H/new"},
	{"cc:/w/../w/f", "H/new"},
	// neither
	{"cc:/w/f", "cc:/w/new"},
	{"H/f", "H/new"},
	{"", "cc:/w"},
	{"cc:/w", ""},
	{"H/f", "cc:"},
	{"cc:", "H/new"},
}

// copyLayout makes the files that copies begin with.
func copyLayout(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"d/sub", "e", "conflict/f"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for name, text := range map[string]string{"f": "file", "g": "other", "d/f1": "one", "d/sub/f2": "two", "e/f1": "e's"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640))
	}
	must(t, os.Chown(filepath.Join(dir, "f"), 12, 34), os.Chmod(filepath.Join(dir, "d/sub"), 0o2711))
	for name, to := range map[string]string{"tofile": "f", "todir": "d", "dangling": "nothing"} {
		must(t, os.Symlink(to, filepath.Join(dir, name)))
	}
	must(t, os.Link(filepath.Join(dir, "d/f1"), filepath.Join(dir, "d/hard")), syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
}

// treeOf describes the files below a directory.
func treeOf(t *testing.T, dir string) (lines []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		name, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%s %s %d:%d", name, info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %q", st.Nlink, data)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " " + to
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

// treeIn describes the files of a tar, but for what belongs to the engine.
func treeIn(t *testing.T, data string) (lines []string) {
	t.Helper()
	for r := tar.NewReader(strings.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			slices.Sort(lines)
			return lines
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		name := strings.Trim(h.Name, "/")
		if name == "" || name == ".dockerenv" || name == "dev" || strings.HasPrefix(name, "dev/") || name == "etc" || strings.HasPrefix(name, "etc/") || name == "proc" || name == "sys" {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %s %d:%d %s %q", name, h.FileInfo().Mode(), h.Uid, h.Gid, h.Linkname, content))
	}
}

// TestCpFollowsDockersPathRules does the same copies with Docker, and with both clients on Berth.
func TestCpFollowsDockersPathRules(t *testing.T) {
	// Each case has a directory of its own, here and in the container.
	layouts := func(dir string) string {
		for n := range copyCases {
			at := filepath.Join(dir, fmt.Sprint(n))
			must(t, os.MkdirAll(at, 0o755))
			copyLayout(t, at)
			must(t, os.Symlink(fmt.Sprintf("/w/%d/f", n), filepath.Join(at, "abs")))
		}
		return dir
	}
	image := filepath.Join(t.TempDir(), "image.tar")
	packed, err := os.Create(image)
	must(t, err)
	defer packed.Close()
	at, err := os.Open(layouts(t.TempDir()))
	must(t, err)
	defer at.Close()
	must(t, archive.Pack(t.Context(), at, "w", packed))

	e := testkit.StartEngine(t, testkit.EngineOptions{})
	dockerd := testkit.Dockerd(t)
	sides := []struct {
		name, image string
		do          func(args ...string) testkit.Result
	}{
		{"dockerd", "layout", dockerd.Do},
		{"berth", "layout", e.Berth},
		{"docker on berth", "layout2", e.Docker},
	}
	results := make([][]string, len(sides)) // what each case led to
	for n, s := range sides {
		name := strings.ReplaceAll(s.name, " ", "")
		do := func(args ...string) string {
			r := s.do(args...)
			if r.Code != 0 {
				t.Fatalf("%s: %s: %+v", s.name, args, r)
			}
			return r.Stdout
		}
		do("import", "--change", `CMD ["x"]`, image, s.image)
		do("create", "--name", name, "--network", "none", s.image)
		host := layouts(t.TempDir())
		for k, c := range copyCases {
			args := []string{"cp"}
			for _, a := range c {
				a = strings.Replace(a, "cc:", name+":", 1)
				a = strings.Replace(a, ":w/", fmt.Sprintf(":w/%d/", k), 1)
				a = strings.ReplaceAll(a, "/w/", fmt.Sprintf("/w/%d/", k))
				if rest, ok := strings.CutPrefix(a, "H/"); ok {
					a = fmt.Sprintf("%s/%d/%s", host, k, rest)
				}
				args = append(args, a)
			}
			r := s.do(args...)
			results[n] = append(results[n], fmt.Sprintf("code %d", r.Code))
			if r.Code != 0 && r.Stderr == "" {
				t.Errorf("%s: %s: fails without a word", s.name, c)
			}
		}
		inside := treeIn(t, do("cp", name+":/", "-"))
		for k := range copyCases {
			results[n][k] += "\non the host:\n" + strings.Join(treeOf(t, filepath.Join(host, fmt.Sprint(k))), "\n") + "\nin the container:\n"
			for _, line := range inside {
				if rest, ok := strings.CutPrefix(line, fmt.Sprintf("w/%d/", k)); ok {
					results[n][k] += rest + "\n"
				}
			}
		}
		results[n] = append(results[n], strings.Join(slices.DeleteFunc(inside, func(l string) bool { return strings.HasPrefix(l, "w/") }), "\n"))
		do("rm", name)
		if n == 0 {
			continue
		}
		for k, want := range results[0] {
			if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(results[n][k], "\n")); diff != "" {
				t.Errorf("case %d %s: %s is not as %s:\n%s", k, append(copyCases, []string{"outside of all cases"})[k], s.name, sides[0].name, diff)
			}
		}
	}
}
