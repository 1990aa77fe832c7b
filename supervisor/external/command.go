package external

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

const (
	// patience is how long a runtime may take for one command. Virtual machines and hooks
	// of vendors take seconds.
	patience = time.Minute
	// farewell is how long it may take to delete what is to be gone anyway.
	farewell = 10 * time.Second
)

// driver runs one container's runtime.
type driver struct {
	rt       Runtime
	dir      string
	scope    bool // its cgroup is a scope of systemd's
	children children
	patience time.Duration
}

// call is one run of the runtime.
type call struct {
	args []string
	// streams are the standard streams of a process that is to be made, nil ones /dev/null.
	// Without them the runtime's words are collected.
	streams *[3]*os.File
	// mounts are attached for this call alone.
	mounts []attachment

	patience time.Duration // 0: the driver's
	output   []byte        // what it wrote to standard output
	words    []byte        // and to standard error
}

// run calls the runtime and waits for it. The error names the runtime and gives its reason.
func (d *driver) run(ctx context.Context, k *call) error {
	if k.patience == 0 {
		k.patience = d.patience
	}
	ctx, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	if err := d.rt.Check(); err != nil {
		return err
	}
	log, err := os.CreateTemp(d.dir, "log-*.json")
	if err != nil {
		return fmt.Errorf("make a log for the runtime: %w", err)
	}
	defer os.Remove(log.Name())
	defer log.Close()
	var ws unix.WaitStatus
	do := func() error {
		var err error
		ws, err = d.execute(ctx, k, log.Name())
		return err
	}
	if len(k.mounts) > 0 {
		err = inPrivateMounts(k.mounts, do)
	} else {
		err = do()
	}
	switch {
	case err != nil:
		return err
	case ws.Exited() && ws.ExitStatus() == 0:
		return nil
	case ctx.Err() == context.DeadlineExceeded:
		said := ""
		if reason := d.reason(k, log); reason != "" {
			said = "; it said: " + reason
		}
		return fail.New(fail.Unavailable, "%s did not finish %q within %v and was killed: try whether it works by itself (%s --version)%s",
			d.rt.title(), k.args[0], k.patience, d.rt.Path, said)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return d.explain(k, ws, log)
}

// execute runs the program to its end, or kills it when ctx ends. It is killed too when we
// do not live any more.
func (d *driver) execute(ctx context.Context, k *call, log string) (ws unix.WaitStatus, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return ws, err
	}
	defer null.Close()
	streams := [3]*os.File{null, null, null}
	var said, complained *collector
	if k.streams != nil {
		for i, f := range k.streams {
			if f != nil {
				streams[i] = f
			}
		}
	} else {
		if said, streams[1], err = collect(); err != nil {
			return ws, err
		}
		defer func() { k.output = said.end() }()
		if complained, streams[2], err = collect(); err != nil {
			streams[1].Close()
			return ws, err
		}
		defer func() { k.words = complained.end() }()
	}
	argv := slices.Concat([]string{d.rt.Path}, d.rt.Args, []string{"--root", filepath.Join(d.dir, stateName), "--log", log, "--log-format", "json"}, systemdFlag(d.scope), k.args)
	attr := &syscall.ProcAttr{Dir: d.dir, Env: environment(), Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}}
	for _, f := range streams {
		attr.Files = append(attr.Files, f.Fd())
	}
	// The kernel takes the end of the thread that starts it for ours, and a thread that is free may end
	// at any time (kernel.OnOwnThread).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, ended, err := d.children.start(d.rt.Path, argv, attr)
	if k.streams == nil {
		streams[1].Close()
		streams[2].Close()
	}
	if err != nil {
		return ws, d.unusable(err)
	}
	select {
	case ws = <-ended:
		return ws, nil
	case <-ctx.Done():
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
	select {
	case ws = <-ended:
		return ws, nil
	case <-time.After(time.Second):
		return ws, fail.New(fail.Unavailable, "%s hangs in %q (process %d) and cannot be killed", d.rt.title(), k.args[0], pid)
	}
}

func systemdFlag(scope bool) []string {
	if scope {
		return []string{"--systemd-cgroup"}
	}
	return nil
}

