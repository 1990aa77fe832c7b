package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
)

// Mount makes a volume usable for a container that starts. One with options is mounted on
// its directory if it is not yet, on behalf of all containers that run.
func (s *Store) Mount(ctx context.Context, name, container string) error {
	v, err := s.Get(name)
	if err != nil {
		return err
	}
	if !exists(v.Mountpoint) { // somebody deleted it by hand
		size, _ := sizeOf(v.Options)
		if err := s.makeFiles(name, size); err != nil {
			return fail.New(fail.Internal, "make the directory of volume %s: %w", name, err)
		}
	}
	if !v.Mounts() {
		return nil
	}
	s.mounting.Lock()
	defer s.mounting.Unlock()
	if !s.mounted(name) {
		if err := s.mountOn(ctx, v); err != nil {
			return fail.New(fail.Internal, "error while mounting volume '%s': failed to mount local volume: %w", v.Mountpoint, err)
		}
		durable.Failpoint("volumes.mount.mounted")
	}
	s.nowRuns(name, container)
	return nil
}

// nowRuns counts a running container. The caller holds mounting.
func (s *Store) nowRuns(name, container string) {
	if s.running[name] == nil {
		s.running[name] = map[string]bool{}
	}
	s.running[name][container] = true
}

// Adopt tells of a container that runs already when the engine opens.
func (s *Store) Adopt(name, container string) {
	if v, err := s.Get(name); err != nil || !v.Mounts() {
		return
	}
	s.mounting.Lock()
	defer s.mounting.Unlock()
	s.nowRuns(name, container)
}

// Unmount tells that a container does not run any more. After the last one the volume is
// unmounted.
func (s *Store) Unmount(name, container string) error {
	s.mounting.Lock()
	defer s.mounting.Unlock()
	if !s.running[name][container] {
		return nil
	}
	delete(s.running[name], container)
	if len(s.running[name]) > 0 {
		return nil
	}
	delete(s.running, name)
	return s.unmount(name)
}

// Settle unmounts the volumes that no container uses which runs, after all that run were
// adopted.
func (s *Store) Settle() error {
	s.mounting.Lock()
	defer s.mounting.Unlock()
	var problems []error
	for _, v := range s.List() {
		if v.Mounts() && len(s.running[v.Name]) == 0 && s.mounted(v.Name) {
			problems = append(problems, s.unmount(v.Name))
		}
	}
	return errors.Join(problems...)
}

func (s *Store) mountOn(ctx context.Context, v Volume) error {
	m, err := mountOf(ctx, v.Options, s.lookup)
	if err != nil {
		return err
	}
	if err := unix.Mount(m.source, v.Mountpoint, m.fsType, m.flags, m.data); err != nil {
		said := fmt.Sprintf("mount %s:%s, type: %s", m.source, v.Mountpoint, m.fsType)
		if m.flags != 0 {
			said += fmt.Sprintf(", flags: %#x", m.flags)
		}
		if m.data != "" {
			said += ", data: " + withoutSecrets(m.data)
		}
		return fmt.Errorf("%s: %w", said, err)
	}
	// A bind mount takes its other flags only when it is there (mount(2)).
	const structure = unix.MS_BIND | unix.MS_REC
	if m.flags&unix.MS_BIND != 0 && m.flags&^structure != 0 {
		err = unix.Mount("", v.Mountpoint, "", m.flags&^unix.MS_REC|unix.MS_REMOUNT, "")
	}
	if err == nil && m.propagation != 0 {
		err = unix.Mount("", v.Mountpoint, "", m.propagation, "")
	}
	if err != nil {
		return errors.Join(err, s.unmount(v.Name))
	}
	return nil
}

// withoutSecrets is data as it may be shown.
func withoutSecrets(data string) string {
	words := strings.Split(data, ",")
	for i, w := range words {
		if key, _, found := strings.Cut(w, "="); found && (key == "password" || key == "pass") {
			words[i] = key + "=***"
		}
	}
	return strings.Join(words, ",")
}

// mounted tells whether something is mounted on a volume's directory.
func (s *Store) mounted(name string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, s.mountpoint(name), unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// unmount takes the mount away now; a process that still has a file open there keeps it
// until it closes that.
func (s *Store) unmount(name string) error {
	err := unix.Unmount(s.mountpoint(name), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) { // not mounted
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "unmount", Path: s.mountpoint(name), Err: err}
	}
	return nil
}

// TellMounted puts a container's mount of a volume on the bus, TellUnmounted its end.
func (s *Store) TellMounted(name, container, destination, propagation string, writable bool) {
	s.tell("mount", Volume{Name: name, Driver: Local}, "container", container, "destination", destination,
		"propagation", propagation, "read/write", fmt.Sprint(writable))
}

func (s *Store) TellUnmounted(name, container string) {
	s.tell("unmount", Volume{Name: name, Driver: Local}, "container", container)
}
