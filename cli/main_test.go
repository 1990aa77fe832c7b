package cli

import (
	"os"
	"testing"

	"berth/api/client"

	"github.com/docker/cli/cli/config"
	mobyclient "github.com/moby/moby/client"
)

// The test binary is also the command line, so that tests can run it as a process (with a
// pty, signals, exit codes): BERTH_TEST_AS_CLI=1 makes it so.
func TestMain(m *testing.M) {
	if os.Getenv("BERTH_TEST_AS_CLI") == "1" {
		os.Exit(run(os.Args, Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, connectForTest))
	}
	// No test may read the configuration of whoever runs it.
	dir, err := os.MkdirTemp("", "bcfg")
	if err != nil {
		panic(err)
	}
	config.SetDir(dir)
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// connectForTest dials the host that -H or DOCKER_HOST names, without starting any engine.
func connectForTest(o client.Options) (*mobyclient.Client, error) {
	host := o.Host
	if host == "" {
		host = os.Getenv("DOCKER_HOST")
	}
	return mobyclient.New(mobyclient.WithHost(host), mobyclient.WithUserAgent(o.UserAgent))
}
