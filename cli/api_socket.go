package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config/types"
	"github.com/moby/moby/api/types/mount"
	mobyclient "github.com/moby/moby/client"
)

// Where a container that has --use-api-socket finds the engine and credentials of registries.
const (
	socketInside = "/var/run/docker.sock"
	configInside = "/run/secrets/docker"
)

// addAPISocket mounts the engine's socket, and tells the container's clients where its
// credentials will be.
func (a *app) addAPISocket(request *containerRequest) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	socket, local := strings.CutPrefix(engine.DaemonHost(), "unix://")
	if !local {
		return fmt.Errorf("--use-api-socket needs an engine behind a unix socket, not %s", engine.DaemonHost())
	}
	request.host.Mounts = append(request.host.Mounts, mount.Mount{Type: mount.TypeBind, Source: socket, Target: socketInside, BindOptions: &mount.BindOptions{}})
	if !slices.ContainsFunc(request.config.Env, namesConfig) {
		request.config.Env = append(request.config.Env, "DOCKER_CONFIG="+configInside)
	}
	return nil
}

// namesConfig tells whether a variable says where clients have their credentials.
func namesConfig(variable string) bool { return strings.HasPrefix(variable, "DOCKER_CONFIG=") }

// copyCredentials puts the client's credentials of registries into a container that has not
// started. The secrets become part of the container's files, and of an image that is made of it.
func (a *app) copyCredentials(ctx context.Context, engine *mobyclient.Client, id string) error {
	found, err := a.config().GetAllCredentials()
	if err != nil || len(found) == 0 {
		return err
	}
	text, err := json.Marshal(map[string]map[string]types.AuthConfig{"auths": found})
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Name: configInside, Typeflag: tar.TypeDir, Mode: 0o700},
		{Name: path.Join(configInside, "config.json"), Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(text))},
	} {
		h.Name = strings.TrimPrefix(h.Name, "/")
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if _, err := engine.CopyToContainer(ctx, id, mobyclient.CopyToContainerOptions{DestinationPath: "/", Content: &archive}); err != nil {
		return fmt.Errorf("copy the credentials of registries into the container: %w", err)
	}
	return nil
}
