package cli

import (
	"context"

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
