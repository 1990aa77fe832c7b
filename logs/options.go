package logs

import (
	"math"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/fail"
	"berth/logs/remote"
)

// Drivers that a container's log may be kept by.
const (
	DriverJSONFile = "json-file"
	DriverLocal    = "local"
	DriverNone     = "none"
	DriverSyslog   = "syslog"
	DriverJournald = "journald"
	DriverFluentd  = "fluentd"
	DriverGELF     = "gelf"
)

// Drivers are all of them, in alphabetical order.
func Drivers() []string {
	return []string{DriverFluentd, DriverGELF, DriverJournald, DriverJSONFile, DriverLocal, DriverNone, DriverSyslog}
}

// Options says how a log is kept. The zero value of a field means its default.
type Options struct {
	Driver   string            `json:"driver,omitempty"`   // default json-file
	MaxSize  int64             `json:"maxSize,omitempty"`  // bytes per file; -1 = no rotation
	MaxFile  int               `json:"maxFile,omitempty"`  // default 5
	Compress bool              `json:"compress,omitempty"` // gzip rotated files
	Attrs    map[string]string `json:"attrs,omitempty"`    // what labels, env and tag ask for

	// Buffer, if not 0, is how many bytes of memory lines that wait to be written may take;
	// what does not fit is dropped, and the container never waits.
	Buffer int64 `json:"buffer,omitempty"`
	// Remote is where the log is sent. Its files, if there are any, are then a cache.
	Remote *remote.Config `json:"remote,omitempty"`
	// Unread: there are no files, so the log cannot be read.
	Unread bool `json:"unread,omitempty"`
}

// File is the log's file below a container's directory; empty if there is none. The names
// are Docker's.
func (o Options) File(id string) string {
	switch {
	case o.Unread:
		return ""
	case o.Driver == DriverLocal:
		return "local-logs/container.log"
	case o.Remote != nil:
		return "container-cached.log"
	}
	return id + "-json.log"
}

const (
	jsonFileSize = 10 << 20
	localSize    = 20 << 20
	defaultFiles = 5
)

func (o Options) withDefaults() Options {
	if o.MaxSize == 0 {
		o.MaxSize = jsonFileSize
		if o.Driver != "" && o.Driver != DriverJSONFile {
			o.MaxSize = localSize
		}
	}
	if o.MaxFile == 0 {
		o.MaxFile = defaultFiles
	}
	return o
}

