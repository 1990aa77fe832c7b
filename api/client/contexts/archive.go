package contexts

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"berth/fail"
)

var errNotDir = syscall.ENOTDIR

// An archive of a context comes from somebody else, and says which files to write.
const (
	maxArchive = 10 << 20 // bytes, as it is and unpacked
	maxEntries = 256
)

// Export writes a context as the tar archive that Import and Docker's command line read:
// meta.json, and tls/ENDPOINT/FILE.
func Export(c *Context, w io.Writer) error {
	meta, err := c.Encode()
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	put := func(h tar.Header, data []byte) {
		if err == nil {
			h.Size = int64(len(data))
			err = tw.WriteHeader(&h)
		}
		if err == nil {
			_, err = tw.Write(data)
		}
	}
	put(tar.Header{Name: metaFile, Mode: 0o644}, meta)
	put(tar.Header{Name: "tls", Mode: 0o700, Typeflag: tar.TypeDir}, nil)
	for _, endpoint := range slices.Sorted(maps.Keys(c.TLS)) {
		put(tar.Header{Name: path.Join("tls", endpoint), Mode: 0o700, Typeflag: tar.TypeDir}, nil)
		for _, name := range slices.Sorted(maps.Keys(c.TLS[endpoint])) {
			put(tar.Header{Name: path.Join("tls", endpoint, name), Mode: 0o600}, c.TLS[endpoint][name])
		}
	}
	return errors.Join(err, tw.Close())
}

// Import reads an exported context, a tar or zip archive, and gives it a name. Nothing is
// written: the whole archive is read and checked before.
func Import(name string, r io.Reader) (*Context, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	in := archive{c: Context{TLS: map[string]map[string][]byte{}}}
	buffered := bufio.NewReader(&bounded{r, maxArchive})
	magic, _ := buffered.Peek(4)
	var err error
	if bytes.Equal(magic, []byte("PK\x03\x04")) {
		err = in.readZip(buffered)
	} else {
		err = in.readTar(buffered)
	}
	switch {
	case fail.Is(err, fail.Invalid):
		return nil, err
	case err != nil:
		return nil, fail.New(fail.Invalid, "the archive of a context cannot be read: %w", err)
	case !in.found:
		return nil, fail.New(fail.Invalid, "invalid context: no metadata found")
	}
	in.c.Name = name
	return &in.c, nil
}

// bounded reads at most n bytes; more is an error, not an end.
type bounded struct {
	r io.Reader
	n int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p[:min(int64(len(p)), b.n+1)])
	if b.n -= int64(n); b.n < 0 {
		return 0, fail.New(fail.Invalid, "the archive of a context is larger than %d bytes", maxArchive)
	}
	return n, err
}

// archive is what has been read of one.
type archive struct {
	c       Context
	found   bool // meta.json
	entries int
	size    int64
}

func (a *archive) readTar(r io.Reader) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := a.take(h.Name, h.Typeflag == tar.TypeReg, h.Typeflag == tar.TypeDir, tr); err != nil {
			return err
		}
	}
}

func (a *archive) readZip(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	zr, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	for _, f := range zr.File {
		if err := a.takeZipped(f); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) takeZipped(f *zip.File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return a.take(f.Name, f.Mode().IsRegular(), f.Mode().IsDir(), r)
}

// take reads one entry. Only what a context consists of is taken: a link, another name or one
// that comes twice is a reason to refuse it all.
func (a *archive) take(name string, file, dir bool, r io.Reader) error {
	if a.entries++; a.entries > maxEntries {
		return fail.New(fail.Invalid, "the archive of a context has more than %d entries", maxEntries)
	}
	if dir {
		return nil
	}
	if !file {
		return fail.New(fail.Invalid, "%q: neither a file nor a directory: not the archive of a context", name)
	}
	endpoint, tlsFile, err := placeOf(name)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(&bounded{r, maxArchive - a.size})
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	a.size += int64(len(data))
	if endpoint != "" {
		if a.c.TLS[endpoint] == nil {
			a.c.TLS[endpoint] = map[string][]byte{}
		}
		if _, twice := a.c.TLS[endpoint][tlsFile]; twice {
			return fail.New(fail.Invalid, "%q: it comes twice", name)
		}
		a.c.TLS[endpoint][tlsFile] = data
		return nil
	}
	if a.found {
		return fail.New(fail.Invalid, "%q: it comes twice", name)
	}
	c, err := parseMeta(data)
	if err != nil {
		return err
	}
	if _, err := c.Endpoint(); err != nil && c.Endpoints[Engine] != nil {
		return err
	}
	a.found = true
	a.c.Metadata, a.c.Endpoints = c.Metadata, c.Endpoints
	return nil
}

// placeOf tells which TLS file of which endpoint an archive's name is; of meta.json both are
// empty. The two become names of a directory and of a file in it.
func placeOf(name string) (endpoint, file string, err error) {
	if name == metaFile {
		return "", "", nil
	}
	rest, ok := strings.CutPrefix(name, "tls/")
	if !ok {
		return "", "", fail.New(fail.Invalid, "%q: unexpected context file", name)
	}
	endpoint, file, ok = strings.Cut(rest, "/")
	if !ok || !plainName(endpoint) || !plainName(file) {
		return "", "", fail.New(fail.Invalid, "%q: unexpected path format: it has to be tls/ENDPOINT/FILE", name)
	}
	return endpoint, file, nil
}

func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 100 && !strings.ContainsAny(s, "/\\\x00")
}
