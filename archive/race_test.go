package archive

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestATreeThatIsExchangedMeanwhileLeadsNowhereElse copies from and to a tree while somebody
// exchanges its directories for symbolic links to what is outside.
func TestATreeThatIsExchangedMeanwhileLeadsNowhereElse(t *testing.T) {
	top := t.TempDir()
	root, outside := filepath.Join(top, "root"), filepath.Join(top, "outside")
	must(t, os.MkdirAll(filepath.Join(root, "a/b"), 0o755), os.MkdirAll(filepath.Join(outside, "b"), 0o755),
		os.WriteFile(filepath.Join(root, "a/b/f"), []byte("own"), 0o644), os.WriteFile(filepath.Join(outside, "b/f"), []byte("SECRET"), 0o600),
		os.WriteFile(filepath.Join(outside, "f"), []byte("SECRET"), 0o600),
		os.Symlink("../outside", filepath.Join(root, "up")), os.Symlink(outside, filepath.Join(root, "away")))
	before := listing(t, outside)
	stop := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		exchange := func(a, b string) {
			_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, a), unix.AT_FDCWD, filepath.Join(root, b), unix.RENAME_EXCHANGE)
		}
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			with := []string{"up", "away"}[n%2]
			exchange("a", with)
			exchange("a", with)
			exchange("a/b", with)
			exchange("a/b", with)
		}
	})
	at := open(t, root)
	for range 300 {
		for _, p := range []string{"/a", "/a/b", "/a/b/f", "/a/", "/a/b/."} {
			f, name, err := Open(at, p)
			if err != nil {
				continue // what was asked for is another thing by now
			}
			var b bytes.Buffer
			_ = Pack(t.Context(), f, name, &b)
			f.Close()
			if bytes.Contains(b.Bytes(), []byte("SECRET")) {
				t.Fatal("a file from outside was packed")
			}
			_, _ = Target(at, p)
		}
		_ = Unpack(t.Context(), at, "/a", tarOf(t, entry{"b/", dir, ""}, entry{"b/g", file, ""}, entry{"b/h", hard, "b/g"}, entry{"n/m/k", file, ""}, entry{"b/p", sym, "/x"}), UnpackOptions{})
		_ = Unpack(t.Context(), at, "/", tarOf(t, entry{"a/b", file, ""}, entry{"a/b/", dir, ""}), UnpackOptions{})
	}
	close(stop)
	attacker.Wait()
	if got := listing(t, outside); got != before {
		t.Errorf("outside: %s, before: %s", got, before)
	}
}