// Options that several drivers have. Their values are filled in by ForContainer.
var (
	attributeOptions = []string{"labels", "labels-regex", "env", "env-regex", "tag"}
	fileOptions      = []string{"max-size", "max-file", "compress"}
	cacheOptions     = []string{"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
)

// IsCacheOption tells options that concern the cache of whatever driver has one.
func IsCacheOption(name string) bool { return slices.Contains(cacheOptions, name) }

// own are a driver's own options, beside mode, max-buffer-size and those of a cache; nil if
// there is no such driver.
func own(driver string) []string {
	switch driver {
	case DriverJSONFile:
		return slices.Concat(fileOptions, attributeOptions)
	case DriverLocal:
		return fileOptions
	case DriverJournald:
		return attributeOptions
	case DriverSyslog:
		return slices.Concat([]string{"syslog-address", "syslog-facility", "syslog-format",
			"syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"}, attributeOptions)
	case DriverFluentd:
		return slices.Concat([]string{"fluentd-address", "fluentd-async", "fluentd-async-connect", "fluentd-async-reconnect-interval",
			"fluentd-buffer-limit", "fluentd-max-retries", "fluentd-request-ack", "fluentd-retry-wait", "fluentd-sub-second-precision",
			"fluentd-read-timeout", "fluentd-write-timeout"}, attributeOptions)
	case DriverGELF:
		return slices.Concat([]string{"gelf-address", "gelf-compression-type", "gelf-compression-level",
			"gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"}, attributeOptions)
	}
	return nil
}

// ParseOptions reads --log-opt values of a driver; they are Docker's. What labels, env and
// tag ask for is up to ForContainer. A wrong or unknown option is class Invalid, an unknown
// driver too.
func ParseOptions(driver string, opts map[string]string) (Options, error) {
	if driver == "" {
		driver = DriverJSONFile
	}
	o := Options{Driver: driver}
	if driver == DriverNone {
		for name := range opts {
			return o, fail.New(fail.Invalid, "unknown log opt '%s' for none log driver", name)
		}
		o.Unread = true
		return o, nil
	}
	known := own(driver)
	if known == nil {
		return o, fail.New(fail.Invalid, "logger: no log driver named '%s' is registered (there are %s)", driver, strings.Join(Drivers(), ", "))
	}
	p := optionParser{opts: opts}
	for name := range opts {
		if !slices.Contains(known, name) && name != "mode" && name != "max-buffer-size" && !IsCacheOption(name) {
			p.failed(name, "unknown log opt '%s' for %s log driver", name, driver)
		}
	}
	p.buffer(&o)
	switch driver {
	case DriverJSONFile:
		p.files(&o, "")
	case DriverLocal:
		p.files(&o, "")
	default:
		o.Remote = &remote.Config{Driver: driver, Buffer: int(o.Buffer), NonBlock: o.Buffer > 0}
		if p.boolean("cache-disabled") {
			o.Unread = true
		}
		p.files(&o, "cache-")
		switch driver {
		case DriverSyslog:
			p.syslog(o.Remote)
		case DriverFluentd:
			p.fluentd(o.Remote)
		case DriverGELF:
			p.gelf(o.Remote)
		}
	}
	if p.err != nil {
		return Options{}, p.err
	}
	return o, nil
}

// optionParser keeps the error of the first option by name, so that it is always the same.
type optionParser struct {
	opts map[string]string
	name string
	err  error
}

func (p *optionParser) failed(name, format string, args ...any) {
	if p.err == nil || name < p.name {
		p.name, p.err = name, fail.New(fail.Invalid, format, args...)
	}
}

// value returns an option that was given and is not empty.
func (p *optionParser) value(name string) (string, bool) {
	v := p.opts[name]
	return v, v != ""
}

func (p *optionParser) boolean(name string) bool {
	v, given := p.value(name)
	if !given {
		return false
	}
	yes, err := strconv.ParseBool(v)
	if err != nil {
		p.failed(name, "invalid value for option %s: %q is neither true nor false", name, v)
	}
	return yes
}

func (p *optionParser) number(name string, least, most int) int {
	v, given := p.value(name)
	if !given {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		p.failed(name, "invalid value for option %s: %q is not a number from %d to %d", name, v, least, most)
	}
	return n
}

func (p *optionParser) size(name string) int64 {
	v, given := p.value(name)
	if !given {
		return 0
	}
	n, ok := parseSize(v)
	if !ok {
		p.failed(name, "invalid value for %s: %q is not a size such as 10m", name, v)
	}
	return n
}

func (p *optionParser) duration(name string) time.Duration {
	v, given := p.value(name)
	if !given {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		p.failed(name, "invalid value for option %s: %q is not a duration such as 1s", name, v)
	}
	return d
}

// defaultBuffer is Docker's for mode=non-blocking.
const defaultBuffer = 1e6

func (p *optionParser) buffer(o *Options) {
	const mode, size = "mode", "max-buffer-size"
	switch p.opts[mode] {
	case "", "blocking":
		if _, given := p.opts[size]; given {
			p.failed(size, "logger: max-buffer-size option is only supported with 'mode=non-blocking'")
		}
	case "non-blocking":
		if o.Buffer = p.size(size); o.Buffer == 0 {
			o.Buffer = defaultBuffer
		}
		if o.Buffer > math.MaxInt32 {
			p.failed(size, "invalid value for max-buffer-size: %q is more than 2g", p.opts[size])
		}
	default:
		p.failed(mode, "logger: logging mode not supported: %s", p.opts[mode])
	}
}

// files reads the options of a log's files, whose names begin with prefix.
func (p *optionParser) files(o *Options, prefix string) {
	size, files, compress := prefix+"max-size", prefix+"max-file", prefix+"compress"
	json := o.Driver == DriverJSONFile
	if p.opts[size] == "-1" && json {
		o.MaxSize = -1
	} else {
		o.MaxSize = p.size(size)
	}
	if v, given := p.value(files); given {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			p.failed(files, "%s cannot be less than 1: %q", files, v)
		}
		o.MaxFile = n
	}
	if o.Compress = !json && o.MaxFile != 1; p.opts[compress] != "" {
		o.Compress = p.boolean(compress)
	}
	if o.MaxSize < 0 && o.MaxFile > 1 {
		p.failed(files, "%s needs a limit in %s", files, size)
	}
	if o.Compress && (o.MaxFile == 1 || o.MaxSize < 0) {
		p.failed(compress, "%s cannot be true when %s is less than 2 or %s is not set", compress, files, size)
	}
}

