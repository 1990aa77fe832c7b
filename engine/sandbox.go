package engine

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
)

// Sandbox is the ground that containers stand on together: a network namespace with
// its host name and its hosts and resolv.conf files, and the place of their cgroups.
//
// A container made the ordinary way leads a sandbox of its own, named after it; one
// made with --network container:X stands in X's. The sandbox's namespaces live as long
// as its leader runs, and are made anew when that starts again. The IPC and PID
// namespaces are a container's own unless it joins another one's (--ipc, --pid
// container:Y), which need not be of the same sandbox.
type Sandbox struct {
	ID           string // of the container that leads it
	CgroupParent string
	Containers   []string // IDs, oldest first; the leader may be gone already
}

// sandboxes derives the sandboxes from the containers, which each name theirs, and
// finds the namespaces that a container is to join.
type sandboxes struct {
	idx          *index
	cgroupParent string
}

// get returns the sandbox that the container is in.
func (s *sandboxes) get(c Container) Sandbox {
	box := Sandbox{ID: c.Sandbox, CgroupParent: s.cgroupParent}
	for _, i := range s.idx.all() {
		o := i.now()
		if o.Sandbox != box.ID {
			continue
		}
		box.Containers = append(box.Containers, o.ID)
		if o.ID == box.ID && o.HostConfig.CgroupParent != "" {
			box.CgroupParent = o.HostConfig.CgroupParent
		}
	}
	return box
}

// joined holds the namespaces that a start joins open until the shim has them.
type joined struct {
	paths map[specs.LinuxNamespaceType]string
	shm   string // a mount that the host has for as long as the start takes
	files []*os.File
}

func (j *joined) close() {
	for _, f := range j.files {
		_ = f.Close()
	}
	if j.shm != "" {
		dropSharedMemory(filepath.Dir(j.shm))
	}
}

// join opens the namespaces of other containers that c shares. Their paths go through
// this process's descriptors, so that a leader that ends meanwhile can never be
// mistaken for whoever gets its pid next.
func (s *sandboxes) join(c Container, runDir string) (*joined, error) {
	j := &joined{paths: map[specs.LinuxNamespaceType]string{}}
	for _, n := range []struct {
		donor string
		what  string
		kind  specs.LinuxNamespaceType
		file  string
	}{
		{c.HostConfig.NetworkMode.ConnectedContainer(), "network", specs.NetworkNamespace, "net"},
		{c.HostConfig.IpcMode.Container(), "IPC", specs.IPCNamespace, "ipc"},
		{c.HostConfig.PidMode.Container(), "PID", specs.PIDNamespace, "pid"},
	} {
		if n.donor == "" {
			continue
		}
		if err := s.open(j, runDir, n.donor, n.what, n.kind, n.file); err != nil {
			j.close()
			return nil, err
		}
	}
	return j, nil
}

func (s *sandboxes) open(j *joined, runDir, donor, what string, kind specs.LinuxNamespaceType, file string) error {
	i, err := s.idx.find(donor)
	if err != nil {
		return err
	}
	d := i.now()
	if d.State.Pid == 0 || d.State.Status != running && d.State.Status != paused {
		return fail.New(fail.Conflict, "cannot join %s namespace of a non running container: %s", what, d.ID)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", d.State.Pid, file))
	if err != nil {
		return fail.New(fail.Conflict, "cannot join %s namespace of container %s: %w", what, d.ID, bare(err))
	}
	j.files = append(j.files, f)
	if kind == specs.IPCNamespace {
		if j.shm, err = sharedMemory(d.State.Pid, runDir); err != nil {
			return fmt.Errorf("share /dev/shm of container %s: %w", d.ID, err)
		}
	}
	if now := i.now(); now.State.Pid != d.State.Pid {
		return fail.New(fail.Conflict, "cannot join %s namespace of a non running container: %s", what, d.ID)
	}
	j.paths[kind] = throughUs(f)
	return nil
}

func throughUs(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// sharedMemory mounts the /dev/shm of the process's mount namespace in runDir, from
// where it can be bound into a container. It leads through a detached copy, which a
// thread of its own makes inside that namespace (open_tree(2)).
func sharedMemory(pid int, runDir string) (string, error) {
	var fd int
	var err error
	kernel.OnOwnThread(func() { fd, err = enterAndClone(pid, "/dev/shm") })
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	at := filepath.Join(runDir, "shm")
	if err := os.MkdirAll(at, 0o700); err != nil {
		return "", err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		_ = os.Remove(at)
		return "", fmt.Errorf("move_mount: %w", err)
	}
	return at, nil
}

// dropSharedMemory takes down what sharedMemory made, if it did.
func dropSharedMemory(runDir string) {
	at := filepath.Join(runDir, "shm")
	if _, err := os.Lstat(at); err != nil {
		return
	}
	_ = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	_ = os.Remove(at)
}

func enterAndClone(pid int, target string) (int, error) {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ns)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("setns: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open_tree: %w", err)
	}
	return fd, nil
}

// leader is the directory whose hostname, hosts and resolv.conf the container uses.
func (s *sandboxes) leader(c Container, own string) (dir string, mine bool, err error) {
	if c.Sandbox == c.ID {
		return own, true, nil
	}
	i, err := s.idx.find(c.Sandbox)
	if err != nil {
		return "", false, err
	}
	return i.dir, false, nil
}
