package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
)

// onUnhealthy is a restart policy beyond Docker's.
const onUnhealthy = "on-unhealthy"

// restartHelp is the help of --restart.
const restartHelp = "Restart policy to apply when a container exits: no, always, unless-stopped, on-failure[:max], or " +
	onUnhealthy + "[:max]: on failure, and when it becomes unhealthy"

// parseHealth returns nil when no flag speaks of health: the image decides then.
func (c *containerFlags) parseHealth() (*container.HealthConfig, error) {
	set := c.healthCmd != "" || c.healthInterval != 0 || c.healthTimeout != 0 ||
		c.healthStartPeriod != 0 || c.healthStartInterval != 0 || c.healthRetries != 0
	if c.noHealthcheck {
		if set {
			return nil, errors.New("--no-healthcheck conflicts with --health-* options")
		}
		return &container.HealthConfig{Test: []string{"NONE"}}, nil
	}
	if !set {
		return nil, nil
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{
		{"health-interval", c.healthInterval},
		{"health-timeout", c.healthTimeout},
		{"health-retries", time.Duration(c.healthRetries)},
		{"health-start-period", c.healthStartPeriod},
		{"health-start-interval", c.healthStartInterval},
	} {
		if d.value < 0 {
			return nil, fmt.Errorf("--%s cannot be negative", d.flag)
		}
	}
	var test []string
	if c.healthCmd != "" {
		test = []string{"CMD-SHELL", c.healthCmd}
	}
	return &container.HealthConfig{
		Test:          test,
		Interval:      c.healthInterval,
		Timeout:       c.healthTimeout,
		StartPeriod:   c.healthStartPeriod,
		StartInterval: c.healthStartInterval,
		Retries:       c.healthRetries,
	}, nil
}
