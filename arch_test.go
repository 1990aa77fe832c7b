package berth

import (
	"encoding/json"
	"os/exec"
	"path"
	"sort"
	"strings"
	"testing"
)

// ground may be imported from everywhere above it.
var ground = []string{"fail", "oci", "oci/bundle", "events", "durable", "kernel", "kernel/*", "logs", "registry", "dns", "archive", "version", "metrics"}

// allowed says, for each of our packages, which others it may import directly. An
// import that is not here is an error with the reason; DESIGN's layering follows,
// because every entry names lower layers only.
var allowed = map[string][]string{
	// ground
	"fail":               {},
	"version":            {},
	"metrics":            {},
	"oci":                {"fail", "oci/bundle"},
	"oci/bundle":         {},
	"events":             {"fail"},
	"durable":            {"fail", "oci", "events"},
	"archive":            {"fail", "kernel"},
	"kernel":             {"fail", "oci", "oci/bundle", "kernel/*"},
	"kernel/*":           {"fail", "oci", "kernel", "kernel/*"},
	"kernel/seccomp/gen": {}, // writes the system call tables
	"logs":               {"fail", "oci", "events", "durable", "kernel", "logs/remote"},
	"logs/remote":        {},
	"logs/relay":         {"logs/remote"}, // TLS, which a shim does not link
	"registry":           {"fail", "oci", "events", "version"},
	"dns":                {"fail", "durable"},
	// mechanism: never each other
	"images":        append([]string{"images/blob", "images/gunzip", "images/layer"}, ground...),
	"images/blob":   ground,
	"images/gunzip": {},
	"images/layer":  ground,
	"network":       append([]string{"network/*"}, ground...),
	"network/*":     ground,
	"volumes":       ground,
	"runtime":       ground,
	// process
	"supervisor":          append([]string{"supervisor/external", "supervisor/publish", "runtime", "logs", "dns"}, ground...),
	"supervisor/external": append([]string{"runtime"}, ground...),
	"supervisor/publish":  {"fail"},
	// core
	"engine": append([]string{"images", "network", "volumes", "logs", "supervisor", "runtime"}, ground...),
	"build":  append([]string{"images"}, ground...),
	// faces
	"api/server":          append([]string{"engine", "build", "images", "network", "volumes"}, ground...),
	"api/client":          {"api/client/contexts", "fail", "durable", "version"},
	"api/client/contexts": {"fail"},
	// clients
	"cli":     {"api/client", "api/client/contexts", "archive", "fail", "version"},
	"compose": {"api/client", "fail", "version"},
	// root
	"runtimecli":        append([]string{"runtime"}, ground...),
	"daemon":            {"*"},
	"cmd/berth":         {"cli", "fail", "version"},
	"cmd/berth-build":   {"cli", "fail", "version"},
	"cmd/berth-compose": {"compose", "fail", "version"},
	"cmd/berthd":        {"daemon", "fail", "version"},
	"cmd/berth-shim":    {"supervisor", "fail", "version"},
	"cmd/berth-runtime": {"runtimecli", "fail", "version"},
	"packaging":         {},                                         // its scripts' tests
	"packaging/man":     {"cli", "daemon", "runtimecli", "version"}, // their commands and options, to write them down
	// tests and measurements
	"testkit":   {"*"},
	"testkit/*": {"*"},
	"test":      {"*"},
	"test/*":    {"*"},
	"bench":     {"*"},
}

// rooms are private: only the package above may import them.
var rooms = map[string]string{
	"images/blob": "images", "images/gunzip": "images", "images/layer": "images",
	"network/ipam": "network", "network/firewall": "network", "network/usernet": "network",
	"supervisor/probe": "supervisor", "supervisor/external": "supervisor", "supervisor/publish": "supervisor",
}

