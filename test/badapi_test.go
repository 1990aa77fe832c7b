package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/testkit"
)

// badRequest is a line of testdata/badapi.tsv.
type badRequest struct {
	name, request string
	headers       []string
	body          string
	ours, docker  string // status and message
}

func badRequests(t *testing.T) (all []badRequest) {
	t.Helper()
	data, err := os.ReadFile("testdata/badapi.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := append(strings.Split(line, "\t"), "", "")
		r := badRequest{name: f[0], request: f[1], body: f[3], ours: f[4] + " " + f[5]}
		if f[2] != "" {
			r.headers = strings.Split(f[2], "|")
		}
		if r.docker = f[6] + " " + f[7]; f[6] == "" {
			r.docker = r.ours
		}
		all = append(all, r)
	}
	if len(all) < 80 {
		t.Fatalf("only %d requests", len(all))
	}
	return all
}

// exchange sends bytes as they are and returns all that is answered until the end.
func exchange(t *testing.T, socket, text string) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	go func() { _, _ = io.WriteString(conn, text) }() // a refusal may come before all is read
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

// ask sends a request, whatever it looks like, and returns status and message.
func (r badRequest) ask(t *testing.T, socket string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(r.request + " HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n")
	for _, h := range r.headers {
		b.WriteString(h + "\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(r.body), r.body)
	text := exchange(t, socket, b.String())
	method, _, _ := strings.Cut(r.request, " ")
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), &http.Request{Method: method})
	if err != nil {
		return "no answer: " + text
	}
	defer response.Body.Close()
	data, _ := io.ReadAll(response.Body)
	var problem struct{ Message string }
	message := string(bytes.TrimSpace(data))
	switch {
	case response.StatusCode < 300:
		message = "(ok)"
	case json.Unmarshal(data, &problem) == nil && problem.Message != "":
		message = strings.TrimSpace(problem.Message)
	case message == "":
		message = "(empty)"
	}
	return strconv.Itoa(response.StatusCode) + " " + objectID.ReplaceAllString(message, "ID")
}

var objectID = regexp.MustCompile(`[0-9a-f]{64}`)

func sameAnswer(got, want string) bool {
	if begin, open := strings.CutSuffix(want, "…"); open {
		return strings.HasPrefix(got, begin)
	}
	return got == want
}

func TestBadRequestsAreAnsweredAsByDocker(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "web", "--network", "none", "-v", "data:/data", "busybox", "sleep", "1000")
	e.Must("create", "--name", "old", "--network", "none", "busybox", "true")
	socket := strings.TrimPrefix(e.Host, "unix://")
	ping := exchange(t, socket, "GET /_ping HTTP/1.0\r\n\r\n")
	newest := regexp.MustCompile(`(?i)api-version: (\S+)`).FindStringSubmatch(ping)[1]
	oldest := e.Must("version", "--format", "{{.Server.MinAPIVersion}}")
	ours := e.Must("info", "--format", "{{.NCPU}}")
	for _, r := range badRequests(t) {
		want := processors(strings.NewReplacer("NEWEST", newest, "OLDEST", oldest).Replace(r.ours), ours)
		if got := r.ask(t, socket); !sameAnswer(got, want) {
			t.Errorf("%s: %s\n got %s\nwant %s", r.name, r.request, got, want)
		}
	}
	if _, err := os.Stat("/usr/sbin/dockerd"); err != nil || testing.Short() {
		return // what dockerd answers was seen once; here it is only seen again
	}
	d := testkit.Dockerd(t)
	d.Must("import", "-c", `CMD ["sh"]`, testkit.BusyboxTar(t), "busybox:latest")
	d.Must("run", "-d", "--name", "web", "--network", "none", "--ulimit", "nofile=1024:1024", "-v", "data:/data", "busybox", "sleep", "1000")
	d.Must("create", "--name", "old", "--network", "none", "busybox", "true")
	defer d.Do("rm", "-f", "web", "old")
	if docker := d.Must("version", "--format", "{{.Server.APIVersion}}"); docker != "1.41" {
		return // the table is about another one
	}
	theirs := d.Must("info", "--format", "{{.NCPU}}")
	for _, r := range badRequests(t) {
		if strings.HasPrefix(r.docker, "-") {
			continue
		}
		r.docker = processors(r.docker, theirs)
		if got := r.ask(t, d.Dir+"/s"); !sameAnswer(got, r.docker) {
			t.Errorf("dockerd: %s: %s\n got %s\nlist %s", r.name, r.request, got, r.docker)
		}
	}
}

// processors puts an engine's own number of them into a line of the table, which says 2.
func processors(line, number string) string {
	return strings.ReplaceAll(line, "2.00, as there are only 2 CPUs", number+".00, as there are only "+number+" CPUs")
}

