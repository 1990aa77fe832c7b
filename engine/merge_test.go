package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/images"
)

func imageWith(c ocispec.ImageConfig, raw string) images.Image {
	return images.Image{Config: ocispec.Image{Config: c}, RawConfig: []byte(raw)}
}

func TestCommandAndEntrypointMerge(t *testing.T) {
	img := imageWith(ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"serve", "-v"}}, "")
	plain := imageWith(ocispec.ImageConfig{}, "")
	for _, c := range []struct {
		name       string
		img        images.Image
		entry, cmd []string
		want       string
	}{
		{"all from the image", img, nil, nil, "/entry serve -v"},
		{"a command replaces the image's", img, nil, []string{"x"}, "/entry x"},
		{"an entrypoint makes the image's command meaningless", img, []string{"/own"}, nil, "/own"},
		{"an entrypoint with a command", img, []string{"/own"}, []string{"x"}, "/own x"},
		{"an empty entrypoint takes the image's away", img, []string{""}, []string{"x"}, "x"},
		{"an empty entrypoint alone leaves nothing", img, []string{""}, nil, ""},
		{"an empty list takes the image's away but keeps its command", img, []string{}, nil, "serve -v"},
		{"an image without any", plain, nil, []string{"sh"}, "sh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := &container.Config{Entrypoint: c.entry, Cmd: c.cmd}
			if err := mergeImage(cfg, c.img); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(commandOf(cfg), " "); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if err := checkConfig(cfg); (err != nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), "No command specified") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestMergeFillsInWhatTheRequestLeavesOut(t *testing.T) {
	img := imageWith(ocispec.ImageConfig{
		User: "u", WorkingDir: "/w/", StopSignal: "SIGINT", Env: []string{"A=i", "B=i"}, Cmd: []string{"x"},
		Labels: map[string]string{"a": "i", "b": "i"}, ExposedPorts: map[string]struct{}{"80": {}}, Volumes: map[string]struct{}{"/v": {}},
	}, `{"config":{"Healthcheck":{"Test":["CMD","true"],"Interval":5000000000,"Retries":2},"Shell":["/bin/ash"]}}`)
	cfg := &container.Config{Env: []string{"B=own", "C"}, Labels: map[string]string{"b": "own"},
		Healthcheck: &container.HealthConfig{Timeout: time.Second}}
	if err := mergeImage(cfg, img); err != nil {
		t.Fatal(err)
	}
	if err := checkConfig(cfg); err != nil {
		t.Fatal(err)
	}
	want := &container.HealthConfig{Test: []string{"CMD", "true"}, Interval: 5 * time.Second, Timeout: time.Second, Retries: 2}
	if d := cmp.Diff(want, cfg.Healthcheck); d != "" {
		t.Error(d)
	}
	if cfg.User != "u" || cfg.WorkingDir != "/w" || cfg.StopSignal != "SIGINT" || cfg.Shell[0] != "/bin/ash" {
		t.Errorf("%+v", cfg)
	}
	if want := []string{"B=own", "C", "A=i"}; !slices.Equal(cfg.Env, want) {
		t.Errorf("env %v", cfg.Env)
	}
	if cfg.Labels["a"] != "i" || cfg.Labels["b"] != "own" || len(cfg.ExposedPorts) != 1 || len(cfg.Volumes) != 1 {
		t.Errorf("%+v", cfg)
	}
}

func TestEnvironmentOrderAndRemoval(t *testing.T) {
	got := environment(&container.Config{Hostname: "h", Tty: true, Env: []string{"A=1", "PATH=/x", "E="}}, []string{"A=2", "HOSTNAME", "N=3"})
	if want := []string{"PATH=/x", "TERM=xterm", "A=2", "E=", "N=3"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestBadConfigsAreRefusedInOneLine(t *testing.T) {
	for name, change := range map[string]func(*container.Config){
		"relative working directory": func(c *container.Config) { c.WorkingDir = "w" },
		"variable without a name":    func(c *container.Config) { c.Env = []string{"=x"} },
		"unknown stop signal":        func(c *container.Config) { c.StopSignal = "SIGNOPE" },
		"volume at the root":         func(c *container.Config) { c.Volumes = map[string]struct{}{"/": {}} },
		"host name with a space":     func(c *container.Config) { c.Hostname = "a b" },
		"NUL in the command":         func(c *container.Config) { c.Cmd = []string{"a\x00b"} },
	} {
		cfg := &container.Config{Cmd: []string{"x"}}
		change(cfg)
		if err := checkConfig(cfg); !fail.Is(err, fail.Invalid) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"web": true, "/web": true, "a1_.-": true, "": false, "a": false, "-x": false, "a b": false, "a/b": false, "ümlaut": false} {
		if _, err := checkName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	for n := range 200 {
		if _, err := checkName(madeUpName(n)); err != nil {
			t.Error(err)
		}
	}
	if len(adjectives) < 100 || len(surnames) < 150 {
		t.Errorf("%d adjectives, %d surnames", len(adjectives), len(surnames))
	}
}
