package cli

import (
	"context"

	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// stopFlags are those of `stop` and `restart`: how the container is asked to end.
type stopFlags struct {
	signal  string
	timeout int
}

func (o *stopFlags) register(flags *pflag.FlagSet) {
	flags.StringVarP(&o.signal, "signal", "s", "", "Signal to send to the container")
	flags.IntVarP(&o.timeout, "timeout", "t", 0, "Seconds to wait before killing the container")
	flags.IntVar(&o.timeout, "time", 0, "Seconds to wait before killing the container (deprecated: use --timeout)")
	_ = flags.MarkHidden("time")
}

// seconds is nil when the container's own timeout shall count.
func (o *stopFlags) seconds(flags *pflag.FlagSet) *int {
	if flags.Changed("timeout") || flags.Changed("time") {
		return &o.timeout
	}
	return nil
}

func newStop(a *app) *cobra.Command {
	var o stopFlags
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Stop one or more running containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			timeout := o.seconds(cmd.Flags())
			return a.forEachAtOnce(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				_, err := engine.ContainerStop(ctx, name, mobyclient.ContainerStopOptions{Signal: o.signal, Timeout: timeout})
				return err
			})
		},
		ValidArgsFunction: a.completeContainers(running),
	}
	o.register(cmd.Flags())
	return cmd
}

func newRestart(a *app) *cobra.Command {
	var o stopFlags
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Restart one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			timeout := o.seconds(cmd.Flags())
			return a.forEach(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				_, err := engine.ContainerRestart(ctx, name, mobyclient.ContainerRestartOptions{Signal: o.signal, Timeout: timeout})
				return err
			}, "")
		},
		ValidArgsFunction: a.completeContainers(anyState),
	}
	o.register(cmd.Flags())
	return cmd
}

func newKill(a *app) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Kill one or more running containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachAtOnce(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				_, err := engine.ContainerKill(ctx, name, mobyclient.ContainerKillOptions{Signal: signal})
				return err
			})
		},
		ValidArgsFunction: a.completeContainers(running),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal to send to the container")
	return cmd
}

func newPause(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "pause CONTAINER [CONTAINER...]",
		Short: "Pause all processes within one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachAtOnce(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				_, err := engine.ContainerPause(ctx, name, mobyclient.ContainerPauseOptions{})
				return err
			})
		},
		ValidArgsFunction: a.completeContainers(func(c container.Summary) bool { return c.State == container.StateRunning }),
	}
}

func newUnpause(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "unpause CONTAINER [CONTAINER...]",
		Short: "Unpause all processes within one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachAtOnce(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				_, err := engine.ContainerUnpause(ctx, name, mobyclient.ContainerUnpauseOptions{})
				return err
			})
		},
		ValidArgsFunction: a.completeContainers(func(c container.Summary) bool { return c.State == container.StatePaused }),
	}
}
