//go:build tools

// Package oci pins the OCI's validation programs and the program that they run inside
// containers.
package oci

import (
	_ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	_ "github.com/opencontainers/runtime-tools/validation/util"
)
