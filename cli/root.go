package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The groups of `berth --help`, in order.
const (
	groupCommon     = "common"
	groupManagement = "management"
	groupCommands   = "commands"
)

// entry is one command of a table: its names, and how it is built. Building costs: `run` has
// a hundred flags. So a start builds only the command that was asked for (see chosenEntries).
type entry struct {
	name    string
	aliases []string
	group   string
	build   func(*app) *cobra.Command
}

// topLevel is every command of the root.
func topLevel() []entry {
	return []entry{
		{"run", nil, groupCommon, newRun},
		{"exec", nil, groupCommon, newExec},
		{"ps", nil, groupCommon, newPs},
		{"build", nil, groupCommon, newPluginCommand("build", "Build an image from a Dockerfile")},
		{"compose", nil, groupCommon, newPluginCommand("compose", "Define and run multi-container applications")},
		{"pull", nil, groupCommon, newPull},
		{"push", nil, groupCommon, newPush},
		{"images", nil, groupCommon, newImages},
		{"login", nil, groupCommon, newLogin},
		{"logout", nil, groupCommon, newLogout},
		{"version", nil, groupCommon, newVersion},
		{"info", nil, groupCommon, newInfo},

		{"builder", nil, groupManagement, newBuilderGroup},
		{"container", nil, groupManagement, newContainerGroup},
		{"context", nil, groupManagement, newContextGroup},
		{"image", nil, groupManagement, newImageGroup},
		{"manifest", nil, groupManagement, newManifestGroup},
		{"network", nil, groupManagement, newNetworkGroup},
		{"volume", nil, groupManagement, newVolumeGroup},
		{"system", nil, groupManagement, newSystemGroup},

		{"attach", nil, groupCommands, newAttach},
		{"commit", nil, groupCommands, newCommit},
		{"cp", nil, groupCommands, newCp},
		{"create", nil, groupCommands, newCreate},
		{"diff", nil, groupCommands, newDiff},
		{"events", nil, groupCommands, newEvents},
		{"export", nil, groupCommands, newExport},
		{"history", nil, groupCommands, newHistory},
		{"import", nil, groupCommands, newImport},
		{"inspect", nil, groupCommands, newInspect},
		{"kill", nil, groupCommands, newKill},
		{"load", nil, groupCommands, newLoad},
		{"logs", nil, groupCommands, newLogs},
		{"pause", nil, groupCommands, newPause},
		{"port", nil, groupCommands, newPort},
		{"rename", nil, groupCommands, newRename},
		{"restart", nil, groupCommands, newRestart},
		{"rm", nil, groupCommands, newRm},
		{"rmi", nil, groupCommands, newRmi},
		{"save", nil, groupCommands, newSave},
		{"search", nil, groupCommands, newSearch},
		{"start", nil, groupCommands, newStart},
		{"stats", nil, groupCommands, newStats},
		{"stop", nil, groupCommands, newStop},
		{"tag", nil, groupCommands, newTag},
		{"top", nil, groupCommands, newTop},
		{"unpause", nil, groupCommands, newUnpause},
		{"update", nil, groupCommands, newUpdate},
		{"wait", nil, groupCommands, newWait},
	}
}

// chosenEntries is the one entry that name asks for, or all of them for whatever needs to see
// all: help, completion, a mistake.
func chosenEntries(table []entry, name string) []entry {
	for _, e := range table {
		if e.name == name || slices.Contains(e.aliases, name) {
			return []entry{e}
		}
	}
	return table
}

// commandWords are the command line's words from the command's name on, past the global
// options and their values.
func commandWords(args []string) []string {
	const longWithValue = " --config --context --host --log-level --tlscacert --tlscert --tlskey "
	for i := 0; i < len(args); i++ {
		word := args[i]
		switch {
		case word == "--" || word == "-" || word == "":
			return nil
		case strings.HasPrefix(word, "--"):
			if strings.Contains(longWithValue, " "+word+" ") {
				i++
			}
		case word[0] == '-':
			// In a cluster of short options the first that takes a value ends it.
			if at := strings.IndexAny(word, "cHl"); at == len(word)-1 {
				i++
			}
		default:
			return args[i:]
		}
	}
	return nil
}

// newRoot builds what a command line needs of the tree of commands.
func newRoot(a *app, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:              a.name + " [OPTIONS] COMMAND",
		Short:            "Build, ship and run containers, with nothing to install beside it",
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true,

		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(a.name, args[0])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if show, _ := cmd.Flags().GetBool("version"); show {
				fmt.Fprintln(a.Out, a.shortVersion())
				return nil
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.applyGlobals(cmd) },
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(helpTemplate)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{code: 125, command: cmd.CommandPath(), message: err.Error()}
	})
	cobra.EnableCommandSorting = false
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: groupCommon, Title: "Common Commands:"},
		&cobra.Group{ID: groupManagement, Title: "Management Commands:"},
		&cobra.Group{ID: groupCommands, Title: "Commands:"},
	)
	addGlobalFlags(a, root.Flags())
	a.words = commandWords(args)
	name := ""
	if len(a.words) > 0 {
		name = a.words[0]
	}
	if len(args) == 1 && (args[0] == "--version" || args[0] == "-v") {
		return root
	}
	for _, e := range chosenEntries(topLevel(), name) {
		cmd := e.build(a)
		cmd.GroupID = e.group
		addCommand(root, cmd)
	}
	root.SetHelpCommandGroupID(groupCommands)
	return root
}

