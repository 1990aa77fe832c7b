package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"berth/fail"
)

// DefaultHostDirs are where the configuration of single registries is looked for.
var DefaultHostDirs = []string{"/etc/berth/certs.d", "/etc/docker/certs.d"}

// capability is what a host of a hosts.toml may be asked for.
type capability uint8

const (
	canPull    capability = 1 << iota // content by digest
	canResolve                        // what a tag stands for
	canPush
	canAll = canPull | canResolve | canPush
)

var capabilities = map[string]capability{"pull": canPull, "resolve": canResolve, "push": canPush}

// way is one server to reach a registry by, as configured: itself or a mirror.
type way struct {
	host   string // name[:port], as credentials and certificates are filed
	scheme string // http, https, or empty: to be found out
	root   string // path of the API, "/v2"
	ns     string // the registry that a mirror shall act for; empty: it knows
	own    bool   // the registry itself, which alone gets its credentials
	can    capability
	header http.Header
	dial   time.Duration // 0: the default

	ca         []string // files
	client     [][2]string
	skipVerify bool
	// configured: somebody wrote down how to trust this host, so that being on
	// loopback is no reason not to.
	configured bool
}

func (w way) key() string { return fmt.Sprintf("%+v", w) }

// files are the certificates that the way is made of.
func (w way) files() []string {
	all := slices.Clone(w.ca)
	for _, pair := range w.client {
		all = append(all, pair[0], pair[1])
	}
	return all
}

// ways are the servers to ask for a registry, the preferred first.
type ways struct {
	list  []way
	print string // of all files the list was made from, to see when they change
}

// own is the registry itself.
func (w ways) own() way {
	return w.list[slices.IndexFunc(w.list, func(one way) bool { return one.own })]
}

// hostDir is the directory that configures host, if there is one: host:port as Docker
// and containerd have it, host_port_ as containerd for file systems without colons,
// _default for all others if it has a hosts.toml.
func (c *Client) hostDir(host string) string {
	if strings.ContainsAny(host, "/\x00") || host == "" || host == "." || host == ".." {
		return "" // a host is a file name here
	}
	names := []string{host}
	if name, port, ok := strings.Cut(host, ":"); ok && !strings.Contains(port, ":") {
		names = append(names, name+"_"+port+"_")
	}
	for _, n := range names {
		for _, dir := range c.cfg.HostDirs {
			if info, err := os.Stat(filepath.Join(dir, n)); err == nil && info.IsDir() {
				return filepath.Join(dir, n)
			}
		}
	}
	for _, dir := range c.cfg.HostDirs {
		if _, err := os.Stat(filepath.Join(dir, "_default", "hosts.toml")); err == nil {
			return filepath.Join(dir, "_default")
		}
	}
	return ""
}

// fingerprint changes when a file that list was made from does, or comes, or goes.
func (c *Client) fingerprint(dir string, list []way) string {
	var b strings.Builder
	note := func(path string) {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%s gone\n", path)
			return
		}
		fmt.Fprintf(&b, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
	}
	dirs := []string{dir}
	for _, w := range list {
		dirs = append(dirs, c.hostDir(w.host))
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if dir == "" {
			continue
		}
		entries, _ := os.ReadDir(dir)
		b.WriteString(dir + "\n")
		for _, e := range entries {
			note(filepath.Join(dir, e.Name()))
		}
	}
	for _, w := range list {
		for _, file := range w.files() {
			note(file)
		}
	}
	return b.String()
}

// maxRegistries bounds what many different registries can make us remember.
const maxRegistries = 256

// waysTo returns the servers for a reference's domain. The directory is looked at each
// time: it costs a few system calls, and a change needs no restart.
func (c *Client) waysTo(domain string) (ways, error) {
	host := hostOf(domain)
	dir := c.hostDir(domain)
	if dir == "" || dir != "" && filepath.Base(dir) == "_default" && domain != host {
		if d := c.hostDir(host); d != "" {
			dir = d
		}
	}
	c.mu.Lock()
	known, ok := c.ways[domain]
	mirrors := c.mirrors
	c.mu.Unlock()
	if ok && c.fingerprint(dir, known.list) == known.print {
		return known, nil
	}
	w, err := c.readWays(domain, host, dir, mirrors)
	if err != nil {
		return ways{}, fail.New(fail.Invalid, "configuration of registry %s: %w", domain, err)
	}
	w.print = c.fingerprint(dir, w.list)
	c.mu.Lock()
	if ok && known.print != w.print {
		c.cfg.Log.Info("the configuration of a registry has changed", "registry", domain, "directory", dir)
	}
	if len(c.ways) >= maxRegistries {
		clear(c.ways)
		clear(c.endpoints)
	}
	c.ways[domain] = w
	c.mu.Unlock()
	return w, nil
}

