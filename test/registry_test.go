package test

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"berth/testkit"
)

func itoa(n int) string { return strconv.Itoa(n) }

// skopeo runs Debian's skopeo against loopback registries.
func skopeo(t *testing.T, e *testkit.Engine, args ...string) string {
	t.Helper()
	r := e.Run("", testkit.NeedTool(t, "skopeo"), args...)
	if r.Code != 0 {
		t.Fatalf("skopeo %v: exit %d\n%s", args, r.Code, r.Stderr)
	}
	return r.Stdout
}

// pushedDebian gives a registry into which skopeo pushed a Debian image that Berth
// imported and saved, and the reference there.
func pushedDebian(t *testing.T, e *testkit.Engine) (ref string) {
	t.Helper()
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	e.Must("import", "--change", `CMD ["bash"]`, testkit.DebianTar(t), "debian:12")
	archive := filepath.Join(e.Dir, "debian.tar")
	e.Must("save", "-o", archive, "debian:12")
	e.Must("rmi", "debian:12")
	ref = reg.Addr + "/debian:12"
	skopeo(t, e, "copy", "--insecure-policy", "--dest-tls-verify=false", "docker-archive:"+archive, "docker://"+ref)
	return ref
}

func digestOf(t *testing.T, e *testkit.Engine, ref string) string {
	t.Helper()
	var got struct{ Digest string }
	out := skopeo(t, e, "inspect", "--tls-verify=false", "docker://"+ref)
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Digest == "" {
		t.Fatalf("skopeo inspect: %v\n%s", err, out)
	}
	return got.Digest
}

func TestDebianFromARegistry(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	ref := pushedDebian(t, e)
	digest := digestOf(t, e, ref)
	host, _, _ := strings.Cut(ref, "/")

	out := e.Must("pull", ref)
	for _, want := range []string{"12: Pulling from debian", "Pull complete", "Digest: " + digest, "Status: Downloaded newer image for " + ref, ref} {
		if !strings.Contains(out, want) {
			t.Errorf("pull does not say %q:\n%s", want, out)
		}
	}
	if again := e.Must("pull", ref); !strings.Contains(again, "Image is up to date for "+ref) {
		t.Errorf("second pull:\n%s", again)
	}
	if got := e.Must("images", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}"); got != ref+" "+digest {
		t.Errorf("images: %q", got)
	}
	if got := e.Must("run", "--rm", "--network", "none", ref, "sh", "-c", ". /etc/os-release; echo $ID $VERSION_ID"); got != "debian 12" {
		t.Errorf("run: %q", got)
	}
	if got := e.Must("history", "--no-trunc", "--format", "{{.ID}}", ref); !strings.HasPrefix(got, "sha256:") {
		t.Errorf("history: %q", got)
	}

	e.Must("tag", ref, host+"/other/copy:v1")
	push := e.Must("push", host+"/other/copy:v1")
	if !strings.Contains(push, "v1: digest: "+digest+" size: ") {
		t.Errorf("push:\n%s", push)
	}
	if got := digestOf(t, e, host+"/other/copy:v1"); got != digest {
		t.Errorf("skopeo reads %s back, want %s", got, digest)
	}

	id := e.Must("inspect", "-f", "{{.Id}}", ref)
	e.Must("rmi", ref)
	e.Must("rmi", host+"/other/copy:v1")
	if left := e.Must("images", "-aq"); left != "" {
		t.Errorf("images after rmi: %q", left)
	}
	// By digest: no tag, the same image.
	e.Must("pull", strings.TrimSuffix(ref, ":12")+"@"+digest)
	if got := e.Must("inspect", "-f", "{{.Id}} {{.RepoTags}}", id[:19]); got != id+" []" {
		t.Errorf("pulled by digest: %q, want %s []", got, id)
	}
	e.Must("run", "--rm", "--network", "none", id[7:19], "true")
}

func TestTerminalSessionInDebian(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	ref := pushedDebian(t, e)
	p := e.Terminal("run", "--rm", "-it", "--name", "session", ref, "bash")
	p.Expect("/# ") // the image was pulled by run
	p.Type("stty size\r")
	p.Expect("24 80")
	p.Resize(50, 132)
	testkit.Eventually(t, "the size arrives", func() bool {
		return strings.HasPrefix(e.Berth("exec", "session", "sh", "-c", "stty size < /dev/pts/0").Stdout, "50 132")
	})
	p.Type("echo $TERM; tty\r")
	p.Expect("xterm")
	p.Expect("/dev/pts/0")
	p.Type("sleep 100\r")
	testkit.Eventually(t, "sleep runs", func() bool { return strings.Contains(e.Berth("top", "session").Stdout, "sleep 100") })
	p.Type("\x03")
	p.Expect("/# ")
	if !p.Raw() {
		t.Error("the terminal is not in raw mode while the session goes on")
	}
	// Detach, attach again, leave.
	p.Type("\x10\x11")
	if code := p.Exit(); code != 0 {
		t.Errorf("detach: exit %d", code)
	}
	if p.Raw() {
		t.Error("the terminal stays in raw mode after detaching")
	}
	p = e.Terminal("attach", "session")
	p.Type("echo back again\r")
	p.Expect("back again\r\n")
	p.Type("exit 5\r")
	if code := p.Exit(); code != 5 {
		t.Errorf("attach ends with %d, want 5", code)
	}
	testkit.Eventually(t, "--rm removed it", func() bool { return e.Must("ps", "-aq") == "" })
}

