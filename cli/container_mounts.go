package cli

import (
	"encoding/csv"
	"errors"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/mount"
	"github.com/spf13/cobra"
)

// mountOpt is --mount: Docker's words, and idmap. The API has no field for that; it travels
// in the place of the consistency, which means nothing on Linux.
type mountOpt struct{ opts.MountOpt }

func (m *mountOpt) Set(value string) error {
	fields, err := csv.NewReader(strings.NewReader(strings.TrimSpace(value))).Read()
	if err != nil {
		return m.MountOpt.Set(value) // which tells what is wrong
	}
	mapping := ""
	rest := make([]string, 0, len(fields))
	for _, f := range fields {
		if f != "idmap" && !strings.HasPrefix(f, "idmap=") {
			rest = append(rest, f)
			continue
		}
		if mapping != "" {
			return errors.New("idmap is given twice")
		}
		mapping = f
	}
	if mapping == "" {
		return m.MountOpt.Set(value)
	}
	var line strings.Builder
	w := csv.NewWriter(&line)
	if err := w.Write(rest); err != nil {
		return err
	}
	w.Flush()
	if err := m.MountOpt.Set(line.String()); err != nil {
		return err
	}
	last := &m.Value()[len(m.Value())-1]
	switch {
	case last.Type != mount.TypeBind:
		return errors.New("idmap is for mounts of type bind")
	case last.Consistency != "":
		return errors.New("idmap excludes consistency")
	}
	last.Consistency = mount.Consistency(mapping)
	return nil
}

// completeVolumeFlags offers what --volume and --volumes-from may name.
func (a *app) completeVolumeFlags(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("volume", func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		if strings.HasPrefix(word, "/") || strings.HasPrefix(word, ".") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		var names []string
		for _, v := range a.volumeNames() {
			names = append(names, v+":")
		}
		return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	_ = cmd.RegisterFlagCompletionFunc("volumes-from", a.completeContainers(anyState))
}
