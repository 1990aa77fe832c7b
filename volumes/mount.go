package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
)

// How long a server may keep a start waiting: until a volume is mounted, and until one that is
// mounted already shows that it is alive.
const (
	mountPatience  = 90 * time.Second
	answerPatience = 15 * time.Second
)

// Mount makes a volume usable for a container that starts. One with options is mounted on
// its directory if it is not yet, on behalf of all containers that run. A server that does not
// answer is class Unavailable.
func (s *Store) Mount(ctx context.Context, name, container string) error {
	v, err := s.Get(name)
	if err != nil {
		return err
	}
	if s.what(name) == nothing { // somebody deleted it by hand
		size, _ := sizeOf(v.Options)
		if err := s.makeFiles(name, size); err != nil {
			return fail.New(fail.Internal, "make the directory of volume %s: %w", name, err)
		}
	}
	if !v.Mounts() {
		return nil
	}
	silent := fail.New(fail.Unavailable, "volume %s cannot be mounted: %s does not answer", name, v.server())
	ctx, cancel := context.WithTimeoutCause(ctx, s.patience, silent)
	defer cancel()
	end, err := s.turn(ctx, name)
	if err != nil {
		return err
	}
	// mount(2), and a look at what is mounted, wait for a server as long as that is away. Nothing
	// else shall.
	result := make(chan error)
	go func() {
		defer end()
		err := s.mountOrLook(ctx, v)
		if err == nil {
			s.nowRuns(name, container)
		}
		select {
		case result <- err:
		case <-ctx.Done(): // nobody waits any more
			if err == nil && s.nowEnds(name, container) {
				err = s.unmount(name)
			}
			if err != nil {
				s.log.Warn("a volume was not mounted in time", "volume", name, "error", err)
			}
		}
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// mountOrLook mounts a volume, or asks whoever serves one that is mounted for a sign of life.
func (s *Store) mountOrLook(ctx context.Context, v Volume) error {
	if !s.mounted(v.Name) {
		s.mu.Lock()
		delete(s.looks, v.Name) // at a mount that is gone
		s.mu.Unlock()
		if err := s.mountOn(ctx, v); err != nil {
			return fail.New(fail.Internal, "error while mounting volume '%s': failed to mount local volume: %w", v.Mountpoint, err)
		}
		durable.Failpoint("volumes.mount.mounted")
		return nil
	}
	select {
	case <-s.look(v):
		return nil
	case <-time.After(answerPatience):
		return fail.New(fail.Unavailable, "volume %s is mounted, but %s does not answer: start it, or stop the containers that use the volume", v.Name, v.server())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// look asks whoever serves a volume that is mounted for a sign of life, which closes the channel.
// While a server does not answer, all wait for the same look: each holds a thread until the server
// is back.
func (s *Store) look(v Volume) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if under := s.looks[v.Name]; under != nil {
		return under
	}
	alive := make(chan struct{})
	s.looks[v.Name] = alive
	go func() {
		s.statfs(v.Mountpoint)
		s.mu.Lock()
		if s.looks[v.Name] == alive {
			delete(s.looks, v.Name)
		}
		s.mu.Unlock()
		close(alive)
	}()
	return alive
}

// server is who has to answer for a volume to be mounted.
func (v Volume) server() string {
	for _, word := range strings.Split(v.Options[optWords], ",") {
		if host, is := strings.CutPrefix(word, "addr="); is {
			return host
		}
	}
	return v.Options[optDevice]
}

// turn waits for the right to mount and unmount a volume, which others have until they call
// end.
func (s *Store) turn(ctx context.Context, name string) (end func(), err error) {
	for {
		s.mu.Lock()
		others := s.turns[name]
		if others == nil {
			ours := make(chan struct{})
			s.turns[name] = ours
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.turns, name)
				s.mu.Unlock()
				close(ours)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-others:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// brieflyTurn is turn for those who have no time: what is under way ends soon, or is a server
// that does not answer.
func (s *Store) brieflyTurn(name string) (end func(), err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), answerPatience+time.Second, fail.New(fail.Conflict, "volume %s is being mounted, and its server does not answer", name))
	defer cancel()
	return s.turn(ctx, name)
}

// nowRuns counts a running container.
func (s *Store) nowRuns(name, container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[name] == nil {
		s.running[name] = map[string]bool{}
	}
	s.running[name][container] = true
}

// nowEnds takes a container back that runs, and reports whether it was the last one.
func (s *Store) nowEnds(name, container string) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running[name][container] {
		return false
	}
	delete(s.running[name], container)
	if len(s.running[name]) > 0 {
		return false
	}
	delete(s.running, name)
	return true
}

func (s *Store) isUsed(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running[name]) > 0
}

// Adopt tells of a container that runs already when the engine opens.
func (s *Store) Adopt(name, container string) {
	if v, err := s.Get(name); err != nil || !v.Mounts() {
		return
	}
	s.nowRuns(name, container)
}

// Unmount tells that a container does not run any more. After the last one the volume is
// unmounted.
func (s *Store) Unmount(name, container string) error {
	if !s.nowEnds(name, container) {
		return nil
	}
	end, err := s.brieflyTurn(name)
	if err != nil {
		return err
	}
	defer end()
	if s.isUsed(name) { // somebody has come meanwhile
		return nil
	}
	return s.unmount(name)
}

// Settle unmounts the volumes that no container uses which runs, after all that run were
// adopted.
func (s *Store) Settle() error {
	var problems []error
	for _, v := range s.List() {
		if v.Mounts() && !s.isUsed(v.Name) && s.mounted(v.Name) {
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
	if err := s.mount(m.source, v.Mountpoint, m.fsType, m.flags, m.data); err != nil {
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

// What there is at the directory of a volume.
type presence int

const (
	nothing presence = iota
	directory
	mount
)

// what looks at a volume's directory without asking what is mounted there: that may be a server
// that does not answer any more.
func (s *Store) what(name string) presence {
	home, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return nothing
	}
	defer home.Close()
	fd, err := unix.Openat2(int(home.Fd()), dataName, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV})
	switch {
	case errors.Is(err, unix.EXDEV):
		return mount
	case err != nil:
		return nothing
	}
	unix.Close(fd)
	return directory
}

func (s *Store) mounted(name string) bool { return s.what(name) == mount }

// escapes are those of proc_pid_mountinfo(5).
var escapes = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)

// within finds what is mounted on a volume's directory or below it, empty: nothing. A container with
// shared propagation may have put it there, and who deletes the volume's files must not get into it.
func (s *Store) within(name string) (string, error) {
	dir, err := filepath.EvalSymlinks(s.mountpoint(name))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return "", err
	}
	dir = escapes.Replace(dir)
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			return f[4], nil
		}
	}
	return "", nil
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
