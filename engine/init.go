package engine

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/moby/moby/api/types/container"

	"berth/durable"
	"berth/fail"
	"berth/kernel/pid1"
	oci "berth/oci/bundle"
)

// initInside is where containers with an init find it; Docker's place.
const initInside = "/sbin/docker-init"

// initProgram is the program that containers with --init begin with.
type initProgram struct {
	own       string // where ours lies. Not below the exec root: /run is often mounted noexec
	given     string // another one to use instead (--init-path)
	byDefault bool   // also for containers that do not say whether they want one

	mu      sync.Mutex // guards written
	written bool
}

func newInitProgram(dirs layout, given string, byDefault bool) *initProgram {
	return &initProgram{own: filepath.Join(dirs.data, "docker-init"), given: given, byDefault: byDefault}
}

// wanted reports whether a container begins with an init. Where its processes are not the
// only ones, somebody else reaps them.
func (p *initProgram) wanted(h *container.HostConfig) bool {
	if !h.PidMode.IsPrivate() {
		return false
	}
	if h.Init == nil {
		return p.byDefault
	}
	return *h.Init
}

// before is the command line that starts args by the init.
func (p *initProgram) before(args []string) []string {
	return append([]string{initInside, "--"}, args...)
}

// mount brings it into the container. Ours is written when it is first needed.
func (p *initProgram) mount() (oci.Mount, error) {
	file, err := p.own, error(nil)
	if p.given == "" {
		err = p.write()
	} else if file, err = exec.LookPath(p.given); err != nil {
		err = fail.Mark(fail.Invalid, err)
	}
	if err != nil {
		return oci.Mount{}, fmt.Errorf("init for containers: %w", err)
	}
	return oci.Mount{Destination: initInside, Type: "bind", Source: file, Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev"}}, nil
}

func (p *initProgram) write() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.written {
		return nil
	}
	program, err := pid1.Program()
	if err != nil {
		return fail.Mark(fail.NotImplemented, err)
	}
	if have, err := os.ReadFile(p.own); err != nil || !bytes.Equal(have, program) {
		// Containers of an earlier version keep the file that they have.
		if err := durable.WriteFile(p.own, program, 0o755); err != nil {
			return err
		}
	}
	p.written = true
	return nil
}
