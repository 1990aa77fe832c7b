package cli

import (
	"io"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Command is one command of the tree, for tables of what there is.
type Command struct {
	Path    string   // from the root on, without the program's name; the root's is empty
	Options []string // long names, sorted; hidden ones too
}

// Tree is the root with all commands below it, for who writes manual pages.
func Tree() *cobra.Command {
	return newRoot(&app{name: "berth", Streams: Streams{Out: io.Discard, Err: io.Discard}}, nil)
}

// Commands is the whole tree, the root first.
func Commands() []Command {
	root := Tree()
	var out []Command
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Runnable() {
			c := Command{Path: pathOf(cmd)}
			cmd.Flags().VisitAll(func(f *pflag.Flag) { c.Options = append(c.Options, f.Name) })
			slices.Sort(c.Options)
			out = append(out, c)
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(root)
	return out
}

// Given tells which command a command line is and which options it gives, those of the root
// apart. A line that does not parse is an error.
func Given(args []string) (c Command, global []string, err error) {
	root := newRoot(&app{name: "berth", Streams: Streams{Out: io.Discard, Err: io.Discard}}, args)
	cmd, rest, err := root.Traverse(args)
	if err != nil {
		return Command{}, nil, err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return Command{}, nil, err
	}
	changed := func(cmd *cobra.Command) (names []string) {
		cmd.Flags().Visit(func(f *pflag.Flag) { names = append(names, f.Name) })
		return names
	}
	c.Path = pathOf(cmd)
	if cmd != root {
		c.Options = changed(cmd)
	}
	return c, changed(root), nil
}

func pathOf(cmd *cobra.Command) string {
	path := ""
	for ; cmd.HasParent(); cmd = cmd.Parent() {
		path = " " + cmd.Name() + path
	}
	if path != "" {
		path = path[1:]
	}
	return path
}
