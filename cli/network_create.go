package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/network"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type networkCreateFlags struct {
	driver, scope, configFrom, ipamDriver     string
	internal, attachable, ingress, configOnly bool
	ipv4, ipv6                                bool
	options, auxAddresses, ipamOptions        *opts.MapOpts
	labels                                    opts.ListOpts
	subnets                                   []string
	ranges                                    []net.IPNet
	gateways                                  []net.IP
}

func newNetworkCreate(a *app) *cobra.Command {
	o := networkCreateFlags{
		options: opts.NewMapOpts(nil, nil), auxAddresses: opts.NewMapOpts(nil, nil), ipamOptions: opts.NewMapOpts(nil, nil),
		labels: opts.NewListOpts(opts.ValidateLabel),
	}
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] NETWORK",
		Short:             "Create a network",
		Args:              exactArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.createNetwork(cmd, args[0], &o) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.driver, "driver", "d", "bridge", "Driver to manage the network")
	flags.VarP(o.options, "opt", "o", "Set driver specific options")
	flags.Var(&o.labels, "label", "Set metadata on a network")
	flags.BoolVar(&o.internal, "internal", false, "Restrict external access to the network")
	flags.BoolVar(&o.ipv4, "ipv4", true, "Enable or disable IPv4 address assignment")
	flags.BoolVar(&o.ipv6, "ipv6", false, "Enable or disable IPv6 address assignment")
	flags.BoolVar(&o.attachable, "attachable", false, "Enable manual container attachment")
	flags.BoolVar(&o.ingress, "ingress", false, "Create swarm routing-mesh network")
	flags.StringVar(&o.scope, "scope", "", "Control the network's scope")
	flags.BoolVar(&o.configOnly, "config-only", false, "Create a configuration only network")
	flags.StringVar(&o.configFrom, "config-from", "", "The network from which to copy the configuration")
	flags.StringVar(&o.ipamDriver, "ipam-driver", "default", "IP Address Management driver")
	flags.StringSliceVar(&o.subnets, "subnet", nil, "Subnet in CIDR format that represents a network segment")
	flags.IPNetSliceVar(&o.ranges, "ip-range", nil, "Give out container addresses from a sub-range")
	flags.IPSliceVar(&o.gateways, "gateway", nil, "IPv4 or IPv6 gateway of a subnet")
	flags.Var(o.auxAddresses, "aux-address", "Addresses that are never given out (NAME=ADDRESS)")
	flags.Var(o.ipamOptions, "ipam-opt", "Set IPAM driver specific options")
	return cmd
}

func (a *app) createNetwork(cmd *cobra.Command, name string, o *networkCreateFlags) error {
	pools, err := ipamPools(o.subnets, o.ranges, o.gateways, o.auxAddresses.GetAll())
	if err != nil {
		return err
	}
	options := mobyclient.NetworkCreateOptions{
		Driver:     o.driver,
		Options:    o.options.GetAll(),
		IPAM:       &network.IPAM{Driver: o.ipamDriver, Options: o.ipamOptions.GetAll(), Config: pools},
		Internal:   o.internal,
		Attachable: o.attachable,
		Ingress:    o.ingress,
		Scope:      o.scope,
		ConfigOnly: o.configOnly,
		ConfigFrom: o.configFrom,
		Labels:     opts.ConvertKVStringsToMap(o.labels.GetSlice()),
	}
	// What is not said is left to the engine, whose defaults may differ.
	if cmd.Flags().Changed("ipv4") {
		options.EnableIPv4 = &o.ipv4
	}
	if cmd.Flags().Changed("ipv6") {
		options.EnableIPv6 = &o.ipv6
	}
	return a.sendNetwork(cmd.Context(), name, options)
}

func (a *app) sendNetwork(ctx context.Context, name string, options mobyclient.NetworkCreateOptions) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	answer, err := engine.NetworkCreate(ctx, name, options)
	if err != nil {
		return err
	}
	for _, warning := range answer.Warning {
		fmt.Fprintln(a.Err, "WARNING:", warning)
	}
	fmt.Fprintln(a.Out, answer.ID)
	return nil
}

// ipamPools gives each subnet the range, the gateway and the reserved addresses that lie in it.
func ipamPools(subnets []string, ranges []net.IPNet, gateways []net.IP, aux map[string]string) ([]network.IPAMConfig, error) {
	if len(subnets) < len(ranges) || len(subnets) < len(gateways) {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet")
	}
	pools := make([]network.IPAMConfig, 0, len(subnets))
	for _, s := range subnets {
		subnet, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %q: it is not ADDRESS/LENGTH", s)
		}
		for _, other := range pools {
			if other.Subnet.Overlaps(subnet) {
				return nil, fmt.Errorf("subnets of one network must not overlap: %s and %s", other.Subnet, subnet)
			}
		}
		pools = append(pools, network.IPAMConfig{Subnet: subnet, AuxAddress: map[string]netip.Addr{}})
	}
	poolOf := func(addr netip.Addr) *network.IPAMConfig {
		for i := range pools {
			if pools[i].Subnet.Masked().Contains(addr) {
				return &pools[i]
			}
		}
		return nil
	}
	for _, r := range ranges {
		bits, _ := r.Mask.Size()
		part := netip.PrefixFrom(addressOf(r.IP), bits)
		pool := poolOf(part.Addr())
		switch {
		case pool == nil:
			return nil, fmt.Errorf("no matching subnet for range %s", part)
		case pool.IPRange.IsValid():
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", part, pool.IPRange, pool.Subnet)
		}
		pool.IPRange = part
	}
	for _, g := range gateways {
		gateway := addressOf(g)
		pool := poolOf(gateway)
		switch {
		case pool == nil:
			return nil, fmt.Errorf("no matching subnet for gateway %s", gateway)
		case pool.Gateway.IsValid():
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", gateway, pool.Gateway, pool.Subnet)
		}
		pool.Gateway = gateway
	}
	for _, name := range slices.Sorted(maps.Keys(aux)) {
		if aux[name] == "" {
			continue
		}
		addr, err := netip.ParseAddr(aux[name])
		if err != nil {
			return nil, fmt.Errorf("invalid aux-address %s=%s: it is not an IP address", name, aux[name])
		}
		pool := poolOf(addr)
		if pool == nil {
			return nil, fmt.Errorf("no matching subnet for aux-address %s", addr)
		}
		pool.AuxAddress[name] = addr
	}
	return pools, nil
}
