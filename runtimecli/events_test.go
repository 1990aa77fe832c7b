package runtimecli

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	oci "berth/oci/bundle"
	"berth/testkit"
)

func TestNumbersOfAList(t *testing.T) {
	for list, want := range map[string][]uint16{"0-2,7": {0, 1, 2, 7}, "3": {3}, "": nil, "x-2": nil, "5\n": {5}} {
		if got := numbers(list); !slices.Equal(got, want) {
			t.Errorf("%q: got %v", list, got)
		}
	}
}

func TestStatisticsAreOneLineOfJSON(t *testing.T) {
	h := newHost(t, "sleep", "1000")
	h.must("run", "--detach", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	h.pid(filepath.Join(h.dir, "pid"))
	h.must("update", "--pids-limit", "77", h.id)
	var e struct {
		Type, ID string
		Data     struct {
			Memory struct{ Usage struct{ Usage uint64 } }
			Pids   struct{ Current, Limit uint64 }
		}
	}
	out := h.must("events", "--stats", h.id)
	if err := json.Unmarshal([]byte(out), &e); err != nil || strings.Count(out, "\n") != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	if e.Type != "stats" || e.ID != h.id || e.Data.Memory.Usage.Usage == 0 || e.Data.Pids.Current != 1 || e.Data.Pids.Limit != 77 {
		t.Errorf("got %s", out)
	}
}

func TestEventsTellOfMemoryThatRanOutAndEndWithTheContainer(t *testing.T) {
	h := newHost(t)
	h.configure(func(s *oci.Spec) {
		limit := int64(8 << 20)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
		s.Process.Args = []string{"sh", "-c", "cat; x=a; while :; do x=$x$x; done"}
	})
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	create := h.command("run", "--detach", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	create.Stdin = in
	if err := create.Run(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	pid := h.pid(filepath.Join(h.dir, "pid"))
	events := h.command("events", "--interval", "10ms", h.id)
	out, err := events.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	seen := map[string]int{}
	for lines.Scan() {
		var e struct{ Type string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Errorf("%v: %s", err, lines.Text())
		}
		if seen[e.Type]++; seen["stats"] == 1 {
			feed.Close() // whoever listens now hears of it
		}
	}
	if err := events.Wait(); err != nil {
		t.Error(err)
	}
	if seen["stats"] == 0 || seen["oom"] == 0 {
		t.Errorf("got %v", seen)
	}
	if ws := h.wait(pid); ws.ExitStatus() != 137 && int(ws.Signal()) != 9 {
		t.Errorf("the process ended with %v", ws)
	}
}

func TestReadinessIsPassedOnToTheServiceManager(t *testing.T) {
	for _, verb := range []string{"run", "start"} {
		h := newHost(t)
		h.configure(func(s *oci.Spec) {
			s.Root.Readonly = false // for the place of the socket
			s.Process.Args = []string{"sleep", "1000"}
		})
		path := filepath.Join(h.dir, "host.sock")
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer manager.Close()
		file := filepath.Join(h.dir, "pid")
		first := []string{"create"}
		if verb == "run" {
			first = []string{"run", "--detach"}
		}
		cmd := h.command(append(first, "--bundle", h.bundle, "--pid-file", file, h.id)...)
		cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+path)
		if verb == "start" {
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			cmd = h.command("start", h.id)
			cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+path)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The container's socket is where its process would find it.
		inside := filepath.Join(h.dir, "r", h.id, "notify", notifyName)
		h.eventually("a socket", func() bool { _, err := os.Stat(inside); return err == nil })
		conn, err := net.Dial("unixgram", inside)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("STATUS=warming up"))
		conn.Write([]byte("X=1\nREADY=1\n"))
		conn.Close()
		var text [256]byte
		manager.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := manager.Read(text[:])
		if err != nil || !strings.HasPrefix(string(text[:n]), "READY=1\nMAINPID=") {
			t.Errorf("%s: got %q, %v", verb, text[:n], err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		h.pid(file)
		if env := h.must("exec", h.id, "cat", "/proc/1/environ"); !strings.Contains(env, "NOTIFY_SOCKET=/run/notify/notify.sock") {
			t.Errorf("the environment is %q", env)
		}
		if out := h.must("exec", h.id, "ls", "/run/notify"); out != notifyName+"\n" {
			t.Errorf("in the container: %q", out)
		}
	}
}

func TestExecInAGroupBelowTheContainers(t *testing.T) {
	h := newHost(t, "sleep", "1000")
	h.must("run", "--detach", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	h.pid(filepath.Join(h.dir, "pid"))
	// On v1 each controller has its own tree, on v2 there is one.
	dir, controller, inSub, elsewhere := "/sys/fs/cgroup/pids/berth/"+h.id, "pids:", "pids:/sub\n", "memory:/\n"
	if testkit.UnifiedCgroups() {
		dir, controller, inSub, elsewhere = "/sys/fs/cgroup/berth/"+h.id, "", "0::/sub\n", ""
	} else if _, err := os.Stat(dir); err != nil {
		t.Skip("there is no v1 pids controller")
	}
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	out := h.must("exec", "--cgroup", controller+"sub", h.id, "cat", "/proc/self/cgroup")
	if !strings.Contains(out, inSub) || !strings.Contains(out, elsewhere) {
		t.Errorf("got %s", out)
	}
	h.refuse("not below", "exec", "--cgroup", controller+"../x", h.id, "true")
	h.refuse("does not exist", "exec", "--cgroup", controller+"none", h.id, "true")
	h.refuse(`no control group of "fly"`, "exec", "--cgroup", "fly:sub", h.id, "true")
	h.refuse("given twice", "exec", "--cgroup", controller+"sub", "--cgroup", controller+"sub", h.id, "true")
}

func TestPsPassesOptionsOn(t *testing.T) {
	h := newHost(t, "sleep", "1000")
	h.must("run", "--detach", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	h.pid(filepath.Join(h.dir, "pid"))
	out := h.must("ps", h.id, "-eo", "pid,args")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 2 || !strings.HasSuffix(lines[1], "sleep 1000") {
		t.Errorf("got %q", out)
	}
	h.refuse("PID field", "ps", h.id, "-eo", "args")
}
