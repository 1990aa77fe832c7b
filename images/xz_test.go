package images

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"berth/fail"
	"berth/testkit"
)

// packXZ packs data by the program xz.
func packXZ(t testing.TB, data []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(testkit.NeedTool(t, "xz"), append([]string{"-c"}, args...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// greedy gives a block the largest dictionary there is; at is where its header begins.
func greedy(t testing.TB, packed []byte, at int) []byte {
	t.Helper()
	b := bytes.Clone(packed)
	header := b[at : at+(int(b[at])+1)*4]
	filter := bytes.Index(header, []byte{0x21, 1})
	if filter < 0 {
		t.Fatal("there is no LZMA2 in the header")
	}
	header[filter+2] = 40
	end := len(header) - 4
	binary.LittleEndian.PutUint32(header[end:], crc32.ChecksumIEEE(header[:end]))
	return b
}

func TestXZMayNotAskForADictionaryOfGigabytes(t *testing.T) {
	const first = 12 // behind the stream's header
	small := packXZ(t, []byte("text"))
	bad := greedy(t, small, first)
	many := packXZ(t, noise(300<<10), "-0", "--block-size=100KiB", "-T2")
	header := many[first : first+(int(many[first])+1)*4]
	second := bytes.Index(many[first+1:], header) + first + 1 // blocks of noise are all as long
	if second <= first {
		t.Fatal("there is no second block")
	}
	for name, packed := range map[string][]byte{
		"in the first block":           bad,
		"in the second block":          greedy(t, many, second),
		"in a second stream":           slices.Concat(small, bad),
		"behind padding":               slices.Concat(small, make([]byte, 8), bad),
		"behind many blocks":           slices.Concat(many, bad),
		"behind one without checksums": slices.Concat(packXZ(t, noise(100<<10), "-0", "--check=none"), bad),
	} {
		u, _, err := decompress(bytes.NewReader(packed))
		if err == nil {
			_, err = io.Copy(io.Discard, u)
		}
		if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "dictionary of 4096 MiB") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestXZOfAllKindsIsUnpacked(t *testing.T) {
	all := [][]byte{nil, []byte("text"), append(noise(200<<10), make([]byte, 300<<10)...)}
	for _, args := range [][]string{{"-0"}, {"-9"}, {"-0", "--check=none"}, {"-0", "--check=crc32"}, {"-0", "--check=sha256", "--block-size=100KiB"}, {"-0", "-T2", "--block-size=100KiB"}} {
		for _, data := range all {
			one := packXZ(t, data, args...)
			u, kind, err := decompress(bytes.NewReader(slices.Concat(one, make([]byte, 12), one)))
			if err != nil {
				t.Fatalf("%d bytes, %v: %v", len(data), args, err)
			}
			got, err := io.ReadAll(u)
			if err != nil || kind != xzed || !bytes.Equal(got, slices.Concat(data, data)) {
				t.Errorf("%d bytes, %v: got %d, %v", len(data), args, len(got), err)
			}
		}
	}
}

func FuzzXZGuard(f *testing.F) {
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := io.ReadAll(newXZGuard(bufio.NewReaderSize(bytes.NewReader(data), 2048)))
		if err == nil && !bytes.Equal(got, data) || err != nil && !fail.Is(err, fail.Invalid) {
			t.Fatalf("%d of %d bytes, %v", len(got), len(data), err)
		}
	})
}
