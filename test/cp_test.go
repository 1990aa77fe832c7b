package test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

// TestAHostileContainerIsCopiedFromAndToInSafety has the container exchange a directory for
// symbolic links to the host's files all the while.
func TestAHostileContainerIsCopiedFromAndToInSafety(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	outside := filepath.Join(e.Dir, "outside")
	must(t, os.MkdirAll(filepath.Join(outside, "sub"), 0o755), os.WriteFile(filepath.Join(outside, "sub/f"), []byte("SECRET"), 0o644))
	before := treeOf(t, outside)
	e.Must("run", "-d", "--name", "evil", "--network", "none", "busybox", "sh", "-c", fmt.Sprintf(`
		mkdir -p /own/sub; echo own > /own/sub/f; ln -s %[1]s /away; ln -s ../../../../../../..%[1]s /up; ln -s /proc/1/root%[1]s /magic
		while :; do for l in away up magic; do mv -T /own /kept; mv -T /$l /own; mv -T /own /$l; mv -T /kept /own; done; done`, outside))
	src := filepath.Join(e.Dir, "src")
	must(t, os.MkdirAll(filepath.Join(src, "sub"), 0o755), os.WriteFile(filepath.Join(src, "sub/f"), []byte("sent"), 0o644))
	copied := 0
	for n := range 25 {
		for _, from := range []string{"evil:/own/sub/f", "evil:/own/.", "evil:/own/sub"} {
			r := e.Berth("cp", from, "-")
			if strings.Contains(r.Stdout, "SECRET") {
				t.Fatalf("%s gives a file of the host", from)
			}
			if r.Code == 0 {
				copied++
			}
		}
		e.Berth("cp", src+"/.", "evil:/own")
		if n%5 == 0 {
			e.Berth("cp", "-L", "evil:/own", filepath.Join(t.TempDir(), "out"))
		}
	}
	if copied == 0 {
		t.Error("nothing was copied at all")
	}
	if diff := cmp.Diff(before, treeOf(t, outside)); diff != "" {
		t.Errorf("the host's files were changed:\n%s", diff)
	}
	e.Must("rm", "-f", "evil")
}

// TestArchiveStatuses asks the API for what cannot be done.
func TestArchiveStatuses(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("volume", "create", "vol")
	e.Must("run", "-d", "--name", "runs", "--network", "none", "--read-only", "-v", "vol:/ro:ro", "-v", "vol:/rw", "--tmpfs", "/tm", "busybox", "sleep", "1000")
	e.Must("create", "--name", "waits", "--network", "none", "--read-only", "-v", "vol:/ro:ro", "-v", "vol:/rw", "busybox", "sleep", "1000")
	e.Must("create", "--name", "plain", "--network", "none", "--user", "app", "busybox", "true")
	var plain, gz bytes.Buffer
	at, err := os.Open("/etc/hostname")
	must(t, err)
	defer at.Close()
	must(t, archive.Pack(t.Context(), at, "packed", &plain))
	z := gzip.NewWriter(&gz)
	_, err = z.Write(plain.Bytes())
	must(t, err, z.Close())
	for _, c := range []struct {
		method, target string
		body           string
		status         int
		says           string
	}{
		{"GET", "none/archive?path=/", "", 404, "No such container: none"},
		{"GET", "plain/archive", "", 400, "path"},
		{"GET", "plain/archive?path=/none", "", 404, "Could not find the file /none in container plain"},
		{"GET", "plain/archive?path=/etc/passwd/", "", 400, "not a directory"},
		{"HEAD", "plain/archive?path=/none", "", 404, ""},
		{"HEAD", "none/archive?path=/", "", 404, ""},
		{"PUT", "plain/archive?path=/none", plain.String(), 404, "Could not find the file /none in container plain"},
		{"PUT", "plain/archive?path=/etc/passwd", plain.String(), 400, "extraction point is not a directory"},
		{"PUT", "plain/archive?path=/", "this is no archive, though it is long enough to be taken for the beginning of one" + strings.Repeat(".", 1000), 400, "not a tar archive"},
		{"PUT", "plain/archive?path=/", gz.String()[:gz.Len()/2], 400, "gzip"},
		{"PUT", "plain/archive?path=/", plain.String()[:400], 400, "not a tar archive, or it is damaged"},
		{"PUT", "plain/archive", plain.String(), 400, "path"},
		{"PUT", "runs/archive?path=/etc", plain.String(), 403, "container rootfs is marked read-only"},
		{"PUT", "runs/archive?path=/ro", plain.String(), 403, "mounted volume is marked read-only"},
		{"PUT", "runs/archive?path=/rw", plain.String(), 200, ""},
		{"PUT", "runs/archive?path=/tm", plain.String(), 200, ""},
		{"PUT", "waits/archive?path=/etc", plain.String(), 403, "container rootfs is marked read-only"},
		{"PUT", "waits/archive?path=/ro", plain.String(), 403, "mounted volume is marked read-only"},
		{"PUT", "waits/archive?path=/rw", plain.String(), 200, ""},
		{"PUT", "plain/archive?path=/root", gz.String(), 200, ""},
		{"PUT", "plain/archive?path=/root", "", 200, ""},
		{"HEAD", "plain/archive?path=/root/packed", "", 200, ""},
		{"GET", "runs/archive?path=/proc/1/root/etc/passwd", "", 400, "symbolic links"},
		{"GET", "runs/archive?path=/proc/version", "", 200, "Linux version"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "http://engine/v1.44/containers/"+c.target, strings.NewReader(c.body))
		must(t, err)
		answer, err := plainClient(e).Do(r)
		must(t, err)
		data, err := io.ReadAll(answer.Body)
		must(t, err, answer.Body.Close())
		if answer.StatusCode != c.status || !strings.Contains(string(data), c.says) {
			t.Errorf("%s %s: %d %.200s, want %d and %q", c.method, c.target, answer.StatusCode, data, c.status, c.says)
		}
		if c.status == 200 && c.method != "PUT" && answer.Header.Get("X-Docker-Container-Path-Stat") == "" {
			t.Errorf("%s %s tells nothing of the file", c.method, c.target)
		}
	}
	// With -a files belong to the container's user, without it to whom they belonged.
	for _, c := range []struct {
		flag, owner string
	}{{"-a", "1001:1002"}, {"-q", "77:88"}} {
		f := filepath.Join(e.Dir, "owned")
		must(t, os.WriteFile(f, []byte("x"), 0o600), os.Chown(f, 77, 88))
		e.Must("cp", c.flag, f, "plain:/home/owned")
		r := tar.NewReader(strings.NewReader(e.Must("cp", "plain:/home/owned", "-")))
		h, err := r.Next()
		must(t, err)
		if got := fmt.Sprintf("%d:%d", h.Uid, h.Gid); got != c.owner {
			t.Errorf("%s: the owner is %s, want %s", c.flag, got, c.owner)
		}
		out := filepath.Join(t.TempDir(), "out")
		e.Must("cp", c.flag, "plain:/home/owned", out)
		var st syscall.Stat_t
		must(t, syscall.Stat(out, &st))
		if want := map[string]string{"-a": c.owner, "-q": "0:0"}[c.flag]; fmt.Sprintf("%d:%d", st.Uid, st.Gid) != want {
			t.Errorf("%s: the owner here is %d:%d, want %s", c.flag, st.Uid, st.Gid, want)
		}
	}
	e.Must("rm", "-f", "runs", "waits", "plain")
	e.Must("volume", "rm", "vol")
}

