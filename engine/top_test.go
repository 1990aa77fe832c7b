package engine

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"berth/fail"
)

func TestPsOptionsChooseColumns(t *testing.T) {
	for args, want := range map[string]string{
		"":                         "UID PID PPID C STIME TTY TIME CMD",
		"-ef":                      "UID PID PPID C STIME TTY TIME CMD",
		"aux":                      "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-eo pid,comm":             "PID COMMAND",
		"-o pid -o user=WHO,etime": "PID WHO ELAPSED",
		"-e --format=%cpu,rss":     "%CPU RSS",
		"-e":                       "PID TTY TIME CMD",
		"ax":                       "PID TTY STAT TIME COMMAND",
	} {
		cols, err := psColumns(args)
		var titles []string
		for _, c := range cols {
			titles = append(titles, c.title)
		}
		if got := strings.Join(titles, " "); err != nil || got != want {
			t.Errorf("%q: %q %v", args, got, err)
		}
	}
	for _, args := range []string{"-o", "-o nope", "-Z", "--forest", "-p 1", "k"} {
		if _, err := psColumns(args); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestTopShowsTheProcess(t *testing.T) {
	f := newFixture(t)
	f.create("me", nil)
	f.start("me")
	titles, rows, err := f.Containers.Top(t.Context(), "me", "-o pid,ppid,args,stat,vsz")
	if err != nil || len(titles) != 5 || len(rows) != 1 {
		t.Fatalf("%v %v %v", titles, rows, err)
	}
	if r := rows[0]; r[0] != strconv.Itoa(os.Getpid()) || r[1] != strconv.Itoa(os.Getppid()) || !strings.Contains(r[2], "test") || r[4] == "0" {
		t.Errorf("%v", r)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (a b) (c)) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9 10 11 18446744073709551615 1\n"))
	f.Add([]byte("x (y"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseStat(b)
		if err == nil {
			_, _ = p.flags(), p.tty()
		}
	})
}
