package daemon

import (
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/fail"
)

func TestHostsAreRead(t *testing.T) {
	for _, c := range []struct {
		text   string
		secure bool
		want   host
	}{
		{"/a", false, host{"unix:///a", "unix", "/a", false, ""}},
		{"unix:///a?ro", false, host{"unix:///a?ro", "unix", "/a", true, ""}},
		{"unix:///a?ro&group=watch", false, host{"unix:///a?ro&group=watch", "unix", "/a", true, "watch"}},
		{"fd://", false, host{"fd://", "fd", "", false, ""}},
		{"fd://look?ro=1", false, host{"fd://look?ro=1", "fd", "look", true, ""}},
		{"tcp://", false, host{"tcp://", "tcp", "localhost:2375", false, ""}},
		{"tcp://box", true, host{"tcp://box", "tcp", "box:2376", false, ""}},
		{"tcp://:1", true, host{"tcp://:1", "tcp", "localhost:1", false, ""}},
		{"tcp://0.0.0.0:1?ro", true, host{"tcp://0.0.0.0:1?ro", "tcp", "0.0.0.0:1", true, ""}},
		{"tcp://[::1]", false, host{"tcp://[::1]", "tcp", "[::1]:2375", false, ""}},
	} {
		if got, err := parseHost(c.text, c.secure); err != nil || got != c.want {
			t.Errorf("%q: %+v %v", c.text, got, err)
		}
	}
	for _, bad := range []string{"", "a", "unix://a", "unix://", "npipe:////./x", "http://x", "tcp://x:1/y", "tcp://::1", "unix:///a?rw", "unix:///a?ro=0", "unix:///a?ro&ro", "unix:///a?group=", "tcp://x:1?group=a", "unix:///a?%zz"} {
		if h, err := parseHost(bad, false); !fail.Is(err, fail.Invalid) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %+v %v", bad, h, err)
		}
	}
}

func TestAnOpenSocketHasToBeAskedFor(t *testing.T) {
	for _, c := range []struct {
		file string
		args []string
		says string // the danger; empty: refused
	}{
		{`{}`, []string{"-H", "tcp://127.0.0.1:1"}, ""},
		{`{}`, []string{"-H", "tcp://127.0.0.1:1", "--tls"}, ""},
		{`{}`, []string{"-H", "tcp://127.0.0.1:1", "--tls=true"}, ""},
		{`{}`, []string{"-H", "tcp://127.0.0.1:1", "--tlsverify=false"}, "root on this machine, and the API is accessible without encryption"},
		{`{}`, []string{"-H", "tcp://127.0.0.1:1", "--tls=false"}, "root on this machine, and"},
		{`{"tlsverify":false}`, []string{"-H", "tcp://127.0.0.1:1"}, "root on this machine, and"},
		{`{"tls":true,"tlsverify":false}`, []string{"-H", "tcp://127.0.0.1:1"}, "root on this machine: it asks"},
		{`{}`, []string{"-H", "tcp://127.0.0.1:1?ro", "--tls=false"}, "may look at all containers"},
	} {
		s, err := parse(t, c.file, c.args...)
		switch {
		case c.says == "" && (!fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "needs --tlsverify")):
			t.Errorf("%s %q: %v", c.file, c.args, err)
		case c.says != "" && (err != nil || len(s.dangers()) != 1 || !strings.Contains(s.dangers()[0], c.says)):
			t.Errorf("%s %q: %v %v", c.file, c.args, s, err)
		}
	}
	if s, err := parse(t, `{}`, "-H", "tcp://0.0.0.0:1", "--tlsverify", "-H", "unix:///a"); err != nil || len(s.dangers()) != 0 {
		t.Errorf("%v %v", s, err)
	}
	if _, err := parse(t, `{}`, "-H", "unix:///a", "-H", "unix:///a?ro"); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("one socket, two ways: %v", err)
	}
}

// A socket that comes back after an engine stayed is what it was.
func TestAReadOnlySocketStaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	h, err := parseHost("unix://"+path+"?ro", false)
	if err != nil {
		t.Fatal(err)
	}
	ls, err := listenAll(&Settings{listen: []host{h}})
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(http.NotFoundHandler(), ls, &Settings{}, never, slog.New(slog.DiscardHandler))
	defer f.http.Close()
	f.serve()
	// Somebody is connected, so the engine stays.
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if gone, err := f.leave(always); err != nil || gone {
		t.Fatal(gone, err)
	}
	if again := f.listeners[0]; !again.host.readOnly || !again.host.door(false).ReadOnly {
		t.Errorf("%+v", again.host)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Error(info, err)
	}
}
