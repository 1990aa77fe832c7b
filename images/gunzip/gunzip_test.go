package gunzip

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	fast "github.com/klauspost/compress/gzip"
)

func samples(t testing.TB) map[string][]byte {
	t.Helper()
	random := make([]byte, 400<<10)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(random)
	few := bytes.Clone(random)
	for i := range few {
		few[i] %= 3
	}
	skewed := bytes.Clone(random) // long codes
	for i := range skewed {
		for n := byte(0); n < 200; n++ {
			if (i*2654435761)>>n&1 == 1 {
				skewed[i] = n
				break
			}
		}
	}
	self, err := os.ReadFile("gunzip.go")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"nothing": nil, "a byte": {7}, "zeros": make([]byte, 3<<20), "random": random, "few symbols": few, "skewed": skewed,
		"text": bytes.Repeat(self, 30), "a program": program[:min(len(program), 1<<20)],
		"short periods": []byte(strings.Repeat("ab", 5000) + strings.Repeat("abc", 5000) + strings.Repeat("abcdefg", 5000) + strings.Repeat("abcdefgh", 9000)),
		"far matches":   append(append(bytes.Clone(random[:32<<10]), random[:32<<10]...), random[:32<<10]...),
	}
}

func gz(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Name, w.Comment, w.Extra = "name", "comment", []byte("extra")
	_, _ = w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gunzip(r io.Reader) ([]byte, error) {
	z, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func TestWhatWasPackedComesOut(t *testing.T) {
	for name, data := range samples(t) {
		for _, level := range []int{gzip.NoCompression, gzip.BestSpeed, gzip.DefaultCompression, gzip.BestCompression, gzip.HuffmanOnly} {
			packed := gz(t, data, level)
			for how, r := range map[string]io.Reader{
				"at once": bytes.NewReader(packed), "in halves": iotest.HalfReader(bytes.NewReader(packed)), "with an early end": iotest.DataErrReader(bytes.NewReader(packed)),
			} {
				got, err := gunzip(r)
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%s, level %d, %s: %v, %d bytes, want %d", name, level, how, err, len(got), len(data))
				}
			}
		}
	}
	text := samples(t)["text"][:5000]
	if got, err := gunzip(iotest.OneByteReader(bytes.NewReader(gz(t, text, 6)))); err != nil || !bytes.Equal(got, text) {
		t.Fatal("byte by byte:", err)
	}
}

func TestMembersFollowEachOther(t *testing.T) {
	s := samples(t)
	var packed, want []byte
	for _, name := range []string{"text", "nothing", "zeros", "a byte", "random"} {
		packed, want = append(packed, gz(t, s[name], 6)...), append(want, s[name]...)
	}
	got, err := gunzip(bytes.NewReader(packed))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatal(err, len(got), len(want))
	}
	if _, err := gunzip(bytes.NewReader(append(packed, "garbage of some length"...))); !errors.Is(err, ErrHeader) {
		t.Fatal(err)
	}
}

func TestDamageIsTold(t *testing.T) {
	data := samples(t)["text"][:1500]
	packed := gz(t, data, 6)
	for n := range packed {
		_, err := gunzip(bytes.NewReader(packed[:n]))
		if n == 0 && err == io.EOF {
			continue
		}
		if err != io.ErrUnexpectedEOF {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for i := range packed {
		for bit := range 8 {
			bad := bytes.Clone(packed)
			bad[i] ^= 1 << bit
			got, err := gunzip(bytes.NewReader(bad))
			if err == nil && !bytes.Equal(got, data) {
				t.Fatalf("bit %d of byte %d: other content without an error", bit, i)
			}
		}
	}
	broken := errors.New("broken")
	if _, err := gunzip(io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

// FuzzGunzip compares with another implementation.
func FuzzGunzip(f *testing.F) {
	for _, data := range samples(f) {
		f.Add(gz(f, data[:min(len(data), 3000)], 6))
		f.Add(gz(f, data[:min(len(data), 300)], 1))
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		var want []byte
		r, wantErr := gzip.NewReader(bytes.NewReader(packed))
		if wantErr == nil {
			want, wantErr = io.ReadAll(io.LimitReader(r, 32<<20))
		}
		if len(want) == 32<<20 || errors.Is(wantErr, gzip.ErrHeader) {
			t.Skip("too large, or a name that is too long for that one alone")
		}
		got, err := gunzip(bytes.NewReader(packed))
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, want %v", err, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatal("other content")
		}
	})
}

func drain(r io.Reader) {
	b := make([]byte, 256<<10)
	for {
		if _, err := r.Read(b); err != nil {
			return
		}
	}
}

func BenchmarkGunzip(b *testing.B) {
	for _, name := range []string{"text", "a program", "zeros", "random"} {
		data := samples(b)[name]
		packed := gz(b, data, 6)
		b.Run(name+"/ours", func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				z, _ := NewReader(bytes.NewReader(packed))
				drain(z)
			}
		})
		b.Run(name+"/klauspost", func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				z, _ := fast.NewReader(bytes.NewReader(packed))
				drain(z)
			}
		})
	}
}
