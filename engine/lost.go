package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/supervisor"
)

// lastWord waits for the exit record of a container whose shim is gone. A shim that was
// killed has a guardian, which ends the container, leaves the record and then deletes
// the shim's state file. Class NotFound: there is no record, and there will be none.
func lastWord(ctx context.Context, dir, runDir string) (supervisor.ExitRecord, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return supervisor.ReadExit(dir)
	}
	changes := os.NewFile(uintptr(fd), "inotify")
	defer changes.Close()
	for _, d := range []string{dir, runDir} {
		_, err := unix.InotifyAddWatch(fd, d, unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_DELETE_SELF)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return supervisor.ExitRecord{}, fmt.Errorf("watch %s: %w", d, err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = changes.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, 4096)
	for {
		// The state file is looked for first: it goes after the record has come.
		_, working := os.Stat(filepath.Join(runDir, "state.json"))
		rec, err := supervisor.ReadExit(dir)
		if !fail.Is(err, fail.NotFound) || working != nil || ctx.Err() != nil {
			return rec, err
		}
		if _, err := changes.Read(buf); err != nil && ctx.Err() == nil {
			return rec, fmt.Errorf("wait for the exit record: %w", err)
		}
	}
}
