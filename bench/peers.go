package main

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

func startBerth(dir string) (*peer, error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	host := "unix://" + filepath.Join(dir, "r", "s")
	return start("berth", []string{filepath.Join(bin, "berth"), "-H", host}, dir,
		filepath.Join(bin, "berthd"), "--data-root", filepath.Join(dir, "d"), "--exec-root", filepath.Join(dir, "r"), "-H", host,
		"--cgroup-parent", "/"+filepath.Base(filepath.Dir(dir)))
}

// startDocker starts Debian's dockerd in a network namespace of its own, without a bridge:
// it neither sees nor changes the host's firewall.
func startDocker(dir string) (*peer, error) {
	client := "docker"
	if built, err := filepath.Abs("bin/tools/docker"); err == nil {
		if _, err := os.Stat(built); err == nil {
			client = built
		}
	}
	host := "unix://" + filepath.Join(dir, "s")
	return start("docker", []string{client, "-H", host}, dir,
		"unshare", "--net", "dockerd", "--data-root", filepath.Join(dir, "d"), "--exec-root", filepath.Join(dir, "r"), "-H", host,
		"--pidfile", filepath.Join(dir, "pid"), "--bridge", "none", "--iptables=false")
}

func start(name string, client []string, dir string, argv ...string) (*peer, error) {
	if err := os.MkdirAll(filepath.Join(dir, "r"), 0o711); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	engine := exec.Command(argv[0], argv[1:]...)
	engine.Stdout, engine.Stderr = log, log
	engine.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := engine.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- engine.Wait() }()
	p := &peer{name: name, client: client, env: append(os.Environ(), "DOCKER_HOST=", "DOCKER_CONFIG="+dir)}
	p.stop = func() {
		_ = engine.Process.Signal(syscall.SIGTERM)
		<-ended
	}
	for deadline := time.Now().Add(30 * time.Second); p.run("version") != nil; time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			said, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("%s ended: %v\n%s", argv[0], err, said)
		default:
		}
		if time.Now().After(deadline) {
			p.stop()
			return nil, fmt.Errorf("%s does not answer", argv[0])
		}
	}
	return p, nil
}

// busyboxTar writes a root file system of Debian's static busybox.
func busyboxTar(path string) error {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w (Debian: busybox-static)", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))},
		{Typeflag: tar.TypeSymlink, Name: "bin/true", Linkname: "busybox"},
		{Typeflag: tar.TypeSymlink, Name: "bin/sleep", Linkname: "busybox"},
		{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "busybox"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		if h.Size > 0 {
			if _, err := w.Write(program); err != nil {
				return err
			}
		}
	}
	return w.Close()
}
