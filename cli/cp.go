package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"berth/archive"
)

func newCp(a *app) *cobra.Command {
	var o copyFlags
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n  berth cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Long: `Copy files/folders between a container and the local filesystem

As SRC_PATH "-" is a tar archive on stdin, which is unpacked in a directory of
the container; as DEST_PATH it is stdout, which gets one of the source.
SRC_PATH/. means what is in a directory, not the directory itself.`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("quiet") {
				_, terminal := terminalOf(a.Out)
				o.quiet = !terminal
			}
			return a.copyFiles(cmd.Context(), args[0], args[1], o)
		},
		ValidArgsFunction: a.completeCopy,
	}
	cmd.Flags().BoolVarP(&o.owners, "archive", "a", false, "Archive mode: into a container, give the files to its user; out of one, keep their owners' numbers, set-ID bits, file capabilities and devices (as root)")
	cmd.Flags().BoolVarP(&o.follow, "follow-link", "L", false, "Follow a symbolic link that SRC_PATH is")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Do not tell how the copy goes on; so it is without a terminal anyway")
	return cmd
}

type copyFlags struct{ owners, follow, quiet bool }

// completeCopy offers the containers, up to the colon.
func (a *app) completeCopy(cmd *cobra.Command, typed []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(typed) > 1 || strings.ContainsAny(prefix, ":/.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := a.completeContainers(anyState)(cmd, nil, prefix)
	for i := range names {
		names[i] += ":"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

func (a *app) copyFiles(ctx context.Context, from, to string, o copyFlags) error {
	switch {
	case from == "":
		return errors.New("source can not be empty")
	case to == "":
		return errors.New("destination can not be empty")
	}
	source, sourcePath := splitCopy(from)
	target, targetPath := splitCopy(to)
	switch {
	case source != "" && target != "":
		return errors.New("copying between containers is not supported")
	case source != "":
		return a.copyOut(ctx, source, sourcePath, targetPath, o)
	case target != "":
		return a.copyIn(ctx, sourcePath, target, targetPath, o)
	}
	return errors.New("must specify at least one container source")
}

// splitCopy takes CONTAINER:PATH apart. A path of this machine that has a colon is told by its
// beginning: a slash or a dot.
func splitCopy(arg string) (container, path string) {
	container, path, found := strings.Cut(arg, ":")
	if !found || strings.HasPrefix(arg, "/") || strings.HasPrefix(container, ".") {
		return "", arg
	}
	return container, path
}

// copyTarget is where a copy goes to. As with cp(1) it depends on what is there.
type copyTarget struct {
	path          string
	exists, isDir bool
}

// place decides in which directory a copy is unpacked, and what its top is called there; "": what
// it is called at home.
func (t copyTarget) place(sourceIsDir bool) (dir, as string, err error) {
	asksDir := strings.HasSuffix(t.path, "/") || path.Base(t.path) == "."
	switch {
	case t.exists && t.isDir:
		return t.path, "", nil
	case t.exists && sourceIsDir:
		return "", "", errors.New("cannot copy directory")
	case !t.exists && !sourceIsDir && asksDir:
		return "", "", errors.New("no such directory")
	}
	if path.Base(t.path) == "." && t.path != "." {
		return path.Clean(t.path), ".", nil
	}
	clean := path.Clean(t.path)
	return path.Dir(clean), path.Base(clean), nil
}

// copyIn copies from this machine into a container.
func (a *app) copyIn(ctx context.Context, from, container, to string, o copyFlags) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	target := copyTarget{path: to}
	stat := func() (fs.FileMode, string, bool) {
		r, err := engine.ContainerStatPath(ctx, container, mobyclient.ContainerStatPathOptions{Path: target.path})
		return r.Stat.Mode, r.Stat.LinkTarget, err == nil // what is wrong here is told when the copy is refused
	}
	mode, link, found := stat()
	if found && mode&fs.ModeSymlink != 0 {
		target.path = link
		mode, _, found = stat()
	}
	if found {
		if why := irregular(mode); why != "" {
			return fmt.Errorf(`destination "%s:%s" must be a directory or a regular file: %s`, container, to, why)
		}
		target.exists, target.isDir = true, mode.IsDir()
	}
	c := mobyclient.CopyToContainerOptions{CopyUIDGID: o.owners}
	if from == "-" {
		if !target.isDir {
			return fmt.Errorf(`destination "%s:%s" must be a directory`, container, to)
		}
		c.DestinationPath, c.Content = target.path, a.In
		_, err := engine.CopyToContainer(ctx, container, c)
		return err
	}
	source, name, err := openSource(from, o.follow)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	dir, as, err := target.place(info.IsDir())
	if err != nil {
		return err
	}
	if as != "" {
		name = as
	}
	// The pipe's end is the answer's: an engine that refuses says why, and the packing ends.
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := archive.Pack(ctx, source, name, w)
		_ = w.CloseWithError(err)
		packed <- err
	}()
	count := &counter{r: r}
	stop := a.showCopying("Copying to container - ", count, o)
	c.DestinationPath, c.Content = dir, count
	_, err = engine.CopyToContainer(ctx, container, c)
	_ = r.CloseWithError(errRefused)
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, errRefused) {
		err = packErr
	}
	stop(err, container+":"+target.path)
	return err
}

