package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/docker/go-units"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"berth/api/client"
)

func newCheck(a *app) *cobra.Command {
	var repair, quiet bool
	cmd := &cobra.Command{
		Use:   "check [OPTIONS]",
		Short: "Verify all images on disk, and repair them",
		Long: `Verify what the engine keeps on disk: the database and its references, every blob against
its digest, and every unpacked layer, file by file, against its blob. Takes about the
time of unpacking all images, and the space of the largest layer. With --repair damaged
blobs are fetched again from the registries they came from, and damaged layers are
unpacked again unless a running container stands on them.

Exits with 1 if damage is left.`,
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.check(cmd.Context(), repair, quiet) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "Repair what is damaged")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only print damage")
	return cmd
}

func (a *app) check(ctx context.Context, repair, quiet bool) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	// The version must have been agreed on before a request of our own.
	if _, err := engine.Ping(ctx, mobyclient.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return err
	}
	credentials := ""
	if repair {
		if credentials, err = a.allCredentials(); err != nil {
			return err
		}
	}
	_, terminal := terminalOf(a.Err)
	status := statusLine{w: a.Err, on: terminal && !quiet}
	found, left := 0, 0
	sum, err := client.Check(ctx, engine, repair, credentials, func(m client.CheckMessage) {
		if m.Damage == nil {
			status.show(m.Progress)
			return
		}
		status.clear()
		found++
		if !m.Damage.Repaired {
			left++
		}
		printDamage(a.Out, *m.Damage, repair)
	})
	status.clear()
	if err != nil {
		return err
	}
	if !quiet {
		fmt.Fprintf(a.Out, "Checked %s, %s (%s) and %s: %s\n", counted(sum.Images, "image"), counted(sum.Blobs, "blob"), units.HumanSize(float64(sum.Bytes)),
			counted(sum.Layers, "layer"), verdict(found, left))
	}
	if left > 0 {
		return statusError{code: 1}
	}
	return nil
}

func verdict(found, left int) string {
	switch {
	case found == 0:
		return "no damage found"
	case left == 0:
		return counted(found, "damage") + " repaired"
	case left == found:
		return counted(found, "damage") + " found"
	}
	return fmt.Sprintf("%s found, %d of them repaired", counted(found, "damage"), found-left)
}

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func printDamage(w io.Writer, d client.Damage, repair bool) {
	fmt.Fprintf(w, "%s %s: %s", d.Kind, d.ID, d.Problem)
	if len(d.Images) > 0 {
		fmt.Fprintf(w, " (needed by %s)", strings.Join(d.Images, ", "))
	}
	fmt.Fprintln(w)
	switch {
	case d.Repaired:
		fmt.Fprintln(w, "  repaired:", d.Hint)
	case repair:
		fmt.Fprintln(w, "  not repaired:", d.Hint)
	case d.Hint != "":
		fmt.Fprintln(w, "  "+d.Hint)
	}
}

// allCredentials is what X-Registry-Config says: the credentials for all registries. Empty
// means that there are none.
func (a *app) allCredentials() (string, error) {
	all, err := a.config().GetAllCredentials()
	if err != nil || len(all) == 0 {
		return "", err
	}
	data, err := json.Marshal(all)
	return base64.URLEncoding.EncodeToString(data), err
}

// statusLine is a line of a terminal that is written over and over.
type statusLine struct {
	w     io.Writer
	on    bool
	shown int
}

func (s *statusLine) show(text string) {
	if !s.on {
		return
	}
	text = text[:min(len(text), 70)]
	fmt.Fprintf(s.w, "\r%-*s", s.shown, text)
	s.shown = len(text)
}

func (s *statusLine) clear() {
	if s.shown > 0 {
		fmt.Fprintf(s.w, "\r%*s\r", s.shown, "")
		s.shown = 0
	}
}
