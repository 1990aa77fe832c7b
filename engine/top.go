package engine

import (
	"context"
	"slices"
	"strings"

	"berth/fail"
)

// Top lists processes in the columns that psArgs (default "-ef") asks for, without
// running anything from the container.
func (c *Containers) Top(ctx context.Context, ref, psArgs string) (titles []string, processes [][]string, err error) {
	i, err := c.idx.find(ref)
	if err != nil {
		return nil, nil, err
	}
	columns, err := psColumns(psArgs)
	if err != nil {
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
	c.ann.tell(s, "top")
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
func psColumns(args string) ([]psColumn, error) {
	words := strings.Fields(args)
	if len(words) == 0 {
		words = []string{"-ef"}
	}
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
			case letter == "f" && bsd: // a forest is not drawn, the columns are the same
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
