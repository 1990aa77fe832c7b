package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"berth/testkit"
	"berth/testkit/vm"
)

// What every script of this file begins with: an engine whose data root is in $M.
const onDisk = `
set -u
export PATH=` + vm.GuestBin + `:$PATH
R=$(mktemp -d /run/fsXXXX); export DOCKER_HOST=unix://$R/s DOCKER_CONFIG=$R/cfg
echo '{}' >$R/none.json
start() {
	berthd --data-root $M/d --exec-root $R/r -H $DOCKER_HOST --config-file $R/none.json >>$R/log 2>&1 & D=$!
	until [ -S $R/s ]; do sleep .1; kill -0 $D 2>/dev/null || { tail -1 $R/log; exit 1; }; done
}
stop() { kill $D; wait $D; }
box() { berth import --change 'CMD ["sh"]' ` + boxTar + ` busybox >/dev/null; }
run() { berth run --network none "$@" 2>&1; }
`

// A server's first 90 seconds are otherwise for clients who had opened files before.
const serveNFS = `mkdir -p /etc/nfs.conf.d; printf '[nfsd]\ngrace-time=10\nlease-time=10\n' >/etc/nfs.conf.d/short.conf; systemctl start nfs-server; exportfs -ra`

const boxTar = "/share/busybox.tar"

// What people do with images and containers, a word each.
const ordinary = `
start; box
echo "driver $(berth info -f '{{.Driver}}')"
run -d --name cc busybox sleep 1000 >/dev/null
berth exec cc sh -c 'echo new >/etc/f; rm /bin/true; ln /bin/busybox /bin/other; mkdir -m 1777 /d; chown 7:8 /d; mkfifo /d/p; ln -s f /etc/s'
echo "diff $(berth diff cc | grep -c .) $(berth diff cc | grep -x 'D /bin/true')"
echo copied >$R/x; berth cp $R/x cc:/x
echo "cp $(berth cp cc:/x - | tar xO)"
berth commit cc once >/dev/null
echo "committed $(run --rm once sh -c 'cat /x /etc/f /etc/s; ls /bin/true 2>/dev/null; stat -c %u:%g:%a /d; stat -c %h /bin/other' | tr '\n' ' ')"
echo "export $(berth export cc | tar t | grep -c -e ^etc/f$ -e ^bin/true$)"
run --rm -v vol:/etc once sh -c :
echo "volume $(run --rm -v vol:/v busybox cat /v/f)"
stop; start
echo "again $(berth exec cc cat /x)"
berth rm -f cc >/dev/null; berth rmi once >/dev/null; berth volume rm vol >/dev/null
echo "check $(berth system check | grep -o 'no damage found')"
berth system prune -af >/dev/null
echo "left $(berth images -q | wc -l) $(ls $M/d/containers | wc -l)"
stop
`

var ordinarily = []string{`diff \d+ D /bin/true`, `cp copied`, `committed copied new new 7:8:1777 [12]`, `export 1`, `volume new`, `again copied`, `check no damage found`, `left 0 0`}

// The same limits on both file systems that have project quotas, and what is said without.
const limited = `
start; box
berth volume create -o size=2m small 2>&1 || { run --storage-opt size=3m busybox true; stop; exit; }
echo "volume $(run --rm -v small:/v busybox sh -c 'dd if=/dev/zero of=/v/f bs=1k count=4000 2>&1 | grep -o -e quota -e space; set -- $(stat -f -c "%b %S" /v); echo $(($1 * $2 / 1024)); du -k /v/f | cut -f1' | tr '\n' ' ')"
run -d --name cc --storage-opt size=3m busybox sleep 1000 >/dev/null
full='dd if=/dev/zero of=/f bs=1k count=8000 2>&1 | grep -o -e quota -e space; df -k / | tail -1 | awk "{print \$2}"'
echo "root $(berth exec cc sh -c "$full" | tr '\n' ' ')"
projects() { repquota -P $M | grep -c '^#[1-9]'; }
echo "projects $(projects)"
stop; start
echo "restarted $(berth exec cc sh -c "rm /f; mkdir -p /a; mv /etc /a; $full" | tr '\n' ' ')"
echo "committed $(berth commit cc snap | grep -c sha256)"
# A container may make its directories parts of other projects; the limits go all the same.
chattr -p 4711 $M/d/volumes/small/_data; chattr -p 4712 $M/d/containers/*/upper
berth rm -f cc >/dev/null; berth volume rm small >/dev/null
n=0; until [ "$(projects)" = 0 ] || [ $n = 30 ]; do sleep 1; sync; n=$((n+1)); done
echo "given back: $(projects) left"
echo "info $(berth info -f '{{json .DriverStatus}}' | grep -o '"Project Quotas","true"')"
stop
`

// Volumes of an NFS server, which goes away.
const served = `
mkdir -p /srv/x; chmod 777 /srv/x; echo hello >/srv/x/f
echo '/srv/x *(rw,sync,no_subtree_check,no_root_squash,insecure,fsid=1)' >/etc/exports
` + serveNFS + `
start; box
volume() { name=$1; shift; berth volume create -o type=nfs -o device=:/srv/x -o o=addr=127.0.0.1,$1 $name >/dev/null; }
volume four rw,nfsvers=4; volume three rw,nfsvers=3,nolock; volume readonly ro,nfsvers=4
for v in four three readonly; do
	echo "$v $(run --rm -v $v:/v busybox sh -c 'cat /v/f; echo x >/v/'$v' && rm /v/'$v'; grep -o " /v nfs4* r[ow]" /proc/mounts' | sed 's/^.*Read-only.*/refused/' | tr '\n' ' ')"
done
echo "mounts $(grep -c ' nfs4* ' /proc/mounts)"
berth volume create -o type=nfs -o device=:/srv/nosuch -o o=addr=127.0.0.1,nfsvers=4 bad >/dev/null
echo "bad $(run --rm -v bad:/v busybox true | grep -o 'failed to mount local volume: mount :/srv/nosuch.*')"
run -d --name user -v four:/v busybox sleep 1000 >/dev/null
# A server that is not heard of any more, and says so to nobody.
iptables -I INPUT -p tcp --dport 2049 -j DROP
echo "silent $(run --rm -v four:/v busybox true | grep -o 'volume four is mounted, but 127.0.0.1 does not answer')"
echo "others $(run --rm -v plain:/v busybox echo fine)"
echo "rm $(berth rm -f user)"
echo "volume $(berth volume rm four)"
iptables -D INPUT -p tcp --dport 2049 -j DROP
systemctl stop nfs-server
stop
`

