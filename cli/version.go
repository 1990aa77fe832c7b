package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"berth/version"

	"github.com/moby/moby/api/types/system"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// versionReport is what `version` knows, with Docker's field names for templates and JSON.
type versionReport struct {
	Client clientVersion
	Server *serverVersion
}

type clientVersion struct {
	Platform          *platformInfo `json:",omitempty"`
	Version           string
	APIVersion        string `json:"ApiVersion"`
	DefaultAPIVersion string
	GitCommit         string
	GoVersion         string
	Os, Arch          string
	BuildTime         string `json:",omitempty"`
	Context           string
}

type platformInfo struct{ Name string }

type serverVersion struct {
	Platform      platformInfo
	Components    []system.ComponentVersion
	Version       string
	APIVersion    string `json:"ApiVersion"`
	MinAPIVersion string `json:"MinAPIVersion,omitempty"`
	GitCommit     string
	GoVersion     string
	Os, Arch      string
	KernelVersion string `json:",omitempty"`
	Experimental  bool   `json:",omitempty"`
	BuildTime     string `json:",omitempty"`
}

func newVersion(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "version [OPTIONS]",
		Short:             "Show the Berth version information",
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.version(cmd.Context(), format) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	return cmd
}

// dockerVersion is the release of Docker's command line whose commands and flags these are.
const dockerVersion = "29.0.0"

// shortVersion is the answer to --version. Under the name docker it begins as that one's does,
// because scripts look there for a number.
func (a *app) shortVersion() string {
	own := "version " + version.Version + ", build " + version.Commit
	if a.name == "docker" {
		return "Docker version " + dockerVersion + " (Berth " + own + ")"
	}
	return "Berth " + own
}

// version prints what is known even when no engine answers; the exit code tells.
func (a *app) version(ctx context.Context, format string) error {
	engine, connectErr := a.engine()
	report := versionReport{Client: clientVersion{
		Version:           version.Version,
		APIVersion:        mobyclient.MaxAPIVersion,
		DefaultAPIVersion: mobyclient.MaxAPIVersion,
		GitCommit:         version.Commit,
		GoVersion:         runtime.Version(),
		Os:                runtime.GOOS,
		Arch:              runtime.GOARCH,
		BuildTime:         revisionTime(),
		Context:           a.contextName(),
	}}
	if connectErr == nil {
		report.Server, connectErr = serverVersionOf(ctx, engine)
		report.Client.APIVersion = engine.ClientVersion()
	}
	switch format {
	case "":
		printVersion(a.Out, report)
	case "json":
		line, err := encodeJSON(report)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.Out, line)
	default:
		if err := a.printOne(format, report); err != nil && connectErr == nil {
			return err
		}
	}
	return connectErr
}

// revisionTime is when the source revision was made, empty if the build did not record it.
func revisionTime() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			return readableTime(s.Value)
		}
	}
	return ""
}

// contextName is the context in use, for the eye.
func (a *app) contextName() string {
	if a.engineOptions.Context != "" {
		return a.engineOptions.Context
	}
	if a.engineOptions.Host == "" && a.config().CurrentContext != "" {
		return a.config().CurrentContext
	}
	return "default"
}

// printOne runs a template once on a value.
func (a *app) printOne(format string, value any) error {
	t, err := parseTemplate(unescapeFormat(format))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, value); err != nil {
		return fmt.Errorf("failed to execute template: %w", err)
	}
	_, err = fmt.Fprintln(a.Out, out.String())
	return err
}

func serverVersionOf(ctx context.Context, engine *mobyclient.Client) (*serverVersion, error) {
	answer, err := engine.ServerVersion(ctx, mobyclient.ServerVersionOptions{})
	if err != nil {
		return nil, err
	}
	s := &serverVersion{
		Platform:      platformInfo{answer.Platform.Name},
		Components:    answer.Components,
		Version:       answer.Version,
		APIVersion:    answer.APIVersion,
		MinAPIVersion: answer.MinAPIVersion,
		Os:            answer.Os,
		Arch:          answer.Arch,
	}
	for i := range s.Components {
		c := &s.Components[i]
		if built, ok := c.Details["BuildTime"]; ok {
			c.Details["BuildTime"] = readableTime(built)
		}
		if c.Name == "Engine" {
			s.GitCommit, s.GoVersion = c.Details["GitCommit"], c.Details["GoVersion"]
			s.KernelVersion, s.BuildTime = c.Details["KernelVersion"], c.Details["BuildTime"]
			s.Experimental = c.Details["Experimental"] == "true"
		}
	}
	return s, nil
}

func readableTime(stamp string) string {
	if t, err := time.Parse(time.RFC3339Nano, stamp); err == nil {
		return t.Format(time.ANSIC)
	}
	return stamp
}

func printVersion(w io.Writer, v versionReport) {
	table := tabwriter.NewWriter(w, 20, 1, 1, ' ', 0)
	defer table.Flush()
	line := func(indent, key, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s%s:\t%s\n", indent, key, value)
		}
	}
	fmt.Fprintln(table, "Client:")
	line(" ", "Version", v.Client.Version)
	line(" ", "API version", apiVersionText(v.Client.APIVersion, v.Client.DefaultAPIVersion))
	line(" ", "Go version", v.Client.GoVersion)
	line(" ", "Git commit", v.Client.GitCommit)
	line(" ", "Built", v.Client.BuildTime)
	line(" ", "OS/Arch", v.Client.Os+"/"+v.Client.Arch)
	line(" ", "Context", v.Client.Context)
	if v.Server == nil {
		return
	}
	fmt.Fprintf(table, "\nServer: %s\n", v.Server.Platform.Name)
	for _, c := range v.Server.Components {
		fmt.Fprintf(table, " %s:\n", c.Name)
		line("  ", "Version", c.Version)
		if c.Name != "Engine" {
			for _, key := range slices.Sorted(maps.Keys(c.Details)) {
				line("  ", key, c.Details[key])
			}
			continue
		}
		api := c.Details["ApiVersion"]
		if minimum := c.Details["MinAPIVersion"]; minimum != "" {
			api += " (minimum version " + minimum + ")"
		}
		line("  ", "API version", api)
		line("  ", "Go version", c.Details["GoVersion"])
		line("  ", "Git commit", c.Details["GitCommit"])
		line("  ", "Built", c.Details["BuildTime"])
		line("  ", "OS/Arch", strings.Trim(c.Details["Os"]+"/"+c.Details["Arch"], "/"))
		line("  ", "Experimental", c.Details["Experimental"])
	}
}

func apiVersionText(used, preferred string) string {
	if used == preferred {
		return used
	}
	return used + " (downgraded from " + preferred + ")"
}
