package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"berth/api/client"
	"berth/api/client/contexts"
	"berth/fail"
)

// endpointKeys are what --docker takes, and what it means.
var endpointKeys = []struct{ name, means string }{
	{"from", "Copy named context's engine endpoint configuration"},
	{"host", "Engine endpoint on which to connect: unix://, tcp:// or ssh://"},
	{"ca", "Trust certs signed only by this CA"},
	{"cert", "Path to TLS certificate file"},
	{"key", "Path to TLS key file"},
	{"skip-tls-verify", "Skip TLS certificate validation"},
}

func endpointHelp(verb string) string {
	var b strings.Builder
	b.WriteString(strings.ToUpper(verb[:1]) + verb[1:] + " a context\n\nKeys of --docker:\n")
	for _, k := range endpointKeys {
		fmt.Fprintf(&b, "  %-17s %s\n", k.name, k.means)
	}
	return b.String() + "\nExample:\n  berth context " + verb + ` far --description "the big one" --docker "host=tcp://myserver:2376,ca=~/ca.pem,cert=~/cert.pem,key=~/key.pem"` + "\n"
}

func newContextCreate(a *app) *cobra.Command {
	var description, from string
	var endpoint map[string]string
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] CONTEXT",
		Short: "Create a context",
		Long:  endpointHelp("create"),
		Args:  exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.createContext(args[0], description, from, endpoint)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVar(&description, "description", "", "Description of the context")
	flags.StringToStringVar(&endpoint, "docker", nil, "Set the engine endpoint")
	flags.StringVar(&from, "from", "", "Create context from a named context")
	return cmd
}

func (a *app) createContext(name, description, from string, endpoint map[string]string) error {
	if err := a.contexts().CanCreate(name); err != nil {
		return err
	}
	c := &contexts.Context{}
	switch {
	case from != "" && len(endpoint) > 0:
		return fail.New(fail.Invalid, "cannot use --docker flag when --from is set")
	case endpoint != nil:
		if err := a.setEndpoint(c, endpoint); err != nil {
			return err
		}
	default:
		var err error
		if from == "" {
			if from, err = client.CurrentContext(a.engineOptions); err != nil {
				return err
			}
		}
		if c, err = a.loadContext(from); err != nil {
			return err
		}
	}
	c.Name = name
	if description != "" {
		c.Describe(description)
	}
	if err := a.contexts().Create(c); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, name)
	fmt.Fprintf(a.Err, "Successfully created context %q\n", name)
	return nil
}

// setEndpoint gives a context the engine that --docker describes.
func (a *app) setEndpoint(c *contexts.Context, keys map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !slices.ContainsFunc(endpointKeys, func(k struct{ name, means string }) bool { return k.name == key }) {
			return fail.New(fail.Invalid, "unable to create docker endpoint config: unrecognized config key: %s", key)
		}
	}
	if from, ok := keys["from"]; ok {
		other, err := a.loadContext(from)
		if err != nil {
			return fmt.Errorf("unable to create docker endpoint config: %w", err)
		}
		ep, err := other.Endpoint()
		if err != nil {
			return fmt.Errorf("unable to get endpoint from context %q: %w", from, err)
		}
		c.SetEndpoint(ep, other.TLS[contexts.Engine])
		return nil
	}
	ep := contexts.Endpoint{Host: keys["host"]}
	if word, ok := keys["skip-tls-verify"]; ok {
		var err error
		if ep.SkipTLSVerify, err = strconv.ParseBool(word); err != nil {
			return fail.New(fail.Invalid, "unable to create docker endpoint config: skip-tls-verify: parsing %q: invalid syntax", word)
		}
	}
	files := map[string][]byte{}
	for key, name := range map[string]string{"ca": contexts.CAFile, "cert": contexts.CertFile, "key": contexts.KeyFile} {
		if keys[key] == "" {
			continue
		}
		data, err := os.ReadFile(expandHome(keys[key]))
		if err != nil {
			return fmt.Errorf("unable to create docker endpoint config: %w", err)
		}
		files[name] = data
	}
	c.SetEndpoint(ep, files)
	if err := client.CheckContext(c); err != nil {
		return fmt.Errorf("unable to create docker endpoint config: invalid docker endpoint options: %w", err)
	}
	return nil
}

// expandHome replaces a leading ~/, which no shell does within a flag's value.
func expandHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~/")
	home, err := os.UserHomeDir()
	if !ok || err != nil {
		return path
	}
	return filepath.Join(home, rest)
}

