package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newNetworkGroup(a *app) *cobra.Command {
	return newGroup(a, "network", "Manage networks", []entry{
		{name: "connect", build: newNetworkConnect},
		{name: "create", build: newNetworkCreate},
		{name: "disconnect", build: newNetworkDisconnect},
		{name: "inspect", build: newNetworkInspect},
		{name: "ls", aliases: []string{"list"}, build: newNetworkLs},
		{name: "prune", build: newNetworkPrune},
		{name: "rm", aliases: []string{"remove"}, build: newNetworkRm},
	})
}

type networkLsFlags struct {
	quiet, noTrunc bool
	format         string
	filter         opts.FilterOpt
}

func newNetworkLs(a *app) *cobra.Command {
	o := networkLsFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Aliases:           []string{"list"},
		Short:             "List networks",
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.listNetworks(cmd.Context(), &o) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only display network IDs")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate the output")
	flags.StringVar(&o.format, "format", "", formatHelp)
	flags.VarP(&o.filter, "filter", "f", `Provide filter values (e.g. "driver=bridge")`)
	return cmd
}

func (a *app) listNetworks(ctx context.Context, o *networkLsFlags) error {
	format := o.format
	if format == "" && !o.quiet {
		format = a.config().NetworksFormat
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	answer, err := engine.NetworkList(ctx, mobyclient.NetworkListOptions{Filters: o.filter.Value()})
	if err != nil {
		return err
	}
	slices.SortStableFunc(answer.Items, func(a, b network.Summary) int { return compareNatural(a.Name, b.Name) })
	rows := make([]*networkRow, len(answer.Items))
	for i, n := range answer.Items {
		rows[i] = &networkRow{n: n, trunc: !o.noTrunc}
	}
	return networkList.print(a.Out, format, o.quiet, rows)
}

// networkList is what `network ls` can show of a network.
var networkList = list[*networkRow]{
	columns: []column[*networkRow]{
		{"ID", "NETWORK ID", (*networkRow).ID},
		{"Name", "NAME", (*networkRow).Name},
		{"Driver", "DRIVER", (*networkRow).Driver},
		{"Scope", "SCOPE", (*networkRow).Scope},
		{"IPv4", "IPV4", (*networkRow).IPv4},
		{"IPv6", "IPV6", (*networkRow).IPv6},
		{"Internal", "INTERNAL", (*networkRow).Internal},
		{"Labels", "LABELS", (*networkRow).Labels},
		{"CreatedAt", "CREATED AT", (*networkRow).CreatedAt},
	},
	standard: []string{"ID", "Name", "Driver", "Scope"},
	raw:      []string{"network_id ID", "name Name", "driver Driver", "scope Scope"},
	quiet:    (*networkRow).ID,
}

type networkRow struct {
	n     network.Summary
	trunc bool
}

func (r *networkRow) MarshalJSON() ([]byte, error) { return json.Marshal(networkList.fields(r)) }

func (r *networkRow) ID() string {
	if r.trunc {
		return shortID(r.n.ID)
	}
	return r.n.ID
}

func (r *networkRow) Name() string     { return r.n.Name }
func (r *networkRow) Driver() string   { return r.n.Driver }
func (r *networkRow) Scope() string    { return r.n.Scope }
func (r *networkRow) IPv4() string     { return strconv.FormatBool(r.n.EnableIPv4) }
func (r *networkRow) IPv6() string     { return strconv.FormatBool(r.n.EnableIPv6) }
func (r *networkRow) Internal() string { return strconv.FormatBool(r.n.Internal) }
func (r *networkRow) Labels() string   { return joinLabels(r.n.Labels) }
func (r *networkRow) CreatedAt() string {
	return r.n.Created.Format("2006-01-02 15:04:05.999999999 -0700 MST")
}

// Label is the value of one label: {{.Label "com.example.tier"}}.
func (r *networkRow) Label(key string) string { return r.n.Labels[key] }

// compareNatural orders texts as people do: numbers in them by value, all else by bytes.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		digitsA, digitsB := leadingDigits(a), leadingDigits(b)
		if digitsA == "" || digitsB == "" {
			if a[0] != b[0] {
				return int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		numberA, numberB := strings.TrimLeft(digitsA, "0"), strings.TrimLeft(digitsB, "0")
		if len(numberA) != len(numberB) {
			return len(numberA) - len(numberB)
		}
		if c := strings.Compare(numberA, numberB); c != 0 {
			return c
		}
		if len(digitsA) != len(digitsB) { // 01 and 1: the shorter first
			return len(digitsA) - len(digitsB)
		}
		a, b = a[len(digitsA):], b[len(digitsB):]
	}
	return len(a) - len(b)
}

func leadingDigits(s string) string {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return s[:n]
}

func newNetworkInspect(a *app) *cobra.Command {
	var format string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NETWORK [NETWORK...]",
		Short: "Display detailed information on one or more networks",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inspect(cmd.Context(), args, format, inspectNetwork(verbose))
		},
		ValidArgsFunction: a.completeNetworks(0, anyNetwork),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Verbose output for diagnostics")
	return cmd
}

