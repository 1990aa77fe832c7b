package runtimecli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/runtime"
)

// report is what `state` and `list` print of a container: the state of runtime.md with
// runc's additions.
type report struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func (a *app) report(st runtime.State, status string) report {
	r := report{OCIVersion: specs.Version, ID: st.ID, Pid: st.Pid, Status: status, Bundle: st.Bundle, Created: st.Created.UTC(),
		Annotations: st.Spec.Annotations}
	if status == stopped {
		r.Pid = 0
	}
	if st.Spec.Root != nil {
		if r.Rootfs = st.Spec.Root.Path; !filepath.IsAbs(r.Rootfs) {
			r.Rootfs = filepath.Join(st.Bundle, r.Rootfs)
		}
	}
	var info unix.Stat_t
	if unix.Stat(a.dir(st.ID), &info) == nil {
		r.Owner = "#" + strconv.Itoa(int(info.Uid))
		if u, err := user.LookupId(r.Owner[1:]); err == nil {
			r.Owner = u.Username
		}
	}
	return r
}

func (a *app) print(v any, indent string) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", indent)
	return e.Encode(v)
}

func state(_ context.Context, a *app, args []string) (int, error) {
	c, st, status, err := a.find(args[0])
	if err != nil {
		return 1, err
	}
	defer c.Release()
	return 0, a.print(a.report(st, status), "  ")
}

func listFlags(f *flag.FlagSet) action {
	format := both(f.StringVar, f, "format", "f", "table", "table or json")
	quiet := both(f.BoolVar, f, "quiet", "q", false, "print ids only")
	return func(_ context.Context, a *app, _ []string) (int, error) {
		reports, err := a.reports()
		if err != nil {
			return 1, err
		}
		switch {
		case *quiet:
			for _, r := range reports {
				fmt.Fprintln(a.stdout, r.ID)
			}
			return 0, nil
		case *format == "json":
			return 0, a.print(reports, "")
		case *format != "table":
			return 1, fail.New(fail.Invalid, "invalid format option")
		}
		w := tabwriter.NewWriter(a.stdout, 12, 1, 3, ' ', 0)
		fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, r := range reports {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", r.ID, r.Pid, r.Status, r.Bundle, r.Created.Format(time.RFC3339Nano), r.Owner)
		}
		return 0, w.Flush()
	}
}

// reports describes all containers. One that is being made or removed at this moment is
// left out.
func (a *app) reports() ([]report, error) {
	entries, err := os.ReadDir(a.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	reports := []report{}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, st, status, err := a.find(e.Name())
		if errors.Is(err, errNotExist) {
			continue
		}
		if err != nil {
			a.warn([]string{fmt.Sprintf("container %s: %v", e.Name(), err)})
			continue
		}
		c.Release()
		reports = append(reports, a.report(st, status))
	}
	return reports, nil
}

func psFlags(f *flag.FlagSet) action {
	format := both(f.StringVar, f, "format", "f", "table", "table or json")
	return func(ctx context.Context, a *app, args []string) (int, error) {
		c, _, err := a.open(args[0])
		if err != nil {
			return 1, err
		}
		defer c.Release()
		pids := []int{}
		if c.Group() != nil {
			found, err := c.Pids()
			if err != nil {
				return 1, err
			}
			pids = append(pids, found...)
		}
		switch *format {
		case "json":
			return 0, a.print(pids, "")
		case "table":
			if len(args) > 1 {
				return 0, a.psTable(ctx, pids, args[1:])
			}
			return 0, a.processTable(pids)
		}
		return 1, fail.New(fail.Invalid, "invalid format option")
	}
}

// psTable prints what ps(1) of the host says of some processes.
func (a *app) psTable(ctx context.Context, pids []int, options []string) error {
	out, err := exec.CommandContext(ctx, "ps", options...).CombinedOutput()
	if err != nil {
		return fail.New(fail.Invalid, "ps: %w: %s", err, bytes.TrimSpace(out))
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return fail.New(fail.Invalid, "couldn't find PID field in ps output")
	}
	fmt.Fprintln(a.stdout, lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Fprintln(a.stdout, line)
		}
	}
	return nil
}

// processTable prints what `ps -ef` says of some processes, as far as /proc tells it
// without a clock. Those that have ended meanwhile are left out.
func (a *app) processTable(pids []int) error {
	w := tabwriter.NewWriter(a.stdout, 8, 1, 2, ' ', 0)
	fmt.Fprint(w, "UID\tPID\tPPID\tSTAT\tCMD\n")
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue
		}
		field := map[string]string{}
		for line := range strings.Lines(string(status)) {
			if name, value, ok := strings.Cut(line, ":"); ok {
				field[name], _, _ = strings.Cut(strings.TrimSpace(value), "\t")
			}
		}
		uid := field["Uid"]
		if u, err := user.LookupId(uid); err == nil {
			uid = u.Username
		}
		cmd, _ := os.ReadFile(dir + "/cmdline")
		text := strings.TrimSpace(strings.ReplaceAll(string(cmd), "\x00", " "))
		if text == "" {
			text = "[" + field["Name"] + "]"
		}
		letter, _, _ := strings.Cut(field["State"], " ")
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", uid, pid, field["PPid"], letter, printable(text))
	}
	return w.Flush()
}

// printable keeps a process's own words from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}
