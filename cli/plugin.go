package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// newPluginCommand is a part of the command line that is a binary of its own, because its
// libraries would slow every other command's start. It hands everything after the name to
// berth-NAME beside this binary.
func newPluginCommand(name, short string) func(*app) *cobra.Command {
	return func(a *app) *cobra.Command {
		return &cobra.Command{
			Use:                name,
			Short:              short,
			DisableFlagParsing: true,
			RunE: func(_ *cobra.Command, args []string) error {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				path := filepath.Join(filepath.Dir(self), "berth-"+name)
				if info, err := os.Stat(path); err != nil || info.IsDir() {
					return statusError{code: 1, message: fmt.Sprintf("'%s %s' is not part of this release yet", a.name, name), named: true}
				}
				// The process becomes the plugin, so signals, terminal and exit code are its own.
				err = syscall.Exec(path, append([]string{path}, args...), a.pluginEnvironment())
				return fmt.Errorf("start %s: %w", path, err)
			},
		}
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
