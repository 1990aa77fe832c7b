package logs

import (
	"math"
	"strconv"
	"strings"

	"berth/fail"
)

// Drivers that a container's log may be kept by.
const (
	DriverJSONFile = "json-file"
	DriverNone     = "none"
)

// Options says how a log is kept. The zero value of a field means its default.
type Options struct {
	MaxSize  int64             `json:"maxSize,omitempty"`  // bytes per file; default 10 MiB, -1 = no rotation
	MaxFile  int               `json:"maxFile,omitempty"`  // default 5
	Compress bool              `json:"compress,omitempty"` // gzip rotated files
	Attrs    map[string]string `json:"attrs,omitempty"`
}

const (
	defaultMaxSize = 10 << 20
	defaultMaxFile = 5
)

// ParseOptions reads --log-opt values of the json-file driver: max-size (bytes with an
// optional k, m or g of 1024; -1 for no limit), max-file and compress. labels,
// labels-regex, env, env-regex and tag are accepted here, and turned into Attrs by the
// engine, who knows the container. The driver none takes no options; its caller keeps
// no log at all. A wrong or unknown option is class Invalid, another driver too.
func ParseOptions(driver string, opts map[string]string) (Options, error) {
	var o Options
	switch driver {
	case "", DriverJSONFile:
	case DriverNone:
		for name := range opts {
			return o, fail.New(fail.Invalid, "unknown log opt '%s' for none log driver", name)
		}
		return o, nil
	default:
		return o, fail.New(fail.Invalid, "logger: no log driver named '%s' is registered (there are json-file and none)", driver)
	}
	for name, value := range opts {
		var err error
		switch name {
		case "max-size":
			o.MaxSize, err = parseSize(value)
		case "max-file":
			o.MaxFile, err = strconv.Atoi(value)
			if err != nil || o.MaxFile < 1 {
				err = fail.New(fail.Invalid, "max-file cannot be less than 1: %q", value)
			}
		case "compress":
			o.Compress, err = strconv.ParseBool(value)
			if err != nil {
				err = fail.New(fail.Invalid, "compress must be true or false: %q", value)
			}
		case "labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size":
			if name == "mode" && value != "blocking" {
				err = fail.New(fail.Invalid, "log opt mode=%s: only blocking is there: a log in a file does not need a buffer in memory", value)
			}
			if name == "max-buffer-size" {
				err = fail.New(fail.Invalid, "max-buffer-size option is only supported with 'mode=non-blocking'")
			}
		default:
			err = fail.New(fail.Invalid, "unknown log opt '%s' for json-file log driver", name)
		}
		if err != nil {
			return Options{}, err
		}
	}
	if o.MaxSize < 0 && o.MaxFile > 1 {
		return Options{}, fail.New(fail.Invalid, "max-file needs a limit in max-size")
	}
	if o.Compress && (o.MaxFile == 1 || o.MaxSize < 0) {
		return Options{}, fail.New(fail.Invalid, "compress cannot be true when max-file is less than 2 or max-size is not set")
	}
	return o, nil
}

func parseSize(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	number, unit := strings.ToLower(strings.TrimSpace(s)), int64(1)
	number = strings.TrimSuffix(strings.TrimSuffix(number, "b"), "i")
	if n := len(number); n > 0 {
		if shift := strings.IndexByte("kmgt", number[n-1]); shift >= 0 {
			unit <<= 10 * (shift + 1)
			number = strings.TrimSpace(number[:n-1])
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(v) || v*float64(unit) < 1 || v*float64(unit) >= math.MaxInt64 {
		return 0, fail.New(fail.Invalid, "invalid value for max-size: %q is not a size such as 10m", s)
	}
	return int64(v * float64(unit)), nil
}

func (o Options) withDefaults() Options {
	if o.MaxSize == 0 {
		o.MaxSize = defaultMaxSize
	}
	if o.MaxFile == 0 {
		o.MaxFile = defaultMaxFile
	}
	return o
}