// facilities are the names of RFC 5424's table 1, as syslog.h has them.
var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	12: "", 13: "", 14: "", 15: "", 16: "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

func (p *optionParser) syslog(c *remote.Config) {
	const address = "syslog-address"
	if v, given := p.value(address); given {
		c.Network, c.Address = p.address(address, v, "514", "unix", "unixgram", "udp", "tcp", "tcp+tls")
	}
	const facility = "syslog-facility"
	if v, given := p.value(facility); !given {
		c.Facility = slices.Index(facilities, "daemon")
	} else if c.Facility = slices.Index(facilities, v); c.Facility < 0 {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n >= len(facilities) {
			p.failed(facility, "invalid syslog facility: %q", v)
		}
		c.Facility = n
	}
	switch c.Format = p.opts["syslog-format"]; c.Format {
	case "", "rfc3164", "rfc5424", "rfc5424micro":
	default:
		p.failed("syslog-format", "Invalid syslog format: %q is none of rfc3164, rfc5424, rfc5424micro", c.Format)
	}
	// Docker asks only whether it is there.
	_, skip := p.opts["syslog-tls-skip-verify"]
	c.TLS = remote.TLS{CA: p.opts["syslog-tls-ca-cert"], Cert: p.opts["syslog-tls-cert"], Key: p.opts["syslog-tls-key"], SkipVerify: skip}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		p.failed("syslog-tls-cert", "syslog-tls-cert and syslog-tls-key belong together")
	}
}

func (p *optionParser) fluentd(c *remote.Config) {
	const address = "fluentd-address"
	c.Network, c.Address = "tcp", "127.0.0.1:24224"
	if v, given := p.value(address); given {
		if !strings.Contains(v, "://") {
			v = "tcp://" + v
		}
		c.Network, c.Address = p.address(address, v, "24224", "tcp", "tls", "unix")
	}
	const async, asyncConnect = "fluentd-async", "fluentd-async-connect"
	if p.opts[async] != "" && p.opts[asyncConnect] != "" {
		p.failed(async, "conflicting options: cannot specify both '%s' and '%s'", async, asyncConnect)
	}
	c.Async = p.boolean(async) || p.boolean(asyncConnect)
	c.NonBlock = c.NonBlock || c.Async
	p.duration("fluentd-async-reconnect-interval") // a connection is looked at before each use
	if limit := p.size("fluentd-buffer-limit"); limit > math.MaxInt32 {
		p.failed("fluentd-buffer-limit", "invalid value for fluentd-buffer-limit: %q is more than 2g", p.opts["fluentd-buffer-limit"])
	} else if limit > 0 {
		c.Buffer = int(limit)
	}
	c.MaxRetries = p.number("fluentd-max-retries", 0, math.MaxUint32)
	if c.RetryWait = p.duration("fluentd-retry-wait"); c.RetryWait == 0 {
		c.RetryWait = time.Second
	}
	c.Ack, c.SubSecond = p.boolean("fluentd-request-ack"), p.boolean("fluentd-sub-second-precision")
	c.Timeout = max(p.duration("fluentd-read-timeout"), p.duration("fluentd-write-timeout"))
}

