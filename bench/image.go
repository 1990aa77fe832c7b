package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"berth/oci"
	"berth/testkit"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// subjectImage is an image made of Debian's packages, in the two forms in which engines get it.
type subjectImage struct {
	registry string // storage of a docker-registry that holds it as /bench/debian:1
	archive  string // as `docker save` writes it
	id       string // digest of its configuration
	layers   int
	unpacked int64 // bytes of the layers' tars
	packed   int64
}

// The packages of the image, beside Debian's essential ones: what people build with. The
// small one is for a quick look.
const (
	fullPackages  = "build-essential,git,python3-dev,python3-pip,nodejs,default-jdk-headless"
	smallPackages = "git,python3"
)

// debianImage makes the image once for all runs; it takes minutes and some hundred megabytes
// from Debian's archive.
func debianImage(ctx context.Context, quick bool) (*subjectImage, error) {
	kind, packages := "full", fullPackages
	if quick {
		kind, packages = "small", smallPackages
	}
	for _, tool := range []string{"mmdebstrap", "skopeo", "docker-registry"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w (a Debian package of that name has it)", err)
		}
	}
	name := "bench-debian-" + kind
	dir, err := testkit.Cached(name, func(dir string) error {
		fmt.Fprintln(os.Stderr, "making an image of Debian packages, once for all runs …")
		tree, err := testkit.Cached(name+".tar", func(tree string) error {
			_, _, err := (*space)(nil).run(ctx, os.Environ(), "mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", "--include="+packages, "bookworm", tree)
			return err
		})
		if err != nil {
			return err
		}
		if err := writeLayout(tree, filepath.Join(dir, "layout")); err != nil {
			return err
		}
		if err := os.Remove(tree); err != nil {
			return err
		}
		return publish(ctx, dir)
	})
	if err != nil {
		return nil, err
	}
	return readLayout(dir)
}

// publish brings the layout of dir into the storage of a registry, and into an archive.
func publish(ctx context.Context, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := newSpace(ctx)
	if err != nil {
		return err
	}
	if err := s.startRegistry(ctx, filepath.Join(dir, "registry"), sourcePort); err != nil {
		return err
	}
	from := "oci:" + filepath.Join(dir, "layout") + ":1"
	if _, _, err := s.run(ctx, os.Environ(), "skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", from, "docker://"+sourceRef); err != nil {
		return err
	}
	_, _, err = s.run(ctx, os.Environ(), "skopeo", "copy", "--quiet", "--insecure-policy", from, "docker-archive:"+filepath.Join(dir, "image.tar")+":"+loadedRef)
	return err
}

// readLayout describes the image that debianImage has left in dir.
func readLayout(dir string) (*subjectImage, error) {
	var index oci.Index
	var manifest oci.Manifest
	read := func(name string, into any) error {
		data, err := os.ReadFile(filepath.Join(dir, "layout", name))
		if err != nil {
			return err
		}
		return json.Unmarshal(data, into)
	}
	if err := read("index.json", &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("%s does not hold one image: remove it, and it is made again", dir)
	}
	if err := read(blobPath(index.Manifests[0].Digest), &manifest); err != nil {
		return nil, err
	}
	i := &subjectImage{registry: filepath.Join(dir, "registry"), archive: filepath.Join(dir, "image.tar"),
		id: manifest.Config.Digest.String(), layers: len(manifest.Layers)}
	for _, l := range manifest.Layers {
		i.packed += l.Size
	}
	info, err := os.Stat(i.archive)
	if err != nil {
		return nil, err
	}
	i.unpacked = info.Size()
	return i, nil
}

func blobPath(d digest.Digest) string { return path.Join("blobs", d.Algorithm().String(), d.Encoded()) }

// imageLayers is how many layers the tree becomes: the base and groups of packages above it.
const imageLayers = 4

