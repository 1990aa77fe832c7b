package server

import (
	"strconv"
	"strings"

	"berth/fail"
)

// Versions of the Docker Engine API that Berth speaks. DefaultVersion is the newest one;
// paths without a version mean it.
const (
	DefaultVersion = "1.55"
	MinVersion     = "1.40"
)

// version is an API version's minor number: 1.<version>. There never was a 2.x.
type version int

var (
	newest = mustVersion(DefaultVersion)
	oldest = mustVersion(MinVersion)
)

func mustVersion(s string) version {
	v, ok := parseVersion(s)
	if !ok {
		panic("server: bad API version " + s)
	}
	return v
}

// parseVersion reads "1.47". Any other major number sorts far outside our range.
func parseVersion(s string) (version, bool) {
	major, minor, ok := strings.Cut(s, ".")
	if !ok || len(major) > 4 || len(minor) > 4 {
		return 0, false
	}
	a, err1 := strconv.ParseUint(major, 10, 16)
	b, err2 := strconv.ParseUint(minor, 10, 16)
	if err1 != nil || err2 != nil {
		return 0, false
	}
	switch {
	case a == 0:
		return 0, true
	case a > 1:
		return 1 << 20, true
	}
	return version(b), true
}

func (v version) String() string { return "1." + strconv.Itoa(int(v)) }

// splitVersion takes "/v1.47" off a path. A path without it means the newest version.
func splitVersion(path string) (version, string, error) {
	rest, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return newest, path, nil
	}
	text, rest, ok := strings.Cut(rest, "/")
	v, good := parseVersion(text)
	if !good && (text == "" || strings.Trim(text, "0123456789.") != "") {
		return newest, path, nil // a path like /volumes
	}
	if !ok {
		return 0, "", fail.New(fail.NotFound, "page not found")
	}
	if !good { // "1", "2", "1.41.0": Docker reads what it can
		major, _, _ := strings.Cut(text, ".")
		if n, err := strconv.Atoi(major); err != nil || n > 1 {
			v = newest + 1
		}
	}
	if v > newest {
		return 0, "", fail.New(fail.Invalid, "client version %s is too new. Maximum supported API version is %s", text, newest)
	}
	if v < oldest {
		return 0, "", fail.New(fail.Invalid, "client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", text, oldest)
	}
	return v, "/" + rest, nil
}
