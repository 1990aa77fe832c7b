package archive

import (
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
)

// Open opens a path of root as by O_PATH. A symbolic link at its end is followed only if the
// path ends with a slash or "/."; then the file has to be a directory. name is what the file is
// called: the path's last name, "." of a path that ends so, "/" of the root.
func Open(root *os.File, p string) (f *os.File, name string, err error) {
	p, name = Resolvable(p)
	flags := unix.O_PATH | unix.O_NOFOLLOW
	if strings.HasSuffix(p, "/") {
		flags = unix.O_PATH | unix.O_DIRECTORY
	}
	f, err = kernel.OpenIn(root, p, flags, 0)
	return f, name, err
}

// OpenDir opens a directory of root, through all symbolic links.
func OpenDir(root *os.File, p string) (*os.File, error) {
	return kernel.OpenIn(root, p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// Resolvable makes a path as Docker's API takes it absolute and clean, with a slash at its end if
// a directory is asked for, and tells how its file is called. As with Docker "DIR/.." is taken from the
// text, whatever DIR is.
func Resolvable(p string) (clean, name string) {
	clean = path.Join("/", p)
	name = path.Base(clean)
	switch {
	case path.Base(p) == ".": // also "DIR/./"
		name = "."
	case !strings.HasSuffix(p, "/"):
		return clean, name
	}
	if clean != "/" {
		clean += "/"
	}
	return clean, name
}

// maxFollowed is how many symbolic links Target follows.
const maxFollowed = 255

// Target tells where a path of root leads when all symbolic links are followed, also if
// nothing is there: absolute, as the owner of root sees it.
func Target(root *os.File, p string) (string, error) {
	at, rest := "/", strings.Split(p, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, name)
		to, err := linkAt(root, next)
		if err != nil {
			return "", err
		}
		if to == "" {
			at = next
			continue
		}
		if links++; links > maxFollowed || len(to) > maxPath {
			return "", fail.New(fail.Invalid, "too many levels of symbolic links")
		}
		if strings.HasPrefix(to, "/") {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return at, nil
}

// linkAt reads the symbolic link at p; empty: there is none.
func linkAt(root *os.File, p string) (string, error) {
	f, err := kernel.OpenIn(root, p, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil { // whatever it is, it leads nowhere else
		return "", nil
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	return readlink(int(f.Fd()))
}
