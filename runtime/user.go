package runtime

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	oci "berth/oci/bundle"
)

// An image's user files are read up to this size: they are untrusted, and are held in
// memory only while they are read.
const maxUserFile = 10 << 20

// passwdEntry is one line of passwd(5), groupEntry of group(5).
type passwdEntry struct {
	name     string
	uid, gid uint32
	home     string
}

type groupEntry struct {
	name    string
	gid     uint32
	members string // separated by commas
}

func (e groupEntry) has(name string) bool {
	for member := range strings.SplitSeq(e.members, ",") {
		if member == name {
			return true
		}
	}
	return false
}

// ResolveUser turns Docker's user syntax (name, uid, name:group, uid:gid) and extra
// group names into numbers by the container's own /etc/passwd and /etc/group, read
// beneath root. An empty user is 0:0. home is the user's home directory ("/" if it is
// not listed). An unknown name is class Invalid with Docker's text:
//
//	unable to find user nobodyhere: no matching entries in passwd file
//
// A name wins over a number, as in Docker. The groups in which the image lists the user
// are supplementary ones, unless user names a group.
func ResolveUser(root *os.File, user string, groups []string) (u oci.User, home string, err error) {
	passwd, err := readUserFile(root, "/etc/passwd")
	if err != nil {
		return u, "", err
	}
	group, err := readUserFile(root, "/etc/group")
	if err != nil {
		return u, "", err
	}
	return resolveUser(passwd, group, user, groups)
}

// readUserFile reads a file that may be missing, and may be anything: only a regular one counts,
// and nothing else is opened. An image can have devices, whose open may be an act (a watchdog's
// restarts the machine), and only the container itself is kept from that by its control group.
func readUserFile(root *os.File, path string) ([]byte, error) {
	there, err := kernel.OpenIn(root, path, unix.O_PATH, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, nil
	case err != nil:
		return nil, fail.New(fail.Internal, "read the container's %s: %w", path, err)
	}
	defer there.Close()
	if fi, err := there.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fail.New(fail.Invalid, "the container's %s is not a regular file", path)
	}
	f, err := os.Open(procFd(there.Fd()))
	if err != nil {
		return nil, fail.New(fail.Internal, "read the container's %s: %w", path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err != nil {
		return nil, fail.New(fail.Internal, "read the container's %s: %w", path, err)
	}
	if len(text) > maxUserFile {
		return nil, fail.New(fail.Invalid, "the container's %s is larger than %d MiB", path, maxUserFile>>20)
	}
	return text, nil
}

func resolveUser(passwd, group []byte, user string, extra []string) (u oci.User, home string, err error) {
	who, whose, withGroup := strings.Cut(user, ":")
	if withGroup && strings.Contains(whose, ":") {
		return u, "", fail.New(fail.Invalid, "user %q: more than one colon", user)
	}
	home = "/"
	name := ""
	number, numeric, err := parseID(who)
	if err != nil {
		return u, "", err
	}
	if who == "" {
		numeric = true // 0, whatever it is called
	}
	found := false
	for e := range passwdEntries(passwd) {
		if e.name == who && who != "" || numeric && e.uid == number {
			u.UID, u.GID, name, home, found = e.uid, e.gid, e.name, e.home, true
			break
		}
	}
	if !found {
		if !numeric {
			return u, "", fail.New(fail.Invalid, "unable to find user %s: no matching entries in passwd file", who)
		}
		u.UID = number
	}
	if home == "" {
		home = "/"
	}
	switch {
	case whose != "":
		if u.GID, err = groupNumber(group, whose); err != nil {
			return u, "", err
		}
	case name != "":
		for e := range groupEntries(group) {
			if e.gid != u.GID && e.has(name) {
				u.AdditionalGids = appendNew(u.AdditionalGids, e.gid)
			}
		}
	}
	for _, g := range extra {
		gid, err := groupNumber(group, g)
		if err != nil {
			return u, "", err
		}
		u.AdditionalGids = appendNew(u.AdditionalGids, gid)
	}
	return u, home, nil
}

func appendNew(list []uint32, gid uint32) []uint32 {
	if slices.Contains(list, gid) {
		return list
	}
	return append(list, gid)
}

func groupNumber(group []byte, name string) (uint32, error) {
	number, numeric, err := parseID(name)
	if err != nil {
		return 0, err
	}
	for e := range groupEntries(group) {
		if e.name == name || numeric && e.gid == number {
			return e.gid, nil
		}
	}
	if !numeric {
		return 0, fail.New(fail.Invalid, "unable to find group %s: no matching entries in group file", name)
	}
	return number, nil
}

// parseID reads a numeric id. Ids end at 2^31-1, as in Docker: larger ones have no
// agreed meaning in user space.
func parseID(s string) (n uint32, numeric bool, err error) {
	if s == "" {
		return 0, false, nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, false, nil
	}
	if err != nil || v < 0 || v > math.MaxInt32 {
		return 0, false, fail.New(fail.Invalid, "uids and gids must be in range 0-%d", math.MaxInt32)
	}
	return uint32(v), true, nil
}

// passwdEntries yields the lines that can be understood; others are skipped, as
// everybody's getpwent does.
func passwdEntries(text []byte) func(yield func(passwdEntry) bool) {
	return func(yield func(passwdEntry) bool) {
		for fields := range userLines(text) {
			if len(fields) < 4 {
				continue
			}
			uid, okU := fileID(fields[2])
			gid, okG := fileID(fields[3])
			if !okU || !okG {
				continue
			}
			e := passwdEntry{name: fields[0], uid: uid, gid: gid}
			if len(fields) > 5 {
				e.home = fields[5]
			}
			if !yield(e) {
				return
			}
		}
	}
}

func groupEntries(text []byte) func(yield func(groupEntry) bool) {
	return func(yield func(groupEntry) bool) {
		for fields := range userLines(text) {
			if len(fields) < 3 {
				continue
			}
			gid, ok := fileID(fields[2])
			if !ok {
				continue
			}
			e := groupEntry{name: fields[0], gid: gid}
			if len(fields) > 3 {
				e.members = fields[3]
			}
			if !yield(e) {
				return
			}
		}
	}
}

func fileID(s string) (uint32, bool) {
	v, err := strconv.ParseUint(s, 10, 31)
	return uint32(v), err == nil
}

// userLines yields the fields of every line that is not empty or a comment.
func userLines(text []byte) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(text) > 0 {
			var line []byte
			line, text, _ = bytes.Cut(text, []byte{'\n'})
			line = bytes.TrimSpace(line)
			if len(line) == 0 || line[0] == '#' {
				continue
			}
			// Of an image's lines, which may consist of colons, no more than passwd(5) has.
			if !yield(strings.SplitN(string(line), ":", 8)) {
				return
			}
		}
	}
}
