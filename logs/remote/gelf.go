package remote

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// gelf sends GELF 1.1: JSON, over UDP compressed and in chunks, over TCP ended by a zero byte.
type gelf struct {
	cfg   Config
	fixed []byte // the fields that never change: `"version":"1.1",…`
	stamp []byte
}

func newGELF(cfg Config) *gelf {
	host, _ := os.Hostname()
	fields := map[string]any{
		"version": "1.1", "host": host, "_container_id": cfg.ContainerID, "_container_name": cfg.ContainerName,
		"_image_id": cfg.ImageID, "_image_name": cfg.ImageName, "_command": cfg.Command, "_tag": cfg.Tag, "_created": cfg.Created,
	}
	for name, value := range cfg.Fields {
		fields["_"+strings.TrimPrefix(name, "_")] = value
	}
	text, err := json.Marshal(fields)
	if err != nil {
		text = []byte(`{"version":"1.1"}`) // strings and a time: it cannot fail
	}
	return &gelf{cfg: cfg, fixed: text[1 : len(text)-1]}
}

func (g *gelf) encode(dst []byte, m *Message) []byte {
	level := severityInfo
	if m.Stream == "stderr" {
		level = severityError
	}
	text, err := json.Marshal(string(m.Text))
	if err != nil {
		text = []byte(`""`) // a string: it cannot fail
	}
	dst = append(append(dst, '{'), g.fixed...)
	dst = append(append(dst, `,"short_message":`...), text...)
	dst = strconv.AppendInt(append(dst, `,"level":`...), int64(level), 10)
	millis := m.Time.UnixMilli()
	dst = strconv.AppendInt(append(dst, `,"timestamp":`...), millis/1000, 10)
	dst = append(dst, '.')
	g.stamp = strconv.AppendInt(g.stamp[:0], 1000+millis%1000, 10)
	dst = append(append(dst, g.stamp[1:]...), '}')
	if g.cfg.Network != networkUDP {
		dst = append(dst, 0)
	}
	return dst
}

func (g *gelf) send(c net.Conn, b []byte, ends []int) (int, error) {
	if g.cfg.Network != networkUDP {
		return sendStream(c, g.cfg.Timeout, b, ends)
	}
	return sendDatagrams(c, g.cfg.Timeout, b, ends, func(one []byte) error {
		packed, err := g.pack(one)
		if err != nil {
			return err
		}
		return sendChunks(c, packed)
	})
}

func (g *gelf) pack(b []byte) ([]byte, error) {
	var out bytes.Buffer
	var z io.WriteCloser
	var err error
	switch g.cfg.Compress {
	case "none":
		return b, nil
	case "zlib":
		z, err = zlib.NewWriterLevel(&out, g.cfg.Level)
	default:
		z, err = gzip.NewWriterLevel(&out, g.cfg.Level)
	}
	if err == nil {
		_, err = z.Write(b)
	}
	if err == nil {
		err = z.Close()
	}
	return out.Bytes(), err
}

// Chunks of GELF over UDP.
const (
	chunkHead = 12 // 0x1e 0x0f, eight bytes of the message's id, number, count
	chunkSize = 1420
	maxChunks = 128
)

func sendChunks(c net.Conn, b []byte) error {
	if len(b) <= chunkSize {
		return sendOne(c, b)
	}
	const room = chunkSize - chunkHead
	count := (len(b) + room - 1) / room
	if count > maxChunks {
		return fmt.Errorf("a GELF message of %d bytes is too long for %d chunks: %w", len(b), maxChunks, unix.EMSGSIZE)
	}
	chunk := make([]byte, chunkHead, chunkSize)
	chunk[0], chunk[1] = 0x1e, 0x0f
	_, _ = rand.Read(chunk[2:10]) // never fails, see there
	chunk[11] = byte(count)
	for i := range count {
		chunk[10] = byte(i)
		part := b[i*room : min(len(b), (i+1)*room)]
		if err := sendOne(c, append(chunk[:chunkHead], part...)); err != nil {
			return err
		}
	}
	return nil
}
