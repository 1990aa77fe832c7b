// Package contexts keeps contexts, the named engines of a user, in the form of Docker's
// command line, so that both share them. Below <configuration directory>/contexts, where ID is
// the SHA-256 of a context's name in hexadecimal digits:
//
//	meta/ID/meta.json     {"Name":…,"Metadata":{"Description":…},"Endpoints":{"docker":{"Host":…,"SkipTLSVerify":…}}}
//	tls/ID/docker/        ca.pem, cert.pem, key.pem; each may be missing
//
// What others keep in Metadata or as further endpoints is kept as it is. A context is there
// once its meta.json is, and it is replaced by renames: a reader finds the old or the new one.
package contexts

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"berth/fail"
)

// Default is the name of the context that is not kept: the engine of flags and environment,
// else this user's own.
const Default = "default"

// Engine is the name of the endpoint that is an engine.
const Engine = "docker"

// Names of an endpoint's TLS files.
const (
	CAFile   = "ca.pem"
	CertFile = "cert.pem"
	KeyFile  = "key.pem"
)

const metaFile = "meta.json"

// Context is one context with all that it has.
type Context struct {
	Name      string
	Metadata  map[string]json.RawMessage   // never null in a file
	Endpoints map[string]json.RawMessage   `json:",omitempty"`
	TLS       map[string]map[string][]byte `json:"-"` // by endpoint and file name
}

// Endpoint is how an engine is reached.
type Endpoint struct {
	Host          string `json:",omitempty"`
	SkipTLSVerify bool
}

// Description is the context's, or nothing.
func (c *Context) Description() string {
	var text string
	_ = json.Unmarshal(c.Metadata["Description"], &text)
	return text
}

// Encode is the context as its meta.json has it.
func (c *Context) Encode() ([]byte, error) {
	if c.Metadata == nil {
		c.Metadata = map[string]json.RawMessage{}
	}
	return json.Marshal(c)
}

// Describe sets the description.
func (c *Context) Describe(text string) {
	if c.Metadata == nil {
		c.Metadata = map[string]json.RawMessage{}
	}
	c.Metadata["Description"], _ = json.Marshal(text)
}

// Endpoint is the context's engine.
func (c *Context) Endpoint() (Endpoint, error) {
	raw, ok := c.Endpoints[Engine]
	if !ok {
		return Endpoint{}, fail.New(fail.Invalid, "cannot find docker endpoint in context")
	}
	var e Endpoint
	if err := json.Unmarshal(raw, &e); err != nil {
		return Endpoint{}, fail.New(fail.Invalid, "the docker endpoint in the context cannot be read: %w", err)
	}
	return e, nil
}

// SetEndpoint sets the context's engine and its TLS files.
func (c *Context) SetEndpoint(e Endpoint, files map[string][]byte) {
	if c.Endpoints == nil {
		c.Endpoints = map[string]json.RawMessage{}
	}
	c.Endpoints[Engine], _ = json.Marshal(e)
	if c.TLS == nil {
		c.TLS = map[string]map[string][]byte{}
	}
	if len(files) == 0 {
		delete(c.TLS, Engine)
		return
	}
	c.TLS[Engine] = files
}

// CheckName tells whether a context may have this name.
func CheckName(name string) error {
	switch {
	case name == "":
		return fail.New(fail.Invalid, "context name cannot be empty")
	case name == Default:
		return fail.New(fail.Invalid, "%q is a reserved context name", name)
	case !validName(name):
		return fail.New(fail.Invalid, "context name %q is invalid, names are validated against regexp %q", name, "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$")
	}
	return nil
}

func validName(name string) bool {
	for i, c := range []byte(name) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || !strings.ContainsRune("_.+-", rune(c))) {
			return false
		}
	}
	return len(name) > 1
}

// Store is the contexts below one directory. It need not exist.
type Store struct{ dir string }

// At is the store of a configuration directory.
func At(configDir string) *Store { return &Store{filepath.Join(configDir, "contexts")} }

func idOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// MetaDir is where a context's meta.json is, or would be.
func (s *Store) MetaDir(name string) string { return filepath.Join(s.dir, "meta", idOf(name)) }

// TLSDir is where a context's TLS files are, or would be.
func (s *Store) TLSDir(name string) string { return filepath.Join(s.dir, "tls", idOf(name)) }

