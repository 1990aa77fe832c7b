package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path string, o Options, stream, text string) {
	t.Helper()
	w, err := Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Copy(stream, strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path, driver string, o ReadOptions) (lines []string) {
	t.Helper()
	o.Stdout, o.Stderr = true, true
	err := Read(t.Context(), path, Options{Driver: driver}, o, func(e Entry) error {
		lines = append(lines, string(e.Line))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func all(t *testing.T, path string) string {
	t.Helper()
	return strings.Join(read(t, path, "", ReadOptions{Tail: -1}), "")
}

// forms are the drivers with a format of files of their own.
var forms = []string{DriverJSONFile, DriverLocal}

func TestAnEntryIsWrittenAsDockerWritesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, Options{}, Stdout, "a\t<b> \"q\" \\ \x1b[0m \xff é\u2028\r\nlast")
	write(t, path, Options{Attrs: map[string]string{"b": "2", "a": "1"}}, Stderr, "oops\n")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	want := []string{
		`{"log":"a\u0009\u003cb\u003e \"q\" \\ \u001b[0m \ufffd é\u2028\r\n","stream":"stdout","time":"`,
		`{"log":"last","stream":"stdout","time":"`,
		`{"log":"oops\n","stream":"stderr","attrs":{"a":"1","b":"2"},"time":"`,
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) || !strings.HasSuffix(lines[i], `Z"}`) {
			t.Errorf("got  %s\nwant %s…", lines[i], want[i])
		}
		if !json.Valid([]byte(lines[i])) {
			t.Errorf("not JSON: %s", lines[i])
		}
	}
}

func TestALongLineIsCutAt16KiB(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for i, n := range []int{maxLine - 1, maxLine, maxLine + 1, 2*maxLine - 1, 2 * maxLine, 5*maxLine + 7} {
		text, driver := strings.Repeat("x", n)+"\nshort\n", forms[i%2]
		write(t, path, Options{Driver: driver}, Stdout, text)
		got := read(t, path, driver, ReadOptions{Tail: -1})
		if strings.Join(got, "") != text {
			t.Errorf("%d: text changed", n)
		}
		if want := (n+1+maxLine-1)/maxLine + 1; len(got) != want {
			t.Errorf("%d: %d entries, want %d", n, len(got), want)
		}
		for _, l := range got {
			if len(l) > maxLine {
				t.Errorf("%d: an entry of %d bytes", n, len(l))
			}
		}
		os.Remove(path)
	}
}

// chunks delivers what it holds in pieces of random size.
type chunks struct {
	rest []byte
	rnd  *rand.Rand
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1+c.rnd.Intn(40000))], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func TestWhatIsReadInAnyPiecesComesBackWhole(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	for round := range 20 {
		var text []byte
		for len(text) < 300_000 {
			line := bytes.Repeat([]byte{byte('a' + rnd.Intn(26))}, rnd.Intn(1<<uint(rnd.Intn(17))))
			text = append(append(text, line...), '\n')
		}
		path := filepath.Join(t.TempDir(), fmt.Sprint("log", round))
		driver := forms[round/2%2]
		w, err := Open(t.Context(), path, Options{Driver: driver, MaxSize: 50_000 + int64(rnd.Intn(100_000)), MaxFile: 1000, Compress: round%2 == 0})
		if err != nil {
			t.Fatal(err)
		}
		var teed []byte
		if err := w.Copy(Stdout, &chunks{text, rnd}, func(b []byte) { teed = append(teed, b...) }); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(teed, text) {
			t.Error("tee saw another text")
		}
		entries := read(t, path, driver, ReadOptions{Tail: -1})
		if strings.Join(entries, "") != string(text) {
			t.Fatal("the log holds another text")
		}
		for _, n := range []int{0, 1, 2, 7, len(entries) / 2, len(entries), len(entries) + 1} {
			want := entries[len(entries)-min(n, len(entries)):]
			if got := read(t, path, driver, ReadOptions{Tail: n}); strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("tail %d: %d entries, want %d", n, len(got), len(want))
			}
		}
	}
}

