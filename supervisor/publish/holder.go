package publish

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// searchTime bounds the search for the holder of a port: a machine may have very many
// processes. A variable for slow machines' tests.
var searchTime = time.Second

// holder says which process has the port, in parentheses, or nothing if that is not to be
// found out, or is a shim: whose container that is the engine knows.
func holder(proto string, port uint16) string {
	deadline := time.Now().Add(searchTime)
	sockets := map[string]bool{}
	files := []string{proto, proto + "6"}
	if proto == "sctp" {
		files = []string{"sctp/eps"} // both families
	}
	for _, file := range files {
		data, err := os.ReadFile("/proc/net/" + file)
		if err == nil {
			holding(data, proto, port, sockets)
		}
	}
	if len(sockets) == 0 {
		return ""
	}
	procs, err := os.Open("/proc")
	if err != nil {
		return ""
	}
	defer procs.Close()
	for time.Now().Before(deadline) {
		names, err := procs.Readdirnames(256)
		if err != nil {
			return ""
		}
		for _, pid := range names {
			if pid[0] < '1' || pid[0] > '9' || time.Now().After(deadline) || !holds(pid, sockets) {
				continue
			}
			name, _ := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			if name = bytes.TrimSpace(name); string(name) == "berth-shim" {
				return ""
			}
			return fmt.Sprintf(" (by process %s, %s)", pid, name)
		}
	}
	return ""
}

// holding collects the inodes of sockets in a table of proc_pid_net(5) that can be in the
// way of binding port.
func holding(table []byte, proto string, port uint16, inodes map[string]bool) {
	for line := range bytes.Lines(table) {
		f := bytes.Fields(line)
		if proto == "sctp" { // ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS
			if len(f) > 7 && string(f[5]) == strconv.Itoa(int(port)) {
				inodes["socket:["+string(f[7])+"]"] = true
			}
			continue
		}
		if len(f) < 10 || proto == "tcp" && string(f[3]) != "0A" { // LISTEN
			continue
		}
		_, number, ok := bytes.Cut(f[1], []byte(":"))
		n, err := strconv.ParseUint(string(number), 16, 16)
		if ok && err == nil && uint16(n) == port {
			inodes["socket:["+string(f[9])+"]"] = true
		}
	}
}

// holds tells whether a process has one of the sockets open.
func holds(pid string, sockets map[string]bool) bool {
	dir := filepath.Join("/proc", pid, "fd")
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, fd := range names {
		if to, err := os.Readlink(filepath.Join(dir, fd)); err == nil && sockets[to] {
			return true
		}
	}
	return false
}
