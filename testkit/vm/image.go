package vm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/testkit"
)

// Profile is a kind of machine: a distribution's release and what is installed in it.
type Profile struct {
	Name   string
	Suite  string   // of Debian
	Also   []string // further lines of sources.list
	Kernel string   // the package
	// Without are packages of the common list that this release does not have.
	Without []string
	// Disk names the profile whose disk this one boots from, with another kernel: that of Suite,
	// with its modules. It costs a hundredth of a disk of its own.
	Disk string
	// CPU takes features from the emulated processor.
	CPU string
}

// Profiles are the machines that can be had, the ordinary one first.
var Profiles = []Profile{
	{Name: "bookworm", Suite: "bookworm", Kernel: "linux-image-cloud-amd64"},
	{Name: "bookworm-backports", Disk: "bookworm", Suite: "bookworm-backports", Kernel: "linux-image-cloud-amd64/bookworm-backports", // 6.12
		Also: []string{"deb http://deb.debian.org/debian bookworm-backports main"},
		// QEMU 7.2 returns from the kernel's CMPXCHG16B with flags that bring it down.
		CPU: ",-cx16"},
	{Name: "bullseye-kernel", Disk: "bookworm", Suite: "bullseye", Kernel: "linux-image-cloud-amd64"}, // 5.10
}

// profile finds one by its name; the first if that is empty.
func profile(name string) (Profile, error) {
	at := slices.IndexFunc(Profiles, func(p Profile) bool { return p.Name == name || name == "" })
	if at < 0 {
		return Profile{}, fmt.Errorf("no profile %q: there are %s", name, names())
	}
	return Profiles[at], nil
}

// packages are in every machine: what an ordinary server has, and what the tests drive.
var packages = strings.Fields(`
	systemd systemd-sysv dbus libpam-systemd libnss-systemd udev kmod apt
	apparmor apparmor-utils uidmap sudo iproute2 iputils-ping nftables iptables ufw
	openssh-server ca-certificates procps psmisc less curl e2fsprogs xfsprogs btrfs-progs dosfstools quota
	nfs-kernel-server nfs-common rsyslog rsyslog-gnutls busybox-static
	docker.io docker-registry containerd runc crun podman buildah skopeo
	debootstrap mmdebstrap zstd bzip2 xz-utils python3-seccomp python3-msgpack python3-docker python3-prometheus-client iperf3 libsctp1 lksctp-tools`)

// asleep are units that installation starts, and that would only slow the boot or get in the
// way of tests, which start what they need.
var asleep = strings.Fields(`
	docker.service docker.socket containerd.service docker-registry.service podman.service podman.socket
	podman-restart.service podman-auto-update.timer nfs-server.service nfs-kernel-server.service nfs-client.target
	rpcbind.service rpcbind.socket rpc-statd.service rpc-statd-notify.service
	rsyslog.service ufw.service iperf3.service e2scrub_reap.service e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer
	dpkg-db-backup.timer fstrim.timer man-db.timer logrotate.timer systemd-timesyncd.service quota.service quotarpc.service`)

// masked would come anyhow.
var masked = strings.Fields(`
	getty@tty1.service serial-getty@ttyS0.service systemd-tmpfiles-clean.timer systemd-update-utmp-runlevel.service
	systemd-pstore.service modprobe@drm.service podman-auto-update.service podman-restart.service
	dpkg-db-backup.service e2scrub_reap.service systemd-binfmt.service`)

