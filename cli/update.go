package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newUpdate(a *app) *cobra.Command {
	var (
		r                   container.Resources
		memory, reservation opts.MemBytes
		swap                opts.MemSwapBytes
		cpus                opts.NanoCPUs
		pids                int64
		restart             string
	)
	cmd := &cobra.Command{
		Use:   "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Update configuration of one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().NFlag() == 0 {
				return errors.New("you must provide one or more flags when using this command")
			}
			a.warnOfKernelMemory(cmd.Flags())
			var policy container.RestartPolicy
			if restart != "" {
				var err error
				if policy, err = opts.ParseRestartPolicy(restart); err != nil {
					return err
				}
			}
			r.Memory, r.MemoryReservation, r.MemorySwap = memory.Value(), reservation.Value(), swap.Value()
			r.NanoCPUs = cpus.Value()
			if pids != 0 {
				r.PidsLimit = &pids
			}
			var mu sync.Mutex // guards warnings
			var warnings []string
			err := a.forEachAtOnce(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				result, err := engine.ContainerUpdate(ctx, name, mobyclient.ContainerUpdateOptions{Resources: &r, RestartPolicy: &policy})
				mu.Lock()
				defer mu.Unlock()
				warnings = append(warnings, result.Warnings...)
				return err
			})
			for _, w := range warnings {
				fmt.Fprintln(a.Out, w)
			}
			return err
		},
		ValidArgsFunction: a.completeContainers(nil),
	}
	flags := cmd.Flags()
	flags.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	flags.Int64Var(&r.CPUPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	flags.Int64Var(&r.CPUQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	flags.Int64Var(&r.CPURealtimePeriod, "cpu-rt-period", 0, "Limit the CPU real-time period in microseconds")
	flags.Int64Var(&r.CPURealtimeRuntime, "cpu-rt-runtime", 0, "Limit the CPU real-time runtime in microseconds")
	flags.Int64VarP(&r.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	flags.Var(&cpus, "cpus", "Number of CPUs")
	flags.StringVar(&r.CpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	flags.StringVar(&r.CpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	registerKernelMemory(flags)
	flags.VarP(&memory, "memory", "m", "Memory limit")
	flags.Var(&reservation, "memory-reservation", "Memory soft limit")
	flags.Var(&swap, "memory-swap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap")
	flags.Int64Var(&pids, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	flags.StringVar(&restart, "restart", "", restartHelp)
	return cmd
}
