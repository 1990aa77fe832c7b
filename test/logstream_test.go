package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/testkit"
)

// numbered has busybox write n lines of about 60 bytes that begin with their number.
func numbered(n int) []string {
	return []string{"busybox", "awk", fmt.Sprintf(`BEGIN{for(i=1;i<=%d;i++) print i " %s"}`, n, strings.Repeat("x", 53))}
}

// numbers checks that lines are numbered one after the other, and returns the first and
// the last number.
func numbers(t *testing.T, what string, lines io.Reader) (first, last int) {
	t.Helper()
	in := bufio.NewScanner(lines)
	for in.Scan() {
		number, rest, _ := strings.Cut(in.Text(), " ")
		n, err := strconv.Atoi(number)
		if err != nil || len(rest) != 53 || last > 0 && n != last+1 {
			t.Fatalf("%s: after line %d comes %q", what, last, in.Text())
		}
		if last = n; first == 0 {
			first = n
		}
	}
	return first, last
}

// follower is a `berth logs -f` whose output goes to a file.
type follower struct {
	*exec.Cmd
	out *os.File
}

func follow(t *testing.T, e *testkit.Engine, args ...string) *follower {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{exec.Command(filepath.Join(e.Bin, "berth"), append([]string{"logs", "-f"}, args...)...), out}
	f.Env, f.Stdout = e.Env(), out
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Process.Kill(); out.Close() })
	return f
}

func (f *follower) has() int64 {
	info, err := f.out.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// ended waits for the end of the log, and for its lines.
func (f *follower) ended(t *testing.T, what string) (first, last int) {
	t.Helper()
	if err := f.Wait(); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	data, err := os.ReadFile(f.out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return numbers(t, what, bytes.NewReader(data))
}

func TestNoLogLineIsLostWhileEnginesAndReadersAreKilled(t *testing.T) {
	const lines = 300_000
	for _, log := range [][]string{{"--log-opt", "max-size=-1"}, {"--log-driver", "local", "--log-opt", "max-size=100m"}} {
		e := testkit.StartEngine(t, testkit.EngineOptions{})
		e.Busybox()
		e.Must(append(append([]string{"create", "--name", "web", "--network", "none"}, log...), numbered(lines)...)...)
		e.Must("start", "web")
		killed, whole := follow(t, e, "web"), follow(t, e, "web")
		testkit.Eventually(t, "a reader has something", func() bool { return killed.has() > 0 && whole.has() > 0 })
		_ = killed.Process.Kill()
		_ = killed.Wait()
		e.Kill()
		e.Start()
		if code := e.Must("wait", "web"); code != "0" {
			t.Fatalf("%v: the container ended with %s", log, code)
		}
		if first, last := numbers(t, "logs", strings.NewReader(e.Must("logs", "web"))); first != 1 || last != lines {
			t.Errorf("%v: lines %d to %d", log, first, last)
		}
		if first, last := whole.ended(t, "the follower"); first != 1 || last != lines {
			t.Errorf("%v: the follower has lines %d to %d", log, first, last)
		}
	}
}

func TestARotatedLogKeepsItsLatestLinesWithoutAGap(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	for _, test := range []struct {
		opts        []string
		lines, kept int
	}{
		{nil, 600_000, 40 << 20}, // 75 MB of JSON for five files of 10 MiB
		{[]string{"--log-opt", "max-size=1m", "--log-opt", "max-file=3", "--log-opt", "compress=true"}, 60_000, 2 << 20},
		{[]string{"--log-driver", "local", "--log-opt", "max-size=1m"}, 120_000, 4 << 20},
	} {
		e.Must(append(append([]string{"run", "-d", "--name", "web", "--network", "none"}, test.opts...), numbered(test.lines)...)...)
		e.Must("wait", "web")
		first, last := numbers(t, fmt.Sprint(test.opts), strings.NewReader(e.Must("logs", "web")))
		if least := test.lines - test.kept/130; first == 1 || first > least || last != test.lines {
			t.Errorf("%v: lines %d to %d, wanted at least from %d on", test.opts, first, last, least)
		}
		if _, last := numbers(t, "tail", strings.NewReader(e.Must("logs", "-n", "1000", "web"))); last != test.lines {
			t.Errorf("%v: the tail ends with line %d", test.opts, last)
		}
		e.Must("rm", "web")
	}
}

func TestFollowersDoNotHoldAContainerUp(t *testing.T) {
	const lines = 200_000
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must(append([]string{"create", "--name", "web", "--network", "none", "--log-opt", "max-size=-1"}, numbered(lines)...)...)
	e.Must("start", "web")
	var all []*follower
	for range 6 {
		all = append(all, follow(t, e, "web"))
	}
	asleep := all[0]
	testkit.Eventually(t, "the first follower has something", func() bool { return asleep.has() > 0 })
	_ = asleep.Process.Signal(unix.SIGSTOP)
	if code := e.Must("wait", "web"); code != "0" {
		t.Fatalf("the container ended with %s", code)
	}
	_ = asleep.Process.Signal(unix.SIGCONT)
	for i, f := range all {
		if first, last := f.ended(t, "a follower"); first != 1 || last != lines {
			t.Errorf("follower %d has lines %d to %d", i, first, last)
		}
	}
}

func TestAnAttachedClientGetsEveryByteAndTheContainerWaitsForIt(t *testing.T) {
	const lines = 400_000
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	client := exec.Command(filepath.Join(e.Bin, "berth"), append([]string{"run", "--name", "web", "--network", "none", "--log-opt", "max-size=-1"}, numbered(lines)...)...)
	client.Env = e.Env()
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	// Nobody reads out: the log must come to rest before its end.
	testkit.Eventually(t, "the container has a log", func() bool { return e.Berth("logs", "-n", "1", "web").Stdout != "" })
	path, before, since := e.Must("inspect", "-f", "{{.LogPath}}", "web"), int64(0), time.Now()
	testkit.Eventually(t, "the container waits for its client", func() bool {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != before {
			before, since = info.Size(), time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	if before > lines*60 {
		t.Errorf("the log has come to %d bytes without the client", before)
	}
	if first, last := numbers(t, "the client", out); first != 1 || last != lines {
		t.Errorf("the client got lines %d to %d", first, last)
	}
	if err := client.Wait(); err != nil {
		t.Error(err)
	}
}
