package server

import (
	"net/http"

	"berth/fail"
)

// routes is the Engine API as a table. The first row that fits wins, so a fixed path
// stands above a pattern that would take it too.
var routes = []endpoint{
	// system
	{method: "GET", pattern: "/_ping", handle: ping},
	{method: "HEAD", pattern: "/_ping", handle: ping},
	{method: "GET", pattern: "/version", handle: getVersion},
	{method: "GET", pattern: "/info", handle: getInfo},
	{method: "GET", pattern: "/events", handle: streamEvents},
	{method: "GET", pattern: "/system/df", handle: diskUsage},
	{method: "POST", pattern: "/auth", handle: login},

	// containers
	{method: "GET", pattern: "/containers/json", handle: listContainers},
	{method: "POST", pattern: "/containers/create", handle: createContainer},
	{method: "POST", pattern: "/containers/prune", handle: alone("containers", pruneContainers)},
	{method: "GET", pattern: "/containers/{id}/json", handle: inspectContainer},
	{method: "POST", pattern: "/containers/{id}/start", handle: startContainer},
	{method: "POST", pattern: "/containers/{id}/stop", handle: stopContainer},
	{method: "POST", pattern: "/containers/{id}/restart", handle: restartContainer},
	{method: "POST", pattern: "/containers/{id}/kill", handle: killContainer},
	{method: "POST", pattern: "/containers/{id}/wait", handle: waitContainer},
	{method: "POST", pattern: "/containers/{id}/rename", handle: renameContainer},
	{method: "POST", pattern: "/containers/{id}/pause", handle: pauseContainer},
	{method: "POST", pattern: "/containers/{id}/unpause", handle: unpauseContainer},
	{method: "POST", pattern: "/containers/{id}/resize", handle: resizeContainer},
	{method: "POST", pattern: "/containers/{id}/attach", handle: attachContainer},
	{method: "GET", pattern: "/containers/{id}/attach/ws", handle: attachWebSocket},
	{method: "GET", pattern: "/containers/{id}/logs", handle: containerLogs},
	{method: "GET", pattern: "/containers/{id}/top", handle: topContainer},
	{method: "POST", pattern: "/containers/{id}/exec", handle: createExec},
	{method: "POST", pattern: "/exec/{id}/start", handle: startExec},
	{method: "POST", pattern: "/exec/{id}/resize", handle: resizeExec},
	{method: "GET", pattern: "/exec/{id}/json", handle: inspectExec},
	{method: "GET", pattern: "/containers/{id}/changes", handle: containerChanges},
	{method: "GET", pattern: "/containers/{id}/export", handle: exportContainer},
	{method: "GET", pattern: "/containers/{id}/stats", handle: containerStats},
	{method: "POST", pattern: "/containers/{id}/update", handle: updateContainer},
	{method: "HEAD", pattern: "/containers/{id}/archive", handle: statArchive},
	{method: "GET", pattern: "/containers/{id}/archive", handle: getArchive},
	{method: "PUT", pattern: "/containers/{id}/archive", handle: putArchive},
	{method: "POST", pattern: "/commit", handle: commitContainer},
	{method: "GET", pattern: "/containers/{id}/checkpoints", handle: noCheckpoints},
	{method: "POST", pattern: "/containers/{id}/checkpoints", handle: noCheckpoints},
	{method: "DELETE", pattern: "/containers/{id}/checkpoints/{checkpoint}", handle: noCheckpoints},
	{method: "DELETE", pattern: "/containers/{id...}", handle: removeContainer}, // a link has a slash in its name

	// images
	{method: "GET", pattern: "/images/json", handle: listImages},
	{method: "GET", pattern: "/images/search", handle: searchImages},
	{method: "GET", pattern: "/images/get", handle: saveImages},
	{method: "POST", pattern: "/images/create", handle: createImage},
	{method: "POST", pattern: "/images/load", handle: loadImages},
	{method: "POST", pattern: "/images/prune", handle: alone("images", pruneImages)},
	{method: "GET", pattern: "/images/{name...}/get", handle: saveImage},
	{method: "GET", pattern: "/images/{name...}/json", handle: inspectImage},
	{method: "GET", pattern: "/images/{name...}/history", handle: imageHistory},
	{method: "GET", pattern: "/images/{name...}/attestations", handle: notYet("reading attestations"), min: 55},
	{method: "POST", pattern: "/images/{name...}/push", handle: pushImage},
	{method: "POST", pattern: "/images/{name...}/tag", handle: tagImage},
	{method: "DELETE", pattern: "/images/{name...}", handle: removeImage},
	{method: "GET", pattern: "/distribution/{name...}/json", handle: inspectDistribution},
	{method: "GET", pattern: "/distribution/{name...}/manifest", handle: readManifest},
	{method: "PUT", pattern: "/distribution/{name...}/manifest", handle: writeManifest},

	// builds
	{method: "POST", pattern: "/build", handle: notYet("building images")},
	{method: "POST", pattern: "/build/cancel", handle: notYet("building images")},
	{method: "POST", pattern: "/build/prune", handle: alone("build cache", pruneBuildCache)},
	{method: "POST", pattern: "/session", handle: notYet("building images")},
	{method: "POST", pattern: "/grpc", handle: notYet("building images")},

	// volumes and networks
	{method: "GET", pattern: "/volumes", handle: listVolumes},
	{method: "POST", pattern: "/volumes/create", handle: createVolume},
	{method: "POST", pattern: "/volumes/prune", handle: alone("volumes", pruneVolumes)},
	{method: "GET", pattern: "/volumes/{name}", handle: inspectVolume},
	{method: "PUT", pattern: "/volumes/{name}", handle: noSwarm},
	{method: "DELETE", pattern: "/volumes/{name}", handle: removeVolume},
	{method: "GET", pattern: "/networks", handle: listNetworks},
	{method: "POST", pattern: "/networks/create", handle: createNetwork},
	{method: "POST", pattern: "/networks/prune", handle: alone("networks", pruneNetworks)},
	{method: "GET", pattern: "/networks/{id}", handle: inspectNetwork},
	{method: "DELETE", pattern: "/networks/{id}", handle: removeNetwork},
	{method: "POST", pattern: "/networks/{id}/connect", handle: connectNetwork},
	{method: "POST", pattern: "/networks/{id}/disconnect", handle: disconnectNetwork},

	// managed plugins: out of scope
	{method: "GET", pattern: "/plugins", handle: noPlugins},
	{method: "GET", pattern: "/plugins/privileges", handle: never("managed plugins")},
	{method: "POST", pattern: "/plugins/pull", handle: never("managed plugins")},
	{method: "POST", pattern: "/plugins/create", handle: never("managed plugins")},
	{method: "GET", pattern: "/plugins/{name...}/json", handle: noSuchPlugin},
	{method: "DELETE", pattern: "/plugins/{name...}", handle: noSuchPlugin},
	{method: "POST", pattern: "/plugins/{name...}/enable", handle: noSuchPlugin},
	{method: "POST", pattern: "/plugins/{name...}/disable", handle: noSuchPlugin},
	{method: "POST", pattern: "/plugins/{name...}/upgrade", handle: noSuchPlugin},
	{method: "POST", pattern: "/plugins/{name...}/push", handle: noSuchPlugin},
	{method: "POST", pattern: "/plugins/{name...}/set", handle: noSuchPlugin},

	// swarm: out of scope
	{method: "GET", pattern: "/swarm", handle: noSwarm},
	{method: "GET", pattern: "/swarm/{verb}", handle: noSwarm},
	{method: "POST", pattern: "/swarm/init", handle: never("swarm mode")},
	{method: "POST", pattern: "/swarm/join", handle: never("swarm mode")},
	{method: "POST", pattern: "/swarm/leave", handle: notInSwarm},
	{method: "POST", pattern: "/swarm/{verb}", handle: noSwarm},
	{method: "GET", pattern: "/nodes", handle: noSwarm},
	{method: "GET", pattern: "/nodes/{id}", handle: noSwarm},
	{method: "DELETE", pattern: "/nodes/{id}", handle: noSwarm},
	{method: "POST", pattern: "/nodes/{id}/update", handle: noSwarm},
	{method: "GET", pattern: "/services", handle: noSwarm},
	{method: "POST", pattern: "/services/create", handle: noSwarm},
	{method: "GET", pattern: "/services/{id}", handle: noSwarm},
	{method: "DELETE", pattern: "/services/{id}", handle: noSwarm},
	{method: "POST", pattern: "/services/{id}/update", handle: noSwarm},
	{method: "GET", pattern: "/services/{id}/logs", handle: noSwarm},
	{method: "GET", pattern: "/tasks", handle: noSwarm},
	{method: "GET", pattern: "/tasks/{id}", handle: noSwarm},
	{method: "GET", pattern: "/tasks/{id}/logs", handle: noSwarm},
	{method: "GET", pattern: "/secrets", handle: noSwarm},
	{method: "POST", pattern: "/secrets/create", handle: noSwarm},
	{method: "GET", pattern: "/secrets/{id}", handle: noSwarm},
	{method: "DELETE", pattern: "/secrets/{id}", handle: noSwarm},
	{method: "POST", pattern: "/secrets/{id}/update", handle: noSwarm},
	{method: "GET", pattern: "/configs", handle: noSwarm},
	{method: "POST", pattern: "/configs/create", handle: noSwarm},
	{method: "GET", pattern: "/configs/{id}", handle: noSwarm},
	{method: "DELETE", pattern: "/configs/{id}", handle: noSwarm},
	{method: "POST", pattern: "/configs/{id}/update", handle: noSwarm},

	// Berth's own
	{method: "POST", pattern: "/berth/check", handle: checkStore},
	{method: "GET", pattern: "/berth/df", handle: dataRootUsage},

	// debugging, on the local socket only
	{method: "GET", pattern: "/debug/vars", handle: local(debugVars)},
	{method: "GET", pattern: "/debug/pprof", handle: local(debugProfile)},
	{method: "GET", pattern: "/debug/pprof/{name...}", handle: local(debugProfile)},
	{method: "POST", pattern: "/debug/pprof/symbol", handle: local(debugProfile)},
}

// notYet answers for an endpoint whose part of Berth does not exist.
func notYet(what string) func(*writer, *request) error {
	err := fail.New(fail.NotImplemented, "%s is not supported by this version of Berth", what)
	return func(*writer, *request) error { return err }
}

// never answers for what is out of Berth's scope.
func never(what string) func(*writer, *request) error {
	err := fail.New(fail.NotImplemented, "Berth has no %s", what)
	return func(*writer, *request) error { return err }
}

// noCheckpoints answers as a Docker whose experimental features are off; here they are never on.
func noCheckpoints(*writer, *request) error {
	return fail.New(fail.NotImplemented, "This experimental feature is disabled by default. Berth has no checkpoints.")
}

func noSwarm(*writer, *request) error {
	return fail.New(fail.Unavailable, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
}

func notInSwarm(*writer, *request) error {
	return fail.New(fail.Unavailable, "This node is not part of a swarm")
}

func noPlugins(w *writer, _ *request) error { return writeJSON(w, http.StatusOK, []struct{}{}) }

func noSuchPlugin(_ *writer, r *request) error {
	return fail.New(fail.NotFound, "plugin %q not found: Berth has no managed plugins", r.path["name"])
}
