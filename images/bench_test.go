package images

import (
	"crypto/rand"
	"testing"
)

// BenchmarkPull pulls four layers of 24 MiB from loopback.
func BenchmarkPull(b *testing.B) {
	var tars [][]byte
	for range 4 {
		files := []string{}
		for i := range 24 {
			data := make([]byte, 1<<20)
			_, _ = rand.Read(data[:512<<10]) // half of it compresses
			files = append(files, string(rune('a'+i)), string(data))
		}
		tars = append(tars, layerTar(files...))
	}
	img := gzipImage("bench", tars...)
	b.SetBytes(4 * 24 << 20)
	for b.Loop() {
		s := newStore(b)
		f := newFakeRegistry(b)
		f.add("1", img)
		if _, err := s.Pull(b.Context(), f.ref(b, ":1"), nil, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}
