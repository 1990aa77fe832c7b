package stage

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func reap(t *testing.T, c *Child) unix.WaitStatus {
	t.Helper()
	defer c.Close()
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(c.Pid, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return ws
	}
}

func TestAChildExecutesAndTheEndOfTheStreamTellsIt(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := New()
	out := p.File(w)
	p.About("set the standard output", "")
	p.Call(unix.SYS_DUP3, out, Int(1), Int(0))
	p.Exec([]string{"/nonexistent/echo", "/bin/echo"}, []string{"echo", "hello", "there"}, []string{"A=B"})
	p.Execute()
	c, err := Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := c.Receive(); err != io.EOF {
		t.Errorf("Receive: %v, want EOF", err)
	}
	text, _ := io.ReadAll(r)
	if string(text) != "hello there\n" {
		t.Errorf("output %q", text)
	}
	if ws := reap(t, c); ws.ExitStatus() != 0 {
		t.Errorf("exit status %d", ws.ExitStatus())
	}
}

func TestAFailedStepIsNamed(t *testing.T) {
	p := New()
	p.About("change directory to", "/nonexistent")
	p.Call(unix.SYS_CHDIR, p.Str("/nonexistent"))
	c, err := Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Receive()
	var f *Failure
	if !errors.As(err, &f) || f.Error() != "change directory to /nonexistent: no such file or directory" {
		t.Errorf("got %v", err)
	}
	if !errors.Is(err, unix.ENOENT) || f.Program {
		t.Errorf("got %+v", f)
	}
	reap(t, c)
}

func TestJumpsIgnoredErrorsSlotsAndMessages(t *testing.T) {
	p := New()
	fd, missing := p.Slot(), p.NewLabel()
	end := p.NewLabel()
	p.Call(unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.Str("/nonexistent"), Int(0), Int(0)).Into(fd).On(unix.ENOENT, missing)
	p.Fail(unix.EDOM)
	p.Here(missing)
	p.Call(unix.SYS_CLOSE, Int(-1)).Ignore(unix.EPERM, unix.EBADF)
	p.Notify(7)
	p.Await()
	p.Call(unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.Str("/"), Int(unix.O_RDONLY|unix.O_CLOEXEC), Int(0)).Into(fd).OnOK(end)
	p.Fail(unix.EDOM)
	p.Here(end)
	p.SendFile(fd, 7)
	p.JumpUnless(fd, 1<<20, func() Label { l := p.NewLabel(); return l }())
	p.Fail(unix.EDOM)
	p.Here(Label(len(p.targets) - 1))
	p.Exit(3)
	c, err := Start(p, Options{FirstFree: 40})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := c.Receive(); err != nil || m.Kind != Reached || m.Value != 7 {
		t.Fatalf("got %+v, %v", m, err)
	}
	if err := c.Send(); err != nil {
		t.Fatal(err)
	}
	m, err := c.Receive()
	if err != nil || m.Kind != File {
		t.Fatalf("got %+v, %v", m, err)
	}
	if fi, err := m.File.Stat(); err != nil || !fi.IsDir() {
		t.Errorf("the descriptor is not the directory: %v", err)
	}
	m.File.Close()
	if _, err := c.Receive(); err != io.EOF {
		t.Errorf("got %v, want EOF", err)
	}
	if ws := reap(t, c); ws.ExitStatus() != 3 {
		t.Errorf("exit status %d", ws.ExitStatus())
	}
}

func TestARespawnedChildKeepsItsParent(t *testing.T) {
	p := New()
	p.Respawn()
	p.Notify(1)
	p.Await()
	p.Exit(5)
	c, err := Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	first := c.Pid
	if m, err := c.Receive(); err != nil || m.Kind != Respawned {
		t.Fatalf("got %+v, %v", m, err)
	}
	if c.Pid == first {
		t.Error("the pid did not change")
	}
	if m, err := c.Receive(); err != nil || m.Kind != Reached {
		t.Fatalf("got %+v, %v", m, err)
	}
	c.Send()
	if ws := reap(t, c); ws.ExitStatus() != 5 {
		t.Errorf("exit status %d", ws.ExitStatus())
	}
}

func TestAWaitingChildExitsWhenTheParentLetsGo(t *testing.T) {
	p := New()
	p.Await()
	p.Exit(0)
	c, err := Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if ws := reap(t, c); ws.ExitStatus() != 255 {
		t.Errorf("exit status %d", ws.ExitStatus())
	}
}

func TestExecTellsWhatIsWrongWithTheProgram(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		if err := os.WriteFile(dir+"/"+name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return dir + "/" + name
	}
	for _, tc := range []struct {
		name string
		path string
		want Failure
	}{
		{"a missing file", dir + "/no", Failure{Errno: unix.ENOENT}},
		{"a directory", dir, Failure{Errno: unix.EACCES, Directory: true}},
		{"a file that may not be executed", write("plain", "x", 0o644), Failure{Errno: unix.EACCES}},
		{"a script without its interpreter", write("script", "#!/nonexistent\n", 0o755), Failure{Errno: unix.ENOENT, Interpreter: true}},
		{"a file of no known format", write("junk", "\x00\x01\x02\x03junk", 0o755), Failure{Errno: unix.ENOEXEC}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := New()
			p.Exec([]string{tc.path}, []string{"x"}, nil)
			p.Execute()
			c, err := Start(p, Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Receive()
			reap(t, c)
			var f *Failure
			if !errors.As(err, &f) {
				t.Fatalf("got %v", err)
			}
			if !f.Program || f.Errno != tc.want.Errno || f.Directory != tc.want.Directory || f.Interpreter != tc.want.Interpreter {
				t.Errorf("got %+v", f)
			}
		})
	}
}

func TestDescriptorsThatTheProgramDoesNotNameAreClosed(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := New()
	p.Notify(1)
	p.Await()
	c, err := Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the waiting child holds the pipe: %d, %v", n, err)
	}
	c.Close()
	reap(t, c)
}

func BenchmarkForkAndExec(b *testing.B) {
	for b.Loop() {
		p := New()
		p.Exec([]string{"/bin/true"}, []string{"true"}, nil)
		p.Execute()
		c, err := Start(p, Options{})
		if err != nil {
			b.Fatal(err)
		}
		c.Receive()
		unix.Wait4(c.Pid, nil, 0, nil)
		c.Close()
	}
}
