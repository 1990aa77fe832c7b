package layer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkApply unpacks a layer such as a distribution's: 20 000 files of up to 16 KiB
// in 1 000 directories, some links, and a few large files.
func BenchmarkApply(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	content := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog. "), 100_000)
	piece := func(n int) string { i := r.IntN(1000); return string(content[i : i+n]) }
	var entries []entry
	for d := range 1000 {
		dir := fmt.Sprintf("usr/share/package%03d/part%d", d/4, d%4)
		entries = append(entries, dirE(dir+"/"))
		for f := range 20 {
			entries = append(entries, fileE(fmt.Sprintf("%s/file%d", dir, f), piece(r.IntN(16<<10))))
		}
		entries = append(entries, symlinkE(dir+"/link", "file0"), linkE(dir+"/other", dir+"/file1"))
	}
	for i := range 5 {
		entries = append(entries, fileE(fmt.Sprintf("large%d", i), piece(4<<20)))
	}
	data := tarOf(b, entries...)
	s := open(b)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		st, err := s.Stage(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := st.Apply(b.Context(), bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := st.Discard(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