func newNetworkRm(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm NETWORK [NETWORK...]",
		Aliases:           []string{"remove"},
		Short:             "Remove one or more networks",
		Args:              minArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.removeNetworks(cmd.Context(), args, force) },
		ValidArgsFunction: a.completeNetworks(0, ownNetwork),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the network does not exist")
	return cmd
}

func (a *app) removeNetworks(ctx context.Context, names []string, force bool) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	failed := false
	for _, name := range names {
		_, err := engine.NetworkRemove(ctx, name, mobyclient.NetworkRemoveOptions{})
		switch {
		case err == nil:
			fmt.Fprintln(a.Out, name)
		case force && errdefs.IsNotFound(err):
		case errors.Is(err, context.Canceled):
			return err
		default:
			fmt.Fprintln(a.Err, explain(err))
			failed = true
		}
	}
	if failed {
		return statusError{code: 1}
	}
	return nil
}

func newNetworkPrune(a *app) *cobra.Command {
	o := pruneFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove all unused networks",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			question := "WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue?"
			if err := a.confirmPrune(ctx, o.force, question); err != nil {
				return err
			}
			text, err := a.pruneNetworks(ctx, a.pruneFilters(o.filter))
			if err == nil && text != "" {
				fmt.Fprintln(a.Out, text)
			}
			return err
		},
	}
	o.registerCommon(cmd)
	return cmd
}

func (a *app) pruneNetworks(ctx context.Context, filters mobyclient.Filters) (string, error) {
	engine, err := a.engine()
	if err != nil {
		return "", err
	}
	answer, err := engine.NetworkPrune(ctx, mobyclient.NetworkPruneOptions{Filters: filters})
	return deletedText("Deleted Networks:", answer.Report.NetworksDeleted), err
}

type networkConnectFlags struct {
	ip, ip6             net.IP
	linkLocal           []net.IP
	links               opts.ListOpts
	aliases, driverOpts []string
	gwPriority          int
}

func newNetworkConnect(a *app) *cobra.Command {
	o := networkConnectFlags{links: opts.NewListOpts(opts.ValidateLink)}
	cmd := &cobra.Command{
		Use:   "connect [OPTIONS] NETWORK CONTAINER",
		Short: "Connect a container to a network",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.connectNetwork(cmd.Context(), args[0], args[1], &o)
		},
		ValidArgsFunction: a.completeConnection(false),
	}
	flags := cmd.Flags()
	flags.IPVar(&o.ip, "ip", nil, `IPv4 address (e.g., "172.30.100.104")`)
	flags.IPVar(&o.ip6, "ip6", nil, `IPv6 address (e.g., "2001:db8::33")`)
	flags.Var(&o.links, "link", "Add link to another container")
	flags.StringSliceVar(&o.aliases, "alias", nil, "Add network-scoped alias for the container")
	flags.IPSliceVar(&o.linkLocal, "link-local-ip", nil, "Add a link-local address for the container")
	flags.StringSliceVar(&o.driverOpts, "driver-opt", nil, "Set driver options of the endpoint")
	flags.IntVar(&o.gwPriority, "gw-priority", 0, "The network with the highest number, which may be negative, provides the default gateway")
	return cmd
}

