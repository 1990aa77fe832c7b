// Package berth is the root of the module; it holds no code. ARCHITECTURE.md tells
// where everything is, arch_test.go which package may import which.
package berth
