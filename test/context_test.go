package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/testkit"
)

// withoutHost runs a client whose environment names no engine.
func withoutHost(e *testkit.Engine, program string, args ...string) testkit.Result {
	return e.Run("", "env", append([]string{"-u", "DOCKER_HOST", program}, args...)...)
}

func TestBothCommandLinesShareContexts(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	docker, berth := testkit.DockerCLI(t), filepath.Join(e.Bin, "berth")
	ca := testkit.NewAuthority(t)
	cert := ca.Issue(1<<40, "127.0.0.1")
	for _, c := range []struct{ name, maker, other string }{{"made-by-docker", docker, berth}, {"made-by-berth", berth, docker}} {
		endpoint := "host=tcp://127.0.0.1:1,ca=" + ca.Cert + ",cert=" + cert.Cert + ",key=" + cert.Key
		if r := withoutHost(e, c.maker, "context", "create", c.name, "--description", "a <context>", "--docker", endpoint); r.Code != 0 || r.Stdout != c.name+"\n" || !strings.Contains(r.Stderr, `Successfully created context "`+c.name+`"`) {
			t.Fatalf("%s: %+v", c.name, r)
		}
		var shown [2]any
		for i, program := range []string{c.maker, c.other} {
			r := withoutHost(e, program, "context", "inspect", c.name)
			if err := json.Unmarshal([]byte(r.Stdout), &shown[i]); err != nil {
				t.Fatalf("%+v: %v", r, err)
			}
		}
		if diff := cmp.Diff(shown[0], shown[1]); diff != "" {
			t.Errorf("%s\n%s", c.name, diff)
		}
		if r := withoutHost(e, c.other, "context", "inspect", "-f", "{{.Name}} {{.Endpoints.docker.Host}} {{.TLSMaterial.docker}}", c.name); r.Stdout != c.name+" tcp://127.0.0.1:1 [ca.pem cert.pem key.pem]\n" {
			t.Errorf("%+v", r)
		}
		if r := withoutHost(e, c.other, "context", "use", c.name); r.Code != 0 {
			t.Errorf("%+v", r)
		}
		if r := withoutHost(e, c.maker, "context", "show"); r.Stdout != c.name+"\n" {
			t.Errorf("%+v", r)
		}
		archive := filepath.Join(e.Dir, c.name+".dockercontext")
		if r := withoutHost(e, c.maker, "context", "export", c.name, archive); r.Code != 0 || !strings.Contains(r.Stderr, "Written file") {
			t.Errorf("%+v", r)
		}
		if r := withoutHost(e, c.other, "context", "import", c.name+"-again", archive); r.Code != 0 || r.Stdout != c.name+"-again\n" {
			t.Errorf("%+v", r)
		}
	}
	both := [2]string{}
	for i, program := range []string{docker, berth} {
		both[i] = withoutHost(e, program, "context", "ls", "--format", "{{.Name}} {{.Current}} {{.DockerEndpoint}}").Stdout
		both[i] = strings.Replace(strings.Replace(both[i], "unix:///var/run/docker.sock", "", 1), "unix:///run/berth/berth.sock", "", 1)
	}
	if diff := cmp.Diff(both[0], both[1]); diff != "" || !strings.Contains(both[1], "made-by-berth true") {
		t.Errorf("lists: -docker +berth\n%s", diff)
	}
	for _, name := range []string{"made-by-docker-again", "made-by-berth-again"} {
		if r := withoutHost(e, berth, "context", "rm", name); r.Code != 0 || r.Stdout != name+"\n" {
			t.Errorf("%+v", r)
		}
	}
	left, err := os.ReadDir(filepath.Join(e.Dir, "home", ".docker", "contexts", "tls"))
	if err != nil || len(left) != 2 {
		t.Errorf("TLS directories of removed contexts: %v %v", left, err)
	}
}

