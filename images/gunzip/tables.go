package gunzip

import "math/bits"

const (
	litBits  = 11 // codes up to this length take one look
	distBits = 8
	maxBits  = 15
	maxLit   = 288 // symbols
	maxDist  = 32
)

// A table entry says what the low bits of the input mean. Its own low 6 bits are how many
// bits that takes, extra bits included; the bits from 8 on how many of these are the code;
// and those from 16 on are the literal, or the base of the length or distance.
const (
	literal    = 1 << 31
	special    = 1 << 15 // none of these: one of the following, or nothing valid
	endOfBlock = 1 << 14
	sub        = 1 << 13 // the code is longer: go on in the table that begins at the base
)

// tables decode one block.
type tables struct {
	lit             [1<<litBits + maxLit/2<<(maxBits-litBits)]uint32
	dist            [1<<distBits + maxDist/2<<(maxBits-distBits)]uint32
	litSub, distSub uint // bits that index the further tables

	lengths [maxLit + maxDist]uint8 // of codes, while a block's head is read
}

// What symbols mean, without their codes (RFC 1951 §3.2.5).
var (
	litSymbols  = makeLitSymbols()
	distSymbols = makeDistSymbols()
)

func makeLitSymbols() (s [maxLit]uint32) {
	for i := range 256 {
		s[i] = literal | uint32(i)<<16
	}
	s[256] = special | endOfBlock
	for i, base := 257, 3; i < 285; i++ {
		extra := max(0, (i-261)/4)
		s[i] = uint32(base)<<16 | uint32(extra)
		base += 1 << extra
	}
	s[285] = 258 << 16
	s[286], s[287] = special, special
	return s
}

func makeDistSymbols() (s [maxDist]uint32) {
	for i, base := 0, 1; i < 30; i++ {
		extra := max(0, i/2-1)
		s[i] = uint32(base)<<16 | uint32(extra)
		base += 1 << extra
	}
	s[30], s[31] = special, special
	return s
}

// fixed makes the tables of RFC 1951 §3.2.6.
func (z *Reader) fixed() error {
	l := &z.lengths
	for i := range maxLit {
		switch {
		case i < 144:
			l[i] = 8
		case i < 256:
			l[i] = 9
		case i < 280:
			l[i] = 7
		default:
			l[i] = 8
		}
	}
	for i := range maxDist {
		l[maxLit+i] = 5
	}
	return z.build(l[:maxLit], l[maxLit:])
}

func (z *Reader) build(lit, dist []uint8) (err error) {
	if z.litSub, err = build(z.lit[:], litBits, lit, litSymbols[:]); err != nil {
		return err
	}
	z.distSub, err = build(z.dist[:], distBits, dist, distSymbols[:])
	return err
}

// codeOrder is in which order the lengths of the code that the others are coded in come.
var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// codeSymbols are the symbols of that code: literals.
var codeSymbols = litSymbols[:19]

// dynamic reads the tables of RFC 1951 §3.2.7.
func (z *Reader) dynamic() error {
	head, err := z.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, ncode := int(head&31)+257, int(head>>5&31)+1, int(head>>10)+4
	if nlit > 286 || ndist > 30 {
		return ErrCorrupt
	}
	var lengths [19]uint8
	for _, i := range codeOrder[:ncode] {
		n, err := z.take(3)
		if err != nil {
			return err
		}
		lengths[i] = uint8(n)
	}
	table := z.lit[:1<<7] // free until the block's own is built
	if _, err := build(table, 7, lengths[:], codeSymbols); err != nil {
		return err
	}
	all := z.lengths[:nlit+ndist]
	for i := 0; i < len(all); {
		symbol, err := z.code(table)
		if err != nil {
			return err
		}
		if symbol < 16 {
			all[i] = symbol
			i++
			continue
		}
		var value uint8
		var n, extra uint32 = 3, 3
		switch symbol {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			value, extra = all[i-1], 2
		case 18:
			n, extra = 11, 7
		}
		more, err := z.take(uint(extra))
		if err != nil {
			return err
		}
		n += more
		if i+int(n) > len(all) {
			return ErrCorrupt
		}
		for range n {
			all[i] = value
			i++
		}
	}
	if all[256] == 0 {
		return ErrCorrupt // a block without an end
	}
	return z.build(all[:nlit], all[nlit:])
}

// code reads one symbol of the code that lengths are coded in.
func (z *Reader) code(table []uint32) (uint8, error) {
	for n := uint(0); ; {
		e := table[z.bits&(1<<z.have-1)&(1<<7-1)]
		if e&special == 0 && uint(e&63) <= z.have {
			n = uint(e & 63)
			z.bits >>= n
			z.have -= n
			return uint8(e >> 16), nil
		}
		if z.have >= 7 {
			return 0, ErrCorrupt
		}
		for z.p >= z.end {
			if err := z.more(); err != nil {
				return 0, err
			}
		}
		z.bits |= uint64(z.in[z.p]) << z.have
		z.p++
		z.have += 8
	}
}

// build makes the table of the canonical code with the given lengths, and tells how many
// bits index its further tables. A code must be complete, but for one of a single symbol
// and one of none.
func build(table []uint32, tableBits int, lengths []uint8, symbols []uint32) (subBits uint, err error) {
	var count, next [maxBits + 2]int
	longest := 0
	for _, n := range lengths {
		count[n]++
		longest = max(longest, int(n))
	}
	count[0] = 0
	space, code := 0, 0
	for n := 1; n <= longest; n++ {
		code = (code + count[n-1]) << 1
		next[n] = code
		space += count[n] << (maxBits - n)
	}
	if space != 1<<maxBits {
		if longest > 1 || count[1] > 1 {
			return 0, ErrCorrupt
		}
		for i := range table[:1<<tableBits] {
			table[i] = special
		}
	}
	free := 1 << tableBits
	if longest > tableBits {
		subBits = uint(longest - tableBits)
	}
	prefix, at := -1, 0
	// In the order of codes, so that those with the same beginning follow each other.
	var sorted [maxLit]uint16
	var first [maxBits + 2]int
	for n := 1; n <= longest; n++ {
		first[n+1] = first[n] + count[n]
	}
	total := first[longest+1]
	for s, n := range lengths {
		if n != 0 {
			sorted[first[n]] = uint16(s)
			first[n]++
		}
	}
	for _, s := range sorted[:total] {
		n := int(lengths[s])
		reversed := int(bits.Reverse16(uint16(next[n])) >> (16 - n))
		next[n]++
		if n <= tableBits {
			e := symbols[s] + uint32(n) | uint32(n)<<8
			for i := reversed; i < 1<<tableBits; i += 1 << n {
				table[i] = e
			}
			continue
		}
		if p := reversed & (1<<tableBits - 1); p != prefix {
			prefix, at = p, free
			free += 1 << subBits
			table[prefix] = special | sub | uint32(at)<<16
		}
		rest := n - tableBits
		e := symbols[s] + uint32(rest) | uint32(rest)<<8
		for i := reversed >> tableBits; i < 1<<subBits; i += 1 << rest {
			table[at+i] = e
		}
	}
	return subBits, nil
}
