package cli

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type attachFlags struct {
	noStdin, sigProxy bool
	detachKeys        string
}

func newAttach(a *app) *cobra.Command {
	var o attachFlags
	cmd := &cobra.Command{
		Use:               "attach [OPTIONS] CONTAINER",
		Short:             "Attach local standard input, output, and error streams to a running container",
		Args:              exactArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.attach(cmd.Context(), args[0], o) },
		ValidArgsFunction: a.completeContainers(func(c container.Summary) bool { return c.State == container.StateRunning }),
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.noStdin, "no-stdin", false, "Do not attach STDIN")
	flags.BoolVar(&o.sigProxy, "sig-proxy", true, "Proxy all received signals to the process")
	flags.StringVar(&o.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

func (a *app) attach(ctx context.Context, name string, o attachFlags) error {
	if err := checkDetachKeys(a.detachKeys(o.detachKeys)); err != nil {
		return err
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	found, err := engine.ContainerInspect(ctx, name, mobyclient.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	c := found.Container
	switch {
	case c.State == nil || !c.State.Running:
		return errors.New("cannot attach to a stopped container, start it first")
	case c.State.Paused:
		return errors.New("cannot attach to a paused container, unpause it first")
	case c.State.Restarting:
		return errors.New("cannot attach to a restarting container, wait until it is running")
	}
	config := *c.Config
	config.AttachStdin = !o.noStdin && config.OpenStdin
	config.AttachStdout, config.AttachStderr = true, true
	if err := a.checkTTY(config.AttachStdin, config.Tty); err != nil {
		return err
	}
	if o.sigProxy && !config.Tty {
		signals := a.catchSignals()
		signals.forward(ctx, engine, c.ID)
		defer signals.close()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// By id from here on, and registered before attaching: a rename or a quick end changes nothing.
	attached := make(chan struct{})
	exited := a.waitCondition(ctx, engine, c.ID, "", attached)
	streams, err := a.attachForRun(ctx, engine, c.ID, &config, a.detachKeys(o.detachKeys))
	if err != nil {
		return err
	}
	if config.Tty {
		a.redraw(ctx, engine, c.ID)
		a.followSize(ctx, a.resizeContainer(engine, c.ID))
	}
	err = streams.wait()
	close(attached)
	if errors.Is(err, errDetached) || errors.Is(err, context.Canceled) || errors.As(err, new(outputError)) {
		return err
	}
	return <-exited
}

// redraw makes a full-screen program paint itself for the newcomer: it is told a size that is
// off by one, then (by followSize) the real one.
func (a *app) redraw(ctx context.Context, engine *mobyclient.Client, id string) {
	if height, width := a.consoleSize(); height > 0 {
		_, _ = engine.ContainerResize(ctx, id, mobyclient.ContainerResizeOptions{Height: height + 1, Width: width + 1})
	}
}
