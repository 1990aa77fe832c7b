package test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/testkit"
)

// held is what a process holds: descriptors, and of the engine goroutines.
type held struct{ engineFDs, shimFDs, goroutines int }

func (h held) String() string {
	return fmt.Sprintf("%d descriptors and %d goroutines of the engine, %d descriptors of the shim", h.engineFDs, h.goroutines, h.shimFDs)
}

func descriptors(pid int) int {
	found, _ := os.ReadDir(filepath.Join("/proc", itoa(pid), "fd"))
	return len(found)
}

// opened lists a process's descriptors, and what they are.
func opened(pid int) (all []string) {
	dir := filepath.Join("/proc", itoa(pid), "fd")
	found, _ := os.ReadDir(dir)
	for _, f := range found {
		what, _ := os.Readlink(filepath.Join(dir, f.Name()))
		all = append(all, f.Name()+" "+what)
	}
	return all
}

var goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)

// holdings counts what engine and shim have, the client that asks included.
func holdings(t *testing.T, e *testkit.Engine, shim int) held {
	t.Helper()
	text := exchange(t, strings.TrimPrefix(e.Host, "unix://"), "GET /debug/pprof/goroutine?debug=1 HTTP/1.0\r\n\r\n")
	m := goroutineTotal.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no profile: %.200q", text)
	}
	n, _ := strconv.Atoi(m[1])
	return held{descriptors(e.Pid()), descriptors(shim), n}
}

// parentOf is a process's parent.
func parentOf(t *testing.T, pid string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// stall is a registry that takes requests and answers none.
func stall(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn); conn.Close() }()
		}
	}()
	return l.Addr().String()
}

func TestClientsThatVanishLeaveNothing(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must("run", "-d", "--name", "silent", "--network", "none", "busybox", "sh", "-c", "head -c 4000000 /dev/zero >/big; echo ready; exec sleep 1000")
	testkit.Eventually(t, "the container is ready", func() bool { return e.Berth("logs", "silent").Stdout == "ready\n" })
	e.Must("run", "-di", "--name", "open", "--network", "none", "busybox", "cat")
	shim := parentOf(t, e.Must("inspect", "-f", "{{.State.Pid}}", "silent"))
	openShim := parentOf(t, e.Must("inspect", "-f", "{{.State.Pid}}", "open"))
	registry := stall(t)
	socket := strings.TrimPrefix(e.Host, "unix://")
	get := func(path string) string { return "GET /v1.41" + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }
	upgrade := func(path, body string) string {
		return fmt.Sprintf("POST /v1.41%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	half := func(path, kind, body string) string {
		return fmt.Sprintf("POST /v1.41%s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1000000\r\n\r\n%s", path, kind, body)
	}
	exec := func(path string) func() string {
		return func() string {
			text := exchange(t, socket, "POST /v1.41/containers/"+path+"/exec HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 62\r\n\r\n"+
				`{"Cmd":["cat"],"AttachStdin":true,"AttachStdout":true       }`+" ")
			m := regexp.MustCompile(`"Id":"([0-9a-f]{64})"`).FindStringSubmatch(text)
			if m == nil {
				t.Fatalf("exec: %q", text)
			}
			return upgrade("/exec/"+m[1]+"/start", `{}`)
		}
	}
	const tarBlock = "meta\x00"
	const slack = 3 // descriptors that the engine may close a moment later
	for _, c := range []struct {
		name    string
		many    int
		request func() string
		answer  bool // the head of an answer comes before the end
	}{
		{"logs -f", 200, func() string { return get("/containers/silent/logs?follow=1&stdout=1") }, true},
		{"events", 200, func() string { return get("/events") }, true},
		{"stats", 200, func() string { return get("/containers/silent/stats?stream=1") }, true},
		{"wait", 200, func() string { return upgrade("/containers/silent/wait?condition=removed", "") }, true},
		{"attach", 200, func() string {
			return upgrade("/containers/silent/attach?stream=1&stdout=1&stderr=1", "")
		}, true},
		{"attach without an upgrade", 100, func() string {
			return "POST /v1.41/containers/silent/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
		}, true},
		{"attach by websocket", 100, func() string {
			return "GET /v1.41/containers/silent/attach/ws?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
		}, true},
		{"exec", 40, exec("silent"), true},
		{"export", 40, func() string { return get("/containers/silent/export") }, false},
		{"archive", 40, func() string { return get("/containers/silent/archive?path=/big") }, true},
		{"save", 40, func() string { return get("/images/busybox/get") }, true},
		{"pull", 40, func() string {
			return "POST /v1.41/images/create?fromImage=" + registry + "/x&tag=y HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
		}, false},
		{"push", 20, func() string {
			return "POST /v1.41/images/busybox/push HTTP/1.1\r\nHost: x\r\nX-Registry-Auth: e30=\r\nContent-Length: 0\r\n\r\n"
		}, false},
		{"load", 40, func() string { return half("/images/load", "application/x-tar", tarBlock) }, false},
		{"import", 40, func() string { return half("/images/create?fromSrc=-", "application/x-tar", tarBlock) }, false},
		{"cp into it", 40, func() string {
			return strings.Replace(half("/containers/silent/archive?path=/", "application/x-tar", tarBlock), "POST", "PUT", 1)
		}, false},
		{"half a body", 200, func() string { return half("/containers/create", "application/json", `{"Image":`) }, false},
		{"half a head", 200, func() string { return "GET /v1.41/containers/json HTTP/1.1\r\nHos" }, false},
		{"nothing", 200, func() string { return "" }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := holdings(t, e, shim)
			conns := make([]net.Conn, c.many)
			for i := range conns {
				conn, err := net.Dial("unix", socket)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
				if _, err := io.WriteString(conn, c.request()); err != nil {
					t.Fatal(err)
				}
				conns[i] = conn
			}
			if c.answer {
				for _, conn := range conns {
					if line, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") && !strings.Contains(line, " 101 ") {
						t.Fatalf("%q %v", line, err)
					}
				}
			} else {
				// What the row before had left may have gone meanwhile.
				testkit.Eventually(t, "all are being served", func() bool { return descriptors(e.Pid()) >= before.engineFDs-slack+c.many })
			}
			for i, conn := range conns {
				if i%2 == 0 { // half of them close their side before they are gone
					_ = conn.(*net.UnixConn).CloseWrite()
				}
				conn.Close()
			}
			var after held
			gone := func() bool {
				after = holdings(t, e, shim)
				return after.engineFDs <= before.engineFDs+slack && after.goroutines <= before.goroutines+5 && after.shimFDs <= before.shimFDs+1
			}
			for deadline := time.Now().Add(time.Minute); !gone(); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("before %v, after %d clients %v\n%s\n%s", before, c.many, after, strings.Join(opened(e.Pid()), "\n"), busiest(t, socket))
				}
			}
		})
	}
	if strings.Contains(e.Log(), "level=ERROR") {
		t.Errorf("clients that vanish are no errors of the engine:\n%s", e.Log())
	}
	// What had its input taken away goes on, as with Docker.
	if got := e.Must("inspect", "-f", "{{.State.Running}}", "silent", "open"); got != "true\ntrue" {
		t.Errorf("running: %q", got)
	}
	if n := descriptors(openShim); n > 60 {
		t.Errorf("%d descriptors of another shim", n)
	}
	if left := strings.Count(e.Must("top", id[:12]), "cat"); left != 0 {
		t.Errorf("%d execs whose input has ended still run", left)
	}
}

