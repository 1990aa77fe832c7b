package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
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
			left := make(chan struct{})
			if out, ok := a.Out.(*os.File); ok {
				go func() { awaitHangup(int(out.Fd())); close(left) }()
			}
			select {
			case <-left:
				return nil // whoever connected through us: nothing reaches him any more
			case err := <-fromEngine:
				return err
			case err := <-toEngine:
				// The engine may still have much to say after the last request.
				select {
				case <-left:
					return err
				case said := <-fromEngine:
					return errors.Join(err, said)
				}
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			}
		},
	}
}

// awaitHangup returns when nobody reads what is written to fd any more: a stream that is
// silent would not tell.
func awaitHangup(fd int) {
	for {
		events := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(events, -1); err == unix.EINTR {
			continue
		} else if err != nil || events[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
			return
		}
	}
}