// writeLayout divides a tree that mmdebstrap has made into layers, as a Dockerfile with some
// RUN apt-get lines would, and writes them as an OCI image layout.
func writeLayout(tree, dir string) error {
	in, err := os.Open(tree)
	if err != nil {
		return err
	}
	defer in.Close()
	assign, err := divide(in)
	if err != nil {
		return fmt.Errorf("divide %s: %w", tree, err)
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	layers := make([]*layerWriter, imageLayers)
	for i := range layers {
		if layers[i], err = newLayerWriter(dir); err != nil {
			return err
		}
	}
	if err := distribute(tar.NewReader(in), assign, layers); err != nil {
		return err
	}
	config := oci.Image{Platform: oci.Platform{Architecture: runtime.GOARCH, OS: "linux"}, Config: ocispec.ImageConfig{Cmd: []string{"/bin/true"}}}
	config.RootFS.Type = "layers"
	manifest := oci.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		diff, layer, err := l.finish(dir)
		if err != nil {
			return err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
		manifest.Layers = append(manifest.Layers, layer)
	}
	if manifest.Config, err = writeBlob(dir, ocispec.MediaTypeImageConfig, config); err != nil {
		return err
	}
	described, err := writeBlob(dir, ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	described.Annotations = map[string]string{ocispec.AnnotationRefName: "1"}
	if err := writeJSON(filepath.Join(dir, "index.json"), oci.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []oci.Descriptor{described}}); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, ocispec.ImageLayoutFile), ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func writeBlob(dir, mediaType string, v any) (oci.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return oci.Descriptor{}, err
	}
	d := oci.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return d, os.WriteFile(filepath.Join(dir, blobPath(d.Digest)), data, 0o644)
}

// divide says which layer each path of the tree belongs to: those that no entry names are
// the base's. What dpkg calls required or important is the base; other packages are put, in
// alphabetical order, into the layers above, which become equally large.
func divide(tree io.Reader) (map[string]int, error) {
	owner, size := map[string]string{}, map[string]int64{}
	base := map[string]bool{}
	for r := tar.NewReader(tree); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Join("/", h.Name)
		size[name] = h.Size
		list, isList := strings.CutSuffix(strings.TrimPrefix(name, "/var/lib/dpkg/info/"), ".list")
		switch {
		case isList && path.Dir(name) == "/var/lib/dpkg/info":
			text, err := io.ReadAll(r)
			if err != nil {
				return nil, err
			}
			pkg, _, _ := strings.Cut(list, ":")
			for file := range strings.FieldsSeq(string(text)) {
				owner[merged(file)] = pkg
			}
		case name == "/var/lib/dpkg/status":
			text, err := io.ReadAll(r)
			if err != nil {
				return nil, err
			}
			base = basePackages(string(text))
		}
	}
	weight, total := map[string]int64{}, int64(0)
	for file, pkg := range owner {
		if !base[pkg] {
			weight[pkg] += size[file]
			total += size[file]
		}
	}
	layer, sum := map[string]int{}, int64(0)
	for _, pkg := range slices.Sorted(maps.Keys(weight)) {
		layer[pkg] = 1 + int(min(sum*(imageLayers-1)/max(total, 1), imageLayers-2))
		sum += weight[pkg]
	}
	assign := map[string]int{}
	for file, pkg := range owner {
		if l := layer[pkg]; l > 0 {
			assign[file] = l
		}
	}
	return assign, nil
}

// merged is the path at which a file of a package lies since /bin, /lib and /sbin are links.
func merged(file string) string {
	for _, top := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/", "/lib32/"} {
		if strings.HasPrefix(file, top) {
			return "/usr" + file
		}
	}
	return file
}

// basePackages reads dpkg's status (deb-control(5)) for the names of the packages that every
// Debian has.
func basePackages(status string) map[string]bool {
	base := map[string]bool{}
	for paragraph := range strings.SplitSeq(status, "\n\n") {
		var name string
		for line := range strings.SplitSeq(paragraph, "\n") {
			if v, ok := strings.CutPrefix(line, "Package: "); ok {
				name = v
			}
			if line == "Essential: yes" || line == "Priority: required" || line == "Priority: important" {
				base[name] = true
			}
		}
	}
	return base
}

