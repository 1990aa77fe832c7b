package test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/testkit"
)

// step is a command line and what it must say: on standard output if it succeeds, otherwise on
// standard error.
type step struct {
	line string
	code int
	want string
}

func (s step) run(t *testing.T, e *testkit.Engine) {
	t.Helper()
	args := strings.Fields(s.line)
	for n, a := range args {
		args[n] = strings.ReplaceAll(a, "␣", " ")
	}
	r := e.Berth(args...)
	said := r.Stdout
	if s.code != 0 {
		said = r.Stderr
	}
	if r.Code != s.code || !regexp.MustCompile(s.want).MatchString(said) {
		t.Errorf("berth %s: exit %d (want %d), want %s, said %q %q", s.line, r.Code, s.code, s.want, r.Stdout, r.Stderr)
	}
}

// TestOptionsThatNoOtherTestNeeds is what is left of the command line: one use of each, and what
// it changes.
func TestOptionsThatNoOtherTestNeeds(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	hub := testkit.Registry(t, testkit.RegistryOptions{})
	locked := testkit.Registry(t, testkit.RegistryOptions{Auth: true})
	file := func(name string) string { return filepath.Join(e.Dir, name) }
	write(t, file("note"), "text")
	if err := os.Chown(file("note"), 1001, 1002); err != nil {
		t.Fatal(err)
	}
	e.Must("save", "-o", file("saved.tar"), "busybox")
	e.Must("run", "-d", "--name", "box", "--network", "none", "--label", "l=1", "busybox", "sh", "-c", "echo said; echo x > /new; sleep 1000")
	testkit.Eventually(t, "it has said something", func() bool { return e.Must("logs", "box") == "said" })
	index := httptest.NewServer(http.HandlerFunc(searchIndex))
	defer index.Close()
	r := strings.NewReplacer("INDEX", strings.TrimPrefix(index.URL, "http://"), "HUB", hub.Addr, "LOCKED", locked.Addr, "DIR", e.Dir, "HOST", e.Host)
	for _, s := range []step{
		{"--version", 0, `^Berth version `},
		{"--debug --log-level debug version --format {{.Server.Os}}", 0, `^linux\n`},
		{"--config DIR/conf login -u berth --password secret LOCKED", 0, `Login Succeeded`},
		{"--config DIR/conf logout LOCKED", 0, `Removing login credentials`},
		{"context create here --description mine --docker host=HOST", 0, `here`},
		{"--context here ps --format {{.Names}}", 0, `^box\n`},
		{"context create second --from here", 0, `second`},
		{"context update --description other --docker host=tcp://127.0.0.1:9 second", 0, `second`},
		{"context inspect --format {{.Metadata.Description}}:{{.Endpoints.docker.Host}} second", 0, `^other:tcp://127.0.0.1:9\n`},
		{"context ls --quiet", 0, `(?m)^second$`},
		{"context rm --force here second", 0, `here`},
		{"container", 0, `Manage containers`}, {"image", 0, `Manage images`}, {"network", 0, `Manage networks`}, {"volume", 0, `Manage volumes`}, {"system", 0, `Manage Berth`},
		{"manifest", 0, `(?i)manifest`}, {"context", 0, `(?i)contexts`}, {"builder", 0, `(?i)build`},

		{"diff box", 0, `(?m)^A /new$`},
		{"export --output DIR/exported.tar box", 0, `^$`},
		{"cp --archive DIR/note box:/tmp/note", 0, ``},
		{"exec box stat -c %u:%g:%s /tmp/note", 0, `^1001:1002:4\n`},
		{"cp --quiet box:/tmp/note DIR/back", 0, `^$`},
		{"logs --since 1h --until 1h box", 0, `^$`},
		{"logs --since 1h --until 2099-01-01T00:00:00 box", 0, `^said\n$`},
		{"logs --details --timestamps --tail 1 box", 0, `^20\S+ +said\n$`},
		{"logs --names box", 0, `box.*said`},
		{"search --limit 3 --no-trunc INDEX/busy", 0, `(?m)^busybox +small, n=3 +7`},
		{"ps --size --no-trunc --format {{.Size}}", 0, `\(virtual `},
		{"ps --last 1 --format {{.Names}}", 0, `^box\n$`}, {"ps --latest --quiet --no-trunc", 0, `^[0-9a-f]{64}\n$`},
		{"stats --no-stream --no-trunc --format {{.ID}} box", 0, `^[0-9a-f]{64}\n$`},
		{"container inspect --format {{.SizeRw}} --size box", 0, `^\d+\n$`},
		{"rename box renamed", 0, ``}, {"rename renamed box", 0, ``},
		{"update --cpuset-mems 0 box", 0, `^box\n$`},
		{"update --kernel-memory 50m box", 0, `^box\n$`},
		{"kill --signal WINCH box", 0, ``},

		{"history --human=false --format {{.Size}} busybox", 0, `^\d{7}\n`}, {"history --quiet --no-trunc busybox", 0, `^sha256:[0-9a-f]{64}\n`},
		{"images --digests", 0, `(?m)^REPOSITORY +TAG +DIGEST `},
		{"import --message hello --platform linux/arm64 DIR/exported.tar made:1", 0, `^sha256:`},
		{"inspect --type image --format {{.Comment}}/{{.Architecture}} made:1", 0, `^hello/arm64\n`},
		{"save --platform linux/arm64 --output DIR/platform.tar made:1", 0, `^$`},
		{"load --quiet --input DIR/saved.tar", 0, `^Loaded image: busybox:latest\n$`},
		{"rmi --no-prune made:1", 0, `Untagged: made:1`},
		{"tag busybox HUB/a/b:1", 0, ``}, {"tag busybox HUB/a/b:2", 0, ``},
		{"push --quiet --all-tags HUB/a/b", 0, `HUB/a/b`},
		{"push --disable-content-trust HUB/a/b:1", 0, `digest: sha256:`},
		{"rmi HUB/a/b:1 HUB/a/b:2", 0, `Untagged`},
		{"pull --quiet --all-tags HUB/a/b", 0, `HUB/a/b`},
		{"images --filter reference=HUB/a/b --format {{.Tag}}", 0, `^[12]\n[12]\n$`},
		{"pull --disable-content-trust HUB/a/b:1", 0, `Image is up to date`},
		{"rmi HUB/a/b:1 HUB/a/b:2", 0, `Untagged`},

		{"manifest create --insecure HUB/a/list:1 HUB/a/b:1", 0, `Created manifest list`},
		{"manifest create --insecure --amend HUB/a/list:1 HUB/a/b:2", 0, `Created manifest list`},
		{"manifest annotate --os linux --os-version 6.1 --os-features x HUB/a/list:1 HUB/a/b:1", 0, ``},
		{"manifest inspect --insecure HUB/a/list:1", 0, `"os.version": "6.1"`},
		{"manifest push --insecure HUB/a/list:1", 0, `sha256:`},
		{"manifest rm HUB/a/list:1", 0, ``},

		{"network create --driver bridge --ipv4=true --ipam-driver default --scope local n1", 0, `^[0-9a-f]{64}\n$`},
		{"network create --ipv6 --subnet fd00:77::/64 n2", 0, `^[0-9a-f]{64}\n$`},
		{"network create --ingress x", 1, `(?i)ingress|swarm`},
		{"network create --ipam-opt colour=red x", 1, `colour`},
		{"network create --config-only --label c=1 template", 0, `^[0-9a-f]{64}\n$`},
		{"network create --config-from template n3", 0, `^[0-9a-f]{64}\n$`},
		{"network inspect --verbose --format {{.Driver}} n1", 0, `^bridge\n`},
		{"create --name joiner --network n1 busybox sleep 1000", 0, ``},
		{"network connect --driver-opt com.docker.network.endpoint.ifname=eth7 --gw-priority 5 --ip6 fd00:77::9 n2 joiner", 0, ``},
		{"start joiner", 0, ``},
		{"exec joiner ip -6 addr show eth7", 0, `fd00:77::9/64`},
		{"inspect --format {{.NetworkSettings.Networks.n2.GwPriority}} joiner", 0, `^5\n`},
		{"network disconnect n2 joiner", 0, ``},
		{"network connect --link-local-ip 169.254.8.8 n2 joiner", 0, ``},
		{"inspect --format {{.NetworkSettings.Networks.n2.IPAMConfig.LinkLocalIPs}} joiner", 0, `^\[169.254.8.8\]\n`},
		{"create --name linked --network n1 busybox sleep 1000", 0, ``},
		{"network connect --link joiner:friend n3 linked", 0, ``},
		{"inspect --format {{.NetworkSettings.Networks.n3.Links}} linked", 0, `^\[joiner:friend\]\n`},
		{"rm -f joiner linked", 0, ``},
		{"network rm --force n1 n2 n3 template nosuch", 0, `n1`},

		{"volume create --driver local vol", 0, `^vol\n$`},
		{"volume inspect --format {{.Driver}} vol", 0, `^local\n$`},
		{"volume rm vol", 0, `^vol\n$`},

		{"system check", 0, ``}, {"system check --quiet", 0, ``}, {"system check --repair", 0, ``},
		{"system prune --force --filter label=nobody", 0, `Total reclaimed space: 0B`},
		{"builder prune --all --force --keep-storage 1GB --filter until=24h", 0, `(?i)total.*0B`},

		// What is not there.
		{"run --cpu-count 1 busybox", 125, `Windows only`}, {"run --cpu-percent 1 busybox", 125, `Windows only`},
		{"run --io-maxbandwidth 1m busybox", 125, `Windows only`}, {"run --io-maxiops 1 busybox", 125, `Windows only`},
		{"start --checkpoint x box", 1, `(?i)checkpoint`}, {"start --checkpoint-dir /x box", 1, `(?i)checkpoint`},
		{"build .", 1, `'berth build' is not part of this release yet`}, {"compose up", 1, `'berth compose' is not part of this release yet`},
		{"buildx ls", 1, `buildx`}, {"image build .", 1, `'berth build' is not part of this release yet`},
	} {
		s.line, s.want = r.Replace(s.line), r.Replace(s.want)
		s.run(t, e)
	}
	if text, err := os.ReadFile(file("back")); err != nil || string(text) != "text" {
		t.Errorf("what cp brought back: %q, %v", text, err)
	}
	e.Must("run", "--rm", "--network", "none", "-v", e.Dir+":/d", "busybox", "tar", "-tf", "/d/exported.tar", "new")

	// system dial-stdio is the far end of ssh.
	if r := e.Run("GET /_ping HTTP/1.0\r\n\r\n", filepath.Join(e.Bin, "berth"), "system", "dial-stdio"); !strings.HasSuffix(r.Stdout, "OK") {
		t.Errorf("dial-stdio: %+v", r)
	}
	p := e.Terminal("run", "-it", "--name", "keys", "--network", "none", "--detach-keys", "ctrl-x", "busybox", "sh")
	p.Expect("# ")
	p.Type("\x18")
	p.Exit()
	if got := e.Must("inspect", "-f", "{{.State.Status}}", "keys"); got != "running" {
		t.Errorf("after the detach keys it is %s", got)
	}
}
