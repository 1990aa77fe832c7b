package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// syslog writes RFC 5424, or the older format of RFC 3164 with or without a host name.
type syslog struct {
	cfg        Config
	host, tag  string
	pid        string
	terminated bool // each message ends with a newline
	counted    bool // each message is preceded by its length (RFC 5425, section 4.3)
	scratch    []byte
}

// Severities (RFC 5424, table 2).
const (
	severityError = 3
	severityInfo  = 6
)

// localSyslog are the usual places of a machine's own server.
var localSyslog = []string{"/dev/log", "/var/run/syslog", "/var/run/log"}

func newSyslog(cfg Config) *syslog {
	s := &syslog{cfg: cfg, pid: strconv.Itoa(os.Getpid()), tag: cfg.Tag}
	if s.host, _ = os.Hostname(); s.host == "" {
		s.host = "localhost"
	}
	new := cfg.Format == "rfc5424" || cfg.Format == "rfc5424micro"
	if new {
		s.tag = printable(s.tag)
	}
	s.counted = new && cfg.Network == networkTLS
	s.terminated = !s.counted && cfg.Network != networkUDP && cfg.Network != networkUnixgram
	return s
}

// printable is s as a name in a header of RFC 5424 (section 6): visible ASCII. It may be
// longer than the 48 bytes that the RFC gives it, as with Docker; servers take it.
func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < 33 || c > 126 {
			b[i] = '_'
		}
	}
	if len(b) == 0 {
		return "-"
	}
	return string(b)
}

func dialSyslog(ctx context.Context, cfg Config) (net.Conn, error) {
	switch cfg.Network {
	case networkUnix, networkUnixgram:
		return dialUnix(ctx, cfg.Network, cfg.Address)
	case "":
		var all []error
		for _, path := range localSyslog {
			c, err := dialUnix(ctx, networkUnixgram, path)
			if err == nil {
				return c, nil
			}
			all = append(all, err)
		}
		return nil, fmt.Errorf("no local syslog server: %w", errors.Join(all...))
	}
	return dialTo(ctx, cfg)
}

func (s *syslog) encode(dst []byte, m *Message) []byte {
	if s.counted {
		s.scratch = s.one(s.scratch[:0], m)
		dst = strconv.AppendInt(dst, int64(len(s.scratch)), 10)
		dst = append(dst, ' ')
		return append(dst, s.scratch...)
	}
	dst = s.one(dst, m)
	if s.terminated {
		dst = append(dst, '\n')
	}
	return dst
}

func (s *syslog) one(dst []byte, m *Message) []byte {
	severity := severityInfo
	if m.Stream == "stderr" {
		severity = severityError
	}
	dst = append(dst, '<')
	dst = strconv.AppendInt(dst, int64(s.cfg.Facility<<3|severity), 10)
	dst = append(dst, '>')
	at := m.Time.Local()
	switch s.cfg.Format {
	case "rfc5424", "rfc5424micro":
		layout := "2006-01-02T15:04:05Z07:00"
		if s.cfg.Format == "rfc5424micro" {
			layout = "2006-01-02T15:04:05.000000Z07:00"
		}
		dst = append(dst, "1 "...)
		dst = at.AppendFormat(dst, layout)
		dst = append(dst, ' ')
		dst = append(dst, s.host...)
		dst = append(dst, ' ')
		dst = append(dst, s.tag...)
		dst = append(dst, ' ')
		dst = append(dst, s.pid...)
		dst = append(dst, ' ')
		dst = append(dst, s.tag...)
		dst = append(dst, " - "...)
	default:
		dst = at.AppendFormat(dst, "Jan _2 15:04:05 ")
		// A local server knows its host, and takes a name for the tag.
		if s.cfg.Format == "rfc3164" {
			dst = append(dst, s.host...)
			dst = append(dst, ' ')
		}
		dst = append(dst, s.tag...)
		dst = append(dst, '[')
		dst = append(dst, s.pid...)
		dst = append(dst, "]: "...)
	}
	return append(dst, m.Text...)
}

func (s *syslog) send(c net.Conn, b []byte, ends []int) (int, error) {
	if !isDatagram(c) {
		return sendStream(c, s.cfg.Timeout, b, ends)
	}
	return sendDatagrams(c, s.cfg.Timeout, b, ends, func(one []byte) error { return sendOne(c, one) })
}

// sendOne sends a datagram. Over UDP nobody promises delivery, and an error may well be of
// the datagram before.
func sendOne(c net.Conn, b []byte) error {
	_, err := c.Write(b)
	if c.RemoteAddr().Network() == networkUDP && (errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)) {
		return nil
	}
	return err
}
