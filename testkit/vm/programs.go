package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"berth/testkit"
)

// GuestBin is where the programs under test are in the guest.
const GuestBin = "/usr/lib/berth-test"

// InstallPrograms builds Berth's programs from the tree as it is and copies them to GuestBin.
func (m *Machine) InstallPrograms(ctx context.Context) error {
	bin := filepath.Join(m.Share(), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for _, p := range testkit.Programs() {
		if err := Go(ctx, "build", "-trimpath", "-o", filepath.Join(bin, p), "./cmd/"+p); err != nil {
			return err
		}
	}
	line := fmt.Sprintf("mkdir -p %[1]s && for p in /share/bin/*; do cp $p %[1]s/.new && mv %[1]s/.new %[1]s/${p##*/} || exit 1; done", GuestBin)
	if out, err := m.Command(ctx, line).CombinedOutput(); err != nil {
		return fmt.Errorf("copy programs into the guest: %w: %s", err, out)
	}
	return nil
}

// InstallTools puts copies of the programs that `make tools` built over the tree's: a program that
// is run from a shared directory is read page by page, which takes Docker's client ten seconds.
func (m *Machine) InstallTools(ctx context.Context) error {
	tools := filepath.Join(testkit.Root(), "bin", "tools")
	if _, err := os.Stat(tools); err != nil {
		return nil // none were built
	}
	line := fmt.Sprintf("{ ! mountpoint -q '%[1]s' || umount '%[1]s'; } && mkdir -p %[2]s/tools && cp -ru '%[1]s'/. %[2]s/tools && mount --bind %[2]s/tools '%[1]s'", tools, GuestBin)
	if out, err := m.Command(ctx, line).CombinedOutput(); err != nil {
		return fmt.Errorf("copy tools into the guest: %w: %s", err, out)
	}
	return nil
}

// Go runs the go tool in the tree, for static programs.
func Go(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = testkit.Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, out)
	}
	return nil
}