// distribute copies the tree's entries to their layers. A layer repeats the directories above
// its files, as layers do that a build has made.
func distribute(tree *tar.Reader, assign map[string]int, layers []*layerWriter) error {
	dirs, where := map[string]*tar.Header{}, map[string]int{}
	for {
		h, err := tree.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Join("/", h.Name)
		if name == "/" || strings.HasPrefix(name, "/dev/") {
			continue
		}
		h.Name = strings.TrimPrefix(h.Name, "./")
		to := assign[name]
		if h.Typeflag == tar.TypeDir {
			to, dirs[name] = 0, h
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimPrefix(h.Linkname, "./")
			to = where[path.Join("/", h.Linkname)]
		}
		where[name] = to
		l := layers[to]
		if err := l.parents(name, dirs); err != nil {
			return err
		}
		if err := l.tar.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(l.tar, tree); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			l.has[name] = true
		}
	}
}

// layerWriter writes one layer as a compressed blob.
type layerWriter struct {
	file   *os.File
	packed hash.Hash
	plain  hash.Hash
	gzip   *gzip.Writer
	tar    *tar.Writer
	has    map[string]bool
}

func newLayerWriter(dir string) (*layerWriter, error) {
	file, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return nil, err
	}
	l := &layerWriter{file: file, packed: sha256.New(), plain: sha256.New(), has: map[string]bool{"/": true}}
	l.gzip = gzip.NewWriter(io.MultiWriter(file, l.packed))
	l.tar = tar.NewWriter(io.MultiWriter(l.gzip, l.plain))
	return l, nil
}

// parents writes the directories above name that the layer does not have yet.
func (l *layerWriter) parents(name string, dirs map[string]*tar.Header) error {
	dir := path.Dir(name)
	if l.has[dir] {
		return nil
	}
	if err := l.parents(dir, dirs); err != nil {
		return err
	}
	l.has[dir] = true
	if h := dirs[dir]; h != nil {
		return l.tar.WriteHeader(h)
	}
	return nil
}

// finish makes the layer a blob of the layout.
func (l *layerWriter) finish(dir string) (diff digest.Digest, d oci.Descriptor, err error) {
	if err = errors.Join(l.tar.Close(), l.gzip.Close()); err != nil {
		return
	}
	size, err := l.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return
	}
	d = oci.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.NewDigest(digest.SHA256, l.packed), Size: size}
	if err = l.file.Close(); err == nil {
		err = os.Rename(l.file.Name(), filepath.Join(dir, blobPath(d.Digest)))
	}
	return digest.NewDigest(digest.SHA256, l.plain), d, err
}

// busyboxTar writes a root file system of Debian's static busybox.
func busyboxTar(path string) error { return writeTar(path, nil) }

// programsTar is busyboxTar with some of the machine's programs, and their libraries, under
// the names that they have here.
func programsTar(ctx context.Context, path string, programs ...string) error {
	files := slices.Clone(programs)
	for _, p := range programs {
		out, _, err := (*space)(nil).run(ctx, os.Environ(), "ldd", p)
		if err != nil && !strings.Contains(err.Error(), "not a dynamic executable") {
			return err
		}
		for word := range strings.FieldsSeq(out) {
			if filepath.IsAbs(word) && !strings.HasSuffix(word, ":") && !slices.Contains(files, word) {
				files = append(files, word)
			}
		}
	}
	return writeTar(path, files)
}

// writeTar writes a root file system of busybox and some files of the machine.
func writeTar(path string, files []string) error {
	if _, err := os.Stat("/bin/busybox"); err != nil {
		return fmt.Errorf("%w (Debian: busybox-static)", err)
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	when := time.Unix(1700000000, 0)
	for _, dir := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: when}); err != nil {
			return err
		}
	}
	for _, file := range append([]string{"/bin/busybox"}, files...) {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(file, "/"), Mode: 0o755, Size: int64(len(data)), ModTime: when}); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	for _, applet := range []string{"true", "sleep", "sh"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777, ModTime: when}); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), out.Close())
}