func (a *app) connectNetwork(ctx context.Context, name, container string, o *networkConnectFlags) error {
	options := map[string]string{}
	for _, option := range o.driverOpts {
		key, value, ok := strings.Cut(option, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return fmt.Errorf("invalid driver option %q: it is not KEY=VALUE", option)
		}
		options[key] = strings.TrimSpace(value)
	}
	endpoint := &network.EndpointSettings{
		IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: addressOf(o.ip), IPv6Address: addressOf(o.ip6)},
		Links:      o.links.GetSlice(),
		Aliases:    o.aliases,
		DriverOpts: options,
		GwPriority: o.gwPriority,
	}
	for _, ip := range o.linkLocal {
		endpoint.IPAMConfig.LinkLocalIPs = append(endpoint.IPAMConfig.LinkLocalIPs, addressOf(ip))
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	_, err = engine.NetworkConnect(ctx, name, mobyclient.NetworkConnectOptions{Container: container, EndpointConfig: endpoint})
	return err
}

// addressOf is the address that pflag read; zero for none.
func addressOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

func newNetworkDisconnect(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "disconnect [OPTIONS] NETWORK CONTAINER",
		Short: "Disconnect a container from a network",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			engine, err := a.engine()
			if err != nil {
				return err
			}
			_, err = engine.NetworkDisconnect(cmd.Context(), args[0], mobyclient.NetworkDisconnectOptions{Container: args[1], Force: force})
			return err
		},
		ValidArgsFunction: a.completeConnection(true),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the container to disconnect from a network")
	return cmd
}

func anyNetwork(network.Summary) bool { return true }

// ownNetwork leaves out the predefined networks, which cannot be removed.
func ownNetwork(n network.Summary) bool {
	return !slices.Contains([]string{"bridge", "host", "none"}, n.Name)
}

// completeNetworks offers network names for the first limit arguments (0: for all of them).
func (a *app) completeNetworks(limit int, keep func(network.Summary) bool) completer {
	return func(_ *cobra.Command, typed []string, _ string) ([]string, cobra.ShellCompDirective) {
		if limit > 0 && len(typed) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return without(a.networkNames(keep), typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeConnection offers a network, then the containers that are on it, or that are not.
func (a *app) completeConnection(connected bool) completer {
	return func(cmd *cobra.Command, typed []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(typed) != 1 {
			return a.completeNetworks(1, anyNetwork)(cmd, typed, word)
		}
		keep := func(c container.Summary) bool {
			if c.NetworkSettings == nil {
				return !connected
			}
			_, on := c.NetworkSettings.Networks[typed[0]]
			return on == connected
		}
		return a.containerNames(keep), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) networkNames(keep func(network.Summary) bool) []string {
	engine, err := a.engine()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	answer, err := engine.NetworkList(ctx, mobyclient.NetworkListOptions{})
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range answer.Items {
		if keep(n) {
			names = append(names, n.Name)
		}
	}
	return names
}

// completeNetworkFlags offers what --network and --link of run and create may name.
func (a *app) completeNetworkFlags(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("network", func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		var names []string
		if !strings.HasPrefix(word, "container:") {
			names = a.networkNames(anyNetwork)
		}
		for _, c := range a.containerNames(running) {
			names = append(names, "container:"+c)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	_ = cmd.RegisterFlagCompletionFunc("link", a.completeContainers(running))
}
