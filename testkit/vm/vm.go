// Package vm boots machines of the kind that people really have (Debian with its own kernel,
// cgroup v2, systemd, AppArmor) in QEMU, for tests. A machine's disk is made once from
// Debian's archive; every machine writes to a copy-on-write file of its own. The repository
// and the cache of test artefacts appear in the guest at their paths on the host, and the
// machine's directory "share" as /share.
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/testkit"
)

// Config says what machine to boot. The zero value is an ordinary one.
type Config struct {
	Profile string        // one of Profiles; empty: the first
	Memory  int           // MiB; 0: 2048
	CPUs    int           // 0: 2
	Disks   []int         // further blank disks, GiB each: /dev/vdb, /dev/vdc, …
	Forward []int         // TCP ports of the guest that the host reaches, see Machine.Forwarded
	Append  string        // further words for the kernel's command line
	Within  time.Duration // how long the boot may take; 0: 12 minutes, many times what a busy host needs
	Stays   bool          // the machine outlives this process
}

// Machine is a booted machine. Its state is in a directory, so that another process can go on
// with it.
type Machine struct {
	Dir string
	Config
	Port  int         // ssh
	Ports map[int]int // guest port: host port
	PIDs  []int       // QEMU first
	Key   string
	Image string // directory
}

// ErrMissing tells that this host has not what a machine needs.
var ErrMissing = errors.New("no virtual machine here")

// Start boots a machine whose state is kept in dir (made if need be) and returns when it
// answers. A machine that does not answer in time is ended, and the error shows the end of
// its console.
func Start(ctx context.Context, dir string, c Config) (*Machine, error) {
	if c.Memory == 0 {
		c.Memory = 2048
	}
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.Within == 0 {
		c.Within = 12 * time.Minute
	}
	p, err := profile(c.Profile)
	if err != nil {
		return nil, err
	}
	c.Profile = p.Name
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if len(dir) > 80 {
		return nil, fmt.Errorf("%s is too long for the path of a socket beneath it", dir)
	}
	if err := needPrograms("qemu-system-x86_64", "qemu-img", "ssh"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if free := freeMemory(); free < c.Memory+256 {
		return nil, fmt.Errorf("%w: the machine needs %d MiB of memory and %d are free", ErrMissing, c.Memory+256, free)
	}
	image, err := makeImage(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "share"), 0o755); err != nil {
		return nil, err
	}
	if free := freeBytes(dir); free < 4<<30 {
		return nil, fmt.Errorf("%w: the machine's disk needs 4 GiB in %s and %d MiB are free", ErrMissing, dir, free>>20)
	}
	if old, err := Open(dir); err == nil && old.alive() {
		return nil, fmt.Errorf("the machine in %s is running", dir)
	}
	m := &Machine{Dir: dir, Config: c, Key: image.key(), Image: image.dir, Ports: map[int]int{}}
	if err := m.makeDisks(ctx, image); err != nil {
		return nil, err
	}
	if err := m.power(ctx, p, image); err != nil {
		m.Kill()
		return nil, err
	}
	return m, nil
}

// Open returns the machine whose state is in dir.
func Open(dir string) (*Machine, error) {
	data, err := os.ReadFile(filepath.Join(dir, "machine.json"))
	if err != nil {
		return nil, fmt.Errorf("no machine in %s: %w", dir, err)
	}
	m := &Machine{}
	return m, json.Unmarshal(data, m)
}

func names() string {
	var list []string
	for _, p := range Profiles {
		list = append(list, p.Name)
	}
	return strings.Join(list, ", ")
}

func freeMemory() int {
	text, _ := os.ReadFile("/proc/meminfo")
	_, rest, _ := strings.Cut(string(text), "MemAvailable:")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	kib, _ := strconv.Atoi(f[0])
	return kib >> 10
}

