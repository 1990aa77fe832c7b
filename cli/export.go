package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newExport(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "export [OPTIONS] CONTAINER",
		Short:             "Export a container's filesystem as a tar archive",
		Args:              exactArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.export(cmd.Context(), args[0], output) },
		ValidArgsFunction: a.completeContainers(anyState),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}

func (a *app) export(ctx context.Context, container, output string) error {
	if _, terminal := terminalOf(a.Out); output == "" && terminal {
		return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	}
	if err := writableTarget(output); err != nil {
		return fmt.Errorf("failed to export container: %w", err)
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	files, err := engine.ContainerExport(ctx, container, mobyclient.ContainerExportOptions{})
	if err != nil {
		return err
	}
	defer files.Close()
	if output == "" {
		_, err := io.Copy(a.Out, files)
		return err
	}
	return writeWhole(output, files)
}
