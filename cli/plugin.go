package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// plugin is a part of the command line that is a binary of its own, because its libraries
// would slow every other command's start.
type plugin struct{ name, short string }

var plugins = []plugin{
	{"build", "Build an image from a Dockerfile"},
	{"compose", "Define and run multi-container applications"},
}

// newPluginCommand hands everything after the name to berth-NAME beside this binary.
func newPluginCommand(a *app, p plugin) *cobra.Command {
	return &cobra.Command{
		Use:                p.name,
		Short:              p.short,
		GroupID:            groupCommon,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			path := filepath.Join(filepath.Dir(self), "berth-"+p.name)
			if info, err := os.Stat(path); err != nil || info.IsDir() {
				return statusError{1, fmt.Sprintf("berth: 'berth %s' is not part of this release yet", p.name)}
			}
			// The process becomes the plugin, so signals, terminal and exit code are its own.
			err = syscall.Exec(path, append([]string{path}, args...), a.pluginEnvironment())
			return fmt.Errorf("berth %s: %w", p.name, errors.Join(err))
		},
	}
}

// pluginEnvironment passes the global options on.
func (a *app) pluginEnvironment() []string {
	env := os.Environ()
	o := a.engineOptions
	add := func(key, value string) {
		if value != "" {
			env = append(env, key+"="+value)
		}
	}
	add("BERTH_HOST", o.Host)
	add("DOCKER_HOST", o.Host)
	add("DOCKER_CONTEXT", o.Context)
	if o.TLSVerify {
		add("DOCKER_TLS_VERIFY", "1")
	}
	if o.CAFile != "" {
		add("DOCKER_CERT_PATH", filepath.Dir(o.CAFile))
	}
	return env
}
