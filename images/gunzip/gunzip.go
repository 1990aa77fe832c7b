// Package gunzip decompresses gzip (RFC 1952, RFC 1951), as fast as Go can without unsafe:
// unpacking layers spends most of its time here. It decodes straight into a buffer that
// keeps the window, reads its input eight bytes at a time, and looks up a whole length or
// distance, extra bits included, in one table entry.
package gunzip

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// What is wrong with the input. An input that ends too early is io.ErrUnexpectedEOF.
var (
	ErrHeader   = errors.New("invalid gzip header")
	ErrChecksum = errors.New("the checksum does not fit")
	ErrCorrupt  = errors.New("invalid compressed data")
)

const (
	window  = 32 << 10         // how far a match reaches back
	limit   = window + 256<<10 // where decoding pauses for the output to be fetched
	slack   = 258 + 3 + 64     // what one step writes beyond limit, and what copying by words does
	inSize  = 128 << 10        // input read at once
	padding = 32               // zeros behind the end of the input, so that words can be read there
	ahead   = 2 * 8            // bytes that one step of the loop may read
)

type state uint8

const (
	atHeader state = iota
	atBlock
	inStored
	inHuffman
	atTrailer
)

// Reader gives the content of all members of a gzip file. It reads its source ahead.
type Reader struct {
	src io.Reader
	err error // told once the output before it was fetched

	in   [inSize + padding]byte
	p    int // next byte of in
	end  int // of what was read
	eof  bool
	bits uint64 // bits taken from in; what lies above have is what will be taken next
	have uint

	out   [limit + slack]byte
	start int // of what was not fetched yet
	o     int // end of what was decoded
	base  int // where the member begins: nothing before it can be referred to
	crcAt int // what was summed up

	state  state
	first  bool // no member was begun
	final  bool // this is the last block of the member
	stored int  // bytes left of a stored block
	crc    uint32
	size   uint32

	tables
}

// NewReader begins to read. It reads the first member's header.
func NewReader(src io.Reader) (*Reader, error) {
	z := &Reader{src: src, first: true}
	if err := z.header(); err != nil {
		return nil, err
	}
	return z, nil
}

// Read is io.Reader's.
func (z *Reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for z.start == z.o {
		if z.err != nil {
			return 0, z.err
		}
		z.err = z.decode()
	}
	n := copy(b, z.out[z.start:z.o])
	z.start += n
	return n, nil
}

// decode fills out up to limit, or to the end of the input.
func (z *Reader) decode() (err error) {
	if z.o >= limit {
		gone := z.o - window
		copy(z.out[:window], z.out[gone:z.o])
		z.base = max(z.base-gone, 0)
		z.start, z.o, z.crcAt = window, window, window
	}
	for z.o < limit && err == nil {
		switch z.state {
		case atHeader:
			err = z.header()
		case atBlock:
			err = z.block()
		case inStored:
			err = z.copyStored()
		case inHuffman:
			err = z.huffman()
		case atTrailer:
			err = z.trailer()
		}
	}
	z.sum()
	return err
}

func (z *Reader) sum() {
	z.crc = crc32.Update(z.crc, crc32.IEEETable, z.out[z.crcAt:z.o])
	z.size += uint32(z.o - z.crcAt)
	z.crcAt = z.o
}

// more reads input. At its end it puts zeros behind it.
func (z *Reader) more() error {
	if z.eof {
		return io.ErrUnexpectedEOF
	}
	gone := max(z.p-8, 0) // eight bytes may be given back
	z.end = copy(z.in[:], z.in[gone:z.end])
	z.p -= gone
	for empty := 0; ; empty++ {
		n, err := z.src.Read(z.in[z.end:inSize])
		z.end += n
		if err == io.EOF {
			z.eof = true
			clear(z.in[z.end : z.end+padding])
			return nil
		}
		if err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
		if empty > 100 {
			return io.ErrNoProgress
		}
	}
}

// take returns the next n bits, at most 16.
func (z *Reader) take(n uint) (uint32, error) {
	for z.have < n {
		if z.p >= z.end {
			if err := z.more(); err != nil {
				return 0, err
			}
			continue
		}
		z.bits |= uint64(z.in[z.p]) << z.have
		z.p++
		z.have += 8
	}
	v := uint32(z.bits) & (1<<n - 1)
	z.bits >>= n
	z.have -= n
	return v, nil
}

