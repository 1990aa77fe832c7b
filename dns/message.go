package dns

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Sizes of messages (RFC 1035, 4.2; RFC 6891, 6.2.5).
const (
	headerSize = 12
	plainLimit = 512     // over UDP, without EDNS
	ourLimit   = 4096    // what we say that we take
	hugeLimit  = 1 << 16 // over TCP
)

// The second 16 bits of a header (RFC 1035, 4.1.1).
const (
	flagResponse           = 1 << 15
	flagTruncated          = 1 << 9
	flagRecursionDesired   = 1 << 8
	flagRecursionAvailable = 1 << 7
	flagCheckingDisabled   = 1 << 4
	maskOpcode             = 0xf << 11
	maskCode               = 0xf
)

// query is a message that asks one question.
type query struct {
	raw      []byte // all of it
	question []byte // the question as it stands in raw
	name     []byte // in lower case, without the trailing dot
	kind     dnsmessage.Type
	class    dnsmessage.Class
	edns     bool
	limit    int // of the answer
	nameRoom [256]byte
}

// parse reads the query in raw, which it keeps. The code is for the answer: if it is not
// RCodeSuccess the query cannot be served, and only id and flags are known. ok is false for
// what deserves no answer.
func (q *query) parse(raw []byte, overTCP bool) (code dnsmessage.RCode, ok bool) {
	q.raw, q.question, q.name, q.edns, q.limit = raw, nil, nil, false, plainLimit
	if overTCP {
		q.limit = hugeLimit - 1
	}
	if len(raw) < headerSize || flags(raw)&flagResponse != 0 {
		return 0, false
	}
	if flags(raw)&maskOpcode != 0 {
		return dnsmessage.RCodeNotImplemented, true
	}
	var p dnsmessage.Parser
	if _, err := p.Start(raw); err != nil {
		return dnsmessage.RCodeFormatError, true
	}
	asked, err := p.Question()
	if err != nil || binary.BigEndian.Uint16(raw[4:]) != 1 {
		return dnsmessage.RCodeFormatError, true
	}
	end := questionEnd(raw)
	if end < 0 || p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return dnsmessage.RCodeFormatError, true
	}
	for {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil || p.SkipAdditional() != nil {
			return dnsmessage.RCodeFormatError, true
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns = true
			if !overTCP {
				q.limit = max(q.limit, int(h.Class))
			}
		}
	}
	q.question, q.kind, q.class = raw[headerSize:end], asked.Type, asked.Class
	n := copy(q.nameRoom[:], asked.Name.Data[:asked.Name.Length])
	q.name = q.nameRoom[:n]
	lowerBytes(q.name)
	if n > 0 && q.name[n-1] == '.' {
		q.name = q.name[:n-1]
	}
	return dnsmessage.RCodeSuccess, true
}

func flags(raw []byte) uint16 { return binary.BigEndian.Uint16(raw[2:]) }

// questionEnd is where the one question of a message ends, -1 if it cannot be told. A name
// that stands first has nothing to point to.
func questionEnd(raw []byte) int {
	at := headerSize
	for at < len(raw) && raw[at] != 0 {
		if raw[at] > 63 {
			return -1
		}
		at += 1 + int(raw[at])
	}
	if at += 1 + 4; at > len(raw) {
		return -1
	}
	return at
}

// reply is an answer in the making.
type reply struct {
	b     []byte
	limit int
	edns  bool
	full  bool
}

// optSize is the length of an OPT record without options.
const optSize = 11

// begin writes the head of an answer to q into b.
func (q *query) begin(b []byte, code dnsmessage.RCode) reply {
	f := flagResponse | flagRecursionAvailable | uint16(code)&maskCode | flags(q.raw)&(maskOpcode|flagRecursionDesired|flagCheckingDisabled)
	b = append(b[:0], q.raw[0], q.raw[1])
	b = binary.BigEndian.AppendUint16(b, f)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	if len(q.question) > 0 {
		b[5] = 1
		b = append(b, q.question...)
	}
	r := reply{b: b, limit: q.limit, edns: q.edns}
	if q.edns {
		r.limit -= optSize
	}
	return r
}

// record adds an answer whose name is the question's. What does not fit is left out, and
// the message marked.
func (r *reply) record(kind dnsmessage.Type, data []byte) {
	if r.full = r.full || len(r.b)+12+len(data) > r.limit; r.full {
		r.b[2] |= flagTruncated >> 8
		return
	}
	r.b = append(r.b, 0xc0, headerSize) // where the question's name is
	r.b = binary.BigEndian.AppendUint16(r.b, uint16(kind))
	r.b = binary.BigEndian.AppendUint16(r.b, uint16(dnsmessage.ClassINET))
	r.b = binary.BigEndian.AppendUint32(r.b, ttl)
	r.b = binary.BigEndian.AppendUint16(r.b, uint16(len(data)))
	r.b = append(r.b, data...)
	binary.BigEndian.PutUint16(r.b[6:], binary.BigEndian.Uint16(r.b[6:])+1)
}

func (r *reply) address(a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		r.record(dnsmessage.TypeA, b[:])
		return
	}
	b := a.As16()
	r.record(dnsmessage.TypeAAAA, b[:])
}

// end returns the finished message.
func (r *reply) end() []byte {
	if r.edns {
		r.b = append(r.b, 0) // the root
		r.b = binary.BigEndian.AppendUint16(r.b, uint16(dnsmessage.TypeOPT))
		r.b = binary.BigEndian.AppendUint16(r.b, ourLimit)
		r.b = append(r.b, 0, 0, 0, 0, 0, 0)
		r.b[11]++
	}
	return r.b
}

// cut marks a foreign answer that is too long for the client as truncated, without any
// records.
func (q *query) cut(answer []byte) []byte {
	end := headerSize + len(q.question)
	if len(answer) <= q.limit || end > len(answer) {
		return answer
	}
	answer = answer[:end]
	answer[2] |= flagTruncated >> 8
	clear(answer[6:headerSize])
	return answer
}

// appendName writes a name as messages have it; false if it cannot be one.
func appendName(b []byte, name string) ([]byte, bool) {
	start := len(b)
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return b, false
		}
		b = append(append(b, byte(len(label))), label...)
	}
	b = append(b, 0)
	return b, len(b)-start <= 255
}

// reverse is the address that a PTR query's name stands for (RFC 1035, 3.5; RFC 3596, 2.5).
func reverse(name string) (netip.Addr, bool) {
	if v4, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		var a [4]byte
		for i := 3; i >= 0; i-- {
			part, rest, more := strings.Cut(v4, ".")
			n, err := strconv.ParseUint(part, 10, 8)
			if err != nil || more != (i > 0) {
				return netip.Addr{}, false
			}
			a[i], v4 = byte(n), rest
		}
		return netip.AddrFrom4(a), true
	}
	v6, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(v6) != 63 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		n, err := strconv.ParseUint(v6[2*i:2*i+1], 16, 8)
		if err != nil || i < 31 && v6[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		a[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(a), true
}