func TestTheEngineIsChosenInDockersOrder(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	berth := filepath.Join(e.Bin, "berth")
	for name, host := range map[string]string{"here": e.Host, "nowhere": "unix:///nonexistent/s"} {
		if r := withoutHost(e, berth, "context", "create", name, "--docker", "host="+host); r.Code != 0 {
			t.Fatalf("%+v", r)
		}
	}
	const reached, refused = "", "/nonexistent/"
	run := func(name, want string, line ...string) {
		t.Helper()
		r := e.Run("", "env", append([]string{"-u", "DOCKER_HOST"}, line...)...)
		if (want == reached) != (r.Code == 0) || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: %+v", name, r)
		}
		if lines := strings.Count(r.Stderr, "\n"); want != reached && lines != 1 {
			t.Errorf("%s: told in %d lines: %s", name, lines, r.Stderr)
		}
	}
	run("the context flag", reached, berth, "-c", "here", "ps")
	run("DOCKER_CONTEXT", refused, "DOCKER_CONTEXT=nowhere", berth, "ps")
	if r := withoutHost(e, berth, "context", "use", "nowhere"); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	run("the current context", refused, berth, "ps")
	run("DOCKER_CONTEXT beats the current context", reached, "DOCKER_CONTEXT=here", berth, "ps")
	run("DOCKER_HOST beats DOCKER_CONTEXT", reached, "DOCKER_HOST="+e.Host, "DOCKER_CONTEXT=nowhere", berth, "ps")
	run("the context flag beats DOCKER_HOST", refused, "DOCKER_HOST="+e.Host, berth, "-c", "nowhere", "ps")
	run("the host flag beats all of the environment", reached, "DOCKER_HOST=unix:///nonexistent/t", berth, "-H", e.Host, "ps")
	run("the default context is what DOCKER_HOST says", reached, "DOCKER_HOST="+e.Host, berth, "-c", "default", "ps")
	run("a missing context", `context "none" does not exist`, berth, "-c", "none", "ps")
	if r := withoutHost(e, berth, "-H", e.Host, "-c", "here", "ps"); r.Code == 0 || !strings.Contains(r.Stderr, "either specify --host or --context") {
		t.Errorf("%+v", r)
	}
	for _, line := range [][]string{{"context", "ls"}, {"context", "use", "here"}} {
		if r := e.Run("", berth, line...); r.Code != 0 || !strings.Contains(r.Stderr, "Warning: DOCKER_HOST environment variable overrides the active context.") {
			t.Errorf("%q: %+v", line, r)
		}
	}
	if r := withoutHost(e, berth, "context", "rm", "here"); r.Code == 0 || r.Stderr != "context \"here\" is in use, set -f flag to force remove\n" {
		t.Errorf("%+v", r)
	}
	if r := withoutHost(e, berth, "context", "rm", "-f", "here"); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if r := withoutHost(e, berth, "context", "show"); r.Stdout != "default\n" {
		t.Errorf("%+v", r)
	}
	if r := withoutHost(e, berth, "context", "rm", "default"); r.Code == 0 || r.Stderr != "context \"default\" cannot be removed\n" {
		t.Errorf("%+v", r)
	}
}

func TestMistakesWithContextsAreToldInOneLine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	evil := filepath.Join(e.Dir, "evil.zip")
	if err := os.WriteFile(evil, []byte("PK\x03\x04 and no more"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.Must("context", "create", "there", "--docker", "host="+e.Host)
	for _, c := range []struct {
		says string
		args []string
	}{
		{`unrecognized config key: hosd`, []string{"create", "xx", "--docker", "hosd=1"}},
		{`invalid host "npipe:////./pipe/x"`, []string{"create", "xx", "--docker", "host=npipe:////./pipe/x"}},
		{`skip-tls-verify: parsing "maybe": invalid syntax`, []string{"create", "xx", "--docker", "host=tcp://a,skip-tls-verify=maybe"}},
		{`no such file`, []string{"create", "xx", "--docker", "host=tcp://a,ca=/nonexistent/ca"}},
		{`cannot use --docker flag when --from is set`, []string{"create", "xx", "--from", "there", "--docker", "host=tcp://a"}},
		{`"default" is a reserved context name`, []string{"create", "default"}},
		{`is invalid, names are validated`, []string{"create", "../../x"}},
		{`context "there" already exists`, []string{"create", "there"}},
		{`context "there" already exists`, []string{"import", "there", evil}},
		{`the archive of a context cannot be read`, []string{"import", "xx", evil}},
		{`no such file`, []string{"import", "xx", "/nonexistent"}},
		{`context "xx" does not exist`, []string{"update", "xx", "--description", "y"}},
		{`context "xx" does not exist`, []string{"use", "xx"}},
		{`context "xx" does not exist`, []string{"rm", "xx"}},
		{`context "xx" does not exist`, []string{"export", "xx", "-"}},
		{`context "xx" does not exist`, []string{"inspect", "xx"}},
		{`file exists`, []string{"export", "there", evil}},
	} {
		r := e.Berth(append([]string{"context"}, c.args...)...)
		if r.Code != 1 || !strings.Contains(r.Stderr, c.says) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%q: %+v", c.args, r)
		}
	}
	if got := e.Must("context", "ls", "-q"); got != "default\nthere" {
		t.Errorf("left: %q", got)
	}
	if r := e.Run("not an archive at all, only some text of its own that is longer than a block", filepath.Join(e.Bin, "berth"), "context", "import", "yy", "-"); r.Code != 1 || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("%+v", r)
	}
	e.Must("context", "update", "there", "--description", "new", "--docker", "host=unix:///other")
	if got := e.Must("context", "inspect", "there", "-f", "{{.Metadata.Description}} {{.Endpoints.docker.Host}}"); got != "new unix:///other" {
		t.Error(got)
	}
}
