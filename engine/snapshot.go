package engine

import (
	"time"

	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"

	"berth/network"
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
	State                                            State
	RestartCount                                     int
	Driver                                           string // layer driver
	Mounts                                           []MountPoint
	LogPath, HostsPath, HostnamePath, ResolvConfPath string
	ExecIDs                                          []string // running ones
	Sandbox                                          string   // ID of the sandbox it is in
	ProcessLabel, MountLabel                         string   // of SELinux
	AppArmorProfile                                  string   // of the latest run; before the first one, what was asked for

	// Networking is what was asked of the networks that the container is on, by their names
	// ("bridge", "host" and "none" among them); nothing that a run found out. It is never nil,
	// and empty for a container on another one's network.
	Networking *mobynet.NetworkingConfig
	// Network is the network as it is: endpoints with their addresses and names, published
	// ports. Nil while the container does not run, and for one on the host's network, on
	// none, or on another container's. The namespace is /proc/<State.Pid>/ns/net.
	Network *network.Sandbox

	plan mountRequests // all mounts, also those that Mounts does not show
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
	// Health is what the health check has told; nil without one, and before the first start.
	// What it points to is never changed.
	Health *container.Health `json:",omitempty"`
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
