package runtime

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	oci "berth/oci/bundle"
)

func TestATmpfsStartsWithACopyOfWhatItCovers(t *testing.T) {
	needRoot(t)
	for _, mapped := range []bool{false, true} {
		t.Run(fmt.Sprintf("user namespace %v", mapped), func(t *testing.T) {
			lower := layer(t)
			dir := lower + "/data"
			os.MkdirAll(dir+"/sub/deep", 0o750)
			write(t, dir+"/sub/deep/file", "text\n", 0o640)
			os.Symlink("sub/deep", dir+"/link")
			unix.Mkfifo(dir+"/pipe", 0o622)
			unix.Chmod(dir, 0o1711)
			unix.Chmod(dir+"/pipe", 0o622)
			os.Chown(dir+"/sub/deep/file", 1000, 1001)
			cfg := config(t)
			cfg.Root = overlay(t, lower)
			owner := "1000:1001"
			if mapped {
				userNamespace(t, &cfg)
				os.Chown(dir+"/sub/deep/file", 101000, 101001)
				unix.Chmod(dir, 0o1711)
			}
			cfg.Spec.Mounts = append(cfg.Spec.Mounts,
				oci.Mount{Destination: "/data", Type: "tmpfs", Options: []string{"tmpcopyup", "nosuid", "ro"}},
				oci.Mount{Destination: "/etc", Type: "tmpfs", Options: []string{"tmpcopyup", "mode=0700"}},
				oci.Mount{Destination: "/fresh", Type: "tmpfs", Options: []string{"tmpcopyup"}})
			c := running(t, cfg)
			text := inside(t, c, "sh", "-c", `stat -c '%a %u:%g' /data /data/sub/deep/file /data/pipe /etc; readlink /data/link
				cat /data/link/file; touch /data/x 2>/dev/null || echo ro; head -n 1 /etc/passwd; touch /etc/new; ls /fresh`)
			want := "1711 0:0\n640 " + owner + "\n622 0:0\n700 0:0\nsub/deep\ntext\nro\nroot:x:0:0:root:/root:/bin/sh\n"
			if text != want {
				t.Errorf("got %q, want %q", text, want)
			}
			if _, err := os.Lstat(cfg.Root.Upper + "/etc/new"); err == nil {
				t.Error("a new file went to the image's directory")
			}
		})
	}
}