// errRefused ends the packing of what nobody takes any more.
var errRefused = errors.New("the engine takes no more")

// irregular tells why no file can be copied to what has this mode.
func irregular(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeDevice != 0:
		return "got a device"
	case mode&fs.ModeIrregular != 0:
		return "got an irregular file"
	}
	return ""
}

// openSource opens a file of this machine that is to be copied, and tells its name.
func openSource(p string, follow bool) (*os.File, string, error) {
	from := p
	if !filepath.IsAbs(p) {
		wd, err := os.Getwd()
		if err != nil {
			return nil, "", err
		}
		from = wd + "/" + p
	}
	clean, name := archive.Resolvable(from)
	flags := unix.O_PATH
	if !follow && !strings.HasSuffix(clean, "/") {
		flags |= unix.O_NOFOLLOW
	}
	f, err := os.OpenFile(clean, flags, 0)
	if name == "/" {
		name = ""
	}
	return f, name, err
}

// copyOut copies from a container to this machine.
func (a *app) copyOut(ctx context.Context, container, from, to string, o copyFlags) error {
	if to != "-" {
		if err := checkCopyTarget(to); err != nil {
			return err
		}
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	_, name := archive.Resolvable(from)
	if o.follow {
		r, err := engine.ContainerStatPath(ctx, container, mobyclient.ContainerStatPathOptions{Path: from})
		if err == nil && r.Stat.Mode&fs.ModeSymlink != 0 {
			from = r.Stat.LinkTarget
		}
	}
	answer, err := engine.CopyFromContainer(ctx, container, mobyclient.CopyFromContainerOptions{SourcePath: from})
	if err != nil {
		return err
	}
	defer answer.Content.Close()
	if to == "-" {
		_, err := io.Copy(a.Out, answer.Content)
		return err
	}
	target, err := localTarget(to)
	if err != nil {
		return err
	}
	dir, as, err := target.place(answer.Stat.Mode.IsDir())
	if err != nil {
		return err
	}
	if as == "" && name != answer.Stat.Name { // it was reached through a link
		as = name
	}
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	unpack := archive.UnpackOptions{KeepKinds: true, Confined: true, Top: answer.Stat.Name, As: as, Unprivileged: os.Geteuid() != 0}
	devices, first := 0, ""
	if !o.owners || unpack.Unprivileged {
		if answer.Stat.Mode&fs.ModeDevice != 0 {
			return fmt.Errorf("%q is a device, which only root can copy, with -a", container+":"+from)
		}
		unpack.Plain = true // what was another's is the caller's now
		unpack.Skipped = func(name string) {
			if devices++; devices == 1 {
				first = name
			}
		}
		unpack.Owner = &archive.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	}
	count := &counter{r: answer.Content}
	stop := a.showCopying("Copying from container - ", count, o)
	err = archive.Unpack(ctx, root, "/", count, unpack)
	stop(err, to)
	if devices > 0 {
		fmt.Fprintf(a.Err, "Devices are not copied but by root with -a: %d left out, %q first\n", devices, first)
	}
	return err
}

// checkCopyTarget refuses what nothing can be copied to before the engine is asked.
func checkCopyTarget(to string) error {
	if dir := filepath.Dir(filepath.Clean(to)); dir != "." {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("invalid output path: directory %q does not exist", dir)
		}
	}
	info, err := os.Stat(to)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if why := irregular(info.Mode()); why != "" {
		return fmt.Errorf("invalid output path: %q must be a directory or a regular file: %s", to, why)
	}
	return nil
}

// maxLocalLinks is how many symbolic links a destination may lead through.
const maxLocalLinks = 10

// localTarget looks where a path of this machine leads to. A link that leads to nothing is fine: what
// it names is made.
func localTarget(p string) (copyTarget, error) {
	asked := p
	for range maxLocalLinks {
		info, err := os.Lstat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			above, err := os.Stat(filepath.Dir(filepath.Clean(p)))
			if err == nil && !above.IsDir() {
				err = errors.New("not a directory")
			}
			return copyTarget{path: p}, err
		case err != nil:
			return copyTarget{}, err
		case info.Mode()&fs.ModeSymlink == 0:
			return copyTarget{p, true, info.IsDir()}, nil
		}
		link, err := os.Readlink(p)
		if err != nil {
			return copyTarget{}, err
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(filepath.Clean(p)), link)
		}
		p = link
	}
	return copyTarget{}, errors.New("too many symlinks in " + asked)
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// showCopying tells on a terminal how much was copied; stop ends that, and says how it went.
func (a *app) showCopying(what string, count *counter, o copyFlags) (stop func(err error, to string)) {
	if o.quiet {
		return func(error, string) {}
	}
	size := func() string { return units.HumanSizeWithPrecision(float64(count.n.Load()), 3) }
	done, ended := make(chan struct{}), make(chan struct{})
	_, terminal := terminalOf(a.Err)
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for terminal {
			fmt.Fprint(a.Err, "\r\x1b[K"+what+size())
			select {
			case <-tick.C:
			case <-done:
				fmt.Fprint(a.Err, "\r\x1b[K")
				return
			}
		}
	}()
	return func(err error, to string) {
		close(done)
		<-ended
		if err == nil {
			fmt.Fprintf(a.Err, "Successfully copied %s to %s\n", size(), to)
		}
	}
}
