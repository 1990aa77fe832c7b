// Package client connects to the engine: which one (host flag, DOCKER_HOST, context),
// how (unix, tcp with TLS, ssh), and starting it if the default one is not running.
package client

import (
	mobyclient "github.com/moby/moby/client"
)

// Options choose the engine. Zero values mean the environment and the defaults.
type Options struct {
	Host    string // -H; empty: BERTH_HOST, DOCKER_HOST, the current context, the default socket
	Context string
	// TLS files of a tcp host; empty with TLSVerify: DOCKER_CERT_PATH or ~/.docker.
	TLS, TLSVerify            bool
	CAFile, CertFile, KeyFile string
	UserAgent                 string
}

// New returns a client of the engine. Nothing is dialled yet. Only for the default unix
// socket: when the first dial finds nobody behind it, berthd (beside this binary, else in
// PATH) is started in the background by one winner under a lock, and the dial goes on
// when it is ready.
func New(o Options) (*mobyclient.Client, error) { panic("contract") }
