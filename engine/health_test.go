package engine

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"berth/supervisor"
)

func TestHealthOfAConfiguration(t *testing.T) {
	defaults := supervisor.Health{Interval: 30 * time.Second, Timeout: 30 * time.Second, StartInterval: 5 * time.Second, Retries: 3}
	with := func(test ...string) *supervisor.Health {
		h := defaults
		h.Test = test
		return &h
	}
	for _, c := range []struct {
		name  string
		cfg   *container.HealthConfig
		shell []string
		want  *supervisor.Health
	}{
		{"none", nil, nil, nil},
		{"NONE", &container.HealthConfig{Test: []string{"NONE"}}, nil, nil},
		{"only times", &container.HealthConfig{Interval: time.Second}, nil, nil},
		{"CMD", &container.HealthConfig{Test: []string{"CMD", "curl", "-f", "x"}}, []string{"/bin/bash", "-c"}, with("curl", "-f", "x")},
		{"CMD-SHELL", &container.HealthConfig{Test: []string{"CMD-SHELL", "curl -f x || exit 1"}}, nil, with("/bin/sh", "-c", "curl -f x || exit 1")},
		{"the image's shell", &container.HealthConfig{Test: []string{"CMD-SHELL", "true"}}, []string{"/bin/bash", "-eo", "pipefail", "-c"}, with("/bin/bash", "-eo", "pipefail", "-c", "true")},
		{"all of it", &container.HealthConfig{Test: []string{"CMD", "x"}, Interval: 1e9, Timeout: 2e9, StartPeriod: 3e9, StartInterval: 4e9, Retries: 5}, nil,
			&supervisor.Health{Test: []string{"x"}, Interval: 1e9, Timeout: 2e9, StartPeriod: 3e9, StartInterval: 4e9, Retries: 5}},
	} {
		if d := cmp.Diff(c.want, healthOf(&container.Config{Healthcheck: c.cfg, Shell: c.shell})); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}
