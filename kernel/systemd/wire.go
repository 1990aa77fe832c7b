package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A message of D-Bus (D-Bus Specification, "Message Protocol"), as far as systemd's manager
// speaks it: no descriptors, and of a body only the strings, object paths and numbers that
// stand at its beginning.
type message struct {
	kind        byte
	serial      uint32
	replyTo     uint32
	member      string
	errorName   string
	signature   string
	path        string
	iface       string
	destination string
	body        []byte
}

// Types of messages.
const (
	methodCall   = 1
	methodReturn = 2
	errorReply   = 3
	signal       = 4
)

// Codes of header fields.
const (
	fieldPath        = 1
	fieldInterface   = 2
	fieldMember      = 3
	fieldErrorName   = 4
	fieldReplySerial = 5
	fieldDestination = 6
	fieldSignature   = 8
)

// encoder writes values in D-Bus's form, little-endian as all machines that Berth is made for.
type encoder struct{ b []byte }

func (e *encoder) align(n int) {
	for len(e.b)%n != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) u32(v uint32) {
	e.align(4)
	e.b = binary.LittleEndian.AppendUint32(e.b, v)
}

func (e *encoder) u64(v uint64) {
	e.align(8)
	e.b = binary.LittleEndian.AppendUint64(e.b, v)
}

func (e *encoder) str(s string) {
	e.u32(uint32(len(s)))
	e.b = append(append(e.b, s...), 0)
}

func (e *encoder) sig(s string) {
	e.b = append(append(append(e.b, byte(len(s))), s...), 0)
}

func (e *encoder) boolean(v bool) {
	n := uint32(0)
	if v {
		n = 1
	}
	e.u32(n)
}

// array writes the elements that each writes, aligned to n. The length that stands before
// them does not count the padding to the first.
func (e *encoder) array(n int, each func()) {
	e.u32(0)
	at := len(e.b) - 4
	e.align(n)
	from := len(e.b)
	each()
	binary.LittleEndian.PutUint32(e.b[at:], uint32(len(e.b)-from))
}

// variant writes v with its signature. Its type must be one of those of Property.
func (e *encoder) variant(v any) error {
	switch v := v.(type) {
	case string:
		e.sig("s")
		e.str(v)
	case bool:
		e.sig("b")
		e.boolean(v)
	case uint64:
		e.sig("t")
		e.u64(v)
	case []uint32:
		e.sig("au")
		e.array(4, func() {
			for _, n := range v {
				e.u32(n)
			}
		})
	case []byte:
		e.sig("ay")
		e.array(1, func() { e.b = append(e.b, v...) })
	default:
		return fmt.Errorf("a property cannot have a value of type %T", v)
	}
	return nil
}

func (e *encoder) properties(list []Property) (err error) {
	e.array(8, func() {
		for _, p := range list {
			e.align(8)
			e.str(p.Name)
			if bad := e.variant(p.Value); bad != nil {
				err = fmt.Errorf("%s: %w", p.Name, bad)
			}
		}
	})
	return err
}

// marshal gives the message its wire form.
func (m *message) marshal() []byte {
	e := encoder{b: make([]byte, 0, 256+len(m.body))}
	e.b = append(e.b, 'l', m.kind, 0, 1)
	e.u32(uint32(len(m.body)))
	e.u32(m.serial)
	e.array(8, func() {
		for _, f := range []struct {
			code  byte
			sig   string
			value string
		}{
			{fieldPath, "o", m.path}, {fieldInterface, "s", m.iface}, {fieldMember, "s", m.member},
			{fieldDestination, "s", m.destination}, {fieldSignature, "g", m.signature},
		} {
			if f.value == "" {
				continue
			}
			e.align(8)
			e.b = append(e.b, f.code)
			e.sig(f.sig)
			if f.sig == "g" {
				e.sig(f.value)
			} else {
				e.str(f.value)
			}
		}
	})
	e.align(8)
	return append(e.b, m.body...)
}

// maxMessage is what we take of a message. D-Bus allows 128 MiB; systemd's answers to us are
// some hundred bytes, but on its own socket it tells of all units.
const maxMessage = 1 << 20

var errMalformed = errors.New("malformed D-Bus message")

// fixedHeader is the part of a header whose length is known beforehand: up to the length of
// the array of fields.
const fixedHeader = 16

// sizes reads the first bytes of a message: how long its header, with its padding, and its
// body are.
func sizes(fixed []byte) (header, body int, err error) {
	fields := uint64(binary.LittleEndian.Uint32(fixed[12:]))
	length := uint64(binary.LittleEndian.Uint32(fixed[4:]))
	// Who is on this machine has its byte order.
	if fixed[0] != 'l' || fixed[3] != 1 || fields > maxMessage || length > maxMessage {
		return 0, 0, errMalformed
	}
	return (fixedHeader + int(fields) + 7) &^ 7, int(length), nil
}

// unmarshal reads a message of these sizes.
func unmarshal(header, body []byte) (*message, error) {
	m := &message{kind: header[1], serial: binary.LittleEndian.Uint32(header[8:]), body: body}
	end := fixedHeader + int(binary.LittleEndian.Uint32(header[12:]))
	d := decoder{b: header[:end], at: fixedHeader}
	for d.at < end && d.err == nil {
		d.align(8)
		code := d.byte()
		sig := d.sig()
		switch sig {
		case "s", "o":
			text := d.str()
			switch code {
			case fieldPath:
				m.path = text
			case fieldInterface:
				m.iface = text
			case fieldMember:
				m.member = text
			case fieldErrorName:
				m.errorName = text
			case fieldDestination:
				m.destination = text
			}
		case "g":
			text := d.sig()
			if code == fieldSignature {
				m.signature = text
			}
		case "u":
			n := d.u32()
			if code == fieldReplySerial {
				m.replyTo = n
			}
		default: // no field of the specification
			d.err = errMalformed
		}
	}
	return m, d.err
}

// strings gives the strings and object paths at the beginning of the body, numbers before and
// between them left out. A variant counts as what is in it.
func (m *message) strings() []string {
	d := decoder{b: m.body}
	var out []string
	for _, kind := range m.signature {
		if kind == 'v' {
			inner := d.sig()
			if len(inner) != 1 {
				return out
			}
			kind = rune(inner[0])
		}
		switch kind {
		case 's', 'o':
			text := d.str()
			if d.err != nil {
				return out
			}
			out = append(out, text)
		case 'u':
			d.u32()
		default:
			return out
		}
	}
	return out
}

// decoder reads values. After a failure all it gives is empty.
type decoder struct {
	b   []byte
	at  int
	err error
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n > len(d.b)-d.at {
		d.err = errMalformed
		return nil
	}
	d.at += n
	return d.b[d.at-n : d.at]
}

func (d *decoder) align(n int) { d.take((n - d.at%n) % n) }

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	d.align(4)
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) str() string {
	n := d.u32()
	if n >= math.MaxInt32 {
		d.err = errMalformed
		return ""
	}
	return text(d.take(int(n) + 1))
}

func (d *decoder) sig() string { return text(d.take(int(d.byte()) + 1)) }

// text leaves out the zero byte that ends a string.
func text(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return string(b[:len(b)-1])
}