func (c *Client) readWays(domain, host, dir string, mirrors []string) (ways, error) {
	own := way{host: host, root: "/v2", own: true, can: canAll}
	if dir != "" {
		data, err := os.ReadFile(filepath.Join(dir, "hosts.toml"))
		switch {
		case err == nil:
			list, unknown, err := parseHosts(data, domain, host, dir)
			if err != nil {
				return ways{}, fmt.Errorf("%s: %w", filepath.Join(dir, "hosts.toml"), err)
			}
			if len(unknown) > 0 {
				c.cfg.Log.Warn("keys of a hosts.toml are not known", "file", filepath.Join(dir, "hosts.toml"), "keys", unknown)
			}
			for i := range list {
				if err := c.addCertificates(&list[i]); err != nil {
					return ways{}, err
				}
			}
			return ways{list: list}, nil
		case !errors.Is(err, fs.ErrNotExist):
			return ways{}, err
		}
	}
	var list []way
	if host == hubHost {
		for _, m := range mirrors {
			w, err := parseWay(m)
			if err != nil {
				return ways{}, err
			}
			w.can = canPull | canResolve
			list = append(list, w)
		}
	}
	list = append(list, own)
	for i := range list {
		if err := c.addCertificates(&list[i]); err != nil {
			return ways{}, err
		}
	}
	return ways{list: list}, nil
}