func (m *Machine) makeDisks(ctx context.Context, i image) error {
	if err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", i.disk(), m.path("disk0.qcow2")); err != nil {
		return err
	}
	for n, size := range m.Disks {
		if err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", m.path(fmt.Sprintf("disk%d.qcow2", n+1)), fmt.Sprintf("%dG", size)); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) path(name string) string { return filepath.Join(m.Dir, name) }

// Share is the directory on the host that the guest has as /share.
func (m *Machine) Share() string { return m.path("share") }

// shares are the host's directories that the guest sees, by the name of their device.
func (m *Machine) shares() map[string]string {
	cache, _ := testkit.CacheDir()
	return map[string]string{"share": m.Share(), "tree": testkit.Root(), "cache": cache}
}

// power starts QEMU and what serves the shared directories, and waits for the guest.
func (m *Machine) power(ctx context.Context, p Profile, i image) error {
	var err error
	if m.Port, err = freePort(); err != nil {
		return err
	}
	forward := fmt.Sprintf("hostfwd=tcp:127.0.0.1:%d-:22", m.Port)
	for _, guest := range m.Forward {
		host, err := freePort()
		if err != nil {
			return err
		}
		m.Ports[guest] = host
		forward += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", host, guest)
	}
	m.PIDs = []int{0}
	memory := fmt.Sprintf("%dM", m.Memory)
	args := []string{"-name", "berth-test", "-display", "none", "-nodefaults", "-no-user-config",
		"-m", memory, "-smp", strconv.Itoa(m.CPUs), "-machine", "q35,smm=off,memory-backend=mem",
		"-object", "memory-backend-memfd,id=mem,share=on,size=" + memory,
		"-kernel", i.kernel(), "-initrd", i.initrd(),
		// The guest is not watched by a watchdog whose clock runs on while this host is busy.
		"-append", strings.TrimSpace("console=ttyS0 panic=-1 net.ifnames=0 mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1 quiet systemd.show_status=0 " + m.Append),
		"-chardev", "file,id=console,append=on,path=" + m.path("console.log"), "-serial", "chardev:console",
		"-monitor", "unix:" + m.path("monitor") + ",server=on,wait=off",
		"-netdev", "user,id=net," + forward, "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci",
	}
	if worksKVM(ctx, i) {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		args = append(args, "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"+p.CPU)
	}
	for n := range len(m.Disks) + 1 {
		// A reset loses what the guest has not written; what it wrote need not survive the host.
		args = append(args, "-drive", fmt.Sprintf("if=virtio,format=qcow2,cache=unsafe,discard=unmap,file=%s", m.path(fmt.Sprintf("disk%d.qcow2", n))))
	}
	daemon, err := virtiofsd()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	for name, dir := range m.shares() {
		socket := m.path(name + ".sock")
		_ = os.Remove(socket)
		pid, err := m.spawn(name+".log", daemon, "--socket-path="+socket, "-o", "cache=auto", "-o", "source="+dir)
		if err != nil {
			return err
		}
		m.PIDs = append(m.PIDs, pid)
		if err := waitFor(ctx, 10*time.Second, func() bool { _, err := os.Stat(socket); return err == nil }); err != nil {
			return fmt.Errorf("virtiofsd does not serve %s: %s", dir, Tail(m.read(name+".log"), 3))
		}
		args = append(args, "-chardev", "socket,id="+name+",path="+socket, "-device", "vhost-user-fs-pci,chardev="+name+",tag="+name)
	}
	if m.PIDs[0], err = m.spawn("qemu.log", "qemu-system-x86_64", args...); err != nil {
		return err
	}
	if err := m.save(); err != nil {
		return err
	}
	return m.await(ctx)
}

func (m *Machine) save() error {
	data, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(m.path("machine.json"), data, 0o600)
}

// spawn starts a program that lives as long as the machine.
func (m *Machine) spawn(log, name string, args ...string) (int, error) {
	f, err := os.Create(m.path(log))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !m.Stays {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() { _ = cmd.Wait() }()
	return cmd.Process.Pid, nil
}

// virtiofsd finds the program that serves a directory to a guest.
func virtiofsd() (string, error) {
	for _, path := range []string{"/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("virtiofsd is not installed (apt-get install qemu-system-common, or virtiofsd on newer releases)")
}

// worksKVM tells whether the host's KVM runs this kernel: there are hosts whose /dev/kvm runs
// guests of another kind only, in which an ordinary kernel hangs. Found out once for each boot
// of the host.
func worksKVM(ctx context.Context, i image) bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	known := filepath.Join(i.dir, "kvm-"+strings.TrimSpace(string(boot)))
	if said, err := os.ReadFile(known); err == nil {
		return string(said) == "yes"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "256", "-display", "none", "-nodefaults",
		"-kernel", i.kernel(), "-append", "console=ttyS0 panic=-1", "-serial", "stdio", "-no-reboot")
	out, _ := cmd.Output() // the kernel finds no root and panics, which ends QEMU
	said := "no"
	if strings.Contains(string(out), "Linux version") && ctx.Err() == nil {
		said = "yes"
	}
	_ = os.WriteFile(known, []byte(said), 0o644)
	return said == "yes"
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// await waits until the guest answers, and mounts what it shares with the host.
func (m *Machine) await(ctx context.Context) error {
	err := m.awaitAnswer(ctx, func(string) bool { return true })
	if err == nil && !m.alive() {
		err = fmt.Errorf("QEMU ended: %s", Tail(m.read("qemu.log"), 3))
	}
	if err != nil {
		return fmt.Errorf("the machine did not come up: %w; the end of its console:\n%s", err, Tail(m.read("console.log"), 30))
	}
	script := "set -e\n"
	for name, dir := range m.shares() {
		if name == "share" {
			dir = "/share"
		}
		mode := "rw"
		if name == "tree" {
			mode = "ro"
		}
		script += fmt.Sprintf("mkdir -p %[2]s; mountpoint -q %[2]s || mount -t virtiofs -o %[3]s %[1]s %[2]s\n", name, dir, mode)
	}
	if out, err := m.Command(ctx, script).CombinedOutput(); err != nil {
		return fmt.Errorf("the shared directories cannot be mounted: %w: %s", err, out)
	}
	return nil
}

// bootID is a command whose output is another one after each boot.
const bootID = "cat /proc/sys/kernel/random/boot_id"

// awaitAnswer waits until the guest says that it is in a boot that is the right one, or until QEMU has ended.
func (m *Machine) awaitAnswer(ctx context.Context, right func(boot string) bool) error {
	began := m.processorTime()
	patience := 15 * time.Second // on a busy host the handshake alone takes long
	err := waitFor(ctx, m.Within, func() bool {
		once, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		boot, err := m.ssh(once, "-o", fmt.Sprintf("ConnectTimeout=%d", int(patience.Seconds())-5), bootID).Output()
		if err == nil && right(string(boot)) || !m.alive() {
			return true
		}
		m.forgetConnection() // it may be one to the boot before
		if once.Err() != nil {
			patience = min(patience+15*time.Second, 2*time.Minute)
		}
		return false
	})
	if err != nil {
		// A guest that hangs uses nothing, or as many processors as it has; one that is slow something in between.
		err = fmt.Errorf("%w, in which QEMU used %s of the processors", err, (m.processorTime() - began).Round(time.Second))
	}
	return err
}

// processorTime is what QEMU has used of the host's processors.
func (m *Machine) processorTime() time.Duration {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.PIDs[0]))
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11]) // in ticks of 10 ms: proc_pid_stat(5)
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func waitFor(ctx context.Context, within time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s", within)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

// ssh is a command of ssh(1). Connections are shared: the handshake is dear in a guest
// without hardware of its own.
func (m *Machine) ssh(ctx context.Context, args ...string) *exec.Cmd {
	all := []string{"-q", "-i", m.Key, "-p", strconv.Itoa(m.Port), "-l", "root",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
		"-o", "ControlMaster=auto", "-o", "ControlPath=" + m.path("ssh"), "-o", "ControlPersist=yes",
		"-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=15"}
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		n := 1
		if args[0] == "-o" {
			n = 2
		}
		all, args = append(all, args[:n]...), args[n:]
	}
	return exec.CommandContext(ctx, "ssh", append(append(all, "127.0.0.1", "--"), args...)...)
}

