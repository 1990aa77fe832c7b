package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"

	"berth/durable"
	"berth/fail"
	"berth/images"
	"berth/oci"
	"berth/supervisor"
)

// CommitRequest is what POST /commit brings.
type CommitRequest struct {
	Ref             reference.Named // nil: the image gets no name
	Author, Comment string
	Changes         []string          // Dockerfile lines; see images.ImportOptions
	Config          *container.Config // nil: the container's own, which else fills what is left out
	Pause           bool              // a running container stands still while its files are read
}

// mountTargets are what the engine itself mounts on. Those below /dev, /proc and /sys lie
// in file systems that are no part of the container's.
var mountTargets = []string{"/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}

// commit makes an image of the container's changes. It keeps the turn: who starts or
// removes the container waits until its files have been taken in.
func (l *lifecycle) commit(ctx context.Context, i *instance, r CommitRequest) (oci.Digest, error) {
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return "", err
	}
	defer giveBack()
	c := i.now()
	switch {
	case i.isRemoved():
		return "", fail.New(fail.NotFound, "No such container: %s", i.id)
	case c.State.Status == dead || c.State.Status == removing:
		return "", fail.New(fail.Conflict, "cannot commit container %s: its removal has begun", i.id)
	}
	cfg, err := commitConfig(c, r.Config)
	if err != nil {
		return "", err
	}
	image, err := l.images.Commit(ctx, c.Image, i.dir, images.CommitOptions{
		Ref: r.Ref, Author: r.Author, Comment: r.Comment, CreatedBy: strings.Join(c.Config.Cmd, " "),
		Config: cfg, Changes: r.Changes, Targets: mountTargets,
		Hold: func(ctx context.Context) (func(), error) { return l.hold(ctx, i, r.Pause) },
	})
	if err != nil {
		return "", err
	}
	name := ""
	if r.Ref != nil {
		name = reference.FamiliarString(reference.TagNameOnly(r.Ref))
	}
	l.ann.tell(c, "commit", "comment", r.Comment, "imageID", image.String(), "imageRef", name)
	return image, nil
}

// commitConfig is the configuration of the image, as JSON.
func commitConfig(c Container, asked *container.Config) (json.RawMessage, error) {
	own := *c.Config
	own.OnBuild = nil // of the image below: they wait for its next build, not for this one's
	if asked == nil {
		return json.Marshal(&own)
	}
	data, err := json.Marshal(map[string]any{"config": &own})
	if err != nil {
		return nil, err
	}
	below := images.Image{RawConfig: data}
	if err := json.Unmarshal(data, &below.Config); err != nil {
		return nil, err
	}
	merged := cloneConfig(asked)
	if err := mergeImage(merged, below); err != nil {
		return nil, err
	}
	return json.Marshal(merged)
}

// heldMark is a file in a container's run directory: it is paused for a commit, and an
// engine that finds it so lets it go on.
const heldMark = "held-for-commit"

// releasePatience bounds how long a shim may take to let its container go on.
const releasePatience = 10 * time.Second

// hold pauses a container that runs, if that is wanted.
func (l *lifecycle) hold(ctx context.Context, i *instance, pause bool) (release func(), err error) {
	if !pause || i.now().State.Status != running {
		return func() {}, nil
	}
	mark := filepath.Join(i.runDir, heldMark)
	if err := durable.WriteFileVolatile(mark, nil, 0o600); err != nil {
		return nil, fmt.Errorf("cannot pause container %s to commit it: %w", i.id, err)
	}
	if err := l.pause(ctx, i); err != nil {
		_ = os.Remove(mark)
		if !i.now().State.Running() { // it has ended, which does as well
			return func() {}, nil
		}
		return nil, fmt.Errorf("cannot pause container %s to commit it: %w", i.id, err)
	}
	durable.Failpoint("engine.commit.held")
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasePatience)
		defer cancel()
		if err := l.unpause(ctx, i); err != nil && i.now().State.Status == paused {
			l.log.Error("a container that was paused to commit it stays so; unpause it", "id", i.id, "error", err)
		}
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.log.Error("the mark of a commit stays", "id", i.id, "error", err)
		}
	}, nil
}

// letCommittedGoOn resumes a container that an engine which is gone had paused for a commit.
func letCommittedGoOn(ctx context.Context, s shim, runDir string, st *supervisor.State) error {
	mark := filepath.Join(runDir, heldMark)
	if _, err := os.Lstat(mark); err != nil {
		return nil
	}
	if st.Paused {
		if err := s.Resume(ctx); err != nil && !fail.Is(err, fail.NotFound) {
			return err
		}
		st.Paused = false
	}
	return os.Remove(mark)
}
