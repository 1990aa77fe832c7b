package engine

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/fail"
)

// Top lists processes as ps(1) does with psArgs (default "-ef"), without running anything
// from the container. The usual columns are read here; for any other options the host's ps is run.
func (c *Containers) Top(ctx context.Context, ref, psArgs string) (titles []string, processes [][]string, err error) {
	i, err := c.idx.find(ref)
	if err != nil {
		return nil, nil, err
	}
	words := strings.Fields(psArgs)
	if len(words) == 0 {
		words = []string{"-ef"}
	}
	if err := checkPsArgs(words); err != nil {
		return nil, nil, err
	}
	r, s, err := i.live()
	if err != nil {
		return nil, nil, err
	}
	pids, err := r.shim.Pids(ctx)
	if err != nil {
		return nil, nil, asGone(err, s)
	}
	slices.Sort(pids)
	columns, unknown := psColumns(words)
	if unknown != nil {
		titles, processes, err = hostPs(ctx, words, pids)
		if errors.Is(err, exec.ErrNotFound) {
			err = unknown
		}
	} else {
		titles, processes, err = readProcesses(columns, pids)
	}
	if err != nil {
		return nil, nil, err
	}
	c.ann.tell(s, "top")
	return titles, processes, nil
}

func readProcesses(columns []psColumn, pids []int) (titles []string, processes [][]string, err error) {
	at, err := readMoment()
	if err != nil {
		return nil, nil, err
	}
	for _, pid := range pids {
		p, err := readProcess(pid)
		if err != nil {
			continue // ended meanwhile
		}
		row := make([]string, len(columns))
		for n, col := range columns {
			row[n] = col.value(p, at)
		}
		processes = append(processes, row)
	}
	for _, col := range columns {
		titles = append(titles, col.title)
	}
	return titles, processes, nil
}

// checkPsArgs refuses a column that calls itself PID, by which processes of others would
// pass for the container's.
func checkPsArgs(words []string) error {
	for _, word := range words {
		for part := range strings.SplitSeq(word, ",") {
			name, title, given := strings.Cut(part, "=")
			for _, before := range []string{"--format", "-o", "o"} {
				if given && name == before { // --format=pid=X
					name, title, given = strings.Cut(title, "=")
				}
			}
			if given && strings.HasPrefix(title, "PID") && name != "pid" {
				return fail.New(fail.Invalid, "specifying \"%s=%s\" is not allowed", name, title)
			}
		}
	}
	return nil
}

// hostPs runs the host's ps and picks the lines of pids out of what it prints.
func hostPs(ctx context.Context, words []string, pids []int) (titles []string, processes [][]string, err error) {
	if len(pids) == 0 {
		return nil, nil, fail.New(fail.Conflict, "the container has no processes any more")
	}
	list := make([]string, len(pids))
	for k, pid := range pids {
		list[k] = strconv.Itoa(pid)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", slices.Concat(words, []string{"-q", strings.Join(list, ",")})...).Output()
	if err != nil { // some options do not go together with -q
		out, err = exec.CommandContext(ctx, "ps", words...).Output()
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		reason, _, _ := strings.Cut(strings.TrimSpace(string(exit.Stderr)), "\n")
		if reason == "" {
			reason = exit.Error()
		}
		return nil, nil, fail.New(fail.Invalid, "ps: %s", reason)
	case err != nil:
		return nil, nil, fmt.Errorf("ps: %w", err)
	}
	return parsePs(string(out), list)
}

// parsePs reads a table of ps: the titles, and the lines whose PID is listed. A line of a
// thread (PID "-") belongs to the process above it.
func parsePs(out string, pids []string) (titles []string, processes [][]string, err error) {
	head, rest, _ := strings.Cut(out, "\n")
	titles = strings.Fields(head)
	at := slices.Index(titles, "PID")
	if at < 0 {
		return nil, nil, fail.New(fail.Invalid, "Couldn't find PID field in ps output")
	}
	ours := false
	for line := range strings.Lines(rest) {
		f := strings.Fields(line)
		if len(f) <= at {
			continue
		}
		if f[at] != "-" {
			ours = slices.Contains(pids, f[at])
		}
		if !ours {
			continue
		}
		if last := len(titles) - 1; len(f) > len(titles) { // the last column may have blanks
			f = append(f[:last:last], strings.Join(f[last:], " "))
		}
		processes = append(processes, f)
	}
	return titles, processes, nil
}

// psFormats are the ready-made column lists of ps(1).
var psFormats = map[string]string{
	"f": "user=UID,pid,ppid,c,stime,tty,time,cmd",
	"F": "user=UID,pid,ppid,c,sz,rss,psr,stime,tty,time,cmd",
	"l": "f,s,user=UID,pid,ppid,c,pri,ni,sz,wchan,tty,time,ucmd=CMD",
	"u": "user,pid,pcpu,pmem,vsz,rss,tname,stat,start_time=START,bsdtime=TIME,command",
	"j": "pid,pgid,sid,tty,time,ucmd=CMD",
	"":  "pid,tty,time,ucmd=CMD",
}

// psColumns reads ps(1) options as far as they choose columns. Which processes are
// listed is settled: the container's.
func psColumns(words []string) ([]psColumn, error) {
	format, custom := "", []string(nil)
	unsupported := func(w string) error {
		return fail.New(fail.Invalid, "ps option %q is not supported by top: try -ef, aux or -o with a list of columns", w)
	}
	for n := 0; n < len(words); n++ {
		w := words[n]
		if list, ok := strings.CutPrefix(w, "--format="); ok {
			custom = append(custom, list)
			continue
		}
		if strings.HasPrefix(w, "--") && w != "--format" {
			return nil, unsupported(w)
		}
		letters := strings.TrimPrefix(w, "-")
		if w == "--format" {
			letters = "o"
		}
		bsd := !strings.HasPrefix(w, "-")
		for k := 0; k < len(letters); k++ {
			switch letter := letters[k : k+1]; {
			case letter == "o":
				list := letters[k+1:]
				if list == "" {
					if n++; n == len(words) {
						return nil, fail.New(fail.Invalid, "ps option -o needs a list of columns")
					}
					list = words[n]
				}
				custom, k = append(custom, list), len(letters)
			case strings.Contains("eAaxTw", letter): // which processes, and how wide
			case letter == "y" && format == "l":
			case psFormats[letter] != "" && (!bsd || letter == "u" || letter == "l" || letter == "j"):
				format = letter
			default:
				return nil, unsupported(w)
			}
		}
	}
	if custom == nil {
		if format == "" && strings.ContainsAny(words[0], "x") {
			return parseColumns("pid,tname,stat,bsdtime=TIME,command")
		}
		return parseColumns(psFormats[format])
	}
	return parseColumns(strings.Join(custom, ","))
}

// parseColumns reads "pid,user=WHO": a title given by "=" is the column's.
func parseColumns(list string) ([]psColumn, error) {
	var out []psColumn
	for part := range strings.SplitSeq(list, ",") {
		name, title, retitled := strings.Cut(part, "=")
		col, ok := psValues[strings.ToLower(name)]
		if !ok {
			return nil, fail.New(fail.Invalid, "ps column %q is not supported by top", name)
		}
		if retitled {
			col.title = title
		}
		out = append(out, col)
	}
	return out, nil
}
