package runtime

import "github.com/opencontainers/runtime-spec/specs-go"

func validateRDT(r *specs.LinuxIntelRdt) error { return nil }
