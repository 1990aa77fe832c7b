package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// journald speaks the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one
// datagram per entry, or the descriptor of a sealed memory file if it is too large for one.
type journald struct {
	cfg   Config
	fixed []byte // the fields that every entry has
}

const journalSocket = "/run/systemd/journal/socket"

func newJournald(cfg Config) *journald {
	j := &journald{cfg: cfg}
	short := cfg.ContainerID[:min(12, len(cfg.ContainerID))]
	fields := map[string]string{
		"CONTAINER_ID": short, "CONTAINER_ID_FULL": cfg.ContainerID, "CONTAINER_NAME": cfg.ContainerName,
		"CONTAINER_TAG": cfg.Tag, "IMAGE_NAME": cfg.ImageName, "SYSLOG_IDENTIFIER": cfg.Tag,
	}
	for name, value := range cfg.Fields {
		if name = fieldName(name); name != "" {
			fields[name] = value
		}
	}
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		j.fixed = appendField(j.fixed, name, []byte(fields[name]))
	}
	return j
}

// fieldName makes a field's name of any other: capitals, digits and underscores, which it
// must not begin with (systemd.journal-fields(7)); empty if nothing is left.
func fieldName(s string) string {
	var b strings.Builder
	for _, c := range s {
		switch {
		case 'a' <= c && c <= 'z':
			c += 'A' - 'a'
		case 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		default:
			c = '_'
		}
		if c != '_' || b.Len() > 0 {
			b.WriteRune(c)
		}
	}
	return b.String()
}

func appendField(dst []byte, name string, value []byte) []byte {
	dst = append(dst, name...)
	if slices.Contains(value, '\n') {
		dst = append(dst, '\n')
		dst = binary.LittleEndian.AppendUint64(dst, uint64(len(value)))
	} else {
		dst = append(dst, '=')
	}
	dst = append(dst, value...)
	return append(dst, '\n')
}

func dialJournald(ctx context.Context, cfg Config) (net.Conn, error) {
	path := cfg.Address
	if path == "" {
		path = journalSocket
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, networkUnixgram, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("journald is not enabled on this host: %w", err)
	}
	return c, err
}

func (j *journald) encode(dst []byte, m *Message) []byte {
	dst = append(dst, j.fixed...)
	priority := byte('0' + severityInfo)
	if m.Stream == "stderr" {
		priority = '0' + severityError
	}
	dst = append(append(dst, "PRIORITY="...), priority)
	dst = append(dst, "\nSYSLOG_TIMESTAMP="...)
	dst = m.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, '\n')
	if m.Part > 0 {
		dst = append(append(append(dst, "CONTAINER_PARTIAL_ID="...), m.Line...), '\n')
		dst = strconv.AppendInt(append(dst, "CONTAINER_PARTIAL_ORDINAL="...), int64(m.Part), 10)
		dst = append(dst, "\nCONTAINER_PARTIAL_LAST="...)
		dst = strconv.AppendBool(dst, !m.Open)
		dst = append(dst, '\n')
		if m.Open {
			dst = append(dst, "CONTAINER_PARTIAL_MESSAGE=true\n"...)
		}
	}
	return appendField(dst, "MESSAGE", m.Text)
}

func (j *journald) send(c net.Conn, b []byte, ends []int) (int, error) {
	return sendDatagrams(c, j.cfg.Timeout, b, ends, func(one []byte) error {
		_, err := c.Write(one)
		if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
			return sendMemory(c, one)
		}
		return err
	})
}

// sendMemory passes an entry as a descriptor. The server trusts only files that nobody can
// change any more.
func sendMemory(c net.Conn, entry []byte) error {
	raw, err := rawOf(c)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("journal-entry", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "journal-entry")
	defer f.Close()
	if _, err := f.Write(entry); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	rights := unix.UnixRights(fd)
	e := raw.Write(func(socket uintptr) bool {
		err = unix.Sendmsg(int(socket), nil, rights, nil, unix.MSG_NOSIGNAL)
		return err != unix.EAGAIN
	})
	return errors.Join(err, e)
}
