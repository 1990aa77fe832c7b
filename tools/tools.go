//go:build tools

// Package tools pins the linter and the test clients.
package tools

import (
	_ "github.com/docker/cli/cmd/docker"
	_ "honnef.co/go/tools/cmd/staticcheck"
)