// align goes to the next whole byte, and gives back what was taken beyond it.
func (z *Reader) align() error {
	z.p -= int(z.have >> 3)
	z.bits, z.have = 0, 0
	if z.p > z.end { // into the padding
		return io.ErrUnexpectedEOF
	}
	return nil
}

// byte returns the next byte of an aligned input; at its end, io.EOF.
func (z *Reader) byte() (byte, error) {
	for z.p >= z.end {
		if z.eof {
			return 0, io.EOF
		}
		if err := z.more(); err != nil {
			return 0, err
		}
	}
	z.p++
	return z.in[z.p-1], nil
}

// bytes fills b from an aligned input.
func (z *Reader) bytes(b []byte, sum *uint32) (err error) {
	for i := range b {
		if b[i], err = z.byte(); err != nil {
			return unexpected(err)
		}
	}
	*sum = crc32.Update(*sum, crc32.IEEETable, b)
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Flags of a member's header (RFC 1952 §2.3.1).
const (
	headerCRC     = 1 << 1
	headerExtra   = 1 << 2
	headerName    = 1 << 3
	headerComment = 1 << 4
)

// header reads a member's header. Without one, the file ends.
func (z *Reader) header() error {
	var h [10]byte
	first, err := z.byte()
	if err != nil {
		return err
	}
	h[0] = first
	z.first = false
	var sum uint32
	if err := z.bytes(h[1:], new(uint32)); err != nil {
		return err
	}
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 {
		return ErrHeader
	}
	sum = crc32.ChecksumIEEE(h[:])
	if h[3]&headerExtra != 0 {
		var n [2]byte
		if err := z.bytes(n[:], &sum); err != nil {
			return err
		}
		if err := z.bytes(make([]byte, binary.LittleEndian.Uint16(n[:])), &sum); err != nil {
			return err
		}
	}
	for _, flag := range []byte{headerName, headerComment} {
		for b := []byte{1}; h[3]&flag != 0 && b[0] != 0; {
			if err := z.bytes(b, &sum); err != nil {
				return err
			}
		}
	}
	if h[3]&headerCRC != 0 {
		var n [2]byte
		want := uint16(sum)
		if err := z.bytes(n[:], &sum); err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(n[:]) != want {
			return ErrHeader
		}
	}
	z.crc, z.size, z.crcAt, z.base = 0, 0, z.o, z.o
	z.state, z.final = atBlock, false
	return nil
}

func (z *Reader) trailer() error {
	z.sum()
	if err := z.align(); err != nil {
		return err
	}
	var t [8]byte
	if err := z.bytes(t[:], new(uint32)); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(t[:4]) != z.crc || binary.LittleEndian.Uint32(t[4:]) != z.size {
		return ErrChecksum
	}
	z.state = atHeader
	return nil
}

// block reads the head of a block.
func (z *Reader) block() error {
	if z.final {
		z.state = atTrailer
		return nil
	}
	head, err := z.take(3)
	if err != nil {
		return err
	}
	z.final = head&1 != 0
	switch head >> 1 {
	case 0:
		return z.storedHead()
	case 1:
		z.state = inHuffman
		return z.fixed()
	case 2:
		z.state = inHuffman
		return z.dynamic()
	}
	return ErrCorrupt
}

func (z *Reader) storedHead() error {
	if err := z.align(); err != nil {
		return err
	}
	var n [4]byte
	if err := z.bytes(n[:], new(uint32)); err != nil {
		return err
	}
	length := binary.LittleEndian.Uint16(n[:2])
	if length != ^binary.LittleEndian.Uint16(n[2:]) {
		return ErrCorrupt
	}
	z.state, z.stored = inStored, int(length)
	return nil
}

func (z *Reader) copyStored() error {
	for z.stored > 0 && z.o < limit {
		if z.p >= z.end {
			if err := z.more(); err != nil {
				return err
			}
			continue
		}
		n := copy(z.out[z.o:limit], z.in[z.p:min(z.end, z.p+z.stored)])
		z.o, z.p, z.stored = z.o+n, z.p+n, z.stored-n
	}
	if z.stored == 0 {
		z.state = atBlock
	}
	return nil
}

// corrupt tells a code that is invalid from one that the end of the input cut off, and that
// zeros took the place of.
func (z *Reader) corrupt() error {
	const longest = 48 // bits of a length and a distance
	if z.eof && z.p*8-int(z.have)+longest > z.end*8 {
		return io.ErrUnexpectedEOF
	}
	return ErrCorrupt
}

// huffman decodes a compressed block, up to its end or to limit.
func (z *Reader) huffman() error {
	bits, have, p, o := z.bits, z.have, z.p, z.o
	out, in := z.out[:], z.in[:]
	base, litMask, distMask := z.base, uint64(1)<<z.litSub-1, uint64(1)<<z.distSub-1
	for o < limit {
		avail := z.end
		if z.eof {
			avail += padding
		}
		if p+ahead > avail {
			z.p = p
			if err := z.more(); err != nil {
				z.o = o
				return err
			}
			p = z.p
			continue
		}
		bits |= binary.LittleEndian.Uint64(in[p:]) << (have & 63)
		p += int(63-have) >> 3
		have |= 56
		e := z.lit[bits&(1<<litBits-1)]
		if int32(e) < 0 { // three literals take at most 33 bits
			bits >>= e & 63
			have -= uint(e & 63)
			out[o] = byte(e >> 16)
			o++
			e = z.lit[bits&(1<<litBits-1)]
			if int32(e) < 0 {
				bits >>= e & 63
				have -= uint(e & 63)
				out[o] = byte(e >> 16)
				o++
				e = z.lit[bits&(1<<litBits-1)]
				if int32(e) < 0 {
					bits >>= e & 63
					have -= uint(e & 63)
					out[o] = byte(e >> 16)
					o++
					continue
				}
			}
			bits |= binary.LittleEndian.Uint64(in[p:]) << (have & 63)
			p += int(63-have) >> 3
			have |= 56
		}
		if e&special != 0 {
			if e&sub != 0 {
				bits >>= litBits
				have -= litBits
				e = z.lit[uint64(e>>16)+bits&litMask]
			}
			if e&special != 0 {
				bits >>= e & 63
				have -= uint(e & 63)
				z.bits, z.have, z.p, z.o = bits, have, p, o
				if e&endOfBlock == 0 {
					return z.corrupt()
				}
				z.state = atBlock
				return nil
			}
			if int32(e) < 0 {
				bits >>= e & 63
				have -= uint(e & 63)
				out[o] = byte(e >> 16)
				o++
				continue
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		have -= uint(e & 63)

		d := z.dist[bits&(1<<distBits-1)]
		if d&special != 0 {
			if d&sub != 0 {
				bits >>= distBits
				have -= distBits
				d = z.dist[uint64(d>>16)+bits&distMask]
			}
			if d&special != 0 {
				z.have, z.p, z.o = have, p, o
				return z.corrupt()
			}
		}
		distance := int(d>>16) + int(bits&(1<<(d&63)-1)>>(d>>8&15))
		bits >>= d & 63
		have -= uint(d & 63)
		if distance > o-base {
			z.have, z.p, z.o = have, p, o
			return z.corrupt()
		}
		from, end := o-distance, o+length
		switch {
		case length > 48 && distance >= length:
			copy(out[o:end], out[from:])
		case distance >= 8: // by words, some bytes too far
			for {
				binary.LittleEndian.PutUint64(out[o:], binary.LittleEndian.Uint64(out[from:]))
				binary.LittleEndian.PutUint64(out[o+8:], binary.LittleEndian.Uint64(out[from+8:]))
				o, from = o+16, from+16
				if o >= end {
					break
				}
			}
		case distance == 1:
			word := uint64(out[from]) * 0x0101010101010101
			for ; o < end; o += 8 {
				binary.LittleEndian.PutUint64(out[o:], word)
			}
		default:
			for ; o < end; o, from = o+1, from+1 {
				out[o] = out[from]
			}
		}
		o = end
	}
	z.bits, z.have, z.p, z.o = bits, have, p, o
	return nil
}
