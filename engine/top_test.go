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
		"-ef":                      "UID PID PPID C STIME TTY TIME CMD",
		"aux":                      "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-eo pid,comm":             "PID COMMAND",
		"-o pid -o user=WHO,etime": "PID WHO ELAPSED",
		"-e --format=%cpu,rss":     "%CPU RSS",
		"-e":                       "PID TTY TIME CMD",
		"ax":                       "PID TTY STAT TIME COMMAND",
	} {
		cols, err := psColumns(strings.Fields(args))
		var titles []string
		for _, c := range cols {
			titles = append(titles, c.title)
		}
		if got := strings.Join(titles, " "); err != nil || got != want {
			t.Errorf("%q: %q %v", args, got, err)
		}
	}
	for _, args := range []string{"-o", "-o nope", "-Z", "--forest", "-p 1", "k"} {
		if _, err := psColumns(strings.Fields(args)); !fail.Is(err, fail.Invalid) {
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

func TestOutputOfPsIsRead(t *testing.T) {
	for _, c := range []struct {
		name, out string
		want      string // rows, fields joined by |
	}{
		{"others are left out", "PID CMD\n1 init\n7 sleep 10\n70 sh\n", "7|sleep 10"},
		{"threads follow their process", "  PID LWP CMD\n 1 - init\n - 1 -\n 7 - a b\n - 7 -\n - 8 -\n", "7|-|a b;-|7|-;-|8|-"},
		{"a short line", "USER PID CMD\nroot\nroot 7\n", "root|7"},
	} {
		_, rows, err := parsePs(c.out, []string{"7", "9"})
		var got []string
		for _, r := range rows {
			got = append(got, strings.Join(r, "|"))
		}
		if err != nil || strings.Join(got, ";") != c.want {
			t.Errorf("%s: %q %v", c.name, got, err)
		}
	}
	if _, _, err := parsePs("CMD\nsh\n", []string{"7"}); !fail.Is(err, fail.Invalid) || err.Error() != "Couldn't find PID field in ps output" {
		t.Errorf("no PID: %v", err)
	}
}

func TestAColumnMayNotPassForThePID(t *testing.T) {
	for args, allowed := range map[string]bool{
		"-eo pid,comm": true, "-o pid=PID": true, "-o user=WHO": true,
		"-eo tid=PID,comm": false, "-o ppid=PID": false, "-o comm=PID": false, "--format=user=PID2": false,
	} {
		if err := checkPsArgs(strings.Fields(args)); (err == nil) != allowed {
			t.Errorf("%q: %v", args, err)
		}
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
