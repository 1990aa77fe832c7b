package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/docker/cli/cli/config/types"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type loginFlags struct {
	username, password string
	passwordStdin      bool
}

func newLogin(a *app) *cobra.Command {
	var o loginFlags
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Authenticate to a registry",
		Long:  "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
		Args:  maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server := ""
			if len(args) == 1 {
				server = args[0]
			}
			return a.login(cmd.Context(), server, o, cmd.Flags().Changed("password"))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&o.username, "username", "u", "", "Username")
	cmd.Flags().StringVarP(&o.password, "password", "p", "", "Password or Personal Access Token (PAT)")
	cmd.Flags().BoolVar(&o.passwordStdin, "password-stdin", false, "Take the Password or Personal Access Token (PAT) from stdin")
	return cmd
}

func (a *app) login(ctx context.Context, server string, o loginFlags, passwordGiven bool) error {
	if passwordGiven {
		if o.passwordStdin {
			return errors.New("conflicting options: cannot specify both --password and --password-stdin")
		}
		if o.password == "" {
			return errors.New("password is empty")
		}
		fmt.Fprintln(a.Err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if o.passwordStdin {
		if o.username == "" {
			return errors.New("--password-stdin needs --username")
		}
		password, err := io.ReadAll(a.In)
		if err != nil {
			return err
		}
		o.password = strings.TrimSuffix(strings.TrimSuffix(string(password), "\n"), "\r")
		if o.password == "" {
			return errors.New("password is empty")
		}
	}
	key := registryKey(registryHost(server))
	if key == "" {
		key = dockerHubServer
	}
	credentials := types.AuthConfig{ServerAddress: key, Username: o.username, Password: o.password}
	if o.username == "" && o.password == "" {
		// Credentials that are stored already are tried first.
		if stored, err := credentialsOf(a.config(), key); err == nil && (stored.Username != "" || stored.IdentityToken != "") {
			stored.ServerAddress = key
			if status, err := a.authenticate(ctx, &stored); err == nil {
				fmt.Fprintf(a.Out, "Authenticating with existing credentials...\n")
				return a.storeLogin(stored, status)
			}
		}
	}
	if err := a.promptCredentials(ctx, &credentials); err != nil {
		return err
	}
	status, err := a.authenticate(ctx, &credentials)
	if err != nil {
		return err
	}
	return a.storeLogin(credentials, status)
}

// authenticate asks the engine to try the credentials; a token it answers replaces the password.
func (a *app) authenticate(ctx context.Context, credentials *types.AuthConfig) (status string, err error) {
	engine, err := a.engine()
	if err != nil {
		return "", err
	}
	answer, err := engine.RegistryLogin(ctx, mobyclient.RegistryLoginOptions{
		Username:      credentials.Username,
		Password:      credentials.Password,
		ServerAddress: credentials.ServerAddress,
		IdentityToken: credentials.IdentityToken,
		RegistryToken: credentials.RegistryToken,
	})
	if err != nil {
		return "", err
	}
	if answer.Auth.IdentityToken != "" {
		credentials.Password, credentials.IdentityToken = "", answer.Auth.IdentityToken
	}
	return answer.Auth.Status, nil
}

func (a *app) storeLogin(credentials types.AuthConfig, status string) error {
	config := a.config()
	store := config.GetCredentialsStore(credentials.ServerAddress)
	// The plain file store warns, by itself, that it keeps passwords unencrypted.
	if err := store.Store(credentials); err != nil {
		return fmt.Errorf("error saving credentials: %w", err)
	}
	if status == "" {
		status = "Login Succeeded"
	}
	fmt.Fprintln(a.Out, status)
	return nil
}

// promptCredentials asks on the terminal for what was not given.
func (a *app) promptCredentials(ctx context.Context, credentials *types.AuthConfig) error {
	if credentials.Username != "" && credentials.Password != "" {
		return nil
	}
	fd, terminal := terminalOf(a.In)
	if !terminal {
		return errors.New("Error: Cannot perform an interactive login from a non TTY device")
	}
	input := bufio.NewReader(a.In)
	if credentials.Username == "" {
		fmt.Fprint(a.Out, "Username: ")
		line, err := readLine(ctx, input)
		if err != nil {
			return err
		}
		if credentials.Username = strings.TrimSpace(line); credentials.Username == "" {
			return errors.New("username is required")
		}
	}
	if credentials.Password == "" {
		fmt.Fprint(a.Out, "Password: ")
		password, err := readHidden(ctx, int(fd))
		fmt.Fprintln(a.Out)
		if err != nil {
			return err
		}
		if credentials.Password = password; password == "" {
			return errors.New("password is required")
		}
	}
	return nil
}

func readLine(ctx context.Context, input *bufio.Reader) (string, error) {
	return interruptible(ctx, func() (string, error) {
		line, err := input.ReadString('\n')
		if errors.Is(err, io.EOF) && line != "" {
			err = nil
		}
		return line, err
	})
}

// readHidden reads a line without echo; the terminal echoes again whatever happens.
func readHidden(ctx context.Context, fd int) (string, error) {
	state, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(fd, state) }()
	return interruptible(ctx, func() (string, error) {
		password, err := term.ReadPassword(fd)
		return string(password), err
	})
}

// interruptible lets a signal end a wait for somebody to type. The reader is left behind: the
// process ends next.
func interruptible(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := read()
		answered <- answer{text, err}
	}()
	select {
	case <-ctx.Done():
		return "", context.Canceled
	case got := <-answered:
		return got.text, got.err
	}
}

// registryHost strips what people paste around a registry's name.
func registryHost(server string) string {
	if server == "" || server == dockerHubServer {
		return server
	}
	if parsed, err := url.Parse(server); err == nil && (parsed.Scheme == "http" || parsed.Scheme == "https") {
		return parsed.Host
	}
	host, _, _ := strings.Cut(server, "/")
	return host
}
