package server

import (
	"net/http"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"berth/engine"
)

// inspectResponse adds to moby's newest type what older versions answer.
type inspectResponse struct {
	container.InspectResponse
	HostConfig      hostConfig
	Config          inspectConfig
	NetworkSettings networkSettings
}

// hostConfig has the kernel memory limits until 1.41.
type hostConfig struct {
	*container.HostConfig
	KernelMemory    *int64 `json:"KernelMemory,omitempty"`
	KernelMemoryTCP *int64 `json:"KernelMemoryTCP,omitempty"`
}

// inspectConfig has the container-wide MacAddress until 1.43, when it was asked for, and OnBuild
// until 1.51 even if there is none.
type inspectConfig struct {
	*container.Config
	Labels     map[string]string // never null
	MacAddress string            `json:"MacAddress,omitempty"`
	OnBuild    *[]string         `json:"OnBuild,omitempty"`
}

func inspectContainer(w *writer, r *request) error {
	c, err := r.s.Containers.Get(r.path["id"])
	if err != nil {
		return err
	}
	out := r.s.inspectAnswer(c, r.version)
	if r.boolean("size") {
		var rw, root int64
		if err := r.s.addSize(r.Context(), c.ID, &rw, &root); err != nil {
			return err
		}
		out.SizeRw, out.SizeRootFs = &rw, &root
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *Server) inspectAnswer(c engine.Container, v version) inspectResponse {
	out := inspectResponse{InspectResponse: container.InspectResponse{
		ID:             c.ID,
		Created:        stamp(c.Created),
		Path:           c.Path,
		Args:           c.Args,
		State:          stateAnswer(c.State),
		Image:          c.Image.String(),
		ResolvConfPath: c.ResolvConfPath,
		HostnamePath:   c.HostnamePath,
		HostsPath:      c.HostsPath,
		LogPath:        c.LogPath,
		Name:           "/" + c.Name,
		RestartCount:   c.RestartCount,
		Driver:         c.Driver,
		Platform:       "linux",
		ExecIDs:        c.ExecIDs,
		GraphDriver:    &storage.DriverData{Name: c.Driver},
		Mounts:         mountPoints(c.Mounts),
	}}
	if out.Args == nil {
		out.Args = []string{}
	}
	if len(out.ExecIDs) == 0 {
		out.ExecIDs = nil
	}
	out.HostConfig = hostConfig{HostConfig: s.withLinks(c)}
	if v < 42 {
		var none int64
		out.HostConfig.KernelMemory, out.HostConfig.KernelMemoryTCP = &none, &none
	}
	out.ProcessLabel, out.MountLabel = c.ProcessLabel, c.MountLabel
	out.AppArmorProfile = c.AppArmorProfile
	if c.State.StartedAt.IsZero() { // its files are not made yet
		out.ResolvConfPath, out.HostnamePath, out.HostsPath, out.LogPath = "", "", "", ""
	}
	out.Config = inspectConfig{Config: c.Config, Labels: c.Config.Labels}
	if out.Config.Labels == nil {
		out.Config.Labels = map[string]string{}
	}
	if v < 52 || len(c.Config.OnBuild) > 0 {
		out.Config.OnBuild = &c.Config.OnBuild
	}
	out.NetworkSettings = s.networkSettings(c, v)
	if v < 44 {
		out.Config.MacAddress = askedMAC(c)
	}
	return out
}

// askedMAC is the address that was asked for on the network that the container is created on.
func askedMAC(c engine.Container) string {
	name := string(c.HostConfig.NetworkMode)
	if c.HostConfig.NetworkMode.IsDefault() {
		name = network.NetworkBridge
	}
	if c.Networking == nil || c.Networking.EndpointsConfig[name] == nil {
		return ""
	}
	return c.Networking.EndpointsConfig[name].MacAddress.String()
}

// withLinks is the container's configuration with its links on the default bridge as Docker
// tells them: /TARGET:/NAME/ALIAS.
func (s *Server) withLinks(c engine.Container) *container.HostConfig {
	if !c.HostConfig.NetworkMode.IsBridge() && len(c.HostConfig.Links) > 0 || c.HostConfig.Links == nil {
		return c.HostConfig
	}
	h := *c.HostConfig
	if len(h.Links) == 0 {
		h.Links = nil
		return &h
	}
	h.Links = make([]string, len(h.Links))
	for n, l := range c.HostConfig.Links {
		target, alias := engine.SplitLink(l)
		if t, err := s.Containers.Get(target); err == nil {
			target = t.Name
		}
		h.Links[n] = "/" + target + ":/" + c.Name + "/" + alias
	}
	return &h
}

func stateAnswer(s engine.State) *container.State {
	return &container.State{
		Status:     container.ContainerState(s.Status),
		Running:    s.Running(),
		Paused:     s.Status == "paused",
		Restarting: s.Status == "restarting",
		OOMKilled:  s.OOMKilled,
		Dead:       s.Status == "dead",
		Pid:        s.Pid,
		ExitCode:   s.ExitCode,
		Error:      s.Error,
		StartedAt:  stamp(s.StartedAt),
		FinishedAt: stamp(s.FinishedAt),
		Health:     s.Health,
	}
}

// stamp is how inspect writes times; the zero time is year 1.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