// settings are the files by which the tree becomes a machine that we can reach.
var settings = map[string]string{
	"etc/hostname":                             "machine\n",
	"etc/hosts":                                "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 machine\n",
	"etc/resolv.conf":                          "nameserver 10.0.2.3\n",
	"etc/machine-id":                           "",
	"etc/fstab":                                "/dev/vda / ext4 defaults 0 1\n",
	"etc/systemd/network/10-outside.network":   "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n",
	"etc/ssh/sshd_config.d/machine.conf":       "UseDNS no\nMaxSessions 200\nMaxStartups 200\nPermitRootLogin prohibit-password\n",
	"etc/systemd/journald.conf.d/machine.conf": "[Journal]\nForwardToConsole=no\nStorage=persistent\n",
	"etc/systemd/system.conf.d/machine.conf":   "[Manager]\nDefaultTimeoutStopSec=20s\n",
	"usr/sbin/policy-rc.d":                     "",
}

// The disk as the guest sees it; the file is sparse.
const diskSize = 24 << 30

// image is what a machine boots from, made once and shared by all machines of the profile.
// base has the disk and the key, if they are another profile's.
type image struct{ dir, base string }

func (i image) disk() string   { return filepath.Join(cmp.Or(i.base, i.dir), "disk.raw") }
func (i image) kernel() string { return filepath.Join(i.dir, "vmlinuz") }
func (i image) initrd() string { return filepath.Join(i.dir, "initrd") }
func (i image) key() string    { return filepath.Join(cmp.Or(i.base, i.dir), "key") }