func unknownCommand(parent, name string) error {
	return usageError{code: 1, command: parent, message: fmt.Sprintf("unknown command: %s %s", parent, name)}
}

func addGlobalFlags(a *app, flags *pflag.FlagSet) {
	flags.SetInterspersed(false)
	flags.BoolP("version", "v", false, "Print version information and quit")
	flags.String("config", "", "Location of client config files (default \"~/.docker\")")
	flags.StringVarP(&a.engineOptions.Context, "context", "c", "", "Name of the context to use to connect to the engine")
	flags.BoolVarP(&a.debug, "debug", "D", false, "Enable debug mode")
	flags.StringVarP(&a.engineOptions.Host, "host", "H", "", "Engine socket to connect to")
	flags.StringVarP(&a.logLevel, "log-level", "l", "info", `Set the logging level ("debug", "info", "warn", "error", "fatal")`)
	flags.BoolVar(&a.engineOptions.TLS, "tls", false, "Use TLS; implied by --tlsverify")
	flags.StringVar(&a.engineOptions.CAFile, "tlscacert", "", "Trust certs signed only by this CA")
	flags.StringVar(&a.engineOptions.CertFile, "tlscert", "", "Path to TLS certificate file")
	flags.StringVar(&a.engineOptions.KeyFile, "tlskey", "", "Path to TLS key file")
	flags.BoolVar(&a.engineOptions.TLSVerify, "tlsverify", false, "Use TLS and verify the remote")
}

// applyGlobals checks and applies the options before the sub-command.
func (a *app) applyGlobals(cmd *cobra.Command) error {
	a.understood = true
	flags := cmd.Root().Flags()
	if dir, _ := flags.GetString("config"); dir != "" {
		config.SetDir(dir)
	}
	a.engineOptions.ConfigDir = config.Dir()
	if a.engineOptions.Host != "" && a.engineOptions.Context != "" {
		return usageError{code: 1, command: a.name, message: "conflicting options: either specify --host or --context, not both"}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error", "fatal"}, a.logLevel) {
		return usageError{code: 1, command: a.name, message: fmt.Sprintf("unable to parse logging level: %s", a.logLevel)}
	}
	if a.engineOptions.TLSVerify {
		a.engineOptions.TLS = true
	}
	return nil
}

// addCommand adds cmd with what every command has in common.
func addCommand(parent, cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	quietDefaults(cmd.Flags())
	if cmd.Flags().Lookup("help") == nil {
		cmd.Flags().BoolP("help", "h", false, "Print usage")
		_ = cmd.Flags().MarkHidden("help")
	}
	parent.AddCommand(cmd)
}

// quietDefaults keeps "default []" and its like, which tell nobody anything, out of help.
func quietDefaults(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.DefValue == "[]" || f.DefValue == "map[]" {
			f.DefValue = ""
		}
	})
}

// newGroup is a management command: it only holds others.
func newGroup(a *app, name, short string, children []entry) *cobra.Command {
	group := &cobra.Command{
		Use:   name + " COMMAND",
		Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd.CommandPath(), args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	chosen := ""
	if len(a.words) > 1 && a.words[0] == name {
		chosen = a.words[1]
	}
	for _, e := range chosenEntries(children, chosen) {
		addCommand(group, e.build(a))
	}
	return group
}

// How many arguments a command takes; the mistake is told in Docker's words.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return usageError{code: 1, command: cmd.CommandPath(), message: "unknown command: " + cmd.CommandPath() + " " + args[0]}
	}
	return argumentCount(cmd, "accepts no arguments")
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argumentCount(cmd, fmt.Sprintf("requires %d %s", n, plural("argument", n)))
	}
}

func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argumentCount(cmd, fmt.Sprintf("requires at least %d %s", n, plural("argument", n)))
	}
}

func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return argumentCount(cmd, fmt.Sprintf("requires at most %d %s", n, plural("argument", n)))
	}
}

func rangeArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= low && len(args) <= high {
			return nil
		}
		return argumentCount(cmd, fmt.Sprintf("requires at least %d and at most %d %s", low, high, plural("argument", high)))
	}
}

func argumentCount(cmd *cobra.Command, what string) error {
	return usageError{code: 1, command: cmd.CommandPath(), message: fmt.Sprintf("'%s' %s", cmd.CommandPath(), what)}
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// flagError is a value that a flag's own parser could not refuse; it exits as a bad flag does.
func flagError(cmd *cobra.Command, err error) error {
	return usageError{code: 125, command: cmd.CommandPath(), message: err.Error()}
}

// shortID is the 12-character form of an object's id.
func shortID(id string) string {
	if _, hex, found := strings.Cut(id, ":"); found {
		id = hex
	}
	if len(id) > 12 {
		id = id[:12]
	}
	return id
}
