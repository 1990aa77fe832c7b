package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a network namespace that stands for a machine of its own. It goes with the test.
type Host struct {
	Name string

	t testing.TB
}

var hostCount atomic.Int64

// NewHost makes a machine that has loopback only.
func NewHost(t testing.TB) *Host {
	t.Helper()
	Integration(t)
	NeedTool(t, "ip")
	NeedTool(t, "nsenter")
	h := &Host{Name: fmt.Sprintf("bt%d-%d", os.Getpid(), hostCount.Add(1)), t: t}
	if out, err := exec.Command("ip", "netns", "add", h.Name).CombinedOutput(); err != nil {
		t.Fatalf("make a network namespace: %v\n%s", err, out)
	}
	t.Cleanup(func() { // what runs in it keeps it, but nobody finds it any more
		if out, err := exec.Command("ip", "netns", "del", h.Name).CombinedOutput(); err != nil {
			t.Errorf("remove network namespace %s: %v\n%s", h.Name, err, out)
		}
	})
	h.Must("ip", "link", "set", "lo", "up")
	return h
}

// Cable joins two machines by a link called name on both, with these addresses ("192.0.2.1/24")
// at the end of each.
func Cable(t testing.TB, name string, a *Host, ofA []string, b *Host, ofB []string) {
	t.Helper()
	a.Must("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", b.Name)
	for _, end := range []struct {
		h         *Host
		addresses []string
	}{{a, ofA}, {b, ofB}} {
		for _, address := range end.addresses {
			args := []string{"ip", "address", "add", address, "dev", name}
			if strings.Contains(address, ":") {
				args = append(args, "nodad")
			}
			end.h.Must(args...)
		}
		end.h.Must("ip", "link", "set", name, "up")
	}
}

func (h *Host) path() string { return filepath.Join("/run/netns", h.Name) }

// Args is the command line that runs a command on h.
func (h *Host) Args(command ...string) []string {
	return append([]string{"nsenter", "--net=" + h.path(), "--"}, command...)
}

// Run runs a command on h to its end.
func (h *Host) Run(command ...string) Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	argv := h.Args(command...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%s: %v", strings.Join(command, " "), err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// Must is Run that has to succeed; it returns standard output without its last newline.
func (h *Host) Must(command ...string) string {
	h.t.Helper()
	r := h.Run(command...)
	if r.Code != 0 {
		h.t.Fatalf("%s on %s: exit %d\n%s%s", strings.Join(command, " "), h.Name, r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Start runs a command on h until the test ends.
func (h *Host) Start(command ...string) *exec.Cmd {
	h.t.Helper()
	argv := h.Args(command...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := startBound(h.t, cmd); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// Sysctl writes a kernel setting of h's network.
func (h *Host) Sysctl(name, value string) {
	h.t.Helper()
	h.Must("sh", "-c", "echo "+value+" > /proc/sys/"+name)
}

// Dial connects from h to an address of numbers.
func (h *Host) Dial(network, address string, patience time.Duration) (net.Conn, error) {
	return DialFrom(h.path(), network, address, patience)
}

// DialFrom connects from the network namespace at path (/proc/PID/ns/net) to an address of
// numbers.
func DialFrom(path, network, address string, patience time.Duration) (net.Conn, error) {
	there, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	// The thread goes back: what it started might be told to die with it.
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer here.Close()
	defer func() {
		if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	// For a single address the socket is made by the goroutine that dials.
	d := net.Dialer{Timeout: patience, FallbackDelay: -1}
	return d.Dial(network, address)
}