func TestFilesStayWithinTheirSizeAndNumber(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	for _, compress := range []bool{false, true} {
		write(t, path, Options{MaxSize: 1000, MaxFile: 3, Compress: compress}, Stdout, strings.Repeat("0123456789\n", 1000))
		entries, _ := os.ReadDir(dir)
		if len(entries) != 3 {
			t.Errorf("%d files: %v", len(entries), entries)
		}
		for _, e := range entries {
			if info, _ := e.Info(); info.Size() > 1000 {
				t.Errorf("%s has %d bytes", e.Name(), info.Size())
			}
		}
		if got := all(t, path); len(got) == 0 || strings.Trim(got, "0123456789\n") != "" {
			t.Errorf("log reads %q", got)
		}
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left after Remove: %v", entries)
	}
}

func TestASingleFileBeginsAnewWhenItIsFull(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	write(t, path, Options{MaxSize: 500, MaxFile: 1}, Stdout, strings.Repeat("0123456789\n", 100)+"end\n")
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("files: %v", entries)
	}
	if got := all(t, path); !strings.HasSuffix(got, "end\n") {
		t.Errorf("log reads %q", got)
	}
}

func TestAHalfWrittenLastLineDoesNoHarm(t *testing.T) {
	for driver, half := range map[string]string{DriverJSONFile: `{"log":"tw`, DriverLocal: "\x00\x00\x00\x21\x0a\x06std"} {
		path := filepath.Join(t.TempDir(), "log")
		text := func(tail int) string { return strings.Join(read(t, path, driver, ReadOptions{Tail: tail}), "") }
		write(t, path, Options{Driver: driver}, Stdout, "zero\none\n")
		f, _ := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		f.WriteString(half)
		f.Close()
		if got := text(-1); got != "zero\none\n" {
			t.Errorf("%s: before repair: %q", driver, got)
		}
		if got := text(1); got != "one\n" {
			t.Errorf("%s: tail before repair: %q", driver, got)
		}
		write(t, path, Options{Driver: driver}, Stdout, "three\n")
		if got := text(-1); got != "zero\none\nthree\n" {
			t.Errorf("%s: after repair: %q", driver, got)
		}
	}
}

func TestARotationCutInTwoIsFinished(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, Options{}, Stdout, "one\n")
	if err := os.Link(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(path+".next", nil, 0o600)
	if got := all(t, path); got != "one\n" {
		t.Errorf("between the halves: %q", got)
	}
	write(t, path, Options{}, Stdout, "two\n")
	if got := all(t, path); got != "one\ntwo\n" {
		t.Errorf("after repair: %q", got)
	}
}

// smallDisk is a directory with room for so many bytes, or a reason to skip.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skip("no file system can be made: ", err)
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "size", strconv.Itoa(size)), unix.FsconfigCreate(fs)); err != nil {
		t.Skip("no file system can be made: ", err)
	}
	at, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Skip("no file system can be made: ", err)
	}
	t.Cleanup(func() { unix.Close(at) })
	return "/proc/self/fd/" + strconv.Itoa(at)
}

func TestAFullDiskLeavesWholeEntriesThatStay(t *testing.T) {
	for _, driver := range []string{DriverJSONFile, DriverLocal} {
		dir := smallDisk(t, 64<<10)
		path := filepath.Join(dir, "log")
		w, err := Open(t.Context(), path, Options{Driver: driver})
		if err != nil {
			t.Fatal(err)
		}
		seen := 0 // by somebody who follows
		for range 10 {
			if err := w.Copy(Stdout, strings.NewReader(strings.Repeat("0123456789\n", 500)), nil); err != nil {
				t.Fatal(err)
			}
			entries := read(t, path, driver, ReadOptions{Tail: -1})
			if len(entries) < seen || strings.Trim(strings.Join(entries, ""), "0123456789\n") != "" {
				t.Fatalf("%s: %d entries where there were %d", driver, len(entries), seen)
			}
			seen = len(entries)
		}
		if err := w.Close(); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", driver, err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := f.Stat()
		format, _ := Options{Driver: driver}.format()
		if end, err := format.whole(f, info.Size()); err != nil || end != info.Size() || info.Size() < 60<<10 {
			t.Errorf("%s: %d entries, whole up to %d of %d, %v", driver, seen, end, info.Size(), err)
		}
		f.Close()
	}
}

func TestARotationThatFailsLosesNoEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	o := Options{MaxSize: 200, MaxFile: 3}
	write(t, path, o, Stdout, "one\ntwo\nthree\nfour\nfive\nsix\n")
	before := all(t, path)
	w, err := Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(path+".next/in the way", 0o700); err != nil { // as a full disk is
		t.Fatal(err)
	}
	if err := w.Copy(Stdout, strings.NewReader(strings.Repeat("more\n", 20)), nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("no word of it")
	}
	if got, want := all(t, path), before+strings.Repeat("more\n", 20); got != want || strings.Count(before, "\n") < 3 {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := os.RemoveAll(path + ".next"); err != nil {
		t.Fatal(err)
	}
	write(t, path, o, Stdout, "again\n")
	if got := all(t, path); !strings.HasSuffix(got, "more\nagain\n") {
		t.Errorf("afterwards: %q", got)
	}
}

func TestSinceUntilAndStreamsSelect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	base := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	var data []byte
	for i := range 10 {
		stream := []string{Stdout, Stderr}[i%2]
		data = (&jsonLines{}).encode(data, &message{Stream: stream, Time: base.Add(time.Duration(i) * time.Second), Text: []byte(fmt.Sprint(i))})
	}
	os.WriteFile(path, data, 0o600)
	for name, test := range map[string]struct {
		o    ReadOptions
		want string
	}{
		"everything":                     {ReadOptions{Stdout: true, Stderr: true, Tail: -1}, "0123456789"},
		"stdout alone":                   {ReadOptions{Stdout: true, Tail: -1}, "02468"},
		"tail counts both streams":       {ReadOptions{Stderr: true, Tail: 3}, "79"},
		"since is inclusive":             {ReadOptions{Stdout: true, Stderr: true, Tail: -1, Since: base.Add(7 * time.Second)}, "789"},
		"until is inclusive":             {ReadOptions{Stdout: true, Stderr: true, Tail: -1, Until: base.Add(2 * time.Second)}, "012"},
		"a past until ends following":    {ReadOptions{Stdout: true, Stderr: true, Tail: -1, Until: base.Add(2 * time.Second), Follow: true}, "012"},
		"tail before since":              {ReadOptions{Stdout: true, Stderr: true, Tail: 5, Since: base.Add(8 * time.Second)}, "89"},
		"nothing is asked for":           {ReadOptions{Tail: -1}, ""},
		"tail 0":                         {ReadOptions{Stdout: true, Stderr: true}, ""},
		"since beyond the end":           {ReadOptions{Stdout: true, Stderr: true, Tail: -1, Since: time.Now().Add(time.Hour)}, ""},
		"both bounds hold at their time": {ReadOptions{Stdout: true, Stderr: true, Tail: -1, Since: base.Add(3 * time.Second), Until: base.Add(3 * time.Second)}, "3"},
	} {
		var got strings.Builder
		if err := Read(t.Context(), path, Options{}, test.o, func(e Entry) error {
			got.WriteString(strings.TrimSuffix(string(e.Line), "\n"))
			return nil
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got.String() != test.want {
			t.Errorf("%s: %s, want %s", name, &got, test.want)
		}
	}
}

func TestFollowSeesEveryLineAcrossRotations(t *testing.T) {
	for i, driver := range append(forms, forms...) {
		compress := i < 2
		t.Run(fmt.Sprint(driver, " compress ", compress), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			done := make(chan struct{})
			got := make(chan string, 1)
			go func() {
				var lines strings.Builder
				err := Read(t.Context(), path, Options{Driver: driver}, ReadOptions{Stdout: true, Tail: -1, Follow: true, Done: done}, func(e Entry) error {
					lines.Write(e.Line)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				got <- lines.String()
			}()
			w, err := Open(t.Context(), path, Options{Driver: driver, MaxSize: 5000, MaxFile: 100, Compress: compress})
			if err != nil {
				t.Fatal(err)
			}
			r, p := io.Pipe()
			go func() {
				for i := range 3000 {
					fmt.Fprintln(p, "line", i)
				}
				p.Close()
			}()
			if err := w.Copy(Stdout, r, nil); err != nil {
				t.Fatal(err)
			}
			w.Close()
			close(done)
			lines := strings.Split(<-got, "\n")
			if len(lines) != 3001 {
				t.Errorf("%d lines", len(lines)-1)
			}
			for i, l := range lines[:len(lines)-1] {
				if l != fmt.Sprint("line ", i) {
					t.Fatalf("line %d is %q", i, l)
				}
			}
		})
	}
}

func TestFollowEndsWithItsContextAndWithItsReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, Options{}, Stdout, "one\n")
	ctx, cancel := context.WithCancel(t.Context())
	err := Read(ctx, path, Options{}, ReadOptions{Stdout: true, Tail: -1, Follow: true}, func(Entry) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	gone := errors.New("client gone")
	if err := Read(t.Context(), path, Options{}, ReadOptions{Stdout: true, Tail: -1, Follow: true}, func(Entry) error { return gone }); err != gone {
		t.Errorf("reader's error: %v", err)
	}
	soon := time.Now().Add(50 * time.Millisecond)
	if err := Read(t.Context(), path, Options{}, ReadOptions{Stdout: true, Tail: -1, Follow: true, Until: soon}, func(Entry) error { return nil }); err != nil {
		t.Errorf("until: %v", err)
	}
}

func TestALogThatIsNotThereIsEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "log")
	if got := all(t, path); got != "" {
		t.Errorf("read %q", got)
	}
	if err := Remove(path); err != nil {
		t.Error(err)
	}
}

