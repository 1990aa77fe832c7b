package testkit

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// CacheDir keeps what is slow to make between test processes.
func CacheDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "berth-test-cache")
	return dir, os.MkdirAll(dir, 0o755)
}

// Cached makes the file or directory name in the cache once, whole or not at all, and
// returns its path.
func Cached(name string, make func(path string) error) (string, error) {
	dir, err := CacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	work, err := os.MkdirTemp(dir, "making-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if err := make(filepath.Join(work, name)); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	err = os.Rename(filepath.Join(work, name), path)
	if _, made := os.Stat(path); made == nil {
		return path, nil // by another process, if not by us
	}
	return path, err
}

// BusyboxTar returns the path of a tar with a small root file system: Debian's static
// busybox with a link for every applet, and the files that users and groups live in.
func BusyboxTar(t testing.TB) string {
	t.Helper()
	busybox := NeedTool(t, "busybox")
	return cached(t, "busybox.tar", func(path string) error {
		applets, err := exec.Command(busybox, "--list").Output()
		if err != nil {
			return err
		}
		program, err := os.ReadFile(busybox)
		if err != nil {
			return err
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		w := tar.NewWriter(f)
		when := time.Unix(1700000000, 0)
		add := func(h tar.Header, data string) {
			h.ModTime, h.Size = when, int64(len(data))
			if err == nil {
				err = w.WriteHeader(&h)
			}
			if err == nil {
				_, err = w.Write([]byte(data))
			}
		}
		for _, d := range []string{"bin", "dev", "etc", "home/app", "proc", "root", "sys", "usr", "usr/bin", "var"} {
			add(tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}, "")
		}
		add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, "")
		add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program))
		for _, a := range strings.Fields(string(applets)) {
			if a != "busybox" {
				add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777}, "")
			}
		}
		add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
			"root:x:0:0:root:/root:/bin/sh\napp:x:1001:1002:App:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
		add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644},
			"root:x:0:\nappgroup:x:1002:\nextra:x:1003:app\nstaff:x:50:\nnogroup:x:65534:\n")
		if err != nil {
			return err
		}
		return w.Close()
	})
}

// DebianTar returns the path of a tar with Debian bookworm's essential packages, made
// from Debian's archive.
func DebianTar(t testing.TB) string {
	t.Helper()
	tool := NeedTool(t, "mmdebstrap")
	return cached(t, "debian-12.tar", func(path string) error {
		out, err := exec.Command(tool, "--quiet", "--variant=essential", "--format=tar", "bookworm", path).CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
		}
		return err
	})
}

// cached is Cached for a test.
func cached(t testing.TB, name string, make func(path string) error) string {
	t.Helper()
	path, err := Cached(name, make)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
