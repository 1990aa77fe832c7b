package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newLogout(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "logout [SERVER]",
		Short: "Log out from a registry",
		Long:  "Log out from a registry.\nIf no server is specified, the default is Docker Hub.",
		Args:  maxArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			server := ""
			if len(args) == 1 {
				server = args[0]
			}
			return a.logout(server)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (a *app) logout(server string) error {
	key := registryKey(registryHost(server))
	keys := []string{key}
	if key == "" {
		key = dockerHubServer
		keys = []string{key}
	} else if key != dockerHubServer {
		// Older clients stored the scheme too.
		keys = append(keys, "http://"+key, "https://"+key)
	}
	known := false
	for _, k := range keys {
		if stored, err := credentialsOf(a.config(), k); err == nil && (stored.Username != "" || stored.IdentityToken != "" || stored.Auth != "") {
			known = true
		}
	}
	if !known {
		fmt.Fprintf(a.Out, "Not logged in to %s\n", key)
		return nil
	}
	fmt.Fprintf(a.Out, "Removing login credentials for %s\n", key)
	var problems []error
	for _, k := range keys {
		if err := a.config().GetCredentialsStore(k).Erase(k); err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) == len(keys) {
		return fmt.Errorf("could not erase credentials: %w", errors.Join(problems...))
	}
	return nil
}