func newContextUpdate(a *app) *cobra.Command {
	var description string
	var endpoint map[string]string
	cmd := &cobra.Command{
		Use:               "update [OPTIONS] CONTEXT",
		Short:             "Update a context",
		Long:              endpointHelp("update"),
		Args:              exactArgs(1),
		RunE:              func(_ *cobra.Command, args []string) error { return a.updateContext(args[0], description, endpoint) },
		ValidArgsFunction: a.completeContexts(1, false),
	}
	cmd.Flags().StringVar(&description, "description", "", "Description of the context")
	cmd.Flags().StringToStringVar(&endpoint, "docker", nil, "Set the engine endpoint")
	return cmd
}

func (a *app) updateContext(name, description string, endpoint map[string]string) error {
	if err := contexts.CheckName(name); err != nil {
		return err
	}
	c, err := a.contexts().Load(name)
	if err != nil {
		return err
	}
	if description != "" {
		c.Describe(description)
	}
	if endpoint != nil {
		if err := a.setEndpoint(c, endpoint); err != nil {
			return err
		}
	}
	if err := a.contexts().Put(c); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, name)
	fmt.Fprintf(a.Err, "Successfully updated context %q\n", name)
	return nil
}

func newContextRm(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] CONTEXT [CONTEXT...]",
		Aliases:           []string{"remove"},
		Short:             "Remove one or more contexts",
		Args:              minArgs(1),
		RunE:              func(_ *cobra.Command, names []string) error { return a.removeContexts(names, force) },
		ValidArgsFunction: a.completeContexts(0, false),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of a context in use")
	return cmd
}

func (a *app) removeContexts(names []string, force bool) error {
	current, err := client.CurrentContext(a.engineOptions)
	if err != nil {
		return err
	}
	var problems []error
	for _, name := range names {
		if err := a.removeContext(name, name == current, force); err != nil {
			problems = append(problems, err)
			continue
		}
		fmt.Fprintln(a.Out, name)
	}
	return errors.Join(problems...)
}

func (a *app) removeContext(name string, current, force bool) error {
	switch {
	case name == contexts.Default:
		return fail.New(fail.Invalid, `context "default" cannot be removed`)
	case current && !force:
		return fail.New(fail.Conflict, "context %q is in use, set -f flag to force remove", name)
	case !force && !a.contexts().Exists(name):
		return fail.New(fail.NotFound, "context %q does not exist", name)
	}
	if current {
		if err := a.setCurrentContext(""); err != nil {
			return err
		}
	}
	return a.contexts().Remove(name)
}

func newContextExport(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "export CONTEXT [FILE|-]",
		Short: "Export a context to a tar archive FILE or a tar stream on STDOUT",
		Long:  "Export a context to a tar archive FILE (CONTEXT.dockercontext if none is named) or a tar stream on STDOUT.\nIt holds the context's TLS key.",
		Args:  rangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			to := args[0] + ".dockercontext"
			if len(args) == 2 {
				to = args[1]
			}
			return a.exportContext(args[0], to)
		},
		ValidArgsFunction: a.completeContexts(1, true),
	}
}

func (a *app) exportContext(name, to string) error {
	if err := contexts.CheckName(name); err != nil && name != contexts.Default {
		return err
	}
	c, err := a.loadContext(name)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := contexts.Export(c, &archive); err != nil {
		return err
	}
	if to == "-" {
		if _, terminal := terminalOf(a.Out); terminal {
			return fail.New(fail.Invalid, "cowardly refusing to export to a terminal, specify a file path")
		}
		_, err := a.Out.Write(archive.Bytes())
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(archive.Bytes())
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(to)
		return err
	}
	fmt.Fprintf(a.Err, "Written file %q\n", to)
	return nil
}

func newContextImport(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "import CONTEXT FILE|-",
		Short: "Import a context from a tar or zip file",
		Args:  exactArgs(2),
		RunE:  func(_ *cobra.Command, args []string) error { return a.importContext(args[0], args[1]) },
	}
}

func (a *app) importContext(name, from string) error {
	if err := a.contexts().CanCreate(name); err != nil {
		return err
	}
	var source io.Reader = a.In
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return err
		}
		defer f.Close()
		source = f
	}
	c, err := contexts.Import(name, source)
	if err != nil {
		return err
	}
	if err := a.contexts().Create(c); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, name)
	fmt.Fprintf(a.Err, "Successfully imported context %q\n", name)
	return nil
}
