package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// compiler stands for Go: its programs are scripts that write what the real ones write for a package. That
// Go itself gives the same bytes each time is what "build.sh check" looks at.
const compiler = `#!/bin/sh
while [ "$1" != -o ]; do shift; done
case $3 in
*/man) text='mkdir -p "$1/man1" && echo manual | gzip -9n >"$1/man1/berth.1.gz"' ;;
*) text='echo "called with $*"' ;;
esac
printf '#!/bin/sh\n%s\n' "$text" >"$2"
chmod 755 "$2"
`

// build makes a package into a new directory.
func build(t *testing.T, umask string, env ...string) (path string, content []byte) {
	t.Helper()
	dir := t.TempDir()
	fake := filepath.Join(dir, "go")
	if err := os.WriteFile(fake, []byte(compiler), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "umask "+umask+" && exec ./build.sh deb")
	cmd.Env = append(append(os.Environ(), "GO="+fake, "OUT="+filepath.Join(dir, "out"), "ARCHS=amd64", "VERSION=1.2.3-rc1", "SOURCE_DATE_EPOCH=1767225600"), env...)
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build.sh deb: %v\n%s", err, &errors)
	}
	path = strings.TrimSpace(string(out))
	if content, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func TestASourceIsOnePackageWheneverAndWhereverItIsBuilt(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("no dpkg-deb")
	}
	path, first := build(t, "022", "MAINTAINER=A & B | C <builder@localhost>")
	_, second := build(t, "077", "MAINTAINER=A & B | C <builder@localhost>", "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8", "DPKG_DEB_THREADS_MAX=1")
	if !bytes.Equal(first, second) {
		t.Error("two builds differ")
	}
	show := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("dpkg-deb", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("dpkg-deb %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := show("--field", path, "Version", "Maintainer"); got != "Version: 1.2.3~rc1\nMaintainer: A & B | C <builder@localhost>" {
		t.Errorf("the package says\n%s", got)
	}
	for _, line := range strings.Split(show("--contents", path), "\n") {
		words := strings.Fields(line)
		if mode := words[0]; words[1] != "root/root" || !strings.HasPrefix(mode, "drwxr-xr-x") && !strings.HasPrefix(mode, "-rw-r--r--") && !strings.HasPrefix(mode, "-rwxr-xr-x") || !strings.HasPrefix(words[3], "2026-01-01") {
			t.Errorf("in the package: %s", line)
		}
	}
}