// TestACopyNeitherHoldsUpAContainerNorOutlivesTheEngine has clients that stop reading and writing.
func TestACopyNeitherHoldsUpAContainerNorOutlivesTheEngine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "big", "--network", "none", "-v", "/vol", "busybox", "sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null; touch /ready; sleep 1000")
	testkit.Eventually(t, "the file is there", func() bool { return e.Berth("exec", "big", "test", "-e", "/ready").Code == 0 })
	stalled := func() *http.Response {
		r, err := plainClient(e).Get("http://engine/containers/big/archive?path=/big")
		must(t, err)
		_, err = io.ReadFull(r.Body, make([]byte, 1000))
		must(t, err)
		return r
	}
	r := stalled()
	e.Must("restart", "-t", "0", "big") // takes the files back
	if _, err := io.Copy(io.Discard, r.Body); err == nil {
		t.Error("a copy that was cut off ends as if it were whole")
	}
	r.Body.Close()
	r = stalled()
	e.Must("rm", "-f", "big")
	r.Body.Close()

	e.Must("create", "--name", "rests", "--network", "none", "-v", "/vol", "busybox", "true")
	before := mounts(t, e)
	body, w := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), "PUT", "http://engine/containers/rests/archive?path=/vol", body)
	must(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if r, err := plainClient(e).Do(request); err == nil {
			r.Body.Close()
		}
	}()
	_, err = w.Write(make([]byte, 100))
	must(t, err)
	e.Kill()
	w.Close() // the client waits for its own body
	<-ended
	if diff := cmp.Diff(before, mounts(t, e)); diff != "" {
		t.Errorf("mounts are left:\n%s", diff)
	}
	e.Start()
	e.Must("cp", "/etc/hostname", "rests:/vol/f")
	e.Must("start", "rests")
	e.Must("rm", "-fv", "rests")
}

// TestACopyWhoseClientStandsStillKeepsNobodyFromAContainerThatRests has clients that take the
// beginning only, of what holds the container itself.
func TestACopyWhoseClientStandsStillKeepsNobodyFromAContainerThatRests(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	var all sync.WaitGroup
	for name, target := range map[string]string{"copied": "archive?path=/big", "exported": "export"} {
		e.Must("run", "--name", name, "--network", "none", "busybox", "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=40")
		r, err := plainClient(e).Get("http://engine/containers/" + name + "/" + target)
		must(t, err)
		defer r.Body.Close()
		_, err = io.ReadFull(r.Body, make([]byte, 1000))
		must(t, err)
		all.Go(func() {
			if r := e.Berth("rm", name); r.Code != 0 { // waits until the engine loses patience
				t.Errorf("rm %s: %s", name, r.Stderr)
			}
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				t.Errorf("%s: a copy that was cut off ends as if it were whole", name)
			}
		})
	}
	all.Wait()
}

// mounts are those of this machine that are an engine's.
func mounts(t *testing.T, e *testkit.Engine) (out []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, e.Dir) || strings.Contains(line, e.DataRoot) {
			out = append(out, line)
		}
	}
	return out
}