// busiest are the places where most goroutines are.
func busiest(t *testing.T, socket string) string {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(exchange(t, socket, "GET /debug/pprof/goroutine?debug=1 HTTP/1.0\r\n\r\n"))), nil)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return fmt.Sprintf("%.4000s", text)
}

// The way of TLS connections is longer: the engine stands between client and shim.
func TestClientsThatVanishFromTLSLeaveNothing(t *testing.T) {
	ca := testkit.NewAuthority(t)
	cert := ca.Issue(time.Hour, "127.0.0.1")
	addr := freeAddress(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"-H", "tcp://" + addr, "--tlsverify", "--tlscacert", ca.Cert, "--tlscert", cert.Cert, "--tlskey", cert.Key}})
	e.Busybox()
	e.Must("run", "-d", "--name", "silent", "--network", "none", "busybox", "sleep", "1000")
	shim := parentOf(t, e.Must("inspect", "-f", "{{.State.Pid}}", "silent"))
	for name, request := range map[string]string{
		"attach":    "POST /v1.41/containers/silent/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
		"websocket": "GET /v1.41/containers/silent/attach/ws?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		"events":    "GET /v1.41/events HTTP/1.1\r\nHost: x\r\n\r\n",
		"handshake": "",
	} {
		t.Run(name, func(t *testing.T) {
			before := holdings(t, e, shim)
			for range 50 {
				tcp, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				_ = tcp.SetDeadline(time.Now().Add(time.Minute))
				if request == "" {
					_, _ = io.WriteString(tcp, "\x16\x03\x01")
				} else {
					conn := secured(t, tcp, ca, cert)
					if _, err := io.WriteString(conn, request); err != nil {
						t.Fatal(err)
					}
					if _, err := conn.Read(make([]byte, 8)); err != nil {
						t.Fatal(err)
					}
				}
				_ = tcp.(*net.TCPConn).SetLinger(0) // a reset, as when a machine is switched off
				tcp.Close()
			}
			testkit.Eventually(t, "all is let go of", func() bool {
				after := holdings(t, e, shim)
				return after.engineFDs <= before.engineFDs+3 && after.goroutines <= before.goroutines+5 && after.shimFDs <= before.shimFDs+1
			})
		})
	}
}

func secured(t *testing.T, conn net.Conn, ca *testkit.Authority, cert testkit.Certificate) *tls.Conn {
	t.Helper()
	c := tls.Client(conn, &tls.Config{RootCAs: ca.Pool, Certificates: []tls.Certificate{cert.Pair}, ServerName: "127.0.0.1"})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}
