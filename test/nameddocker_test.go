package test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"berth/testkit"
)

// TestUnderTheNameDocker: a link named docker is what scripts that know no other name need.
func TestUnderTheNameDocker(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	docker := namedDocker(t, e)
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"--version"}, 0, `^Docker version \d+\.\d+\.\d+ \(Berth version .*\)\n$`, `^$`},
		{[]string{"-v"}, 0, `^Docker version \d+\.\d+\.\d+ `, `^$`},
		{[]string{"version", "--format", "{{.Server.APIVersion}}"}, 0, `^1\.\d\d\n$`, `^$`},
		{[]string{"--help"}, 0, `(?s)^Usage:  docker \[OPTIONS\] COMMAND\n.*Run 'docker COMMAND --help'`, `^$`},
		{[]string{"run", "--help"}, 0, `^Usage:  docker run \[OPTIONS\] IMAGE`, `^$`},
		{[]string{"container", "ls", "--help"}, 0, `^Usage:  docker container ls \[OPTIONS\]\n`, `^$`},
		{[]string{"run", "--rm", "busybox", "echo", "hello"}, 0, `^hello\n$`, `^$`},
		{[]string{"run", "--rm", "busybox", "nosuch"}, 127, `^$`, `^docker: Error response from daemon: .*executable file not found in \$PATH`},
		{[]string{"run", "--nosuch"}, 125, `^$`, `^docker: unknown flag: --nosuch\nSee 'docker run --help'\.\n$`},
		{[]string{"--nosuch", "ps"}, 125, `^$`, `^docker: unknown flag: --nosuch\nSee 'docker --help'\.\n$`},
		{[]string{"nosuch"}, 1, `^$`, `^docker: unknown command: docker nosuch\nSee 'docker --help'\.\n$`},
		{[]string{"container", "nosuch"}, 1, `^$`, `^docker: unknown command: docker container nosuch\nSee 'docker container --help'\.\n$`},
		{[]string{"ps", "extra"}, 1, `^$`, `^docker: 'docker ps' accepts no arguments\nSee 'docker ps --help'\.\n$`},
	} {
		r := e.Run("", docker, c.args...)
		if r.Code != c.code || !regexp.MustCompile(c.stdout).MatchString(r.Stdout) || !regexp.MustCompile(c.stderr).MatchString(r.Stderr) {
			t.Errorf("docker %q: exit %d, want %d\nstdout: %s\nstderr: %s", c.args, r.Code, c.code, r.Stdout, r.Stderr)
		}
	}
	if v := e.Must("--version"); !regexp.MustCompile(`^Berth version `).MatchString(v) {
		t.Errorf("under its own name: %s", v)
	}
}

// namedDocker is berth by a link of that name.
func namedDocker(t *testing.T, e *testkit.Engine) string {
	t.Helper()
	dir := filepath.Join(e.Dir, "named")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "docker")
	if err := os.Symlink(filepath.Join(e.Bin, "berth"), link); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	return link
}
