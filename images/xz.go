package images

import (
	"bufio"
	"encoding/binary"

	"berth/fail"
)

// xzDictionary is the largest dictionary that xz may ask memory for: twice that of its -9.
const xzDictionary = 128 << 20

// xzGuard passes an xz stream on and refuses one whose blocks want a larger dictionary than
// xzDictionary, which the library would give each: up to 4 GiB for a header of a few bytes. Streams
// and blocks may follow each other, so it goes from header to header (xz file format 1.2; the
// chunks of LZMA2 in between are those of the library's own reader). What it does not understand it
// passes on: the library will say what is wrong with it.
type xzGuard struct {
	in   *bufio.Reader // with a buffer for the largest header, of 1024 bytes
	left int64         // to be passed on before next is asked; < 0: all
	next func()        // looks at what comes, and sets both anew
	err  error

	check int64 // size of a block's checksum
	size  int64 // of a block's data so far
	ints  int64 // numbers of an index that are to come
	index int64 // its length so far
}

func newXZGuard(in *bufio.Reader) *xzGuard {
	g := &xzGuard{in: in}
	g.next = g.stream
	return g
}

func (g *xzGuard) Read(p []byte) (int, error) {
	for g.left == 0 && g.err == nil {
		g.next()
	}
	if g.err != nil {
		return 0, g.err
	}
	if g.left > 0 {
		p = p[:min(int64(len(p)), g.left)]
	}
	n, err := g.in.Read(p)
	if g.left > 0 {
		g.left -= int64(n)
	}
	return n, err
}

// pass lets n bytes through, and next look at what follows.
func (g *xzGuard) pass(n int64, next func()) { g.left, g.next = n, next }

// peek is what comes; false: it is not all there, and the rest passes.
func (g *xzGuard) peek(n int) ([]byte, bool) {
	b, err := g.in.Peek(n)
	if err != nil {
		g.left = -1
		return nil, false
	}
	return b, true
}

// stream is at a stream's header (2.1.1), or at padding between two (2.2).
func (g *xzGuard) stream() {
	b, ok := g.peek(12)
	if !ok {
		return
	}
	if binary.LittleEndian.Uint32(b) == 0 {
		g.pass(4, g.stream)
		return
	}
	g.check = [16]int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[b[7]&0xf]
	g.pass(12, g.block)
}

// block is at a block's header (3.1) or at the index, which a zero begins (4.1).
func (g *xzGuard) block() {
	b, ok := g.peek(1)
	if !ok {
		return
	}
	if b[0] == 0 {
		g.index, g.ints = 1, -1
		g.pass(1, g.number)
		return
	}
	n := (int(b[0]) + 1) * 4
	if b, ok = g.peek(n); !ok {
		return
	}
	if wants := dictionaryOf(b[1 : n-4]); wants > xzDictionary {
		g.err = fail.New(fail.Invalid, "the xz stream wants a dictionary of %d MiB, more than the %d MiB that it may have", wants>>20, xzDictionary>>20)
		return
	}
	g.size = 0
	g.pass(int64(n), g.chunk)
}

// dictionaryOf is the size of the dictionary that a block's header, from its flags on, asks for.
func dictionaryOf(b []byte) int64 {
	flags, b := b[0], b[1:]
	number := func() (v uint64) {
		v, n := binary.Uvarint(b)
		b = b[max(n, 0):]
		return v
	}
	for _, has := range []byte{0x40, 0x80} { // sizes of the block, packed and not
		if flags&has != 0 {
			number()
		}
	}
	for range flags&3 + 1 {
		const lzma2 = 0x21 // 5.3.1
		id, size := number(), number()
		if size > uint64(len(b)) {
			return 0
		}
		if id == lzma2 && size == 1 {
			bits := b[0] & 0x3f
			return (2 | int64(bits&1)) << (min(bits, 40)/2 + 11)
		}
		b = b[size:]
	}
	return 0
}

// chunk is at the control byte of a chunk of LZMA2.
func (g *xzGuard) chunk() {
	b, ok := g.peek(1)
	if !ok {
		return
	}
	var head, data int64
	switch control := b[0]; {
	case control == 0: // the end; padding and checksum follow
		g.size++
		g.pass(1+-g.size&3+g.check, g.block)
		return
	case control <= 2:
		if b, ok = g.peek(3); ok {
			head, data = 3, int64(binary.BigEndian.Uint16(b[1:]))+1
		}
	case control >= 0x80:
		if b, ok = g.peek(5); ok {
			head, data = 5, int64(binary.BigEndian.Uint16(b[3:]))+1
		}
		if control >= 0xc0 {
			head++
		}
	default:
		g.left = -1
		return
	}
	if ok {
		g.size += head + data
		g.pass(head+data, g.chunk)
	}
}

// number is at a number of the index: how many blocks it tells of, or one of the two of each.
func (g *xzGuard) number() {
	if g.ints == 0 { // padding, the index's checksum, and the stream's footer
		g.pass(-g.index&3+4+12, g.stream)
		return
	}
	b, _ := g.in.Peek(binary.MaxVarintLen64)
	v, n := binary.Uvarint(b)
	if n <= 0 || v >= 1<<62 {
		g.left = -1
		return
	}
	if g.ints < 0 {
		g.ints = int64(v) * 2
	} else {
		g.ints--
	}
	g.index += int64(n)
	g.pass(int64(n), g.number)
}
