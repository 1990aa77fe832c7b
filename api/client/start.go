package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"berth/fail"
)

// starter dials the default socket and starts berthd if nobody is there.
type starter struct {
	socket   string
	execRoot string
	command  func() (string, error) // finds berthd; nil: beside us, else in PATH
	args     []string               // for tests: the roots of a throw-away engine
}

// startTimeout bounds how long an engine may take to be ready; it reconciles its
// containers before.
const startTimeout = 60 * time.Second

func (s *starter) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", s.socket)
	if !nobodyThere(err) {
		return conn, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return d.DialContext(ctx, "unix", s.socket)
}

// nobodyThere tells that no engine listens, as opposed to one that refuses us.
func nobodyThere(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// start makes sure that an engine listens. Of many clients one starts it, under the lock
// that an engine also takes to leave when it is idle; the others wait for the lock and
// find it running.
func (s *starter) start(ctx context.Context) error {
	if s.socket == machineSocket && systemdsOwn("/") {
		return fail.New(fail.Unavailable, "no engine listens at %s: here systemd starts it, by berthd.socket, which is not active (systemctl start berthd.socket)", s.socket)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	berthd, err := s.find()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.execRoot, 0o711); err != nil {
		return fail.New(fail.Unavailable, "start berthd: %w", err)
	}
	if err := ours(s.execRoot); err != nil {
		return err
	}
	lock, err := lockFile(ctx, filepath.Join(s.execRoot, "berthd.start.lock"))
	if err != nil {
		return fail.New(fail.Unavailable, "start berthd: %w", err)
	}
	defer lock.Close()
	if conn, err := net.Dial("unix", s.socket); err == nil {
		return conn.Close()
	}
	return s.launch(ctx, berthd)
}

// unitDirs are where systemd looks for units (systemd.unit(5)), but for those that it makes.
var unitDirs = []string{"etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"}

// systemdsOwn tells that systemd runs and has our units: then it alone starts the machine's engine, and
// an administrator who has stopped them means it. A link to /dev/null, by which units are masked and
// which a removed package leaves, is no unit.
func systemdsOwn(root string) bool {
	if info, err := os.Lstat(filepath.Join(root, "run/systemd/system")); err != nil || !info.IsDir() { // sd_booted(3)
		return false
	}
	for _, dir := range unitDirs {
		if info, err := os.Stat(filepath.Join(root, dir, "berthd.service")); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// ours makes sure that nobody else made the directory for us: without XDG_RUNTIME_DIR it
// is in /tmp, where everybody may.
func ours(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fail.New(fail.Unavailable, "start berthd: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return fail.New(fail.Forbidden, "start berthd: %s is not a directory of this user", dir)
	}
	return nil
}

func (s *starter) find() (string, error) {
	if s.command != nil {
		return s.command()
	}
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		beside := filepath.Join(filepath.Dir(self), "berthd")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	path, err := exec.LookPath("berthd")
	if err != nil {
		return "", fail.New(fail.Unavailable, "no engine listens at %s, and berthd is neither beside this program nor in PATH", s.socket)
	}
	return path, nil
}

// launch runs berthd in a session of its own and waits until it says that it is ready:
// one byte on descriptor 3. Any other text is why it is not.
func (s *starter) launch(ctx context.Context, berthd string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	log, err := os.OpenFile(filepath.Join(s.execRoot, "berthd.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		w.Close()
		return fail.New(fail.Unavailable, "start berthd: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(berthd, append([]string{"--on-demand", "--ready-fd", "3"}, s.args...)...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fail.New(fail.Unavailable, "start %s: %w", berthd, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = r.SetReadDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(r, 4096))
	// It is a daemon now: we never wait for it, and it is not to be ours when it ends.
	_ = cmd.Process.Release()
	switch {
	case ctx.Err() != nil:
		return fail.New(fail.Unavailable, "start berthd: %w (see %s)", ctx.Err(), log.Name())
	case err != nil:
		return fail.New(fail.Unavailable, "start berthd: %w (see %s)", err, log.Name())
	case string(said) == Ready:
		return nil
	case len(said) == 0:
		return fail.New(fail.Unavailable, "berthd ended before it was ready (see %s)", log.Name())
	}
	text, _, _ := strings.Cut(strings.TrimSpace(string(said)), "\n")
	return fail.New(fail.Unavailable, "%s", text)
}

// Ready is what berthd writes on --ready-fd when it listens.
const Ready = "\n"

// lockFile takes an flock(2), waiting for it until ctx ends.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	got := make(chan error, 1)
	go func() {
		for {
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != syscall.EINTR {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return f, nil
	case <-ctx.Done():
		go func() { <-got; f.Close() }()
		return nil, fmt.Errorf("wait for another start of berthd: %w", ctx.Err())
	}
}
