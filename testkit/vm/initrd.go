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

// writeInitrd packs busybox, the modules that reach the disk and initScript: a tenth of what
// the distribution's own initrd weighs, which an emulated machine notices.
func writeInitrd(path, root, version string) error {
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
	a.add("init", 0o100755, []byte(initScript))
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

func (c *cpio) pad() {
	for c.Len()%4 != 0 {
		c.WriteByte(0)
	}
}