// Command is a command line for the guest's shell, run by root.
func (m *Machine) Command(ctx context.Context, line string) *exec.Cmd { return m.ssh(ctx, line) }

// Shell is an interactive shell, or a command line, on this process's terminal.
func (m *Machine) Shell(ctx context.Context, line string) *exec.Cmd {
	args := []string{}
	if line == "" {
		args = append(args, "-t", "exec bash -l")
	} else {
		args = append(args, line)
	}
	cmd := m.ssh(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// Console is what the machine has written to its console, over all its boots.
func (m *Machine) Console() string { return m.read("console.log") }

func (m *Machine) read(name string) string {
	data, _ := os.ReadFile(m.path(name))
	return string(data)
}

func (m *Machine) alive() bool {
	if len(m.PIDs) == 0 || m.PIDs[0] == 0 {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.PIDs[0]))
	if err != nil || !strings.Contains(string(stat), "(qemu-system") {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// monitor says a word to QEMU's monitor.
func (m *Machine) monitor(ctx context.Context, word string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", m.path("monitor"))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	buffer := make([]byte, 4096)
	read := func() error { // up to the prompt
		text := ""
		for !strings.HasSuffix(text, "(qemu) ") {
			n, err := c.Read(buffer)
			if err != nil {
				return err
			}
			text += string(buffer[:n])
		}
		return nil
	}
	if err := read(); err != nil {
		return err
	}
	if _, err := c.Write([]byte(word + "\n")); err != nil {
		return err
	}
	return read()
}

// Cut resets the machine as if its power had failed: what the guest had not written to its
// disk is gone. The machine boots again; AwaitBoot waits for it.
func (m *Machine) Cut(ctx context.Context) error {
	m.forgetConnection()
	return m.monitor(ctx, "system_reset")
}

// AwaitBoot waits until the machine answers after Cut or after a reboot that the guest made.
// The second must have begun: ssh's shared connection is given up.
func (m *Machine) AwaitBoot(ctx context.Context) error {
	m.forgetConnection()
	return m.await(ctx)
}

// Reset is Cut and AwaitBoot.
func (m *Machine) Reset(ctx context.Context) error {
	if err := m.Cut(ctx); err != nil {
		return err
	}
	return m.AwaitBoot(ctx)
}

// Reboot has the guest shut down in order and boot again.
func (m *Machine) Reboot(ctx context.Context) error {
	before, err := m.Command(ctx, bootID).Output()
	if err != nil {
		return fmt.Errorf("the machine does not answer: %w", err)
	}
	_ = m.Command(ctx, "systemctl --no-block reboot").Run()
	err = m.awaitAnswer(ctx, func(boot string) bool { return boot != string(before) })
	if err != nil {
		return fmt.Errorf("the machine did not reboot: %w; the end of its console:\n%s", err, Tail(m.Console(), 30))
	}
	return m.await(ctx)
}

// forgetConnection ends ssh's shared connection, which a booting guest knows nothing of.
func (m *Machine) forgetConnection() {
	_ = m.ssh(context.Background(), "-O", "exit", "").Run()
	_ = os.Remove(m.path("ssh"))
}

// Kill ends the machine at once. Its directory stays.
func (m *Machine) Kill() {
	m.forgetConnection()
	for n, pid := range m.PIDs {
		if pid == 0 || n == 0 && !m.alive() {
			continue
		}
		if n > 0 && !isProgram(pid, "virtiofsd") {
			continue
		}
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_ = waitFor(context.Background(), 10*time.Second, func() bool { return !m.alive() })
}

func isProgram(pid int, name string) bool {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(comm)) == name
}
