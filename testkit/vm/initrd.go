package vm

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// initScript is all that runs before the distribution's own init: Debian's cloud kernel has
// ext4 built in, and virtio as modules.
const initScript = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for m in /modules/*; do /bin/busybox insmod $m; done
until [ -e /dev/vda ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -t ext4 -o rw /dev/vda /root || exit 1
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
`

// bringModules goes into initScript for a kernel whose modules the disk does not have.
const bringModules = "[ -e /root/lib/modules/$(/bin/busybox uname -r)/modules.dep ] || /bin/busybox cp -a /lib/modules/. /root/lib/modules/\n"

// writeInitrd packs busybox, the modules that reach the disk and initScript: a tenth of what
// the distribution's own initrd weighs, which an emulated machine notices. With all, all of the
// kernel's modules are in it, to be copied to the disk.
func writeInitrd(path, root, version string, all bool) error {
	modules, err := modulesFor(filepath.Join(root, "lib", "modules", version), "virtio_pci", "virtio_blk")
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile(filepath.Join(root, "bin", "busybox"))
	if err != nil {
		return err
	}
	var a cpio
	for _, dir := range []string{"bin", "dev", "root", "modules"} {
		a.add(dir, 0o040755, nil)
	}
	a.add("bin/busybox", 0o100755, busybox)
	script := initScript
	if all {
		script = strings.Replace(script, "/bin/busybox mount --move", bringModules+"/bin/busybox mount --move", 1)
		if err := a.addTree(root, filepath.Join("lib", "modules")); err != nil {
			return err
		}
	}
	a.add("init", 0o100755, []byte(script))
	for n, m := range modules {
		data, err := os.ReadFile(m)
		if err == nil && strings.HasSuffix(m, ".xz") {
			data, err = exec.Command("xz", "-dc", m).Output()
		}
		if err != nil {
			return fmt.Errorf("module %s: %w", m, err)
		}
		a.add(fmt.Sprintf("modules/%02d.ko", n), 0o100644, data)
	}
	a.add("TRAILER!!!", 0, nil)
	return os.WriteFile(path, a.Bytes(), 0o644)
}

// modulesFor lists the named modules and what they need, in the order of loading.
func modulesFor(dir string, names ...string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	needs := map[string][]string{} // by path
	paths := map[string]string{}   // by name
	for line := range strings.Lines(string(text)) {
		path, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		name, _, _ := strings.Cut(filepath.Base(path), ".ko")
		needs[path], paths[strings.ReplaceAll(name, "-", "_")] = strings.Fields(rest), path
	}
	var order []string
	var visit func(path string)
	visit = func(path string) {
		full := filepath.Join(dir, path)
		if slices.Contains(order, full) {
			return
		}
		for _, n := range needs[path] {
			visit(n)
		}
		order = append(order, full)
	}
	for _, name := range names {
		path, ok := paths[name]
		if !ok {
			continue // built into the kernel
		}
		visit(path)
	}
	return order, nil
}

// cpio is an archive in the "newc" format of cpio(5), which the kernel unpacks.
type cpio struct {
	bytes.Buffer
	inode int
}

func (c *cpio) add(name string, mode int, data []byte) {
	c.inode++
	fmt.Fprintf(c, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.Write(data)
	c.pad()
}

// addTree adds a directory with all below it, by its path below root.
func (c *cpio) addTree(root, dir string) error {
	for at := dir; filepath.Dir(at) != "."; {
		at = filepath.Dir(at)
		c.add(at, 0o040755, nil)
	}
	return filepath.WalkDir(filepath.Join(root, dir), func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case e.IsDir():
			c.add(name, 0o040755, nil)
		case e.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			c.add(name, 0o100644, data)
		}
		return nil
	})
}

func (c *cpio) pad() {
	for c.Len()%4 != 0 {
		c.WriteByte(0)
	}
}
