package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	mobyclient "github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// inspected is one object: as the engine wrote it, and as the API's type, whose field names
// templates may use too ({{.ID}} as well as {{.Id}}).
type inspected struct {
	raw   []byte
	typed any
}

type inspector func(ctx context.Context, engine *mobyclient.Client, name string) (inspected, error)

type inspectFlags struct {
	format, kind, platform string
	size                   bool
}

func newInspect(a *app) *cobra.Command {
	var o inspectFlags
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Return low-level information on Berth objects",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			look, err := inspectorOf(o)
			if err != nil {
				return err
			}
			return a.inspect(cmd.Context(), args, o.format, look)
		},
		ValidArgsFunction: a.completeAny,
	}
	cmd.Flags().StringVarP(&o.format, "format", "f", "", inspectFormatHelp)
	cmd.Flags().StringVar(&o.kind, "type", "", "Only inspect objects of the given type")
	cmd.Flags().BoolVarP(&o.size, "size", "s", false, "Display total file sizes if the type is container")
	return cmd
}

const inspectFormatHelp = "Format output using a custom template: 'json', or a Go template"

func newContainerInspect(a *app) *cobra.Command {
	var o inspectFlags
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Display detailed information on one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inspect(cmd.Context(), args, o.format, inspectContainer(o.size))
		},
		ValidArgsFunction: a.completeContainers(anyState),
	}
	cmd.Flags().StringVarP(&o.format, "format", "f", "", inspectFormatHelp)
	cmd.Flags().BoolVarP(&o.size, "size", "s", false, "Display total file sizes")
	return cmd
}

func newImageInspect(a *app) *cobra.Command {
	var o inspectFlags
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] IMAGE [IMAGE...]",
		Short: "Display detailed information on one or more images",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			platform, err := parsePlatform(o.platform)
			if err != nil {
				return err
			}
			return a.inspect(cmd.Context(), args, o.format, inspectImage(platform))
		},
		ValidArgsFunction: a.completeImages(0),
	}
	cmd.Flags().StringVarP(&o.format, "format", "f", "", inspectFormatHelp)
	cmd.Flags().StringVar(&o.platform, "platform", "", `Inspect a specific platform of the multi-platform image. Formatted as "os[/arch[/variant]]"`)
	return cmd
}

func inspectContainer(size bool) inspector {
	return func(ctx context.Context, engine *mobyclient.Client, name string) (inspected, error) {
		r, err := engine.ContainerInspect(ctx, name, mobyclient.ContainerInspectOptions{Size: size})
		return inspected{r.Raw, r.Container}, err
	}
}

func inspectImage(platform *ocispec.Platform) inspector {
	return func(ctx context.Context, engine *mobyclient.Client, name string) (inspected, error) {
		var raw bytes.Buffer
		options := []mobyclient.ImageInspectOption{mobyclient.ImageInspectWithRawResponse(&raw)}
		if platform != nil {
			options = append(options, mobyclient.ImageInspectWithPlatform(platform))
		}
		r, err := engine.ImageInspect(ctx, name, options...)
		return inspected{raw.Bytes(), r.InspectResponse}, err
	}
}

func inspectNetwork(verbose bool) inspector {
	return func(ctx context.Context, engine *mobyclient.Client, name string) (inspected, error) {
		r, err := engine.NetworkInspect(ctx, name, mobyclient.NetworkInspectOptions{Verbose: verbose})
		return inspected{r.Raw, r.Network}, err
	}
}

func inspectVolume(ctx context.Context, engine *mobyclient.Client, name string) (inspected, error) {
	r, err := engine.VolumeInspect(ctx, name, mobyclient.VolumeInspectOptions{})
	return inspected{r.Raw, r.Volume}, err
}

// inspectorOf looks for one kind of object, or for any: containers before images before
// networks before volumes.
func inspectorOf(o inspectFlags) (inspector, error) {
	kinds := []struct {
		name string
		look inspector
	}{
		{"container", inspectContainer(o.size)},
		{"image", inspectImage(nil)},
		{"network", inspectNetwork(false)},
		{"volume", inspectVolume},
	}
	if o.kind != "" {
		for _, k := range kinds {
			if k.name == o.kind {
				return k.look, nil
			}
		}
		return nil, fmt.Errorf(`unknown type: %q: must be one of "container", "image", "network", "volume"`, o.kind)
	}
	return func(ctx context.Context, engine *mobyclient.Client, name string) (inspected, error) {
		for _, k := range kinds {
			found, err := k.look(ctx, engine, name)
			if err == nil {
				return found, nil
			}
			// An engine that has no such kind at all does not have this object either.
			if !errdefs.IsNotFound(err) && !errdefs.IsNotImplemented(err) {
				return inspected{}, err
			}
		}
		return inspected{}, fmt.Errorf("Error: No such object: %s", name)
	}, nil
}

// inspect prints the objects that are found and then tells what is missing; one that is
// missing makes the exit code 1 without hiding the others.
func (a *app) inspect(ctx context.Context, names []string, format string, look inspector) error {
	printer, err := newInspectPrinter(format)
	if err != nil {
		return err
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	var problems []string
	for _, name := range names {
		found, err := look(ctx, engine, name)
		if err == nil {
			err = printer.add(found)
		}
		if err != nil {
			if errors.Is(err, context.Canceled) {
				return err
			}
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

type inspectPrinter interface {
	add(inspected) error
	flush(io.Writer) error
}

func newInspectPrinter(format string) (inspectPrinter, error) {
	switch format {
	case "":
		return &jsonInspectPrinter{}, nil
	case "json":
		return &jsonInspectPrinter{compact: true}, nil
	}
	t, err := newTemplateInspectPrinter(format)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// jsonInspectPrinter prints one JSON array, fields in the engine's order.
type jsonInspectPrinter struct {
	compact bool
	objects [][]byte
}

func (p *jsonInspectPrinter) add(o inspected) error {
	p.objects = append(p.objects, bytes.TrimSpace(o.raw))
	return nil
}

func (p *jsonInspectPrinter) flush(w io.Writer) error {
	var array, out bytes.Buffer
	array.WriteByte('[')
	array.Write(bytes.Join(p.objects, []byte{','}))
	array.WriteByte(']')
	var err error
	if p.compact {
		err = json.Compact(&out, array.Bytes())
	} else {
		err = json.Indent(&out, array.Bytes(), "", "    ")
	}
	if err != nil {
		return fmt.Errorf("the engine's answer is not JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}
