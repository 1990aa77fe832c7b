// Package version says which Berth this is, in one place.
package version

// Version is the release. Commit is set by the build.
const Version = "0.1.0-dev"

// Commit is the source revision that the binary was built from.
var Commit = "unknown"