func TestExecOnATerminal(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "box", "busybox", "sleep", "1000")
	p := e.Terminal("exec", "-it", "box", "sh")
	p.Expect("# ")
	p.Type("tty; echo $((6*7))\r")
	p.Expect("/dev/pts/")
	p.Expect("42")
	p.Type("exit 3\r")
	if code := p.Exit(); code != 3 {
		t.Errorf("exit %d, want 3", code)
	}
	r := e.Run("x", filepath.Join(e.Bin, "berth"), "exec", "-it", "box", "sh")
	if r.Code != 1 || !strings.Contains(r.Stderr, "the input device is not a TTY") {
		t.Errorf("-it with piped stdin: exit %d, %q", r.Code, r.Stderr)
	}
}

func TestRegistryFailuresAreOneLine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	closed := "127.0.0.1:1"
	for _, tt := range []struct{ ref, want string }{
		{reg.Addr + "/no/such:1", `manifest for ` + regexp.QuoteMeta(reg.Addr) + `/no/such:1 not found|repository does not exist|manifest unknown|not found`},
		{reg.Addr + "/no/such@sha256:" + strings.Repeat("0", 64), `not found|manifest unknown`},
		{closed + "/x:1", `connection refused`},
		{"Bad:Ref:Erence", `invalid reference format`},
	} {
		r := e.Berth("pull", tt.ref)
		if r.Code != 1 || !regexp.MustCompile(tt.want).MatchString(r.Stderr) || strings.Count(strings.TrimSpace(r.Stderr), "\n") > 0 {
			t.Errorf("pull %s: exit %d, %q", tt.ref, r.Code, r.Stderr)
		}
	}
	if left := e.Must("images", "-aq"); left != "" {
		t.Errorf("something half-pulled is visible: %q", left)
	}
}

func TestLoginPushPullWithPassword(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	reg := testkit.Registry(t, testkit.RegistryOptions{Auth: true})
	ref := reg.Addr + "/box:1"
	e.Must("tag", "busybox", ref)
	if r := e.Berth("push", ref); r.Code == 0 {
		t.Error("push without login succeeded")
	}
	berth := filepath.Join(e.Bin, "berth")
	if r := e.Run("wrong", berth, "login", "-u", testkit.RegistryUser, "--password-stdin", reg.Addr); r.Code == 0 || !strings.Contains(strings.ToLower(r.Stderr), "unauthorized") {
		t.Errorf("wrong password: exit %d, %q", r.Code, r.Stderr)
	}
	if r := e.Run(testkit.RegistryPassword, berth, "login", "-u", testkit.RegistryUser, "--password-stdin", reg.Addr); r.Code != 0 || !strings.Contains(r.Stdout, "Login Succeeded") {
		t.Fatalf("login: exit %d, %q %q", r.Code, r.Stdout, r.Stderr)
	}
	e.Must("push", ref)
	e.Must("rmi", ref, "busybox")
	e.MustDocker("pull", ref) // the official client uses the same config.json
	e.Must("run", "--rm", "--network", "none", ref, "true")
	e.Must("logout", reg.Addr)
	e.Must("rmi", ref)
	if r := e.Berth("pull", ref); r.Code == 0 {
		t.Error("pull after logout succeeded")
	}
}

func TestSaveAndLoad(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		archive := filepath.Join(e.Dir, c.name+".tar")
		id := c.must(e, "inspect", "-f", "{{.Id}}", "busybox")
		c.must(e, "tag", "busybox", "box:"+c.name)
		c.must(e, "save", "-o", archive, "box:"+c.name)
		c.must(e, "rmi", "box:"+c.name)
		if out := c.must(e, "load", "-i", archive); !strings.Contains(out, "Loaded image: box:"+c.name) {
			t.Errorf("load: %q", out)
		}
		if got := c.must(e, "inspect", "-f", "{{.Id}}", "box:"+c.name); got != id {
			t.Errorf("loaded %s, saved %s", got, id)
		}
		for _, form := range []string{"docker-archive:", "oci-archive:"} {
			skopeo(t, e, "inspect", form+archive)
		}
		c.must(e, "rmi", "box:"+c.name)
	})
}
