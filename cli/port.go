package cli

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/moby/moby/api/types/network"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newPort(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "List port mappings or a specific mapping for the container",
		Args:  rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			only := ""
			if len(args) == 2 {
				only = args[1]
			}
			return a.port(cmd.Context(), args[0], only)
		},
		ValidArgsFunction: a.completeContainers(running),
	}
}

func (a *app) port(ctx context.Context, name, only string) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	found, err := engine.ContainerInspect(ctx, name, mobyclient.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	ports := network.PortMap{}
	if settings := found.Container.NetworkSettings; settings != nil && settings.Ports != nil {
		ports = settings.Ports
	}
	var lines []string
	if only != "" {
		port, err := network.ParsePort(only)
		if err != nil {
			return fmt.Errorf("Error: invalid port: %w", err)
		}
		if len(ports[port]) == 0 {
			return fmt.Errorf("Error: No public port '%s' published for %s", only, name)
		}
		for _, b := range ports[port] {
			lines = append(lines, bindingText(b))
		}
	} else {
		for port, bindings := range ports {
			for _, b := range bindings {
				lines = append(lines, fmt.Sprintf("%s -> %s", port, bindingText(b)))
			}
		}
	}
	slices.SortFunc(lines, compareNatural)
	for _, line := range lines {
		fmt.Fprintln(a.Out, line)
	}
	return nil
}

func bindingText(b network.PortBinding) string {
	ip := ""
	if b.HostIP.IsValid() {
		ip = b.HostIP.String()
	}
	return net.JoinHostPort(ip, b.HostPort)
}
