package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// newDialStdio is the far end of an ssh:// connection: it joins its own standard streams to
// the engine's socket.
func newDialStdio(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "dial-stdio",
		Short:  "Proxy the stdio stream to the engine connection",
		Args:   noArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			engine, err := a.engine()
			if err != nil {
				return err
			}
			connection, err := engine.Dialer()(cmd.Context())
			if err != nil {
				return fmt.Errorf("failed to open the raw stream connection: %w", err)
			}
			defer connection.Close()
			toEngine, fromEngine := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := io.Copy(connection, a.In)
				if half, ok := connection.(interface{ CloseWrite() error }); ok {
					err = errors.Join(err, half.CloseWrite())
				}
				toEngine <- err
			}()
			go func() {
				_, err := io.Copy(a.Out, connection)
				fromEngine <- err
			}()
			select {
			case err := <-fromEngine:
				return err
			case err := <-toEngine:
				// The engine may still have much to say after the last request.
				return errors.Join(err, <-fromEngine)
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			}
		},
	}
}
