package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"berth/version"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/system"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// infoReport is the engine's info with the client's beside it, as Docker prints it.
type infoReport struct {
	*system.Info
	ClientInfo   clientInfo
	ServerErrors []string `json:",omitempty"`
}

type clientInfo struct {
	Debug             bool
	Version           string
	DefaultAPIVersion string
	GitCommit         string
	GoVersion         string
	Os, Arch          string
	Context           string
	Plugins           []string
	Warnings          []string
}

func newInfo(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "info [OPTIONS]",
		Short:             "Display system-wide information",
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.info(cmd.Context(), format) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	return cmd
}

func (a *app) info(ctx context.Context, format string) error {
	report := infoReport{ClientInfo: clientInfo{
		Debug:             a.debug,
		Version:           version.Version,
		DefaultAPIVersion: mobyclient.MaxAPIVersion,
		GitCommit:         version.Commit,
		GoVersion:         runtime.Version(),
		Os:                runtime.GOOS,
		Arch:              runtime.GOARCH,
		Context:           a.contextName(),
		Plugins:           []string{},
	}}
	engine, err := a.engine()
	if err == nil {
		var answer mobyclient.SystemInfoResult
		if answer, err = engine.Info(ctx, mobyclient.InfoOptions{}); err == nil {
			report.Info = &answer.Info
		}
	}
	if err != nil {
		report.ServerErrors = append(report.ServerErrors, explain(err))
	}
	switch format {
	case "":
		printInfo(a.Out, a.Err, report)
		if err != nil {
			return statusError{code: 1, message: "errors pretty printing info"}
		}
		return nil
	case "json":
		line, jsonErr := encodeJSON(report)
		if jsonErr != nil {
			return jsonErr
		}
		fmt.Fprintln(a.Out, line)
	default:
		if report.Info == nil {
			report.Info = &system.Info{}
		}
		if templateErr := a.printOne(format, report); templateErr != nil {
			return templateErr
		}
	}
	return err
}

func printInfo(w, errors io.Writer, r infoReport) {
	fmt.Fprintln(w, "Client:")
	printValue(w, " Version", "   "+r.ClientInfo.Version)
	printValue(w, " Context", "   "+r.ClientInfo.Context)
	fmt.Fprintf(w, " Debug Mode: %t\n", r.ClientInfo.Debug)
	fmt.Fprintln(w, "\nServer:")
	if r.Info != nil {
		printServerInfo(w, r.Info)
		for _, warning := range r.Warnings {
			fmt.Fprintln(errors, warning)
		}
	}
	for _, e := range r.ServerErrors {
		fmt.Fprintln(w, "ERROR:", e)
	}
}

func printValue(w io.Writer, key, value string) {
	if strings.TrimSpace(value) != "" {
		fmt.Fprintf(w, "%s: %s\n", key, value)
	}
}

func printList(w io.Writer, head string, values []string) {
	if len(values) == 0 {
		return
	}
	fmt.Fprintf(w, " %s:\n", head)
	for _, v := range values {
		fmt.Fprintf(w, "  %s\n", v)
	}
}

