package network

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth/kernel"
)

// newNamespace makes a network namespace with loopback up and with what setup does, which
// runs inside it, and a connection into it.
func newNamespace(setup func() error) (ns *os.File, c *conn, err error) {
	kernel.OnOwnThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("make a network namespace: %w", err)
			return
		}
		ns, c, err = hold()
		if err != nil {
			return
		}
		if err = c.do(setUp(1, "lo")); err == nil { // the first interface of every namespace
			err = setup()
		}
		if err != nil {
			ns.Close()
			c.close()
		}
	})
	return ns, c, err
}

// inNamespace runs f on a thread inside ns, with a connection into it.
func inNamespace(ns *os.File, f func(*conn) error) (err error) {
	kernel.OnOwnThread(func() {
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		var c *conn
		if c, err = dial(); err != nil {
			return
		}
		defer c.close()
		err = f(c)
	})
	return err
}

func hold() (*os.File, *conn, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, nil, err
	}
	c, err := dial()
	if err != nil {
		ns.Close()
		return nil, nil, err
	}
	return ns, c, nil
}

// sysctl writes /proc/sys/net/KEY of the calling thread's network namespace. Key is given
// with slashes. A key that the kernel does not have is no error if the value only turns
// something off or on that then is not there.
func sysctl(key, value string) error {
	path := filepath.Join("/proc/sys/net", key)
	if old, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(old)) == value {
		return nil // also where /proc/sys is read-only
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte(value))
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("set net.%s to %s: %w", strings.ReplaceAll(key, "/", "."), value, err)
	}
	return nil
}

func optionalSysctl(key, value string) error {
	if err := sysctl(key, value); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func readSysctl(key string) string {
	data, err := os.ReadFile(filepath.Join("/proc/sys/net", key))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// randomMAC is a locally administered unicast address.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac)
	mac[0] = mac[0]&^1 | 2
	return mac
}

func randomHex(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)[:n]
}
