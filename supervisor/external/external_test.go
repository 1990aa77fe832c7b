package external

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// newDriver drives a runtime that is a shell script.
func newDriver(t *testing.T, script string) driver {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return driver{rt: Runtime{Name: "mine", Path: path, Args: []string{"--first"}}, dir: dir, children: strangers{}, patience: 10 * time.Second}
}

func TestARuntimeThatHangsIsKilledWithAllItHasStarted(t *testing.T) {
	d := newDriver(t, `sleep 1000 & echo $! > "$(dirname $0)/child"; echo "  waiting for the tide " >&2; wait`)
	d.patience = 300 * time.Millisecond
	err := d.run(t.Context(), &call{args: []string{"pause", "box"}})
	if !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), `runtime mine (`) || !strings.Contains(err.Error(), `did not finish "pause" within 300ms`) ||
		!strings.HasSuffix(err.Error(), "it said: waiting for the tide") {
		t.Errorf("got %v", err)
	}
	child, err := os.ReadFile(filepath.Join(d.dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its child lives on")
		}
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	d := newDriver(t, "sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := d.run(ctx, &call{args: []string{"resume", "box"}}); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestWhatARuntimeIsGiven(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	t.Setenv("LISTEN_FDS", "3")
	t.Setenv("GOMAXPROCS", "1")
	t.Setenv("KEPT", "yes")
	d := newDriver(t, `echo "$@" | sed "s#log-[0-9]*#log-N#"; env | grep -E "^(NOTIFY|LISTEN|GOMAXPROCS|KEPT)"; pwd; cat`)
	k := &call{args: []string{"kill", "box", "15"}}
	if err := d.run(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	want := "--first --root DIR/state --log DIR/log-N.json --log-format json kill box 15\nKEPT=yes\nDIR\n"
	if got := strings.ReplaceAll(string(k.output), d.dir, "DIR"); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if left, _ := filepath.Glob(filepath.Join(d.dir, "log-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestReasonsOfRuntimes(t *testing.T) {
	for _, tt := range []struct {
		name, command, reason string
		class                 fail.Class
	}{
		{"runc, not in the path", "create", `runc create failed: unable to start container process: exec: "nope": executable file not found in $PATH`, fail.NotFound},
		{"runc, a missing path", "create", `runc create failed: unable to start container process: exec: "/no": stat /no: no such file or directory`, fail.NotFound},
		{"runc, not executable", "exec", `exec failed: unable to start container process: exec: "/etc/passwd": permission denied`, fail.Forbidden},
		{"runc, a directory", "create", `exec: "/etc": is a directory`, fail.Forbidden},
		{"crun, not in the path", "create", "executable file `nope` not found in $PATH: No such file or directory", fail.NotFound},
		{"crun, not executable", "create", "open executable: Permission denied", fail.Forbidden},
		{"runsc", "start", `starting container: starting root container: error finding executable "nope" in PATH [/bin]: no such file or directory`, fail.NotFound},
		{"a missing mount", "create", "error mounting \"/a\" to rootfs at \"/b\": stat /a: no such file or directory", fail.Internal},
		{"a device that may not be made", "create", "mknod /dev/x: permission denied", fail.Internal},
		{"another command", "kill", `exec: "nope": executable file not found in $PATH`, fail.Internal},
	} {
		if got := classOf(tt.command, tt.reason); got != tt.class {
			t.Errorf("%s: class %v, want %v", tt.name, got, tt.class)
		}
	}
	for log, want := range map[string]string{
		``: "", `garbage`: "", `{"level":"info","msg":"x"}`: "", `{"level":"error","msg":"a"}` + "\n" + `{"level":"error","msg":"b\nc\u0007"}` + "\n" + `{"level":"warning","msg":"d"}`: "b c",
		`{"level":"error","msg":"a"}` + "\n{broken": "a", `{"level":"error","msg":7}`: "", `[1]`: "", `{"level":"error","msg":"` + strings.Repeat("x", 2000) + `"}`: strings.Repeat("x", 500) + "…",
	} {
		if got := lastError(strings.NewReader(log)); got != want {
			t.Errorf("log %q: %q, want %q", log, got, want)
		}
	}
}

func FuzzLog(f *testing.F) {
	f.Add([]byte(`{"level":"error","msg":"a"}`))
	f.Add([]byte("{\"level\":\"fatal\",\"msg\":\"\x00\xff\"}\n[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got := lastError(bytes.NewReader(data)); strings.ContainsAny(got, "\n\r\x00\x1b") || len(got) > 2100 {
			t.Errorf("%q", got)
		}
	})
}

func TestOnlyAnEmptyDirectoryIsDeletedInThePlaceOfTheRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	if err := os.MkdirAll(filepath.Join(dir, rootfsName, "precious"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(filepath.Join(dir, rootfsName, "precious")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, rootfsName, "precious")); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestTheRootIsMountedForNobodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	at := t.TempDir()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Skip(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	root := os.NewFile(uintptr(fd), "root")
	defer root.Close()
	seen := func() bool {
		data, _ := os.ReadFile("/proc/thread-self/mountinfo")
		return bytes.Contains(data, []byte(" "+at+" "))
	}
	if err := inPrivateMounts([]attachment{{root, at}}, func() error {
		if !seen() {
			t.Error("it is not mounted")
		}
		host, _ := os.ReadFile("/proc/self/mountinfo") // of the first thread
		if bytes.Contains(host, []byte(" "+at+" ")) {
			t.Error("the host sees the mount")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if seen() {
		t.Error("it is still mounted")
	}
}
