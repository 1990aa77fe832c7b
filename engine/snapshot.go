package engine

import (
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"berth/oci"
)

// Container is a snapshot of one container. Callers must not change what it points to.
type Container struct {
	ID, Name                                         string // Name without the leading slash
	Created                                          time.Time
	Image                                            oci.Digest // image ID
	Path                                             string
	Args                                             []string
	Config                                           *container.Config // as asked, merged with the image's
	HostConfig                                       *container.HostConfig
	Networking                                       *network.NetworkingConfig
	State                                            State
	RestartCount                                     int
	Driver                                           string // layer driver
	Mounts                                           []MountPoint
	LogPath, HostsPath, HostnamePath, ResolvConfPath string
	ExecIDs                                          []string // running ones
	Sandbox                                          string   // ID of the sandbox it is in
}

// State of a container. Status is one of created, running, paused, restarting,
// removing, exited, dead.
type State struct {
	Status     string
	OOMKilled  bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  time.Time // zero: never
	FinishedAt time.Time
}

// Running is true for paused and restarting containers too, as in Docker.
func (s State) Running() bool {
	return s.Status == "running" || s.Status == "paused" || s.Status == "restarting"
}

// MountPoint is one row of inspect's Mounts.
type MountPoint struct {
	Type, Name, Source, Destination, Driver, Mode, Propagation string
	RW                                                         bool
}
