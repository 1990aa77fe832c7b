package server

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"berth/engine"
	"berth/fail"
)

// words is a list of words that older clients may send as one string.
type words []string

func (l *words) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		if string(data) != "null" {
			*l = words{one}
		}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}

// createBody is the body of POST /containers/create. The fields outside CreateRequest
// stand above those of the same name inside.
type createBody struct {
	container.CreateRequest
	Cmd, Entrypoint words
	// MacAddress was a field of the container until 1.43, now it is one of each endpoint.
	MacAddress string
}

func createContainer(w *writer, r *request) error {
	var body createBody
	if err := bodyJSON(w, r, &body, true); err != nil {
		return err
	}
	if body.Config == nil {
		if body.HostConfig == nil && body.Cmd == nil && body.Entrypoint == nil {
			return fail.New(fail.Invalid, "config cannot be empty in order to create a container")
		}
		body.Config = &container.Config{}
	}
	body.Config.Cmd, body.Config.Entrypoint = body.Cmd, body.Entrypoint
	if body.HostConfig == nil {
		body.HostConfig = &container.HostConfig{}
	}
	if body.NetworkingConfig == nil {
		body.NetworkingConfig = &network.NetworkingConfig{}
	}
	adjusted, err := adjustCreate(&body, r.version)
	if err != nil {
		return err
	}
	if body.HostConfig.ShmSize == 0 {
		body.HostConfig.ShmSize = r.s.Facts.DefaultShmSize
	}
	platform, err := parsePlatform(r.query("platform"))
	if err != nil {
		return err
	}
	id, warnings, err := r.s.Containers.Create(r.Context(), engine.CreateRequest{
		Name:       strings.TrimPrefix(r.query("name"), "/"),
		Config:     body.Config,
		HostConfig: body.HostConfig,
		Networking: body.NetworkingConfig,
		Platform:   platform,
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.CreateResponse{ID: id, Warnings: append(append([]string{}, adjusted...), warnings...)})
}

// adjustCreate gives a request of an older version the meaning it had then.
func adjustCreate(body *createBody, v version) (warnings []string, err error) {
	hc := body.HostConfig
	if v < 42 && hc.PidsLimit != nil && *hc.PidsLimit <= 0 {
		// 0 and -1 both meant unlimited.
		hc.PidsLimit = nil
	}
	if v < 44 {
		if body.Healthcheck != nil {
			body.Healthcheck.StartInterval = 0 // was not known
		}
		for _, e := range body.NetworkingConfig.EndpointsConfig {
			if e != nil {
				e.MacAddress = nil // was only told, never taken
			}
		}
	}
	if body.MacAddress == "" {
		return nil, nil
	}
	if err := giveMAC(body); err != nil {
		return nil, err
	}
	if v >= 44 {
		warnings = append(warnings, "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.")
	}
	return warnings, nil
}

// giveMAC makes the container's MacAddress the one of its place on its first network.
func giveMAC(body *createBody) error {
	var mac network.HardwareAddr
	if err := mac.UnmarshalText([]byte(body.MacAddress)); err != nil {
		return fail.New(fail.Invalid, "invalid MAC address %q", body.MacAddress)
	}
	mode := body.HostConfig.NetworkMode
	if mode.IsHost() || mode.IsNone() || mode.IsContainer() {
		return fail.New(fail.Invalid, "conflicting options: mac-address and the network mode")
	}
	endpoints := body.NetworkingConfig.EndpointsConfig
	if endpoints == nil {
		endpoints = map[string]*network.EndpointSettings{}
		body.NetworkingConfig.EndpointsConfig = endpoints
	}
	name := string(mode)
	if mode == "" || mode.IsDefault() {
		name = network.NetworkDefault
		if _, ok := endpoints[network.NetworkBridge]; ok {
			name = network.NetworkBridge
		}
	}
	if endpoints[name] == nil {
		endpoints[name] = &network.EndpointSettings{}
	}
	e := endpoints[name]
	if len(e.MacAddress) > 0 && e.MacAddress.String() != mac.String() {
		return fail.New(fail.Invalid, "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
	}
	e.MacAddress = mac
	return nil
}

func noContent(w *writer, err error) error {
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func startContainer(w *writer, r *request) error {
	if r.query("checkpoint") != "" || r.query("checkpoint-dir") != "" {
		return noCheckpoints(w, r)
	}
	return noContent(w, r.s.Containers.Start(r.Context(), r.path["id"]))
}

// stopOptions reads signal (since 1.42) and t.
func stopOptions(r *request) (engine.StopOptions, error) {
	var o engine.StopOptions
	if r.version >= 42 {
		o.Signal = r.query("signal")
	}
	t, given, err := r.number("t")
	if err != nil {
		return o, err
	}
	if given {
		o.Timeout = &t
	}
	return o, nil
}

func stopContainer(w *writer, r *request) error {
	o, err := stopOptions(r)
	if err != nil {
		return err
	}
	return noContent(w, r.s.Containers.Stop(r.Context(), r.path["id"], o))
}

func restartContainer(w *writer, r *request) error {
	o, err := stopOptions(r)
	if err != nil {
		return err
	}
	return noContent(w, r.s.Containers.Restart(r.Context(), r.path["id"], o))
}

func killContainer(w *writer, r *request) error {
	return noContent(w, r.s.Containers.Kill(r.Context(), r.path["id"], r.query("signal")))
}

func pauseContainer(w *writer, r *request) error {
	return noContent(w, r.s.Containers.Pause(r.Context(), r.path["id"]))
}

func unpauseContainer(w *writer, r *request) error {
	return noContent(w, r.s.Containers.Unpause(r.Context(), r.path["id"]))
}

func updateContainer(w *writer, r *request) error {
	var body container.UpdateConfig
	if err := bodyJSON(w, r, &body, true); err != nil {
		return err
	}
	warnings, err := r.s.Containers.Update(r.Context(), r.path["id"], engine.UpdateRequest{Resources: body.Resources, RestartPolicy: body.RestartPolicy})
	if err != nil {
		return err
	}
	if warnings == nil {
		warnings = []string{}
	}
	return writeJSON(w, http.StatusOK, container.UpdateResponse{Warnings: warnings})
}

func renameContainer(w *writer, r *request) error {
	err := r.s.Containers.Rename(r.Context(), r.path["id"], strings.TrimPrefix(r.query("name"), "/"))
	if err != nil && (strings.HasPrefix(err.Error(), "Conflict. ") || strings.HasPrefix(err.Error(), "Invalid container name")) {
		err = fail.New(fail.Of(err), "Error when allocating new name: %w", err)
	}
	return noContent(w, err)
}

func removeContainer(w *writer, r *request) error {
	if r.boolean("link") {
		return noContent(w, r.s.Containers.RemoveLink(r.Context(), r.path["id"]))
	}
	return noContent(w, r.s.Containers.Remove(r.Context(), r.path["id"], engine.RemoveOptions{Force: r.boolean("force"), Volumes: r.boolean("v")}))
}

func resizeContainer(w *writer, r *request) error {
	rows, cols, err := r.size()
	if err != nil {
		return err
	}
	if err := r.s.Containers.Resize(r.Context(), r.path["id"], rows, cols); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// waitContainer sends its head at once, so that a client knows it is registered before
// it starts the container, and the body when the condition is met.
func waitContainer(w *writer, r *request) error {
	cond := engine.WaitNotRunning
	switch c := engine.WaitCondition(r.query("condition")); c {
	case "":
	case engine.WaitNotRunning, engine.WaitNextExit, engine.WaitRemoved:
		cond = c
	default:
		return fail.New(fail.Invalid, "invalid condition: %q", c)
	}
	ctx, cancel := r.stream()
	defer cancel()
	result, err := r.s.Containers.Wait(ctx, r.path["id"], cond)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	if err := w.flush(); err != nil {
		return err
	}
	select {
	case res := <-result:
		if fail.Is(res.Err, fail.Unavailable) {
			return res.Err // the engine ends: a cut answer, so that the client asks the next engine
		}
		out := container.WaitResponse{StatusCode: int64(res.ExitCode)}
		if res.Err != nil {
			out.Error = &container.WaitExitError{Message: res.Err.Error()}
		}
		return json.NewEncoder(w).Encode(waitBody(out, r.version))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitBody: until 1.33 … 1.41 Error is there and null when there is none.
func waitBody(res container.WaitResponse, v version) any {
	if v < 42 {
		return struct {
			Error      *container.WaitExitError
			StatusCode int64
		}{res.Error, res.StatusCode}
	}
	return res
}

// plainPsArgs give columns without anything secret.
var plainPsArgs = []string{"-ef", "aux", "-aux"}

func topContainer(w *writer, r *request) error {
	args := r.query("ps_args")
	if args == "" {
		args = "-ef"
	}
	if doorOf(r.Request).ReadOnly && !slices.Contains(plainPsArgs, args) {
		return fail.New(fail.Forbidden, "this socket is read-only: ps_args can be one of %s here, for ps shows environments too", strings.Join(plainPsArgs, ", "))
	}
	titles, processes, err := r.s.Containers.Top(r.Context(), r.path["id"], args)
	if err != nil {
		return err
	}
	if processes == nil {
		processes = [][]string{}
	}
	return writeJSON(w, http.StatusOK, container.TopResponse{Titles: titles, Processes: processes})
}

func pruneContainers(w *writer, r *request) error {
	f, err := r.filters("label", "label!", "until")
	if err != nil {
		return err
	}
	until, err := f.until(time.Now())
	if err != nil {
		return err
	}
	keep := func(c engine.Container) bool {
		return !f.labels("label", c.Config.Labels) ||
			(len(f["label!"]) > 0 && f.labels("label!", c.Config.Labels)) ||
			(!until.IsZero() && c.Created.After(until))
	}
	ids, freed, err := r.s.Containers.Prune(r.Context(), keep)
	if err != nil {
		return err
	}
	r.s.tellPrune("container", uint64(freed))
	return writeJSON(w, http.StatusOK, container.PruneReport{ContainersDeleted: ids, SpaceReclaimed: uint64(freed)})
}