func printServerInfo(w io.Writer, i *system.Info) {
	fmt.Fprintf(w, " Containers: %d\n  Running: %d\n  Paused: %d\n  Stopped: %d\n Images: %d\n",
		i.Containers, i.ContainersRunning, i.ContainersPaused, i.ContainersStopped, i.Images)
	printValue(w, " Server Version", i.ServerVersion)
	printValue(w, " Storage Driver", i.Driver)
	for _, pair := range i.DriverStatus {
		fmt.Fprintf(w, "  %s: %s\n", pair[0], pair[1])
	}
	printValue(w, " Logging Driver", i.LoggingDriver)
	printValue(w, " Cgroup Driver", i.CgroupDriver)
	printValue(w, " Cgroup Version", i.CgroupVersion)
	fmt.Fprintln(w, " Plugins:")
	printValue(w, "  Volume", strings.Join(i.Plugins.Volume, " "))
	printValue(w, "  Network", strings.Join(i.Plugins.Network, " "))
	printValue(w, "  Authorization", strings.Join(i.Plugins.Authorization, " "))
	printValue(w, "  Log", strings.Join(i.Plugins.Log, " "))
	printList(w, "CDI spec directories", i.CDISpecDirs)
	var devices []string
	for _, d := range i.DiscoveredDevices {
		devices = append(devices, d.Source+": "+d.ID)
	}
	printList(w, "Discovered Devices", devices)
	printValue(w, " Swarm", string(i.Swarm.LocalNodeState))
	if len(i.Runtimes) > 0 {
		fmt.Fprintf(w, " Runtimes: %s\n Default Runtime: %s\n", strings.Join(slices.Sorted(maps.Keys(i.Runtimes)), " "), i.DefaultRuntime)
	}
	printValue(w, " Init Binary", i.InitBinary)
	// Engines without these parts have nothing to say about them.
	printValue(w, " containerd version", i.ContainerdCommit.ID)
	printValue(w, " runc version", i.RuncCommit.ID)
	printValue(w, " init version", i.InitCommit.ID)
	printValue(w, " init version", i.InitCommit.ID)
	printSecurityOptions(w, i.SecurityOptions)
	printValue(w, " Kernel Version", i.KernelVersion)
	printValue(w, " Operating System", i.OperatingSystem)
	printValue(w, " OSType", i.OSType)
	printValue(w, " Architecture", i.Architecture)
	fmt.Fprintf(w, " CPUs: %d\n Total Memory: %s\n", i.NCPU, units.BytesSize(float64(i.MemTotal)))
	printValue(w, " Name", i.Name)
	printValue(w, " ID", i.ID)
	printValue(w, " Docker Root Dir", i.DockerRootDir)
	fmt.Fprintf(w, " Debug Mode: %t\n", i.Debug)
	if i.Debug {
		fmt.Fprintf(w, "  File Descriptors: %d\n  Goroutines: %d\n  System Time: %s\n  EventsListeners: %d\n", i.NFd, i.NGoroutines, i.SystemTime, i.NEventsListener)
	}
	printValue(w, " HTTP Proxy", i.HTTPProxy)
	printValue(w, " HTTPS Proxy", i.HTTPSProxy)
	printValue(w, " No Proxy", i.NoProxy)
	printList(w, "Labels", i.Labels)
	fmt.Fprintf(w, " Experimental: %t\n", i.ExperimentalBuild)
	if r := i.RegistryConfig; r != nil {
		var insecure []string
		for _, name := range slices.Sorted(maps.Keys(r.IndexConfigs)) {
			if !r.IndexConfigs[name].Secure {
				insecure = append(insecure, name)
			}
		}
		for _, cidr := range r.InsecureRegistryCIDRs {
			insecure = append(insecure, cidr.String())
		}
		printList(w, "Insecure Registries", insecure)
		printList(w, "Registry Mirrors", r.Mirrors)
	}
	fmt.Fprintf(w, " Live Restore Enabled: %t\n", i.LiveRestoreEnabled)
	if len(i.DefaultAddressPools) > 0 {
		fmt.Fprintln(w, " Default Address Pools:")
		for _, p := range i.DefaultAddressPools {
			fmt.Fprintf(w, "   Base: %s, Size: %d\n", p.Base, p.Size)
		}
	}
	if i.FirewallBackend != nil {
		printValue(w, " Firewall Backend", i.FirewallBackend.Driver)
		for _, pair := range i.FirewallBackend.Info {
			fmt.Fprintf(w, "  %s: %s\n", pair[0], pair[1])
		}
	}
	fmt.Fprintln(w)
}

// printSecurityOptions unfolds "name=seccomp,profile=builtin".
func printSecurityOptions(w io.Writer, options []string) {
	if len(options) == 0 {
		return
	}
	fmt.Fprintln(w, " Security Options:")
	for _, option := range options {
		for _, field := range strings.Split(option, ",") {
			key, value, found := strings.Cut(field, "=")
			switch {
			case !found:
				fmt.Fprintf(w, "  %s\n", field)
			case key == "name":
				fmt.Fprintf(w, "  %s\n", value)
			case key == "profile":
				fmt.Fprintf(w, "   Profile: %s\n", value)
			default:
				fmt.Fprintf(w, "   %s: %s\n", key, value)
			}
		}
	}
}
