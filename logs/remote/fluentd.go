package remote

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"
)

// fluentd speaks the forward protocol, version 1, in its message mode: an array of tag,
// time, record and, where it is to be acknowledged, an option with the chunk's name.
type fluentd struct {
	cfg    Config
	fixed  []byte // the record's fields that never change, as keys and values
	fields int
}

func newFluentd(cfg Config) *fluentd {
	f := &fluentd{cfg: cfg}
	all := map[string]string{"container_id": cfg.ContainerID, "container_name": "/" + cfg.ContainerName}
	for name, value := range cfg.Fields {
		all[name] = value
	}
	names := make([]string, 0, len(all))
	for name := range all {
		switch name {
		case "source", "log":
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	f.fields = len(names)
	for _, name := range names {
		f.fixed = appendText(appendText(f.fixed, name), all[name])
	}
	return f
}

func (f *fluentd) encode(dst []byte, m *Message) []byte {
	if f.cfg.Ack {
		dst = append(dst, 0x94)
	} else {
		dst = append(dst, 0x93)
	}
	dst = appendText(dst, f.cfg.Tag)
	if f.cfg.SubSecond {
		// EventTime: extension type 0 with seconds and nanoseconds.
		dst = append(dst, 0xd7, 0)
		dst = binary.BigEndian.AppendUint32(dst, uint32(m.Time.Unix()))
		dst = binary.BigEndian.AppendUint32(dst, uint32(m.Time.Nanosecond()))
	} else {
		dst = append(dst, 0xce)
		dst = binary.BigEndian.AppendUint32(dst, uint32(m.Time.Unix()))
	}
	fields := f.fields + 2
	if m.Part > 0 {
		fields += 4
	}
	dst = appendMap(dst, fields)
	dst = append(dst, f.fixed...)
	dst = appendText(appendText(dst, "source"), m.Stream)
	dst = appendText(appendText(dst, "log"), m.Text)
	if m.Part > 0 {
		dst = appendText(appendText(dst, "partial_message"), "true")
		dst = appendText(appendText(dst, "partial_id"), m.Line)
		dst = appendText(appendText(dst, "partial_ordinal"), strconv.Itoa(m.Part))
		dst = appendText(appendText(dst, "partial_last"), strconv.FormatBool(!m.Open))
	}
	if f.cfg.Ack {
		dst = appendText(appendText(append(dst, 0x81), "chunk"), chunkName())
	}
	return dst
}

// chunkLength is that of a chunk's name: 16 random bytes in base64.
const chunkLength = 24

func chunkName() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see there
	return base64.StdEncoding.EncodeToString(b[:])
}

// appendText appends a msgpack string.
func appendText[T string | []byte](dst []byte, s T) []byte {
	switch n := len(s); {
	case n < 32:
		dst = append(dst, 0xa0|byte(n))
	case n < 1<<8:
		dst = append(dst, 0xd9, byte(n))
	case n < 1<<16:
		dst = append(dst, 0xda, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, 0xdb), uint32(n))
	}
	return append(dst, s...)
}

// appendMap appends the head of a msgpack map of n pairs.
func appendMap(dst []byte, n int) []byte {
	switch {
	case n < 16:
		return append(dst, 0x80|byte(n))
	case n < 1<<16:
		return append(dst, 0xde, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0xdf), uint32(n))
}

func (f *fluentd) send(c net.Conn, b []byte, ends []int) (int, error) {
	if !f.cfg.Ack {
		return sendStream(c, f.cfg.Timeout, b, ends)
	}
	sent, err := sendStream(c, f.cfg.Timeout, b, ends)
	if err != nil && sent == 0 {
		return 0, err
	}
	answers := bufio.NewReader(c)
	for i, end := range ends[:sent] {
		_ = c.SetReadDeadline(time.Now().Add(f.cfg.Timeout))
		got, e := readAck(answers)
		if e == nil && got != string(b[end-chunkLength:end]) {
			e = fmt.Errorf("fluentd acknowledged chunk %q, which is not the one that was sent", got)
		}
		if e != nil {
			return i, e
		}
	}
	return sent, err
}

var errNoAck = errors.New("fluentd's answer is no acknowledgement")

// readAck reads {"ack": name}.
func readAck(r *bufio.Reader) (string, error) {
	head, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	if head != 0x81 {
		return "", errNoAck
	}
	key, err := readText(r)
	if err != nil {
		return "", err
	}
	if key != "ack" {
		return "", errNoAck
	}
	return readText(r)
}

// readText reads a short msgpack string.
func readText(r *bufio.Reader) (string, error) {
	head, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	n := int(head & 31)
	switch {
	case head&0xe0 == 0xa0:
	case head == 0xd9 || head == 0xc4:
		size, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		n = int(size)
	default:
		return "", errNoAck
	}
	text := make([]byte, n)
	_, err = io.ReadFull(r, text)
	return string(text), err
}
