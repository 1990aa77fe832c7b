package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/spf13/cobra"

	"berth/api/client"
	"berth/api/client/contexts"
)

func newContextGroup(a *app) *cobra.Command {
	return newGroup(a, "context", "Manage contexts", []entry{
		{name: "create", build: newContextCreate},
		{name: "export", build: newContextExport},
		{name: "import", build: newContextImport},
		{name: "inspect", build: newContextInspect},
		{name: "ls", aliases: []string{"list"}, build: newContextLs},
		{name: "rm", aliases: []string{"remove"}, build: newContextRm},
		{name: "show", build: newContextShow},
		{name: "update", build: newContextUpdate},
		{name: "use", build: newContextUse},
	})
}

// contexts is the store that docker's command line has, too.
func (a *app) contexts() *contexts.Store { return client.Contexts(a.engineOptions) }

// loadContext is any context, TLS files and all; "default" is what flags and environment say.
func (a *app) loadContext(name string) (*contexts.Context, error) {
	if name == contexts.Default {
		o := a.engineOptions
		o.Context = ""
		return client.DefaultContext(o)
	}
	return a.contexts().Load(name)
}

func (a *app) completeContexts(limit int, withDefault bool) completer {
	return func(_ *cobra.Command, typed []string, _ string) ([]string, cobra.ShellCompDirective) {
		if limit > 0 && len(typed) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		entries, _ := a.contexts().List()
		for _, e := range entries {
			names = append(names, e.Context.Name)
		}
		if withDefault {
			names = append(names, contexts.Default)
		}
		return without(names, typed), cobra.ShellCompDirectiveNoFileComp
	}
}

func newContextShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the name of the current context",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			name, err := client.CurrentContext(a.engineOptions)
			if err == nil {
				fmt.Fprintln(a.Out, name)
			}
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func newContextUse(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "use CONTEXT",
		Short:             "Set the current context",
		Args:              exactArgs(1),
		RunE:              func(_ *cobra.Command, args []string) error { return a.useContext(args[0]) },
		ValidArgsFunction: a.completeContexts(1, true),
	}
}

func (a *app) useContext(name string) error {
	setting := "" // the default one
	if name != contexts.Default {
		if err := contexts.CheckName(name); err != nil {
			return err
		}
		if _, err := a.contexts().Meta(name); err != nil {
			return err
		}
		setting = name
	}
	if err := a.setCurrentContext(setting); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, name)
	fmt.Fprintf(a.Err, "Current context is now %q\n", name)
	if v := client.HostVariable(); v != "" && name != contexts.Default {
		fmt.Fprintf(a.Err, "Warning: %[1]s environment variable overrides the active context. To use %[2]q, either set the global --context flag, or unset %[1]s environment variable.\n", v, name)
	}
	return nil
}

// setCurrentContext writes config.json only if that changes it.
func (a *app) setCurrentContext(name string) error {
	file, err := config.Load(config.Dir())
	if err != nil || file.CurrentContext == name {
		return err // what cannot be read must not be overwritten
	}
	file.CurrentContext = name
	return file.Save()
}

func newContextLs(a *app) *cobra.Command {
	var quiet bool
	var format string
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Aliases:           []string{"list"},
		Short:             "List contexts",
		Args:              noArgs,
		RunE:              func(*cobra.Command, []string) error { return a.listContexts(format, quiet) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show context names")
	return cmd
}

func (a *app) listContexts(format string, quiet bool) error {
	current, err := client.CurrentContext(a.engineOptions)
	if err != nil {
		return err
	}
	entries, err := a.contexts().List()
	if err != nil {
		return err
	}
	rows := make([]*contextRow, 0, len(entries)+2)
	for _, e := range entries {
		rows = append(rows, newContextRow(e.Context, e.Err))
	}
	own, err := a.loadContext(contexts.Default)
	if own == nil {
		own = &contexts.Context{Name: contexts.Default}
	}
	rows = append(rows, newContextRow(own, err))
	at := slices.IndexFunc(rows, func(r *contextRow) bool { return r.name == current })
	if at < 0 {
		_, err := a.contexts().Meta(current)
		at, rows = len(rows), append(rows, newContextRow(&contexts.Context{Name: current}, err))
	}
	rows[at].current = true
	slices.SortStableFunc(rows, func(a, b *contextRow) int { return compareNatural(a.name, b.name) })
	if format == "json" {
		for _, r := range rows {
			line, err := json.Marshal(r)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "%s\n", line)
		}
	} else if err := contextList.print(a.Out, format, quiet, rows); err != nil {
		return err
	}
	if v := client.HostVariable(); v != "" {
		fmt.Fprintf(a.Err, "Warning: %[1]s environment variable overrides the active context. To use a context, either set the global --context flag, or unset %[1]s environment variable.\n", v)
	}
	return nil
}