func TestAWriterThatCannotWriteGoesOnReading(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.outputs[0].(*fileLog).f.Close() // as a device that is gone
	r := strings.NewReader(strings.Repeat("line\n", 100_000))
	if err := w.Copy(Stdout, r, nil); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err == nil {
		t.Error("no error at the end")
	}
	if r.Len() != 0 {
		t.Errorf("%d bytes were not read", r.Len())
	}
}

func FuzzEveryTextSurvivesTheLog(f *testing.F) {
	f.Add([]byte("plain\n"))
	f.Add([]byte("\x00\x1f\"\\<>&\xff\xc3\xa9\xe2\x80\xa8\U0001f600\ufffd\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		line := (&jsonLines{}).encode(nil, &message{Stream: Stdout, Text: text, Open: true})
		if !json.Valid(line) {
			t.Fatalf("not JSON: %q", line)
		}
		if bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("more than one line: %q", line)
		}
		var scratch []byte
		e, err := decode(line, &scratch)
		if err != nil {
			t.Fatal(err)
		}
		if want := bytes.ToValidUTF8(text, nil); !bytes.Equal(bytes.ReplaceAll(e.Line, []byte("\ufffd"), nil), bytes.ReplaceAll(want, []byte("\ufffd"), nil)) {
			t.Fatalf("%q became %q", text, e.Line)
		}
	})
}

