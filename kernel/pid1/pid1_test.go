package pid1

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// written is the program in a file.
func written(t *testing.T) string {
	t.Helper()
	data, err := Program()
	if err != nil {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(file, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestProgramIsASmallExecutable(t *testing.T) {
	f, err := elf.Open(written(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && (p.Filesz > 4096 || p.Flags != elf.PF_R|elf.PF_X) || p.Type == elf.PT_GNU_STACK && p.Flags&elf.PF_X != 0 {
			t.Errorf("%+v", p.ProgHeader)
		}
	}
	if len(f.Progs) != 2 {
		t.Errorf("%d segments", len(f.Progs))
	}
}

func TestProgramExecutesAndEndsLikeItsChild(t *testing.T) {
	init := written(t)
	dir := t.TempDir()
	for name, script := range map[string]string{"seven": "#!/bin/sh\nexit 7\n", "plain": "", "args": "#!/bin/sh\necho \"$#:$1:$2\"\n"} {
		mode := os.FileMode(0o755)
		if name == "plain" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), mode); err != nil {
			t.Fatal(err)
		}
	}
	path := "PATH=/nonexistent:" + strings.Repeat("/long", 900) + ":/dev/null:" + dir + ":/usr/bin:/bin"
	for _, c := range []struct {
		name   string
		args   []string
		env    []string
		code   int
		output string
	}{
		{"a path", []string{dir + "/seven"}, nil, 7, ""},
		{"a name in PATH", []string{"seven"}, []string{"A=B", "PATHS=/", path}, 7, ""},
		{"a name in the working directory", []string{"seven"}, []string{"PATH=:/bin"}, 7, ""},
		{"a name in the working directory at the end", []string{"seven"}, []string{"PATH=/bin:"}, 7, ""},
		{"a relative path", []string{"./seven"}, nil, 7, ""},
		{"arguments", []string{"args", "one two", ""}, []string{path}, 0, "2:one two:\n"},
		{"environment", []string{"sh", "-c", "echo $A"}, []string{"A=B", path}, 0, "B\n"},
		{"no such program", []string{"nosuch"}, []string{path}, 127, "docker-init: cannot execute nosuch: not found\n"},
		{"no PATH", []string{"seven"}, []string{"A=B"}, 127, "docker-init: cannot execute seven: not found\n"},
		{"no such file", []string{dir + "/nosuch"}, nil, 127, "docker-init: cannot execute " + dir + "/nosuch: not found\n"},
		{"a file below a file", []string{"/dev/null/x"}, nil, 127, "docker-init: cannot execute /dev/null/x: not found\n"},
		{"a file without the right", []string{"plain"}, []string{path}, 126, "docker-init: cannot execute plain: permission denied\n"},
		{"a directory", []string{"/etc"}, nil, 126, "docker-init: cannot execute /etc: permission denied\n"},
		{"a long name", []string{strings.Repeat("x", 5000)}, []string{path}, 127, "docker-init: cannot execute " + strings.Repeat("x", 5000) + ": not found\n"},
		{"an empty name", []string{""}, []string{"PATH=/bin"}, 126, "docker-init: cannot execute : permission denied\n"},
		{"a signal", []string{"sh", "-c", "kill -9 $$"}, []string{path}, 137, ""},
		{"children that end before", []string{"sh", "-c", "for i in 1 2 3; do (exit $i) & done; wait; exit 9"}, []string{path}, 9, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(init, append([]string{"--"}, c.args...)...)
			cmd.Dir, cmd.Env = dir, append([]string{}, c.env...)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != c.code || string(out) != c.output {
				t.Errorf("exit %d, %q; want %d, %q", got, out, c.code, c.output)
			}
		})
	}
}

func TestProgramForwardsSignals(t *testing.T) {
	init := written(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGINT, syscall.SIGWINCH, syscall.SIGSEGV, syscall.Signal(40)} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := exec.Command(init, "--", "/bin/bash", "-c", `trap 'kill $!; exit 5' `+strconv.Itoa(int(sig))+`; sleep 60 & echo ready; wait`)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Skip(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
				t.Errorf("%q, %v", line, err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 5 {
				t.Errorf("exit %d", code)
			}
		})
	}
}

func TestChildHasAGroupOfItsOwnAndTheOldMask(t *testing.T) {
	init := written(t)
	var out bytes.Buffer
	cmd := exec.Command(init, "--", "/bin/sh", "-c", `while read l; do echo "$l"; done < /proc/$$/stat; while read l; do case $l in SigBlk*) echo "$l";; esac; done < /proc/$$/status`)
	cmd.Stdout, cmd.SysProcAttr = &out, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(out.String())
	if len(f) < 6 || f[0] != f[4] || f[5] == f[0] {
		t.Errorf("pid %s, group %s, session %s", f[0], f[4], f[5])
	}
	if !strings.Contains(out.String(), "SigBlk:\t0000000000000000\n") {
		t.Errorf("mask: %s", out.String())
	}
}