func (p *optionParser) gelf(c *remote.Config) {
	const address = "gelf-address"
	v, given := p.value(address)
	if !given {
		p.failed(address, "gelf-address is a required parameter")
		return
	}
	c.Network, c.Address = p.address(address, v, "", "udp", "tcp")
	c.Compress, c.Level = p.opts["gelf-compression-type"], 1
	switch c.Compress {
	case "", "gzip", "zlib", "none":
	default:
		p.failed("gelf-compression-type", "unknown value %q for log opt \"gelf-compression-type\" for gelf log driver", c.Compress)
	}
	if _, given := p.value("gelf-compression-level"); given {
		c.Level = p.number("gelf-compression-level", -1, 9)
	}
	for _, name := range []string{"gelf-compression-type", "gelf-compression-level"} {
		if p.opts[name] != "" && c.Network == "tcp" {
			p.failed(name, "compression is only supported on UDP")
		}
	}
	for _, name := range []string{"gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"} {
		if p.opts[name] != "" && c.Network == "udp" {
			p.failed(name, "%q is only valid for TCP", name)
		}
	}
	c.MaxRetries = p.number("gelf-tcp-max-reconnect", 0, math.MaxInt32)
	c.RetryWait = time.Duration(p.number("gelf-tcp-reconnect-delay", 0, math.MaxInt32)) * time.Second
}

// address reads proto://host[:port] or proto:///path. port is the default; empty: one must
// be given.
func (p *optionParser) address(name, value, port string, protocols ...string) (network, at string) {
	u, err := url.Parse(value)
	if err != nil || u.Scheme == "" || !strings.Contains(value, "://") {
		p.failed(name, "%s should be in form proto://address, got %v", name, value)
		return "", ""
	}
	if !slices.Contains(protocols, u.Scheme) {
		p.failed(name, "%s: unknown protocol %q, there are %s", name, u.Scheme, strings.Join(protocols, ", "))
		return "", ""
	}
	if strings.HasPrefix(u.Scheme, "unix") {
		if u.Path == "" || u.Host != "" {
			p.failed(name, "%s: %q names no socket: it should be like unix:///dev/log", name, value)
			return "", ""
		}
		return u.Scheme, u.Path
	}
	if network = u.Scheme; network == "tcp+tls" {
		network = "tls"
	}
	host, given := u.Hostname(), u.Port()
	if given == "" {
		given = port
	}
	n, err := strconv.ParseUint(given, 10, 16)
	if host == "" || err != nil || n == 0 || u.Path != "" && u.Path != "/" {
		p.failed(name, "%s: please provide it as %s://host:port, got %v", name, u.Scheme, value)
		return "", ""
	}
	return network, net.JoinHostPort(host, given)
}

// parseSize reads bytes with an optional k, m, g or t of 1024.
func parseSize(s string) (int64, bool) {
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
		return 0, false
	}
	return int64(v * float64(unit)), true
}

// Check refuses a local socket that is not there, when a container is made.
func (o Options) Check() error {
	if o.Remote == nil || !strings.HasPrefix(o.Remote.Network, "unix") {
		return nil
	}
	if _, err := os.Stat(o.Remote.Address); err != nil {
		return fail.New(fail.Invalid, "%s-address: %w", o.Driver, err)
	}
	return nil
}

// Container is what a log driver says of the container.
type Container struct {
	ID, Name, ImageID, ImageName, Command string
	Created                               time.Time
	Attrs                                 map[string]string // what labels, env and their patterns ask for
	Tag                                   string            // as the user asked for; may be empty
}

// ForContainer are the options for one container.
func (o Options) ForContainer(c Container) Options {
	if o.Remote == nil {
		o.Attrs = c.Attrs
		if c.Tag != "" {
			o.Attrs = map[string]string{"tag": c.Tag}
			for k, v := range c.Attrs {
				o.Attrs[k] = v
			}
		}
		return o
	}
	to := *o.Remote
	to.ContainerID, to.ContainerName, to.ImageID, to.ImageName = c.ID, c.Name, c.ImageID, c.ImageName
	to.Command, to.Created, to.Fields = c.Command, c.Created, c.Attrs
	if to.Tag = c.Tag; to.Tag == "" {
		to.Tag = c.ID[:min(12, len(c.ID))]
	}
	if to.Driver == DriverSyslog {
		to.Fields = nil // it has no place for them
	}
	o.Remote, o.Attrs = &to, c.Attrs
	return o
}
