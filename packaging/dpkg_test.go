package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// inDebian makes a Debian of its essential packages that is gone afterwards, with packages in its /root, and
// runs a script in it.
const inDebian = `set -e
mount -t tmpfs -o mode=755 debian "$1"
tar -C "$1" -xf "$2"
mount -t proc proc "$1/proc"
cp "$3" "$4" "$1/root/"
exec chroot "$1" bash -c "$5"
`

// aRemoval is what happens to a package whose engine fails, first beside a supervisor, then without.
const aRemoval = `export PATH=/usr/sbin:/usr/bin:/sbin:/bin
printf '#!/bin/sh\n' >/usr/sbin/addgroup && chmod 755 /usr/sbin/addgroup # of the package adduser
broken() { printf '#!/bin/sh\nexit 1\n' >/usr/bin/berthd; }
try() { what=$1; shift; "$@" >/tmp/out 2>&1 && end=done || end=failed; echo "$what $end, $(grep -c '^berth: not removed' /tmp/out) $(dpkg-query -W -f '${db:Status-Status} ${Version}' berth)"; }
try install dpkg --force-depends -i /root/berth_0.1.0_amd64.deb
bash -c 'exec -a berth-shim sleep 1000' & until grep -qz berth-shim /proc/$!/cmdline; do :; done
mkdir -p /var/lib/berth/volumes
broken
try remove dpkg -r berth
try purge dpkg -P berth
try upgrade dpkg --force-depends -i /root/berth_0.2.0_amd64.deb
broken
kill $! && wait $!
try remove dpkg -r berth
ls -d /var/lib/berth/volumes /usr/bin/berthd
dpkg -P berth >/tmp/out 2>&1 && ls -d /var/lib/berth
true
`

func TestDpkgKeepsThePackageWhileContainersGoOn(t *testing.T) {
	testkit.Integration(t)
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("no dpkg-deb")
	}
	debian := testkit.DebianTar(t)
	first, _ := build(t, "022", "VERSION=0.1.0")
	second, _ := build(t, "022", "VERSION=0.2.0")
	root := filepath.Join(t.TempDir(), "debian")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "bash", "-c", inDebian, "test", root, debian, first, second, aRemoval).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const want = `install done, 0 installed 0.1.0
remove failed, 1 installed 0.1.0
purge failed, 1 installed 0.1.0
upgrade done, 0 installed 0.2.0
remove done, 0 config-files 0.2.0
ls: cannot access '/usr/bin/berthd': No such file or directory
/var/lib/berth/volumes
ls: cannot access '/var/lib/berth': No such file or directory
`
	if got := string(out); got != want {
		t.Errorf("got\n%swant\n%s", strings.TrimLeft(got, "\n"), want)
	}
}
