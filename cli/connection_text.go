package cli

import "strings"

// replaceDaemonWords turns the client library's "is the docker daemon running" into our own
// words, keeping the address it tried.
func replaceDaemonWords(text string) string {
	const refused = "permission denied while trying to connect to the docker API at "
	if host, ok := strings.CutPrefix(text, refused); ok && strings.HasPrefix(host, "unix://") {
		return "permission denied while trying to connect to the engine at " + host + ": it takes root and the members of its socket's group (usermod -aG berth USER, and a new login)"
	}
	return strings.NewReplacer(
		"failed to connect to the docker API at", "Cannot connect to the engine at",
		"check if the path is correct and if the daemon is running", "is berthd running?",
		"the Docker daemon", "the engine",
		"the docker daemon", "berthd",
		"'docker daemon'", "berthd",
	).Replace(text)
}