// contextList is what `context ls` can show of a context. "Name" is followed by an asterisk in
// the standard table only, where "Marked" stands for it.
var contextList = list[*contextRow]{
	columns: []column[*contextRow]{
		{"Current", "CURRENT", func(r *contextRow) string { return fmt.Sprint(r.current) }},
		{"Description", "DESCRIPTION", (*contextRow).Description},
		{"DockerEndpoint", "DOCKER ENDPOINT", (*contextRow).DockerEndpoint},
		{"Error", "ERROR", (*contextRow).Error},
		{"Name", "NAME", (*contextRow).Name},
		{"Marked", "NAME", (*contextRow).marked},
	},
	standard: []string{"Marked", "Description", "DockerEndpoint", "Error"},
	quiet:    (*contextRow).Name,
}

type contextRow struct {
	name, description, host string
	err                     error
	current                 bool
}

func newContextRow(c *contexts.Context, err error) *contextRow {
	r := &contextRow{name: c.Name, description: c.Description(), err: err}
	if c.Name == contexts.Default {
		r.description = "Current DOCKER_HOST based configuration" // docker's words
	}
	if err == nil {
		var ep contexts.Endpoint
		ep, r.err = c.Endpoint()
		r.host = ep.Host
	}
	return r
}

// MarshalJSON keeps Current a boolean, as docker has it.
func (r *contextRow) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"Current": r.current, "Description": r.description, "DockerEndpoint": r.host, "Error": r.Error(), "Name": r.name})
}

func (r *contextRow) Name() string           { return r.name }
func (r *contextRow) Description() string    { return r.description }
func (r *contextRow) DockerEndpoint() string { return r.host }
func (r *contextRow) Current() bool          { return r.current }

func (r *contextRow) Error() string {
	if r.err == nil {
		return ""
	}
	return ellipsis(r.err.Error(), 45)
}

func (r *contextRow) marked() string {
	if r.current {
		return r.name + " *"
	}
	return r.name
}

func newContextInspect(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [CONTEXT] [CONTEXT...]",
		Short: "Display detailed information on one or more contexts",
		RunE: func(_ *cobra.Command, names []string) error {
			if len(names) == 0 {
				name, err := client.CurrentContext(a.engineOptions)
				if err != nil {
					return err
				}
				names = []string{name}
			}
			return a.inspectContexts(names, format)
		},
		ValidArgsFunction: a.completeContexts(0, true),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	return cmd
}

func (a *app) inspectContexts(names []string, format string) error {
	printer, err := newInspectPrinter(format)
	if err != nil {
		return err
	}
	var problems []string
	for _, name := range names {
		found, err := a.inspectContext(name)
		if err == nil {
			err = printer.add(found)
		}
		if err != nil {
			problems = append(problems, explain(err))
		}
	}
	if err := printer.flush(a.Out); err != nil {
		return err
	}
	if len(problems) > 0 {
		return statusError{code: 1, message: strings.Join(problems, "\n")}
	}
	return nil
}

// inspectContext is a context as it is kept, the names of its TLS files, and where it is.
func (a *app) inspectContext(name string) (inspected, error) {
	c, err := a.loadContext(name)
	if err != nil {
		return inspected{}, err
	}
	kept, err := c.Encode()
	if err != nil {
		return inspected{}, err
	}
	more := struct {
		TLSMaterial map[string][]string
		Storage     struct{ MetadataPath, TLSPath string }
	}{TLSMaterial: map[string][]string{}}
	for endpoint, files := range c.TLS {
		more.TLSMaterial[endpoint] = slices.Sorted(maps.Keys(files))
	}
	more.Storage.MetadataPath, more.Storage.TLSPath = a.contexts().MetaDir(name), a.contexts().TLSDir(name)
	if name == contexts.Default {
		more.Storage.MetadataPath, more.Storage.TLSPath = "<IN MEMORY>", "<IN MEMORY>"
	}
	var rest bytes.Buffer
	encoder := json.NewEncoder(&rest)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(more); err != nil {
		return inspected{}, err
	}
	// Two objects become one, fields in docker's order.
	raw := slices.Concat(kept[:len(kept)-1], []byte{','}, bytes.TrimSpace(rest.Bytes())[1:])
	var typed map[string]any
	if err := json.Unmarshal(raw, &typed); err != nil {
		return inspected{}, err
	}
	return inspected{raw, typed}, nil
}