// What HTTP allows and what it does not, in bytes.
func TestOddHTTPIsServedOrRefused(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "web", "--network", "none", "busybox", "sh", "-c", "while read l; do echo got $l; done; sleep 1000")
	e.Must("create", "--name", "cat", "-i", "--network", "none", "busybox", "cat")
	socket := strings.TrimPrefix(e.Host, "unix://")
	const end = "Connection: close\r\n\r\n"
	big := `{"Image":"busybox","Labels":{"a":"` + strings.Repeat("x", 9<<20) + `"}}`
	for _, c := range []struct{ name, text, want string }{
		{"HTTP/1.0", "GET /_ping HTTP/1.0\r\n\r\n", `^HTTP/1\.0 200 OK(?s:.*)OK$`},
		{"HTTP/1.0 that keeps alive", "GET /_ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /_ping HTTP/1.0\r\n\r\n", `(?s)200 OK.*OK.*200 OK.*OK$`},
		{"one after another without waiting", "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nGET /_ping HTTP/1.1\r\nHost: x\r\n" + end, `(?s)^HTTP/1.1 200.*HTTP/1.1 404.*HTTP/1.1 200.*OK$`},
		{"a body that is announced and waited for", "POST /v1.41/volumes/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 14\r\n" + end + `{"Name":"v10"}`, `(?s)^HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201`},
		{"an expectation of something else", "POST /v1.41/volumes/create HTTP/1.1\r\nHost: x\r\nExpect: coffee\r\nContent-Length: 0\r\n" + end, `^HTTP/1.1 417`},
		{"a body in chunks", "POST /v1.41/volumes/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\n" + end + "5\r\n{\"Nam\r\n9\r\ne\":\"v11\"}\r\n0\r\n\r\n", `^HTTP/1.1 201`},
		{"broken chunks", "POST /v1.41/volumes/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" + end + "zz\r\n", `^HTTP/1.1 400`},
		{"an unknown transfer encoding", "POST /v1.41/volumes/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n" + end, `^HTTP/1.1 501`},
		{"two lengths", "POST /v1.41/volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + end + "ab", `^HTTP/1.1 400`},
		{"a negative length", "POST /v1.41/volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n" + end, `^HTTP/1.1 400`},
		{"no host", "GET /_ping HTTP/1.1\r\n" + end, `^HTTP/1.1 400`},
		{"a host that is none", "GET /_ping HTTP/1.1\r\nHost: a/b\r\n" + end, `^HTTP/1.1 400`},
		{"an absolute address", "GET http://x/_ping HTTP/1.1\r\nHost: x\r\n" + end, `^HTTP/1.1 200`},
		{"CONNECT", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n" + end, `^HTTP/1.1 404`},
		{"an asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n" + end, `^HTTP/1.1 200`},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", `^HTTP/1.1 400`},
		{"HTTP/2 without an upgrade", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", `^HTTP/1.1 (400|404|505)`},
		{"noise", "\x00\x01\x02\r\n\r\n", `^HTTP/1.1 400`},
		{"a head that is too large", "GET /_ping HTTP/1.1\r\nHost: x\r\nX-Big: " + strings.Repeat("x", 2<<20) + "\r\n" + end, `^HTTP/1.1 431`},
		{"a query that is large", "GET /_ping?x=" + strings.Repeat("y", 512<<10) + " HTTP/1.1\r\nHost: x\r\n" + end, `^HTTP/1.1 200`},
		{"a query of very many parts", "GET /v1.41/containers/json?" + strings.Repeat("all=1&", 100<<10) + " HTTP/1.1\r\nHost: x\r\n" + end, `^HTTP/1.1 (200|400)`},
		{"a body that is too large", fmt.Sprintf("POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", len(big)) + end + big, `(?s)^HTTP/1.1 400.*larger than`},
		{"JSON that is very deep", "POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20000\r\n" + end + strings.Repeat("[", 20000), `^HTTP/1.1 400`},
		{"h2c for a session", "POST /session HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", `^HTTP/1.1 (101|501)`},
		{"h2c for gRPC", "POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", `^HTTP/1.1 (101|501)`},
		{"what follows an upgrade is input", "POST /v1.41/containers/web/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", `^HTTP/1.1 101`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got string
			switch {
			case strings.HasPrefix(c.want, `^HTTP/1.1 101`), strings.Contains(c.want, "101|"):
				got = head(t, socket, c.text)
			default:
				got = exchange(t, socket, c.text)
			}
			if !regexp.MustCompile(c.want).MatchString(got) {
				t.Errorf("got %.300q, want %s", got, c.want)
			}
		})
	}
	// A request in an attached stream is the container's input, not ours.
	e.Must("start", "cat")
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const inner = "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
	if _, err := io.WriteString(conn, "POST /v1.41/containers/cat/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"+inner); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	if said, _ := io.ReadAll(r); !strings.Contains(string(said), inner) || strings.Contains(string(said), "200 OK") {
		t.Errorf("%q", said)
	}
}

// head is an answer's head only: the connection would stay open.
func head(t *testing.T, socket, text string) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return line
}
