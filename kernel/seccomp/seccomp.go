// Package seccomp compiles the OCI runtime specification's seccomp section into
// one BPF program for all architectures that the running kernel can be asked for.
package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Program is a compiled filter and the flags of seccomp(2) to install it with.
type Program struct {
	Filter []unix.SockFilter
	Flags  uint
}

// Compile translates a profile. Names of system calls that no architecture of the
// profile knows are skipped, as libseccomp's users do; they come back in unknown.
func Compile(profile *specs.LinuxSeccomp) (p *Program, unknown []string, err error) {
	panic("contract")
}