// unlinked says what a program must not even link, at any distance, and why.
var unlinked = []struct{ program, what, why string }{
	{"cmd/berth", "berth/engine", "the command line is a pure client of the API"},
	{"cmd/berth", "berth/daemon", "the command line is a pure client of the API"},
	{"cmd/berth", "berth/images", "the command line is a pure client of the API"},
	{"cmd/berth", "go.etcd.io/bbolt", "state has one writer, the engine"},
	{"cmd/berth-shim", "net/http", "a shim's memory is counted per container"},
	{"cmd/berth-shim", "github.com/sirupsen/logrus", "a shim's memory is counted per container"},
	{"cmd/berth-shim", "github.com/spf13/cobra", "a shim's memory is counted per container"},
	{"cmd/berth-shim", "crypto/tls", "a shim's memory is counted per container"},
	{"cmd/berth-shim", "regexp", "a shim's memory is counted per container"},
	{"cmd/berth-shim", "berth/engine", "a shim must not depend on what it outlives"},
	{"cmd/berth-shim", "berth/images", "a shim must not depend on what it outlives"},
	{"cmd/berth-shim", "github.com/opencontainers/selinux", "a shim writes labels that the engine has made"},
	{"cmd/berth-runtime", "github.com/opencontainers/selinux", "the runtime writes labels that its caller has made"},
	{"cmd/berth", "github.com/opencontainers/selinux", "labels are the engine's"},
	{"cmd/berthd", "github.com/moby/buildkit/solver", "what lies below LLB is ours"},
	{"cmd/berthd", "github.com/moby/buildkit/worker", "what lies below LLB is ours"},
	{"cmd/berthd", "github.com/containerd/containerd/v2/core/snapshots", "layers are ours"},
	{"cmd/berthd", "github.com/containerd/containerd/v2/core/mount", "mounts are ours"},
	{"cmd/berthd", "berth/cli", "the engine does not know its clients"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImportsFollowTheLayering(t *testing.T) {
	for _, p := range list(t) {
		self := strings.TrimPrefix(p.ImportPath, "berth/")
		if p.ImportPath == "berth" {
			continue
		}
		may, known := lookup(allowed, self)
		if !known {
			t.Errorf("package %s has no entry in arch_test.go: say which layer it belongs to", self)
			continue
		}
		for _, imp := range p.Imports {
			other, ours := strings.CutPrefix(imp, "berth/")
			if !ours {
				continue
			}
			if owner, private := rooms[other]; private && self != owner && !strings.HasPrefix(self, owner+"/") {
				t.Errorf("%s imports %s, a private room of %s: ask %s for what you need", self, other, owner, owner)
				continue
			}
			if !matches(may, other) {
				t.Errorf("%s imports %s, which is not below it (it may import: %s)", self, other, strings.Join(may, " "))
			}
			if other == "daemon" && !strings.HasPrefix(self, "cmd/") && !strings.HasPrefix(self, "test") && self != "packaging/man" {
				t.Errorf("%s imports daemon: only cmd may", self)
			}
			if other == "testkit" && !strings.HasPrefix(self, "test") && self != "bench" {
				t.Errorf("%s imports testkit outside a test", self)
			}
		}
	}
}

func TestProgramsDoNotLinkWhatTheyMustNot(t *testing.T) {
	deps := map[string][]string{}
	for _, p := range list(t) {
		deps[strings.TrimPrefix(p.ImportPath, "berth/")] = p.Deps
	}
	for _, u := range unlinked {
		for _, d := range deps[u.program] {
			if d == u.what || strings.HasPrefix(d, u.what+"/") {
				t.Errorf("%s links %s: %s", u.program, d, u.why)
			}
		}
	}
}

func lookup(table map[string][]string, pkg string) ([]string, bool) {
	if may, ok := table[pkg]; ok {
		return may, true
	}
	may, ok := table[path.Dir(pkg)+"/*"]
	return may, ok
}

func matches(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if p == "*" || p == pkg || strings.HasSuffix(p, "/*") && path.Dir(pkg) == strings.TrimSuffix(p, "/*") {
			return true
		}
	}
	return false
}

func list(t *testing.T) []goPackage {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no Go here: the source is looked at where it is compiled")
	}
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p goPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].ImportPath < all[j].ImportPath })
	return all
}