// unusable words the failure to execute the program, without the kernel's words for a
// missing file, which everybody would read as one of the container's.
func (d *driver) unusable(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fail.New(fail.Invalid, "%s cannot be executed: it, or the interpreter that it names, does not exist", d.rt.title())
	case errors.Is(err, unix.EACCES):
		return fail.New(fail.Invalid, "%s may not be executed: check its mode, and whether its file system is mounted noexec", d.rt.title())
	case errors.Is(err, unix.ENOEXEC):
		return fail.New(fail.Invalid, "%s is not a program for this machine", d.rt.title())
	}
	return fail.New(fail.Internal, "%s cannot be executed: %w", d.rt.title(), err)
}

// Unwanted are variables that a runtime must not see: sizes that are ours, and sockets of
// systemd's, which runtimes hand on to containers.
var unwanted = []string{"GOMAXPROCS=", "GOGC=", "GOMEMLIMIT=", "NOTIFY_SOCKET=", "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES="}

func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(e string) bool {
		return slices.ContainsFunc(unwanted, func(u string) bool { return strings.HasPrefix(e, u) })
	})
}

// collector keeps the beginning of what a program writes.
type collector struct {
	f    *os.File
	done sync.WaitGroup
	text bytes.Buffer
}

const mostWords = 1 << 20

func collect() (*collector, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	c := &collector{f: r}
	c.done.Go(func() { // ends with the last writer, or with end
		_, _ = io.Copy(&c.text, io.LimitReader(r, mostWords))
		_, _ = io.Copy(io.Discard, r)
	})
	return c, w, nil
}

// end is called when the program has ended. What others write who hold its streams is not
// waited for.
func (c *collector) end() []byte {
	_ = c.f.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	c.done.Wait()
	c.f.Close()
	return c.text.Bytes()
}

// explain finds out why the runtime has failed.
func (d *driver) explain(k *call, ws unix.WaitStatus, log *os.File) error {
	reason := d.reason(k, log)
	how := fmt.Sprintf("exit status %d", ws.ExitStatus())
	if ws.Signaled() {
		how = "killed by " + unix.SignalName(ws.Signal())
	}
	if reason == "" {
		reason = fmt.Sprintf("it gave no reason (%s): try whether it works by itself (%s --version)", how, d.rt.Path)
	} else if ws.Signaled() {
		reason += " (" + how + ")"
	}
	return fail.New(classOf(k.args[0], reason), "OCI runtime %s failed: %s: %s", k.args[0], d.rt.title(), reason)
}

// reason is what the runtime gave as one, in its log or else as its last words.
func (d *driver) reason(k *call, log *os.File) string {
	if reason := lastError(log); reason != "" {
		return reason
	}
	if k.streams != nil {
		k.words = unread(k.streams[2])
	}
	lines := strings.Split(strings.TrimSpace(string(k.words)), "\n")
	return excerpt(lines[len(lines)-1])
}

// lastError is the last error in a log of JSON lines, as runc writes it.
func lastError(log io.Reader) (text string) {
	for dec := json.NewDecoder(io.LimitReader(log, mostWords)); ; {
		var line struct{ Level, Msg string }
		if err := dec.Decode(&line); err != nil {
			return text
		}
		if msg := excerpt(line.Msg); (line.Level == "error" || line.Level == "fatal" || line.Level == "panic") && msg != "" {
			text = msg
		}
	}
}

// unread is what lies in a pipe whose write end f is.
func unread(f *os.File) []byte {
	if f == nil {
		return nil
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	buf := make([]byte, 64<<10)
	n, _ := unix.Read(fd, buf)
	return buf[:max(n, 0)]
}

// classOf reads from a runtime's words whether the container's program was missing or not
// executable. There is no other place where runtimes say it.
func classOf(command, reason string) fail.Class {
	if command != "create" && command != "start" && command != "exec" {
		return fail.Internal
	}
	text := strings.ToLower(reason)
	program := strings.Contains(text, `exec: "`) || strings.Contains(text, "executable")
	switch {
	case !program:
		return fail.Internal
	case strings.Contains(text, "no such file or directory"), strings.Contains(text, "not found"):
		return fail.NotFound
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"), strings.Contains(text, "not executable"):
		return fail.Forbidden
	}
	return fail.Internal
}

// bareProgramError leaves of an error about an exec'd program what the program is blamed
// for: what failed is said by the caller.
func bareProgramError(err error) error {
	class := fail.Of(err)
	text := err.Error()
	if at := strings.Index(text, `exec: "`); at >= 0 && (class == fail.NotFound || class == fail.Forbidden) {
		return fail.New(class, "%s", text[at:])
	}
	return err
}
