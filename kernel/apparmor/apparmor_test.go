package apparmor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheProfileNamesWhoMaySignalContainers(t *testing.T) {
	for engine, want := range map[string]string{
		"unconfined":        "peer={unconfined,berthd,berth-shim,berth-runtime,runc,crun,runsc},",
		"":                  "peer={unconfined,berthd,berth-shim,berth-runtime,runc,crun,runsc},",
		"/usr/sbin/berthd":  "runsc,/usr/sbin/berthd},",
		"snap.berth.daemon": "runsc,snap.berth.daemon},",
		"a{b,c}*":           "runsc},", // could not be said without quoting: such an engine is not served
	} {
		if got := text(true, engine); !strings.Contains(got, want) {
			t.Errorf("for an engine under %q:\n%s\nlacks %s", engine, got, want)
		}
	}
	if strings.Contains(text(false, "unconfined"), "abi <") {
		t.Error("a parser without features' sets is given one")
	}
}

// The text is compiled for the features that kernels have, without asking this one.
func TestTheParserTakesTheProfile(t *testing.T) {
	path, err := parser()
	if err != nil {
		t.Skip("apparmor_parser is not installed")
	}
	sets, _ := filepath.Glob("/etc/apparmor.d/abi/*")
	if len(sets) == 0 {
		t.Skip("no sets of features are installed")
	}
	for _, set := range sets {
		for _, abi := range []bool{true, false} {
			cmd := exec.Command(path, "--skip-kernel-load", "--skip-cache", "--features-file", set)
			cmd.Stdin = strings.NewReader(text(abi, "unconfined"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("features %s, abi %v: %v: %s", set, abi, err, out)
			}
		}
	}
}

func TestAProfileIsFoundInApparmorfs(t *testing.T) {
	dir := t.TempDir()
	add := func(entry, name, hashFile string) {
		os.Mkdir(filepath.Join(dir, entry), 0o755)
		os.WriteFile(filepath.Join(dir, entry, "name"), []byte(name+"\n"), 0o644)
		if hashFile != "" {
			os.WriteFile(filepath.Join(dir, entry, hashFile), []byte("abc\n"), 0o644)
		}
	}
	add("berth-default.d.3", "berth-default.d", "sha1")
	if e, ok := find(dir, Default); ok {
		t.Errorf("found %v, which is another one", e)
	}
	add("berth-default.7", "berth-default", "sha1")
	e, ok := find(dir, Default)
	if !ok || e != (Entry{filepath.Join(dir, "berth-default.7"), "abc"}) || !e.Present() {
		t.Errorf("found %v %v", e, ok)
	}
	os.RemoveAll(e.Dir)
	if e.Present() || (Entry{}).Present() {
		t.Error("a profile that is gone is present")
	}
	add("berth-default.8", "berth-default", "")
	if e, ok := find(dir, Default); !ok || e.Hash != "" {
		t.Errorf("without a hash: %v %v", e, ok)
	}
}

func TestLabelsAreRead(t *testing.T) {
	for label, want := range map[string]string{
		"unconfined\n":                "unconfined",
		"berth-default (enforce)\n":   "berth-default",
		"/usr/bin/a b (complain)\x00": "/usr/bin/a b",
		"a//b (enforce)":              "a//b",
		"":                            "",
	} {
		if got := bare(label); got != want {
			t.Errorf("%q is of %q, not %q", label, got, want)
		}
	}
	list := "man_groff (enforce)\nberth-default (enforce)\nx//y (complain)\n"
	for name, want := range map[string]bool{"berth-default": true, "x//y": true, "x": false, "berth": false} {
		if listed(list, name) != want {
			t.Errorf("%q listed: %v", name, !want)
		}
	}
}
