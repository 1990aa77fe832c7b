package engine

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"berth/kernel/apparmor"
)

// fakeProfiles stand for the kernel's: an entry is a directory.
type fakeProfiles struct {
	dir   string
	hash  string
	loads int
	fail  error
}

func (f *fakeProfiles) find() (apparmor.Entry, bool) {
	_, err := os.Stat(f.dir)
	return apparmor.Entry{Dir: f.dir, Hash: f.hash}, err == nil
}

func (f *fakeProfiles) load(context.Context) error {
	f.loads++
	if f.fail != nil {
		return f.fail
	}
	return os.MkdirAll(f.dir, 0o755)
}

func (f *fakeProfiles) keeper(t *testing.T, record, source string) (*profileKeeper, *bytes.Buffer) {
	log := new(bytes.Buffer)
	return &profileKeeper{
		kernel: profileKernel{find: f.find, load: f.load, source: source,
			loaded: func(name string) (bool, bool) { return name == "mine", !strings.HasPrefix(name, ":") }},
		record: record, log: slog.New(slog.NewTextHandler(log, nil)), turn: make(chan struct{}, 1),
	}, log
}

func TestTheDefaultProfileIsLoadedWhenItHasTo(t *testing.T) {
	dir := t.TempDir()
	f := &fakeProfiles{dir: filepath.Join(dir, "berth-default.1"), hash: "a"}
	record := filepath.Join(dir, "apparmor.json")
	ctx := context.Background()
	step := func(what, source string, loads int) *profileKeeper {
		t.Helper()
		k, _ := f.keeper(t, record, source)
		for range 2 {
			if err := k.ensure(ctx); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		if f.loads != loads {
			t.Fatalf("%s: loaded %d times, not %d", what, f.loads, loads)
		}
		return k
	}
	step("a fresh machine", "text 1", 1)
	step("the next engine", "text 1", 1)
	step("an engine with another text", "text 2", 2)
	f.hash = "b"
	step("somebody has loaded another one", "text 2", 3)
	step("an administrator's own profile that is loaded", "", 3)
	os.Remove(record)
	step("an engine that knows nothing", "text 2", 4)
	k := step("the same again", "text 2", 4)
	os.Remove(f.dir)
	if err := k.ensure(ctx); err != nil || f.loads != 5 {
		t.Errorf("a profile that was removed: loaded %d times, %v", f.loads, err)
	}
	log := new(bytes.Buffer)
	k.log = slog.New(slog.NewTextHandler(log, nil))
	os.Remove(f.dir)
	f.fail = errors.New("syntax error")
	err := k.ready(ctx, apparmor.Default)
	if err == nil || err.Error() != "load the AppArmor profile berth-default: syntax error; --security-opt apparmor=unconfined runs a container without it" {
		t.Errorf("a profile that cannot be loaded: %v", err)
	}
	f.fail = nil
	if err := k.ready(ctx, apparmor.Default); err != nil || !strings.Contains(log.String(), "somebody had removed") {
		t.Errorf("%v, log: %s", err, log)
	}
}

func TestAProfileThatIsNotLoadedIsSaid(t *testing.T) {
	k, _ := new(fakeProfiles).keeper(t, "/nonexistent", "x")
	ctx := context.Background()
	for _, good := range []string{"", "unconfined", "mine", ":ns:unknowable"} {
		if err := k.ready(ctx, good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	err := k.ready(ctx, "nope")
	if err == nil || err.Error() != `the AppArmor profile "nope" is not loaded: load it with apparmor_parser first` {
		t.Errorf("%v", err)
	}
}

func TestProcessesGetTheirProfile(t *testing.T) {
	with, _ := new(fakeProfiles).keeper(t, "/nonexistent", "x")
	without, _ := new(fakeProfiles).keeper(t, "/nonexistent", "x")
	without.lacks = "the program is missing"
	confined, _ := new(fakeProfiles).keeper(t, "/nonexistent", "x")
	confined.lacks, confined.stays = "it is in a container itself", true
	for name, c := range map[string]struct {
		keeper     *profileKeeper
		privileged bool
		opt        string
		want       string
	}{
		"ordinary":                           {with, false, "", "berth-default"},
		"privileged":                         {with, true, "", "unconfined"},
		"privileged and a profile":           {with, true, "apparmor=mine", "mine"},
		"named":                              {with, false, "apparmor=mine", "mine"},
		"named the old way":                  {with, false, "apparmor:mine", "mine"},
		"unconfined":                         {with, false, "apparmor=unconfined", "unconfined"},
		"without the parser":                 {without, false, "", "unconfined"},
		"an engine that is confined":         {confined, false, "", ""},
		"privileged, by one that is":         {confined, true, "", ""},
		"without the parser, named":          {without, false, "apparmor=mine", "mine"},
		"a kernel without AppArmor":          {nil, false, "", ""},
		"a kernel without AppArmor, asked":   {nil, false, "apparmor=unconfined", ""},
		"a kernel without, and privileged":   {nil, true, "", ""},
		"a profile is given twice: the last": {with, false, "apparmor=a apparmor=mine", "mine"},
	} {
		m := testMaker()
		m.profile, m.host.apparmor = c.keeper, c.keeper != nil
		h := &container.HostConfig{Privileged: c.privileged, SecurityOpt: strings.Fields(c.opt)}
		cnt := Container{Path: "sh", Config: &container.Config{}, HostConfig: h}
		p, err := m.process(cnt)
		if err != nil || p.ApparmorProfile != c.want {
			t.Errorf("%s: %q, %v; want %q", name, p.ApparmorProfile, err, c.want)
			continue
		}
		// An exec is confined as the container is, privileged or not.
		cnt.AppArmorProfile = c.want
		for _, privileged := range []bool{false, true} {
			p, err := m.execProcess(cnt, ExecRequest{Cmd: []string{"ps"}, Privileged: privileged}, 0, 0)
			if err != nil || p.ApparmorProfile != c.want {
				t.Errorf("exec in %s: %q, %v", name, p.ApparmorProfile, err)
			}
		}
	}
	if w := without.warning(); w != "AppArmor is enabled, but containers run without the profile berth-default: the program is missing" {
		t.Errorf("warning: %s", w)
	}
	if (*profileKeeper)(nil).warning() != "" || with.warning() != "" {
		t.Error("a warning without a reason")
	}
}
