package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newSave(a *app) *cobra.Command {
	var output string
	var platforms []string
	cmd := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE [IMAGE...]",
		Short: "Save one or more images to a tar archive (streamed to STDOUT by default)",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.save(cmd.Context(), args, output, platforms)
		},
		ValidArgsFunction: a.completeImages(0),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	cmd.Flags().StringSliceVar(&platforms, "platform", nil, `Save only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]"`)
	return cmd
}

func (a *app) save(ctx context.Context, names []string, output string, platformTexts []string) error {
	if _, terminal := terminalOf(a.Out); output == "" && terminal {
		return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	}
	var options []mobyclient.ImageSaveOption
	platforms, err := parsePlatforms(platformTexts)
	if err != nil {
		return err
	}
	if len(platforms) > 0 {
		options = append(options, mobyclient.ImageSaveWithPlatforms(platforms...))
	}
	if err := writableTarget(output); err != nil {
		return fmt.Errorf("failed to save image: %w", err)
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	archive, err := engine.ImageSave(ctx, names, options...)
	if err != nil {
		return err
	}
	defer archive.Close()
	if output == "" {
		_, err := io.Copy(a.Out, archive)
		return err
	}
	return writeWhole(output, archive)
}

// writableTarget refuses what cannot become a file before anything is asked of the engine.
func writableTarget(path string) error {
	if path == "" {
		return nil
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return fmt.Errorf("invalid output path: directory %q does not exist", filepath.Dir(path))
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("invalid output path: %q is a directory", path)
	}
	return nil
}

// writeWhole writes a file that appears under its name only when all of it came. What is no
// regular file (/dev/stdout, a pipe) is written in place.
func writeWhole(path string, content io.Reader) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		target, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(target, content)
		return errors.Join(err, target.Close())
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), ".berth-save-*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name()) // fails, harmlessly, once it is renamed
	if _, err := io.Copy(temporary, content); err != nil {
		return errors.Join(err, temporary.Close())
	}
	if err := temporary.Close(); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
