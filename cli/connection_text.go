package cli

import "strings"

// replaceDaemonWords turns the client library's "is the docker daemon running" into our own
// words, keeping the address it tried.
func replaceDaemonWords(text string) string {
	return strings.NewReplacer(
		"failed to connect to the docker API at", "Cannot connect to the engine at",
		"check if the path is correct and if the daemon is running", "is berthd running?",
		"the Docker daemon", "the engine",
		"the docker daemon", "berthd",
		"'docker daemon'", "berthd",
	).Replace(text)
}
