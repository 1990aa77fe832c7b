package test

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// noisyTar is a layer of one file that no compression makes smaller, always the same for a
// seed.
func noisyTar(t *testing.T, name string, seed uint64, size int) []byte {
	t.Helper()
	src := rand.New(rand.NewPCG(seed, 2))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(src.Uint32())
	}
	var out strings.Builder
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil || w.Close() != nil {
		t.Fatal("tar failed")
	}
	return []byte(out.String())
}

// layeredImage is an image with busybox and three layers of noise in a registry.
func layeredImage(t *testing.T) (*testkit.RegistryServer, testkit.PushedImage) {
	t.Helper()
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	box, err := os.ReadFile(testkit.BusyboxTar(t))
	if err != nil {
		t.Fatal(err)
	}
	return reg, reg.PushImage("box:1", box, noisyTar(t, "a", 1, 700<<10), noisyTar(t, "b", 2, 300<<10), noisyTar(t, "c", 3, 5<<10))
}

// A registry that fails in every way now and then: each path's first requests fail, each in
// a way of its own. The pull succeeds, and what it brings is right to the last byte.
func TestAPullOvercomesARegistryThatFailsInEveryWay(t *testing.T) {
	reg, img := layeredImage(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--registry-stall-timeout=1s", "--max-download-attempts=8"}})
	sums := ""
	for seed := range uint64(4) {
		proxy := testkit.NewFaultyRegistry(t, reg.Addr, seed)
		proxy.Fail(1+int(seed%2), testkit.DownloadFaults...)
		ref := proxy.Addr + "/box:1"
		r := e.Berth("pull", ref)
		if r.Code != 0 {
			t.Errorf("seed %d: exit %d, %s\n%s", seed, r.Code, r.Stderr, strings.Join(proxy.Log(), "\n"))
			continue
		}
		if got := e.Must("image", "inspect", "-f", "{{.Id}} {{.RepoDigests}}", ref); got != fmt.Sprintf("%s [%s/box@%s]", img.ID, proxy.Addr, img.Digest) {
			t.Errorf("seed %d: got %s, want %s", seed, got, img.ID)
		}
		got := e.Must("run", "--rm", "--network", "none", ref, "sha256sum", "/a", "/b", "/c", "/bin/busybox")
		if sums == "" {
			sums = got
		}
		if got != sums || strings.Count(got, "\n") != 3 {
			t.Errorf("seed %d: the files are\n%s, were\n%s", seed, got, sums)
		}
		e.Must("rmi", ref)
		testkit.Eventually(t, "what was removed is gone", func() bool { return len(leftovers(e)) == 0 })
	}
}

// A registry that fails in one way for ever: the pull ends with one line, and nothing of
// the image is to be seen.
func TestAPullFromABrokenRegistryEndsWithOneLineAndNoImage(t *testing.T) {
	reg, img := layeredImage(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--registry-stall-timeout=2s", "--max-download-attempts=2"}})
	proxy := testkit.NewFaultyRegistry(t, reg.Addr, 7)
	for fault, want := range map[testkit.Fault]string{
		testkit.FaultReset:          `connection reset|EOF`,
		testkit.FaultStall:          `the registry stopped answering`,
		testkit.FaultTooMany:        `toomanyrequests`,
		testkit.FaultUnavailable:    `503 Service Unavailable`,
		testkit.FaultRedirectLoop:   `redirected more than 10 times`,
		testkit.FaultTruncated:      `EOF|only \d+ of \d+ bytes`,
		testkit.FaultCorrupted:      `digest|not JSON|the registry calls it`,
		testkit.FaultStallInBody:    `the registry stopped answering`,
		testkit.FaultLengthTooShort: `bytes|digest|not JSON|the registry calls it`,
		testkit.FaultWrongDigest:    `digest|the registry calls it`,
	} {
		proxy.Fail(-1, fault)
		refused(t, e.Berth("pull", proxy.Addr+"/box:1"), 1, want)
		if got := e.Must("images", "-aq"); got != "" {
			t.Errorf("%s: there is %q", fault, got)
		}
		testkit.Eventually(t, "nothing is left of "+string(fault), func() bool { return len(leftovers(e)) == 0 })
	}
	proxy.Fail(0)
	e.Must("pull", proxy.Addr+"/box:1")
	if got := e.Must("image", "inspect", "-f", "{{.Id}}", proxy.Addr+"/box:1"); got != img.ID {
		t.Errorf("got %s, want %s", got, img.ID)
	}
	target := testkit.NewFaultyRegistry(t, testkit.Registry(t, testkit.RegistryOptions{}).Addr, 1)
	target.Fail(-1, testkit.FaultUploadReset)
	e.Must("tag", proxy.Addr+"/box:1", target.Addr+"/other:1")
	refused(t, e.Berth("push", target.Addr+"/other:1"), 1, `connection reset|broken pipe|EOF|closed`)
}

func TestAPushOvercomesARegistryThatFailsInEveryWay(t *testing.T) {
	_, img := layeredImage(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--registry-stall-timeout=1s", "--max-download-attempts=8"}})
	e.Must("pull", img.Ref)
	for seed := range uint64(3) {
		target := testkit.Registry(t, testkit.RegistryOptions{})
		proxy := testkit.NewFaultyRegistry(t, target.Addr, seed)
		proxy.Fail(1+int(seed%2), testkit.UploadFaults...)
		ref := proxy.Addr + "/copy:1"
		e.Must("tag", img.Ref, ref)
		if r := e.Berth("push", ref); r.Code != 0 || !strings.Contains(r.Stdout, img.Digest) {
			t.Errorf("seed %d: exit %d, %s\n%s", seed, r.Code, r.Stderr, strings.Join(proxy.Log(), "\n"))
			continue
		}
		// Everything is there, and right.
		skopeo(t, e, "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+target.Addr+"/copy:1", "dir:"+filepath.Join(e.Dir, "copy"))
		if got := digestOf(t, e, target.Addr+"/copy:1"); got != img.Digest {
			t.Errorf("seed %d: the registry has %s, want %s", seed, got, img.Digest)
		}
		if err := os.RemoveAll(filepath.Join(e.Dir, "copy")); err != nil {
			t.Error(err)
		}
	}
}
