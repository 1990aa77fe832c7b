package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/cli/opts"
	"github.com/spf13/pflag"
)

// parseLine reads a flag line of `create` as the command does, without an engine.
func parseLine(args ...string) (*containerRequest, error) {
	flags := pflag.NewFlagSet("create", pflag.ContinueOnError)
	flags.SetInterspersed(false)
	c := registerContainerFlags(flags)
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	c.image = "alpine"
	return c.parse(flags)
}

func TestEnvironmentFilesFollowDockersRules(t *testing.T) {
	t.Setenv("SET_HERE", "here")
	file := filepath.Join(t.TempDir(), "env")
	text := "\xef\xbb\xbf# a comment\nA=1\n\n   B=2\nC= kept \nQUOTES=\"stay\"\nHASH=a#b\nDOLLAR=$A\nSET_HERE\nNOT_SET_ANYWHERE\nEMPTY=\nEQ=a=b\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := parseLine("--env-file", file, "-e", "A=2")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"A=1", "B=2", "C= kept ", `QUOTES="stay"`, "HASH=a#b", "DOLLAR=$A", "SET_HERE=here", "EMPTY=", "EQ=a=b", "A=2"}
	if !slices.Equal(r.config.Env, want) {
		t.Errorf("got %q, want %q", r.config.Env, want)
	}
}

func TestEnvironmentFilesWithBadNamesAreRefused(t *testing.T) {
	for _, text := range []string{"=value\n", "A B=1\n", "\xff\xfe=1\n"} {
		file := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := parseLine("--env-file", file); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestDevicesOfOneTwoAndThreeParts(t *testing.T) {
	for value, want := range map[string]string{
		"/dev/a":          "/dev/a /dev/a rwm",
		"/dev/a:/dev/b":   "/dev/a /dev/b rwm",
		"/dev/a:r":        "/dev/a /dev/a r",
		"/dev/a:/dev/b:m": "/dev/a /dev/b m",
		"/dev/a:/dev/b:":  "error", "/dev/a:/dev/b:rr": "error", "dev": "error", "/dev/a:b": "error", "": "error", "/a:/b:r:x": "error",
	} {
		got := "error"
		if m, err := parseDevice(value); err == nil {
			got = m.PathOnHost + " " + m.PathInContainer + " " + m.CgroupPermissions
		}
		if got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func FuzzEnvironmentFile(f *testing.F) {
	for _, seed := range []string{"A=1\n#x\nB", "A=\x00", "  =", "\xef\xbb\xbfA=b", strings.Repeat("x", 70000)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		env, err := opts.ReadKVEnvStrings([]string{file}, nil)
		if err != nil {
			return
		}
		for _, e := range env {
			key, _, found := strings.Cut(e, "=")
			if key == "" || !found || strings.ContainsAny(key, " \t\n") || strings.Contains(e, "\n") {
				t.Errorf("%q came out of %q", e, text)
			}
		}
	})
}

func FuzzMount(f *testing.F) {
	for _, seed := range []string{"type=bind,src=/a,dst=/b", `type=volume,dst=/x,"volume-opt=o=a,b"`, "type=tmpfs,target=/t,tmpfs-size=1m", ",", `"`, "dst", "type=image,src=a,dst=/b,image-subpath=c", "type=bind,src=/a,dst=/b,idmap=uids=0-1-1#5-5-1;gids=0-1-1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r, err := parseLine("--mount=" + value)
		if err != nil {
			return
		}
		if len(r.host.Mounts) != 1 || r.host.Mounts[0].Target == "" {
			t.Errorf("%q gave %+v", value, r.host.Mounts)
		}
	})
}

func FuzzVolumeDevicePort(f *testing.F) {
	for _, seed := range []string{"/a:/b:ro", "name:/x", "/anon", ".:/c", "8080:80/tcp", "[::1]:80:80", "/dev/a:/dev/b:rw", "a=b,c=d", "1-3:4-6"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if binds, anonymous, err := parseVolumes([]string{value}); err == nil && len(binds)+len(anonymous) != 1 {
			t.Errorf("volume %q gave %v and %v", value, binds, anonymous)
		}
		if m, err := parseDevice(value); err == nil && (!filepath.IsAbs(m.PathOnHost) || !filepath.IsAbs(m.PathInContainer) || !isDeviceMode(m.CgroupPermissions)) {
			t.Errorf("device %q gave %+v", value, m)
		}
		if exposed, bindings, err := parsePorts([]string{value}, nil); err == nil {
			for port := range bindings {
				if _, ok := exposed[port]; !ok {
					t.Errorf("port %q publishes %v without exposing it", value, port)
				}
			}
		}
		_, _, _ = parsePorts(nil, []string{value})
		_, _ = parseSecurity([]string{"label=" + value})
	})
}