// Meta reads a context without its TLS files. One that is not there is class NotFound.
func (s *Store) Meta(name string) (*Context, error) {
	c, err := readMeta(s.MetaDir(name))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fail.New(fail.NotFound, "context %q does not exist", name)
	case err != nil:
		return nil, fmt.Errorf("context %q: %w", name, err)
	}
	c.Name = name
	return c, nil
}

func readMeta(dir string) (*Context, error) {
	data, err := os.ReadFile(filepath.Join(dir, metaFile))
	if err != nil {
		return nil, err
	}
	return parseMeta(data)
}

func parseMeta(data []byte) (*Context, error) {
	var c Context
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fail.New(fail.Invalid, "%s cannot be read: %w", metaFile, err)
	}
	return &c, nil
}

// Load reads a context with its TLS files.
func (s *Store) Load(name string) (*Context, error) {
	c, err := s.Meta(name)
	if err != nil {
		return nil, err
	}
	c.TLS = map[string]map[string][]byte{}
	endpoints, err := os.ReadDir(s.TLSDir(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("context %q: %w", name, err)
	}
	for _, e := range endpoints {
		files, err := readFiles(filepath.Join(s.TLSDir(name), e.Name()))
		if err != nil {
			return nil, fmt.Errorf("context %q: %w", name, err)
		}
		if len(files) > 0 {
			c.TLS[e.Name()] = files
		}
	}
	return c, nil
}

func readFiles(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// Entry is one context of a list, or why it cannot be read.
type Entry struct {
	Context *Context // without TLS files; if Err is set, its name alone
	Err     error
}

// List returns all contexts, in no order, but the default one.
func (s *Store) List() ([]Entry, error) {
	dir := filepath.Join(s.dir, "meta")
	dirs, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []Entry
	for _, d := range dirs {
		c, err := readMeta(filepath.Join(dir, d.Name()))
		switch {
		case errors.Is(err, os.ErrNotExist) || errors.Is(err, errNotDir):
			continue // what somebody else put there, or just being removed
		case err == nil && idOf(c.Name) != d.Name():
			err = fail.New(fail.Invalid, "%s says that it is %q", filepath.Join(d.Name(), metaFile), c.Name)
		}
		if err != nil {
			c = &Context{Name: d.Name()}
		}
		all = append(all, Entry{c, err})
	}
	return all, nil
}

// Create adds a context. A name that is taken is class Conflict.
func (s *Store) Create(c *Context) error {
	if err := s.CanCreate(c.Name); err != nil {
		return err
	}
	return s.Put(c)
}

// CanCreate tells whether a context of this name can be added.
func (s *Store) CanCreate(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	switch _, err := os.Lstat(filepath.Join(s.MetaDir(name), metaFile)); {
	case err == nil:
		return fail.New(fail.Conflict, "context %q already exists", name)
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("context %q: %w", name, err)
	}
	return nil
}

// Put writes a context, TLS files and all, in the place of one that may be there.
func (s *Store) Put(c *Context) error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if err := s.replaceTLS(c); err != nil {
		return fmt.Errorf("context %q: %w", c.Name, err)
	}
	data, err := c.Encode()
	if err != nil {
		return err
	}
	dir := s.MetaDir(c.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, metaFile), data, 0o644)
}

// replaceTLS makes a context's TLS directory anew beside the old one, and puts it in its place.
func (s *Store) replaceTLS(c *Context) error {
	final := s.TLSDir(c.Name)
	if len(c.TLS) == 0 {
		return os.RemoveAll(final)
	}
	parent := filepath.Dir(final)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(parent, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	for endpoint, files := range c.TLS {
		dir := filepath.Join(fresh, endpoint)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		for name, data := range files {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	return os.Rename(fresh, final)
}

// writeFile replaces a file by a rename.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Remove takes a context away. One that is not there is no error.
func (s *Store) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(s.MetaDir(name)), os.RemoveAll(s.TLSDir(name))); err != nil {
		return fmt.Errorf("remove context %q: %w", name, err)
	}
	return nil
}

// Exists tells whether there is a context of this name, readable or not.
func (s *Store) Exists(name string) bool {
	_, err := os.Lstat(s.MetaDir(name))
	return err == nil
}