func TestFileSystems(t *testing.T) {
	m := vm.Boot(t, vm.Config{Disks: []int{4}})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := m.InstallPrograms(ctx); err != nil {
		t.Fatal(err)
	}
	box, err := os.ReadFile(testkit.BusyboxTar(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Share(), filepath.Base(boxTar)), box, 0o644); err != nil {
		t.Fatal(err)
	}
	local := "mkdir -p /srv/d; echo '/srv/d *(rw,sync,no_subtree_check,no_root_squash,insecure,fsid=2)' >/etc/exports; " + serveNFS + "; mount -t nfs 127.0.0.1:/srv/d $M"
	for _, tt := range []struct {
		name, mount, script string
		want                []string
	}{
		{"ext4", "mkfs.ext4 -qF /dev/vdb; mount /dev/vdb $M", ordinary, append([]string{"driver overlay"}, ordinarily...)},
		{"xfs", "mkfs.xfs -qf /dev/vdb; mount /dev/vdb $M", ordinary, append([]string{"driver overlay"}, ordinarily...)},
		{"xfs without file types", "mkfs.xfs -qf -m crc=0 -n ftype=0 /dev/vdb; mount /dev/vdb $M", ordinary, append([]string{"driver copy"}, ordinarily...)},
		{"xfs without file types, overlay wanted", "mkfs.xfs -qf -m crc=0 -n ftype=0 /dev/vdb; mount /dev/vdb $M; echo '{\"storage-driver\":\"overlay\"}' >/run/want.json",
			strings.Replace(ordinary, "start;", "cp /run/want.json $R/none.json; start;", 1), []string{`^berthd: .*its directories do not tell file types \(d_type; xfs needs ftype=1\)`}},
		{"btrfs", "mkfs.btrfs -qf /dev/vdb; mount /dev/vdb $M", ordinary, append([]string{"driver overlay"}, ordinarily...)},
		{"tmpfs", "mount -t tmpfs -o size=512m disk $M", ordinary, append([]string{"driver overlay"}, ordinarily...)},
		{"overlay", "mkdir -p /srv/l /srv/u /srv/w; mount -t overlay -o lowerdir=/srv/l,upperdir=/srv/u,workdir=/srv/w disk $M", ordinary, append([]string{"driver copy"}, ordinarily...)},
		{"vfat", "mkfs.vfat /dev/vdb >/dev/null; mount /dev/vdb $M", ordinary, []string{`^berthd: .*/d/layers cannot hold the files of images: its file system does not take .*: choose a --data-root on ext4, xfs or btrfs$`}},
		{"nfs", local, ordinary, []string{`^berthd: .*/d/layers cannot hold the files of images: its file system does not take file capabilities: .*: choose a --data-root on ext4, xfs or btrfs$`}},
		{"read-only", "mkfs.ext4 -qF /dev/vdb; mount -o ro /dev/vdb $M", ordinary, []string{`^berthd: \S+ is on a read-only file system: make that writable`}},
		{"quotas of xfs", "mkfs.xfs -qf /dev/vdb; mount -o pquota /dev/vdb $M", limited,
			[]string{`volume space 2048 2048`, `root space 3072`, `projects 2`, `restarted space 3072`, `committed 1`, `given back: 0 left`, `info .*true`}},
		{"quotas of ext4", "mkfs.ext4 -qF -O quota,project -E quotatype=prjquota /dev/vdb; mount -o prjquota /dev/vdb $M", limited,
			[]string{`volume quota 2048 20\d\d`, `root quota 3072`, `projects 2`, `restarted quota 3072`, `committed 1`, `given back: 0 left`, `info .*true`}},
		{"quotas that are not enforced", "mkfs.ext4 -qF -O quota,project -E quotatype=prjquota /dev/vdb; mount /dev/vdb $M", limited,
			[]string{`create small: quota size requested but no quota support`, `--storage-opt size is supported only where`}},
		{"volumes of an NFS server", "mkfs.ext4 -qF /dev/vdb; mount /dev/vdb $M", served,
			[]string{`four hello +/v nfs4 rw`, `three hello +/v nfs rw`, `readonly hello refused +/v nfs4 ro`, `mounts 0`, `bad .*no such file or directory`,
				`silent volume four is mounted`, `others fine`, `rm user`, `volume four`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _ := m.Try("M=/srv/disk; mkdir -p $M; (" + tt.mount + ") || exit 99\n" + onDisk + tt.script)
			for _, line := range tt.want {
				if !regexp.MustCompile(`(?m)` + line).MatchString(out) {
					t.Errorf("no line that matches %s", line)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
			if _, err := m.Try("pkill -x berth-shim; umount -l /srv/disk; sync"); err != nil {
				t.Error(fmt.Errorf("unmount: %w", err))
			}
		})
	}
}
