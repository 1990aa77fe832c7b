package cli

import "strings"

// replaceDaemonWords turns the client library's "is the docker daemon running" into our own
// words, keeping the address it tried.
func replaceDaemonWords(text string) string {
	return strings.NewReplacer(
		"the Docker daemon", "the engine",
		"the docker daemon", "berthd",
		"'docker daemon'", "berthd",
	).Replace(text)
}