// addCertificates takes Docker's files of the host's directory (*.crt, *.cert with
// *.key), if w says nothing about trust itself.
func (c *Client) addCertificates(w *way) error {
	if w.configured || w.scheme == "http" {
		return nil
	}
	dir := c.hostDir(w.host)
	if dir == "" || filepath.Base(dir) == "_default" {
		if !w.own || w.host != hubHost {
			return nil
		}
		if dir = c.hostDir("docker.io"); dir == "" || filepath.Base(dir) == "_default" {
			return nil
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		switch filepath.Ext(file) {
		case ".crt":
			w.ca = append(w.ca, file)
		case ".cert":
			w.client = append(w.client, [2]string{file, strings.TrimSuffix(file, ".cert") + ".key"})
		case ".key":
			if _, err := os.Stat(strings.TrimSuffix(file, ".key") + ".cert"); err != nil {
				return fail.New(fail.Invalid, "%s has no certificate %s.cert beside it", file, strings.TrimSuffix(filepath.Base(file), ".key"))
			}
		}
	}
	w.configured = len(w.ca) > 0
	return nil
}

// CheckMirror reports whether s can be the base URL of a mirror.
func CheckMirror(s string) error {
	_, err := parseWay(s)
	return err
}

// parseWay reads a base URL; without a scheme it is to be found out.
func parseWay(s string) (way, error) {
	text := s
	if !strings.Contains(s, "://") {
		text = "//" + s
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return way{}, fail.New(fail.Invalid, "%q is not a URL: %w", s, errors.Unwrap(err))
	case u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https":
		return way{}, fail.New(fail.Invalid, "%q: a registry is reached by http or https", s)
	case u.Host == "":
		return way{}, fail.New(fail.Invalid, "%q names no host", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return way{}, fail.New(fail.Invalid, "%q: only scheme, host and path are allowed here", s)
	}
	return way{host: u.Host, scheme: u.Scheme, root: strings.TrimSuffix(u.Path, "/") + "/v2", can: canAll}, nil
}

// hostsFile is the form of containerd's hosts.toml ("Registry Configuration").
type hostsFile struct {
	Server string               `toml:"server"`
	Hosts  map[string]hostTable `toml:"host"`
	hostTable
}

type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // file, or list of files
	Client       any            `toml:"client"` // file, list of files, or list of [certificate, key]
	SkipVerify   *bool          `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	Header       map[string]any `toml:"header"` // value, or list of values
	DialTimeout  string         `toml:"dial_timeout"`
}

// maxHostsFile bounds what a hosts.toml can make us read.
const maxHostsFile = 1 << 20

// parseHosts reads the hosts.toml of a registry: its hosts in the order of the file and
// the server itself after them. Relative file names are below dir. Keys that nobody
// knows are returned.
func parseHosts(data []byte, domain, host, dir string) (list []way, unknown []string, err error) {
	if len(data) > maxHostsFile {
		return nil, nil, fail.New(fail.Invalid, "larger than %d bytes", maxHostsFile)
	}
	var f hostsFile
	meta, err := toml.Decode(string(data), &f)
	if err != nil {
		var bad toml.ParseError
		if errors.As(err, &bad) {
			return nil, nil, fail.New(fail.Invalid, "line %d: %s", bad.Position.Line, oneLine(bad.Message))
		}
		return nil, nil, fail.New(fail.Invalid, "%s", oneLine(err.Error()))
	}
	add := func(name string, t hostTable) (way, error) {
		w, err := parseWay(name)
		if err == nil {
			err = t.apply(&w, dir)
		}
		if err != nil {
			return w, fmt.Errorf("host %q: %w", name, err)
		}
		return w, nil
	}
	for _, key := range meta.Keys() {
		if len(key) != 2 || key[0] != "host" {
			continue
		}
		w, err := add(key[1], f.Hosts[key[1]])
		if err != nil {
			return nil, nil, err
		}
		if w.own = w.host == host; !w.own {
			w.ns = domain
		}
		list = append(list, w)
	}
	server := way{host: host, root: "/v2", can: canAll}
	if f.Server != "" {
		if server, err = parseWay(f.Server); err != nil {
			return nil, nil, fmt.Errorf("server: %w", err)
		}
	}
	server.own = true
	if err := f.hostTable.apply(&server, dir); err != nil {
		return nil, nil, err
	}
	for _, key := range meta.Undecoded() {
		unknown = append(unknown, key.String())
	}
	return append(list, server), unknown, nil
}

func (t hostTable) apply(w *way, dir string) error {
	if t.Capabilities != nil {
		w.can = 0
		for _, name := range t.Capabilities {
			bit, ok := capabilities[strings.ToLower(name)]
			if !ok {
				return fail.New(fail.Invalid, "unknown capability %q: there are pull, resolve and push", name)
			}
			w.can |= bit
		}
	}
	if t.OverridePath {
		w.root = strings.TrimSuffix(w.root, "/v2")
	} else if base := strings.TrimSuffix(w.root, "/v2"); strings.HasSuffix(base, "/v2") {
		w.root = base // the path names the API already
	}
	file := func(name string) string {
		if path.IsAbs(name) {
			return name
		}
		return filepath.Join(dir, name)
	}
	ca, ok := words(t.CA)
	if !ok {
		return fail.New(fail.Invalid, "ca must be a file or a list of files")
	}
	for _, name := range ca {
		w.ca = append(w.ca, file(name))
	}
	pairs, ok := clientPairs(t.Client)
	if !ok {
		return fail.New(fail.Invalid, "client must be a file, a list of files, or a list of [certificate, key]")
	}
	for _, p := range pairs {
		w.client = append(w.client, [2]string{file(p[0]), file(p[1])})
	}
	if t.SkipVerify != nil {
		w.skipVerify = *t.SkipVerify
	}
	w.configured = len(w.ca) > 0 || t.SkipVerify != nil
	for name, value := range t.Header {
		values, ok := words(value)
		if !ok || len(values) == 0 {
			return fail.New(fail.Invalid, "header %q must be a value or a list of values", name)
		}
		for _, v := range append([]string{name}, values...) {
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) || name == "" {
				return fail.New(fail.Invalid, "header %q has characters that no header can have", name)
			}
		}
		if w.header == nil {
			w.header = http.Header{}
		}
		w.header[http.CanonicalHeaderKey(name)] = values
	}
	if t.DialTimeout != "" {
		d, err := time.ParseDuration(t.DialTimeout)
		if err != nil || d <= 0 {
			return fail.New(fail.Invalid, "dial_timeout %q is not a duration such as 5s", t.DialTimeout)
		}
		w.dial = d
	}
	return nil
}

// words reads a string or a list of strings.
func words(v any) ([]string, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, true
	case []any:
		var out []string
		for _, one := range v {
			s, ok := one.(string)
			if !ok {
				return nil, false
			}
			out = append(out, s)
		}
		return out, true
	}
	return nil, false
}

// clientPairs reads certificates and keys; a file alone holds both.
func clientPairs(v any) ([][2]string, bool) {
	if s, ok := words(v); ok {
		var out [][2]string
		for _, name := range s {
			out = append(out, [2]string{name, name})
		}
		return out, true
	}
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	var out [][2]string
	for _, one := range list {
		pair, ok := words(one)
		switch {
		case ok && len(pair) == 2 && pair[1] != "":
			out = append(out, [2]string{pair[0], pair[1]})
		case ok && (len(pair) == 1 || len(pair) == 2):
			out = append(out, [2]string{pair[0], pair[0]})
		default:
			return nil, false
		}
	}
	return out, true
}

// tlsConfig reads the way's certificates.
func (w way) tlsConfig(insecure bool) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure || w.skipVerify}
	for _, file := range w.ca {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fail.New(fail.Invalid, "certificates of %s: %w", w.host, err)
		}
		if config.RootCAs == nil {
			if config.RootCAs, err = x509.SystemCertPool(); err != nil {
				config.RootCAs = x509.NewCertPool()
			}
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fail.New(fail.Invalid, "certificates of %s: %s holds no certificate in PEM form", w.host, file)
		}
	}
	for _, pair := range w.client {
		c, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			return nil, fail.New(fail.Invalid, "client certificate for %s: %s: %w", w.host, pair[0], err)
		}
		config.Certificates = append(config.Certificates, c)
	}
	return config, nil
}