// makeImage returns the profile's image and makes it if the cache has none with this content.
func makeImage(ctx context.Context, p Profile) (image, error) {
	if p.Disk != "" {
		return makeKernelImage(ctx, p)
	}
	list := slices.DeleteFunc(append(slices.Clone(packages), p.Kernel), func(name string) bool { return slices.Contains(p.Without, name) })
	name := imageName(p, list)
	cache, err := testkit.CacheDir()
	if err != nil {
		return image{}, err
	}
	if _, err := os.Stat(filepath.Join(cache, name)); err != nil {
		if os.Geteuid() != 0 {
			return image{}, fmt.Errorf("the machine's disk is not made yet, and only root can make it: run this once as root")
		}
		if free := freeBytes(cache); free < 8<<30 {
			return image{}, fmt.Errorf("the machine's disk needs 8 GiB in %s and %d MiB are free", cache, free>>20)
		}
		if err := needPrograms("mmdebstrap", "mkfs.ext4", "ssh-keygen"); err != nil {
			return image{}, err
		}
	}
	lock, err := os.OpenFile(filepath.Join(cache, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return image{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return image{}, err
	}
	dir, err := testkit.Cached(name, func(dir string) error {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		root := dir + ".root"
		defer os.RemoveAll(root)
		return furnish(ctx, p, list, image{dir: dir}, root)
	})
	return image{dir: dir}, err
}

// imageName names an image by all that it is made of.
func imageName(p Profile, packages []string) string {
	h := sha256.New()
	fmt.Fprintln(h, "1", p.Suite, p.Also, packages, asleep, masked, settings, initScript, diskSize)
	return fmt.Sprintf("vm-%s-%s", p.Name, hex.EncodeToString(h.Sum(nil))[:12])
}

// furnish fills root and makes the image's files of it.
func furnish(ctx context.Context, p Profile, list []string, i image, root string) error {
	args := []string{"--quiet", "--variant=minbase", "--format=directory",
		// What a guest's time is too precious for.
		`--dpkgopt=path-exclude=/usr/share/doc/*`, `--dpkgopt=path-exclude=/usr/share/locale/*`,
		`--aptopt=Apt::Install-Recommends "false"`,
		"--include=" + strings.Join(list, ","), p.Suite, root}
	args = append(args, p.Also...)
	if len(p.Also) > 0 {
		args = append(args, "deb http://deb.debian.org/debian "+p.Suite+" main")
	}
	if out, err := exec.CommandContext(ctx, "mmdebstrap", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mmdebstrap: %w\n%s", err, Tail(string(out), 20))
	}
	if err := run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", i.key()); err != nil {
		return err
	}
	public, err := os.ReadFile(i.key() + ".pub")
	if err != nil {
		return err
	}
	files := map[string]string{"root/.ssh/authorized_keys": string(public)}
	for path, text := range settings {
		files[path] = text
	}
	for path, text := range files {
		path = filepath.Join(root, path)
		_ = os.Remove(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "root/.ssh"), 0o700); err != nil {
		return err
	}
	for _, unit := range asleep { // one by one: a profile may lack some
		_ = run(ctx, "chroot", root, "systemctl", "disable", unit)
	}
	if err := run(ctx, "chroot", append([]string{root, "systemctl", "mask"}, masked...)...); err != nil {
		return err
	}
	if err := run(ctx, "chroot", root, "systemctl", "enable", "systemd-networkd.service", "ssh.service", "apparmor.service"); err != nil {
		return err
	}
	kernels, _ := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if len(kernels) == 0 {
		return fmt.Errorf("package %s brought no kernel", p.Kernel)
	}
	slices.Sort(kernels)
	newest := kernels[len(kernels)-1]
	version := strings.TrimPrefix(filepath.Base(newest), "vmlinuz-")
	if err := run(ctx, "cp", newest, i.kernel()); err != nil {
		return err
	}
	if err := writeInitrd(i.initrd(), root, version, false); err != nil {
		return err
	}
	f, err := os.Create(i.disk())
	if err != nil {
		return err
	}
	if err := f.Truncate(diskSize); err != nil {
		return err
	}
	f.Close()
	return run(ctx, "mkfs.ext4", "-q", "-F", "-L", "root", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", root, i.disk())
}

// makeKernelImage makes a kernel and an initrd that brings its modules along, for the disk of
// another profile.
func makeKernelImage(ctx context.Context, p Profile) (image, error) {
	other, err := profile(p.Disk)
	if err != nil {
		return image{}, err
	}
	base, err := makeImage(ctx, other)
	if err != nil {
		return image{}, err
	}
	h := sha256.New()
	fmt.Fprintln(h, "1", p.Suite, p.Also, p.Kernel, initScript, strings.TrimSpace(bringModules))
	dir, err := testkit.Cached(fmt.Sprintf("vm-%s-%s", p.Name, hex.EncodeToString(h.Sum(nil))[:12]), func(dir string) error {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		root := dir + ".root"
		defer os.RemoveAll(root)
		args := []string{"--quiet", "--variant=extract", "--format=directory", `--aptopt=Apt::Install-Recommends "false"`,
			"--include=" + p.Kernel + ",kmod,busybox-static", p.Suite, root}
		if len(p.Also) > 0 {
			args = append(append(args, p.Also...), "deb http://deb.debian.org/debian "+other.Suite+" main")
		} else { // without its updates, which go from the archive when the suite is old
			args = append(args, "deb http://deb.debian.org/debian "+p.Suite+" main")
		}
		if out, err := exec.CommandContext(ctx, "mmdebstrap", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("mmdebstrap: %w\n%s", err, Tail(string(out), 20))
		}
		kernels, _ := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
		if len(kernels) != 1 {
			return fmt.Errorf("package %s brought the kernels %v", p.Kernel, kernels)
		}
		i := image{dir: dir}
		version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
		if err := run(ctx, "chroot", root, "/sbin/depmod", version); err != nil {
			return err
		}
		if err := run(ctx, "cp", kernels[0], i.kernel()); err != nil {
			return err
		}
		return writeInitrd(i.initrd(), root, version, true)
	})
	return image{dir: dir, base: base.dir}, err
}

func freeBytes(dir string) int64 {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0
	}
	return int64(s.Bavail) * s.Bsize
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, Tail(string(out), 20))
	}
	return nil
}

// Tail is the last lines of a text.
func Tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func needPrograms(names ...string) error {
	var missing []string
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s is not installed (apt-get install qemu-system-x86 qemu-utils mmdebstrap e2fsprogs openssh-client)", strings.Join(missing, ", "))
	}
	return nil
}
