package logs

import (
	"math"
	"reflect"
	"testing"
	"time"

	"berth/fail"
	"berth/logs/remote"
)

type opts = map[string]string

func TestParseOptions(t *testing.T) {
	file := func(o Options) Options { o.Driver = DriverJSONFile; return o }
	local := func(o Options) Options { o.Driver = DriverLocal; return o }
	to := func(c remote.Config) Options {
		return Options{Driver: c.Driver, Compress: true, Remote: &c}
	}
	for name, test := range map[string]struct {
		driver string
		opts   opts
		want   Options
		err    string
	}{
		"defaults":              {"json-file", nil, file(Options{}), ""},
		"no driver":             {"", nil, file(Options{}), ""},
		"sizes":                 {"json-file", opts{"max-size": "10m", "max-file": "3"}, file(Options{MaxSize: 10 << 20, MaxFile: 3}), ""},
		"a fraction":            {"json-file", opts{"max-size": "1.5k"}, file(Options{MaxSize: 1536}), ""},
		"unit with b":           {"json-file", opts{"max-size": "2GB"}, file(Options{MaxSize: 2 << 30}), ""},
		"no rotation":           {"json-file", opts{"max-size": "-1"}, file(Options{MaxSize: -1}), ""},
		"compress":              {"json-file", opts{"compress": "true", "max-size": "1m"}, file(Options{MaxSize: 1 << 20, Compress: true}), ""},
		"labels are the engine": {"json-file", opts{"labels": "a", "tag": "x"}, file(Options{}), ""},
		"none":                  {"none", nil, Options{Driver: "none", Unread: true}, ""},
		"none with options":     {"none", opts{"max-size": "1"}, Options{}, "unknown log opt 'max-size' for none log driver"},
		"unknown":               {"json-file", opts{"colour": "red"}, Options{}, "unknown log opt 'colour' for json-file log driver"},
		"two unknown":           {"local", opts{"labels": "red", "env": "blue"}, Options{}, "unknown log opt 'env' for local log driver"},
		"not a size":            {"json-file", opts{"max-size": "big"}, Options{}, `invalid value for max-size: "big" is not a size such as 10m`},
		"size zero":             {"json-file", opts{"max-size": "0"}, Options{}, `invalid value for max-size: "0" is not a size such as 10m`},
		"no file":               {"json-file", opts{"max-file": "0"}, Options{}, `max-file cannot be less than 1: "0"`},
		"files without size":    {"json-file", opts{"max-size": "-1", "max-file": "2"}, Options{}, "max-file needs a limit in max-size"},
		"compress one file":     {"local", opts{"max-file": "1", "compress": "true"}, Options{}, "compress cannot be true when max-file is less than 2 or max-size is not set"},
		"not a truth":           {"local", opts{"compress": "maybe"}, Options{}, `invalid value for option compress: "maybe" is neither true nor false`},
		"local is compressed":   {"local", nil, local(Options{Compress: true}), ""},
		"but not a single file": {"local", opts{"max-file": "1"}, local(Options{MaxFile: 1}), ""},
		"unknown driver":        {"splunk", nil, Options{}, "logger: no log driver named 'splunk' is registered (there are fluentd, gelf, journald, json-file, local, none, syslog)"},

		"non-blocking":             {"local", opts{"mode": "non-blocking"}, local(Options{Compress: true, Buffer: 1e6}), ""},
		"with a buffer":            {"json-file", opts{"mode": "non-blocking", "max-buffer-size": "4k"}, file(Options{Buffer: 4096}), ""},
		"a buffer alone":           {"local", opts{"max-buffer-size": "4k"}, Options{}, "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		"another mode":             {"local", opts{"mode": "lazy"}, Options{}, "logger: logging mode not supported: lazy"},
		"a remote one is not read": {"journald", opts{"cache-disabled": "true"}, Options{Driver: "journald", Compress: true, Unread: true, Remote: &remote.Config{Driver: "journald"}}, ""},
		"cache":                    {"journald", opts{"cache-max-size": "1m", "cache-max-file": "2", "cache-compress": "false"}, Options{Driver: "journald", MaxSize: 1 << 20, MaxFile: 2, Remote: &remote.Config{Driver: "journald"}}, ""},
		"journald and sizes":       {"journald", opts{"max-size": "1m"}, Options{}, "unknown log opt 'max-size' for journald log driver"},

		"syslog":             {"syslog", nil, to(remote.Config{Driver: "syslog", Facility: 3}), ""},
		"syslog tcp":         {"syslog", opts{"syslog-address": "tcp://log.example", "syslog-facility": "local7", "syslog-format": "rfc5424"}, to(remote.Config{Driver: "syslog", Network: "tcp", Address: "log.example:514", Facility: 23, Format: "rfc5424"}), ""},
		"syslog number":      {"syslog", opts{"syslog-address": "udp://[::1]:99", "syslog-facility": "4"}, to(remote.Config{Driver: "syslog", Network: "udp", Address: "[::1]:99", Facility: 4}), ""},
		"syslog TLS":         {"syslog", opts{"syslog-address": "tcp+tls://h:6514", "syslog-tls-ca-cert": "/ca", "syslog-tls-cert": "/c", "syslog-tls-key": "/k", "syslog-tls-skip-verify": ""}, to(remote.Config{Driver: "syslog", Network: "tls", Address: "h:6514", Facility: 3, TLS: remote.TLS{CA: "/ca", Cert: "/c", Key: "/k", SkipVerify: true}}), ""},
		"syslog socket":      {"syslog", opts{"syslog-address": "unixgram:///dev/log"}, to(remote.Config{Driver: "syslog", Network: "unixgram", Address: "/dev/log", Facility: 3}), ""},
		"syslog nowhere":     {"syslog", opts{"syslog-address": "localhost:514"}, Options{}, "syslog-address should be in form proto://address, got localhost:514"},
		"syslog protocol":    {"syslog", opts{"syslog-address": "http://h:514"}, Options{}, `syslog-address: unknown protocol "http", there are unix, unixgram, udp, tcp, tcp+tls`},
		"syslog no socket":   {"syslog", opts{"syslog-address": "unix://dev/log"}, Options{}, `syslog-address: "unix://dev/log" names no socket: it should be like unix:///dev/log`},
		"syslog facility":    {"syslog", opts{"syslog-facility": "24"}, Options{}, `invalid syslog facility: "24"`},
		"no facility at all": {"syslog", opts{"syslog-facility": "loud"}, Options{}, `invalid syslog facility: "loud"`},
		"syslog format":      {"syslog", opts{"syslog-format": "rfc1"}, Options{}, `Invalid syslog format: "rfc1" is none of rfc3164, rfc5424, rfc5424micro`},
		"half a certificate": {"syslog", opts{"syslog-tls-cert": "/c"}, Options{}, "syslog-tls-cert and syslog-tls-key belong together"},

		"fluentd":           {"fluentd", nil, to(remote.Config{Driver: "fluentd", Network: "tcp", Address: "127.0.0.1:24224", RetryWait: time.Second}), ""},
		"fluentd host":      {"fluentd", opts{"fluentd-address": "f"}, to(remote.Config{Driver: "fluentd", Network: "tcp", Address: "f:24224", RetryWait: time.Second}), ""},
		"fluentd all":       {"fluentd", opts{"fluentd-address": "unix:///s", "fluentd-async": "true", "fluentd-buffer-limit": "2m", "fluentd-max-retries": "7", "fluentd-retry-wait": "20ms", "fluentd-request-ack": "1", "fluentd-sub-second-precision": "t", "fluentd-write-timeout": "3s"}, to(remote.Config{Driver: "fluentd", Network: "unix", Address: "/s", Async: true, NonBlock: true, Buffer: 2 << 20, MaxRetries: 7, RetryWait: 20 * time.Millisecond, Ack: true, SubSecond: true, Timeout: 3 * time.Second}), ""},
		"fluentd endless":   {"fluentd", opts{"fluentd-max-retries": "4294967295"}, to(remote.Config{Driver: "fluentd", Network: "tcp", Address: "127.0.0.1:24224", RetryWait: time.Second, MaxRetries: math.MaxUint32}), ""},
		"fluentd conflict":  {"fluentd", opts{"fluentd-async": "true", "fluentd-async-connect": "true"}, Options{}, "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'"},
		"fluentd port":      {"fluentd", opts{"fluentd-address": "h:x"}, Options{}, "fluentd-address should be in form proto://address, got tcp://h:x"},
		"fluentd retries":   {"fluentd", opts{"fluentd-max-retries": "-1"}, Options{}, `invalid value for option fluentd-max-retries: "-1" is not a number from 0 to 4294967295`},
		"fluentd wait":      {"fluentd", opts{"fluentd-retry-wait": "1"}, Options{}, `invalid value for option fluentd-retry-wait: "1" is not a duration such as 1s`},
		"gelf":              {"gelf", opts{"gelf-address": "udp://h:12201"}, to(remote.Config{Driver: "gelf", Network: "udp", Address: "h:12201", Level: 1}), ""},
		"gelf packed":       {"gelf", opts{"gelf-address": "udp://h:1", "gelf-compression-type": "zlib", "gelf-compression-level": "0"}, to(remote.Config{Driver: "gelf", Network: "udp", Address: "h:1", Compress: "zlib"}), ""},
		"gelf where":        {"gelf", nil, Options{}, "gelf-address is a required parameter"},
		"gelf without port": {"gelf", opts{"gelf-address": "udp://h"}, Options{}, "gelf-address: please provide it as udp://host:port, got udp://h"},
		"gelf TCP packed":   {"gelf", opts{"gelf-address": "tcp://h:1", "gelf-compression-type": "gzip"}, Options{}, "compression is only supported on UDP"},
	} {
		got, err := ParseOptions(test.driver, test.opts)
		if test.err != "" {
			if err == nil || err.Error() != test.err || !fail.Is(err, fail.Invalid) {
				t.Errorf("%s: error %v, want %s", name, err, test.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, test.want)
			if got.Remote != nil {
				t.Errorf("%s: to %+v, want %+v", name, *got.Remote, *test.want.Remote)
			}
		}
	}
}

func TestTheTagIsAnAttributeOnlyInFiles(t *testing.T) {
	c := Container{ID: "0123456789abcdef", Name: "web", Tag: "t", Attrs: opts{"a": "1"}}
	o, err := ParseOptions(DriverJSONFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := o.ForContainer(c).Attrs; !reflect.DeepEqual(got, opts{"a": "1", "tag": "t"}) {
		t.Errorf("json-file: %v", got)
	}
	if o, err = ParseOptions(DriverFluentd, nil); err != nil {
		t.Fatal(err)
	}
	got := o.ForContainer(c)
	if r := got.Remote; r.Tag != "t" || r.Fields["a"] != "1" || r.ContainerName != "web" || got.Attrs["tag"] != "" {
		t.Errorf("fluentd: %+v", r)
	}
	c.Tag = ""
	if r := o.ForContainer(c).Remote; r.Tag != "0123456789ab" {
		t.Errorf("without a tag: %q", r.Tag)
	}
	if o.Remote.Tag != "" {
		t.Error("the parsed options were changed")
	}
}

func FuzzOptionsAreReadOrRefused(f *testing.F) {
	f.Add("syslog", "syslog-address", "tcp://h:1")
	f.Add("fluentd", "fluentd-retry-wait", "1s")
	f.Add("json-file", "max-size", "1.5k")
	f.Fuzz(func(t *testing.T, driver, name, value string) {
		o, err := ParseOptions(driver, opts{name: value})
		if err != nil {
			if !fail.Is(err, fail.Invalid) {
				t.Fatalf("not the user's fault: %v", err)
			}
			return
		}
		if o.MaxSize < -1 || o.MaxFile < 0 || o.Buffer < 0 || o.Remote != nil && (o.Remote.RetryWait < 0 || o.Remote.Buffer < 0) {
			t.Fatalf("%s=%q became %+v", name, value, o)
		}
	})
}