func FuzzTheFastDecoderAgreesWithEncodingJSON(f *testing.F) {
	f.Add([]byte(`{"log":"a\u0009\n","stream":"stdout","time":"2026-01-02T03:04:05.600000001Z"}`))
	f.Add([]byte(`{"log":"\ud83d\ude00","stream":"stderr","attrs":{"a":"b"},"time":"2026-02-30T03:04:05Z"}`))
	f.Add([]byte(`{"log":"x","stream":"stdout","time":"2026-01-02T03:04:05.6+01:00"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var scratch []byte
		fast, ok := decodeFast(line, &scratch)
		if !ok {
			_, _ = decode(line, &scratch)
			return
		}
		var slow struct {
			Log    string            `json:"log"`
			Stream string            `json:"stream"`
			Attrs  map[string]string `json:"attrs"`
			Time   time.Time         `json:"time"`
		}
		if err := json.Unmarshal(line, &slow); err != nil {
			t.Fatalf("accepted %q: %v", line, err)
		}
		if slow.Log != string(fast.Line) || slow.Stream != fast.Stream || !slow.Time.Equal(fast.Time) || !reflect.DeepEqual(slow.Attrs, fast.Attrs) {
			t.Fatalf("%q: fast %+v, slow %+v", line, fast, slow)
		}
	})
}

func BenchmarkCopy(b *testing.B) {
	for name, text := range map[string]string{
		"lines of 100":    strings.Repeat(strings.Repeat("x", 99)+"\n", 10_000),
		"lines of 1":      strings.Repeat("\n", 100_000),
		"lines of 10 KiB": strings.Repeat(strings.Repeat("x", 10_239)+"\n", 100),
	} {
		for _, driver := range forms {
			b.Run(driver+" "+name, func(b *testing.B) {
				path := filepath.Join(b.TempDir(), "log")
				w, err := Open(b.Context(), path, Options{Driver: driver})
				if err != nil {
					b.Fatal(err)
				}
				defer w.Close()
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					if err := w.Copy(Stdout, strings.NewReader(text), nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func FuzzFramesAreReadOrRefused(f *testing.F) {
	f.Add(frames{}.encode(nil, &message{Stream: Stdout, Time: time.Unix(1, 2), Text: []byte("text"), Open: true}))
	f.Add([]byte("\x00\x00\x00\x04\x0a\x06st\x00\x00\x00\x04"))
	f.Add(bytes.Repeat([]byte{0}, 64))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, tail := range []int{-1, 2} {
			_ = Read(t.Context(), path, Options{Driver: DriverLocal}, ReadOptions{Stdout: true, Stderr: true, Tail: tail}, func(e Entry) error {
				if len(e.Line) > len(data)+1 {
					t.Fatalf("an entry of %d bytes in a file of %d", len(e.Line), len(data))
				}
				return nil
			})
		}
		w, err := Open(t.Context(), path, Options{Driver: DriverLocal})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Copy(Stdout, strings.NewReader("next\n"), nil); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path, DriverLocal, ReadOptions{Tail: 1}); len(got) != 1 || got[0] != "next\n" {
			t.Fatalf("after it comes %q", got)
		}
	})
}

func TestARingDropsWhatItsOutputCannotTake(t *testing.T) {
	slow := &gate{open: make(chan struct{})}
	r := newRing(slow, 1000)
	for range 200 {
		r.Add(&message{Text: []byte("0123456789")})
		r.Flush()
	}
	close(slow.open)
	err := r.Close()
	if err == nil || slow.lines >= 200 || slow.lines < 10 || !strings.HasPrefix(err.Error(), fmt.Sprint(200-slow.lines, " log lines came faster")) {
		t.Errorf("%d lines, %v", slow.lines, err)
	}
}

func TestARingCountsMoreThanTheTexts(t *testing.T) {
	const lines, limit = 200_000, 64 << 10
	for name, test := range map[string]struct {
		streams []string
		most    int // lines that fit, twice: a batch is with the output when the next one waits
	}{
		"empty lines":                          {[]string{Stdout}, 2 * limit / 8},
		"empty lines of both streams in turns": {[]string{Stdout, Stderr}, 2 * limit / 128},
	} {
		slow := &gate{open: make(chan struct{})}
		r := newRing(slow, limit)
		for i := range lines {
			r.Add(&message{Stream: test.streams[i%len(test.streams)]})
			r.Flush()
		}
		close(slow.open)
		if err := r.Close(); err == nil || slow.lines > test.most {
			t.Errorf("%s: %d lines were kept in %d bytes, %v", name, slow.lines, limit, err)
		}
	}
}

func TestARingTakesWhatOneReadBrings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := strings.Repeat("y\n", readSize/2)
	write(t, path, Options{Buffer: defaultBuffer}, Stdout, text)
	if got := all(t, path); got != text {
		t.Errorf("of %d bytes %d are in the log", len(text), len(got))
	}
}

// gate takes nothing until it is open.
type gate struct {
	open  chan struct{}
	lines int
}

func (g *gate) Add(*message) { <-g.open; g.lines++ }
func (g *gate) Flush()       {}
func (g *gate) Close() error { return nil }

func TestFollowersShareOneWatch(t *testing.T) {
	dir := t.TempDir()
	var all Watches
	a, b, c := all.watch(filepath.Join(dir, "log")), all.watch(filepath.Join(dir, "log")), all.watch(filepath.Join(dir, "none", "log"))
	if a.polls || b.polls || !c.polls || a.wd != b.wd {
		t.Fatalf("watches %+v %+v %+v", a, b, c)
	}
	a.close()
	write(t, filepath.Join(dir, "log"), Options{}, Stdout, "x\n")
	select {
	case <-b.changed:
	case <-time.After(time.Minute):
		t.Error("nobody said that the log has changed")
	}
	b.close()
	c.close()
	if all.in != nil {
		t.Error("the instance is still open")
	}
}
