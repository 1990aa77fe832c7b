package server

import (
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"berth/engine"
)

// statusText is the column that people read: "Up 5 minutes", "Exited (0) 3 seconds ago".
func statusText(s engine.State, now time.Time) string {
	switch s.Status {
	case "running":
		up := "Up " + units.HumanDuration(since(s.StartedAt, now))
		switch h := s.Health; {
		case h == nil:
			return up
		case h.Status == container.Starting:
			return up + " (health: starting)"
		default:
			return up + " (" + string(h.Status) + ")"
		}
	case "paused":
		return "Up " + units.HumanDuration(since(s.StartedAt, now)) + " (Paused)"
	case "restarting":
		return fmt.Sprintf("Restarting (%d) %s", s.ExitCode, humanAgo(since(s.FinishedAt, now)))
	case "removing":
		return "Removal In Progress"
	case "dead":
		return "Dead"
	case "created":
		return "Created"
	}
	if s.FinishedAt.IsZero() {
		return ""
	}
	return fmt.Sprintf("Exited (%d) %s", s.ExitCode, humanAgo(since(s.FinishedAt, now)))
}

// commandText is the command as one line: arguments with spaces are quoted.
func commandText(c engine.Container) string {
	if c.Path == "" {
		return ""
	}
	parts := make([]string, 0, 1+len(c.Args))
	parts = append(parts, c.Path)
	for _, a := range c.Args {
		if strings.Contains(a, " ") {
			a = "'" + a + "'"
		}
		parts = append(parts, a)
	}
	return strings.Join(parts, " ")
}

// healthSummary is the health of a container in lists.
func healthSummary(s engine.State) *container.HealthSummary {
	if s.Health == nil {
		return &container.HealthSummary{Status: container.NoHealthcheck}
	}
	return &container.HealthSummary{Status: s.Health.Status, FailingStreak: s.Health.FailingStreak}
}
