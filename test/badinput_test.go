package test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/testkit"
)

// refused checks that a command ended with code and one clear line that matches want.
func refused(t *testing.T, r testkit.Result, code int, want string) {
	t.Helper()
	var lines []string
	progress := regexp.MustCompile(`^Unable to find image|^See 'berth |: Pulling from |^[0-9a-f]{12}: `)
	for _, line := range strings.Split(strings.TrimSpace(r.Stderr), "\n") {
		if !progress.MatchString(line) {
			lines = append(lines, line)
		}
	}
	if r.Code != code || len(lines) != 1 || !regexp.MustCompile(want).MatchString(lines[0]) {
		t.Errorf("exit %d (want %d), want one line like %q, got:\n%s", r.Code, code, want, r.Stderr)
	}
}

func TestBadInputOfCommands(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("create", "--name", "taken", "--network", "none", "busybox")
	e.Must("run", "-d", "--name", "runs", "--network", "none", "busybox", "sleep", "1000")
	envFile := filepath.Join(e.Dir, "env")
	write(t, envFile, "GOOD=1\nBAD NAME=2\n")
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"run --pull never nosuch", 125, `No such image: nosuch`},
		{"run UPPER", 125, `invalid reference format: repository name.* must be lowercase`},
		{"run busybox:bad:tag", 125, `invalid reference format`},
		{"run busybox@sha256:12", 125, `invalid reference format|invalid checksum digest length`},
		{"run --pull never busybox@sha256:" + strings.Repeat("0", 64), 125, `No such image`},
		{"run busybox:.bad", 125, `invalid reference format`},
		{"pull UPPER", 1, `must be lowercase`},
		{"tag busybox UPPER", 1, `must be lowercase`},
		{"tag nosuch other", 1, `No such image: nosuch`},
		{"rmi nosuch", 1, `No such image: nosuch`},
		{"history nosuch", 1, `No such image: nosuch`},
		{"push nosuch", 1, `An image does not exist locally with the tag: nosuch|does not exist`},
		{"save nosuch", 1, `No such image: nosuch|cowardly`},
		{"create --name taken busybox", 1, `The container name "/taken" is already in use by container`},
		{"create --name a/b busybox", 1, `Invalid container name \(a/b\)`},
		{"rename taken runs", 1, `The container name "/runs" is already in use`},
		{"rename taken .bad", 1, `Invalid container name`},
		{"run --rm --network none busybox nosuch", 127, `exec: "nosuch": executable file not found in \$PATH`},
		{"run --rm --network none busybox /etc/passwd", 126, `permission denied`},
		{"run --rm --network none -u ghost busybox true", 125, `unable to find user ghost: no matching entries in passwd file`},
		{"run --rm --network none -u 0:ghosts busybox true", 125, `unable to find group ghosts`},
		{"run --rm --network none --group-add ghosts busybox true", 125, `[Uu]nable to find group ghosts`},
		{"exec -w rel runs true", 1, `the working directory 'rel' is invalid`},
		{"exec taken true", 1, `container .* is not running`},
		{"exec nosuch true", 1, `No such container: nosuch`},
		{"stop nosuch", 1, `No such container: nosuch`},
		{"attach taken", 1, `cannot attach to a stopped container`},
		{"kill taken", 1, `is not running`},
		{"kill -s NOPE runs", 1, `[Ii]nvalid signal: NOPE`},
		{"rm runs", 1, `container is running`},
		{"pause taken", 1, `is not running`},
		{"top taken", 1, `is not running`},
		{"run --bogus busybox", 125, `unknown flag: --bogus`},
		{"ps --bogus", 125, `unknown flag: --bogus`},
		{"run -m 12q busybox", 125, `invalid argument "12q" for "-m, --memory" flag`},
		{"run --network none -m 1k busybox", 125, `Minimum memory limit allowed is 6MB`},
		{"run --shm-size x busybox", 125, `invalid argument "x" for "--shm-size"`},
		{"run --cpus 1000 --network none busybox", 125, `Range of CPUs is from 0.01 to`},
		{"run --env-file /no/such busybox", 125, `no such file or directory`},
		{"run --env-file " + envFile + " busybox", 125, `variable 'BAD NAME' contains whitespaces`},
		{"run --ulimit nofile=9:1 busybox", 125, `ulimit soft limit must be less than or equal to hard limit`},
		{"run -v /a:/b:/c:/d busybox", 125, `invalid volume specification|invalid spec`},
		{"run -v rel/path:/x busybox", 125, `rel/path`},
		{"run --mount type=bind,dst=/x busybox", 125, `field Source must not be empty`},
		{"run --tmpfs rel --network none busybox", 125, `rel`},
		{"create --device /dev/nosuch:/dev/x:q busybox", 125, `/dev/nosuch|q`},
		{"run --stop-signal NOPE --network none busybox", 125, `invalid signal: NOPE`},
		{"run --cap-add NOPE --network none busybox", 125, `NOPE`},
		{"run --restart sometimes busybox", 125, `invalid restart policy`},
		{"run --detach-keys nope -it busybox", 125, `invalid detach escape keys provided: nope`},
		{"run", 1, `requires at least 1 argument`},
		{"ps --filter nope=1", 1, `invalid filter 'nope'`},
		{"images --filter nope=1", 1, `invalid filter 'nope'`},
		{"ps --format {{.Nope}}", 1, `template: .*Nope`},
		{"ps --format {{", 1, `template`},
		{"inspect -f {{.Nope}} runs", 1, `Nope`},
		{"logs --since yesterday runs", 1, `yesterday`},
		{"logs --tail", 125, `flag needs an argument: --tail`},
		{"events --since x --until 0s", 1, `x`},
		{"nosuchcommand", 1, `unknown command: berth nosuchcommand`},
		{"container nosuchcommand", 1, `unknown command: berth container nosuchcommand`},
		{"import /no/such.tar", 1, `/no/such.tar: no such file or directory`},
		{"load -i /no/such.tar", 1, `/no/such.tar: no such file or directory`},
		{"search 127.0.0.1:1/busybox", 1, `connection refused`},
		{"container cp x:/y .", 1, `No such container: x`},
		{"--context nosuch ps", 1, `context "nosuch" does not exist`},
		{"-H tcp://127.0.0.1:1 ps", 1, `Cannot connect to the engine at tcp://127.0.0.1:1`},
		{"-H tcp://127.0.0.1:1 events", 1, `Cannot connect to the engine at tcp://127.0.0.1:1`},
		{"-H tcp://127.0.0.1:1 wait x", 1, `Cannot connect to the engine at tcp://127.0.0.1:1`},
		{"-H tcp://127.0.0.1:1 version -f {{.Server.Version}}", 1, `Cannot connect to the engine at tcp://127.0.0.1:1`},
		{"-H tcp://127.0.0.1:1 run busybox", 125, `Cannot connect to the engine at tcp://127.0.0.1:1`},
		{"-H tcp://127.0.0.1:1 exec x true", 1, `Cannot connect to the engine at tcp://127.0.0.1:1`},
		{"-H unix:///no/such.sock ps", 1, `Cannot connect to the engine at unix:///no/such.sock`},
		{"-H gopher://x ps", 1, `invalid host "gopher://x"`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			refused(t, e.Berth(strings.Fields(tt.args)...), tt.code, tt.want)
		})
	}
	// Docker's engine writes these into the stream of standard output.
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"exec runs nosuch", 127, `exec: "nosuch": executable file not found in $PATH`},
		{"exec runs /etc/passwd", 126, `permission denied`},
		{"exec -u ghost runs true", 126, `unable to find user ghost`},
	} {
		r := e.Berth(strings.Fields(tt.args)...)
		if said := strings.TrimSpace(r.Stdout + r.Stderr); r.Code != tt.code || strings.Contains(said, "\n") || !strings.Contains(said, tt.want) {
			t.Errorf("%s: exit %d (want %d), %q", tt.args, r.Code, tt.code, said)
		}
	}
	if left := e.Must("ps", "-a", "--format", "{{.Names}}"); left != "runs\ntaken" {
		t.Errorf("refused commands left containers: %q", left)
	}
}

func TestBadInputGetsDockersStatus(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must("create", "--name", "taken", "--network", "none", "busybox")
	other := id
	for other[0] != id[0] || other == id {
		other = e.Must("create", "--network", "none", "busybox")
	}
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/containers/nosuch/json", "", 404, "No such container: nosuch"},
		{"GET", "/containers/" + id[:1] + "/json", "", 400, "multiple IDs found with provided prefix: " + id[:1]},
		{"GET", "/images/nosuch/json", "", 404, "No such image: nosuch"},
		{"GET", "/images/UPPER/json", "", 400, "invalid reference format"},
		{"POST", "/containers/create?name=taken", `{"Image":"busybox"}`, 409, "already in use"},
		{"POST", "/containers/create?name=a%2Fb", `{"Image":"busybox"}`, 400, "Invalid container name"},
		{"POST", "/containers/create", `{"Image":"nosuch"}`, 404, "No such image: nosuch"},
		{"POST", "/containers/create", `{"Image":`, 400, ""},
		{"POST", "/containers/create", `{"Image":7}`, 400, ""},
		{"POST", "/containers/create", ``, 400, ""},
		{"POST", "/containers/taken/kill", "", 409, "is not running"},
		{"POST", "/containers/taken/stop", "", 304, ""},
		{"POST", "/containers/taken/pause", "", 409, "is not running"},
		{"POST", "/containers/taken/rename?name=", "", 400, "may be empty"},
		{"POST", "/containers/taken/exec", `{"Cmd":["true"]}`, 409, "is not running"},
		{"POST", "/containers/taken/wait?condition=never", "", 400, "invalid condition"},
		{"POST", "/exec/nosuch/start", "{}", 404, "No such exec instance: nosuch"},
		{"GET", "/containers/json?filters=x", "", 400, "filter"},
		{"GET", `/containers/json?filters={"nope":["1"]}`, "", 400, "invalid filter 'nope'"},
		{"GET", "/containers/taken/logs", "", 400, "you must choose at least one stream"},
		{"POST", "/images/create?fromImage=UPPER&tag=1", "", 400, "invalid reference format"},
		{"POST", "/images/busybox/tag?repo=UPPER", "", 400, "invalid reference format"},
		{"DELETE", "/images/nosuch", "", 404, "No such image: nosuch"},
		{"DELETE", "/images/busybox", "", 409, ""},
		{"GET", "/v1.12/version", "", 400, "too old"},
		{"GET", "/v9.99/version", "", 400, "too new"},
		{"GET", "/nosuch", "", 404, "page not found"},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			status, message, body := ask(t, e, tt.method, strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22").Replace(tt.path), tt.body)
			if status != tt.status || !strings.Contains(message, tt.want) || tt.status >= 400 && (message == "" || strings.Contains(message, "\n")) {
				t.Errorf("status %d (want %d), message %q (want %q), body %s", status, tt.status, message, tt.want, body)
			}
		})
	}
}

// ask puts one request to the API.
func ask(t *testing.T, e *testkit.Engine, method, path, body string) (status int, message, answer string) {
	t.Helper()
	socket := strings.TrimPrefix(e.Host, "unix://")
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://engine"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Message string }
	_ = json.Unmarshal(data, &said) // an answer without a message has none
	return resp.StatusCode, said.Message, string(data)
}

// blob is content with its name.
type blob struct {
	data   []byte
	digest string
}

func blobOf(data []byte) blob {
	sum := sha256.Sum256(data)
	return blob{data, "sha256:" + hex.EncodeToString(sum[:])}
}

// flawed is a registry on loopback with one image, "good", and others that are wrong in one way.
type flawed struct {
	addr                    string
	layer, config, manifest blob
}

func newFlawedRegistry(t *testing.T, layerTar []byte) *flawed {
	t.Helper()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(layerTar); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	f := &flawed{layer: blobOf(zipped.Bytes())}
	f.config = blobOf(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Cmd":["true"]},"rootfs":{"type":"layers","diff_ids":[%q]}}`, blobOf(layerTar).digest))
	f.manifest = blobOf(fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":%d}]}`,
		f.config.digest, len(f.config.data), f.layer.digest, len(f.layer.data)))
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.addr = strings.TrimPrefix(server.URL, "http://")
	return f
}

func (f *flawed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		return
	}
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
	fault := func(status int, code, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
	}
	switch name {
	case "locked":
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		fault(401, "UNAUTHORIZED", "authentication required")
		return
	case "forbidden":
		fault(403, "DENIED", "requested access to the resource is denied")
		return
	case "missing":
		fault(404, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	case "broken":
		fault(500, "UNKNOWN", "the disk is on fire")
		return
	case "proxy":
		w.WriteHeader(502)
		io.WriteString(w, "<html>Bad\nGateway</html>")
		return
	}
	send := func(mediaType string, b blob, data []byte) {
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Docker-Content-Digest", b.digest)
		w.Header().Set("Content-Length", itoa(len(b.data)))
		if r.Method != http.MethodHead {
			_, _ = w.Write(data)
		}
	}
	switch {
	case strings.HasPrefix(rest, "manifests/"):
		if name == "garbage" {
			send("application/vnd.oci.image.manifest.v1+json", blobOf([]byte("{nonsense")), []byte("{nonsense"))
			return
		}
		data := f.manifest.data
		if name == "swapped" { // asked by digest, something else comes
			data = bytes.Replace(data, []byte(`"schemaVersion":2`), []byte(`"schemaVersion":3`), 1)
		}
		send("application/vnd.oci.image.manifest.v1+json", f.manifest, data)
	case rest == "blobs/"+f.config.digest:
		send("application/vnd.oci.image.config.v1+json", f.config, f.config.data)
	case rest == "blobs/"+f.layer.digest:
		data := bytes.Clone(f.layer.data)
		switch name {
		case "corrupt":
			data[len(data)/2] ^= 1
		case "truncated":
			data = data[:len(data)/2]
		case "nolayer":
			fault(404, "BLOB_UNKNOWN", "blob unknown to registry")
			return
		}
		send("application/octet-stream", f.layer, data)
	default:
		fault(404, "NAME_UNKNOWN", "repository name not known to registry")
	}
}

// tarOf makes a tar of entries; a directory's name ends in a slash.
func tarOf(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		h.Mode = 0o755
		text := ""
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			h.Typeflag, text = tar.TypeReg, "escaped"
			if h.Size > 0 {
				text = strings.Repeat("0123456789abcdef", int(h.Size)/16)
			}
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBadInputOfRegistries(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--max-download-attempts=2"}})
	f := newFlawedRegistry(t, tarOf(t, tar.Header{Name: "file", Size: 1 << 20}))
	down := freeAddress(t)
	zeros := "sha256:" + strings.Repeat("0", 64)
	for _, tt := range []struct {
		ref, want string
		run       bool // pulls on the way
		status    int  // 200: the failure comes after the head, in the stream
	}{
		{down + "/any:1", `connection refused`, true, 503},
		{f.addr + "/locked", `(?i)unauthorized|authentication required|no basic auth`, false, 401},
		{f.addr + "/forbidden", `denied`, false, 404},
		{f.addr + "/missing:9", `not found|manifest unknown`, true, 404},
		{f.addr + "/missing@" + zeros, `not found|manifest unknown`, false, 404},
		{f.addr + "/broken", `500|the disk is on fire`, false, 503},
		{f.addr + "/proxy", `502`, false, 503},
		{f.addr + "/garbage", `manifest`, false, 200},
		{f.addr + "/swapped@" + f.manifest.digest, `digest`, false, 200},
		{f.addr + "/corrupt", f.layer.digest + `|digest|checksum`, true, 200},
		{f.addr + "/truncated", `unexpected EOF|truncated|short|ended`, false, 200},
		{f.addr + "/nolayer", `blob unknown|not found`, false, 200},
	} {
		t.Run(strings.TrimPrefix(tt.ref, f.addr+"/"), func(t *testing.T) {
			r := e.Berth("pull", tt.ref)
			refused(t, r, 1, tt.want)
			query := url.Values{"fromImage": {tt.ref}}
			if !strings.ContainsAny(strings.TrimPrefix(tt.ref, f.addr), ":@") {
				query.Set("tag", "latest") // no tag at all asks for every one of them
			}
			status, message, body := ask(t, e, "POST", "/images/create?"+query.Encode(), "")
			if status != tt.status || (status == 200) == (message != "") || status == 200 && !strings.Contains(body, `"errorDetail":{"message":"`) {
				t.Errorf("status %d (want %d): %s", status, tt.status, body)
			}
			if tt.run {
				refused(t, e.Berth("run", "--rm", "--network", "none", tt.ref), 125, tt.want)
			}
			if left := e.Must("images", "-aq"); left != "" {
				t.Errorf("a failed pull left images: %q", left)
			}
			testkit.Eventually(t, "a failed pull leaves nothing", func() bool { return len(leftovers(e)) == 0 })
		})
	}
	// The engine is none the worse for it.
	e.Must("pull", f.addr+"/good")
	e.Must("rmi", f.addr+"/good")
}

// leftovers lists what lies in the staging areas of the engine. Partial blobs are kept for
// the next try to go on with; they are not visible as anything.
func leftovers(e *testkit.Engine) (names []string) {
	for _, dir := range []string{"layers/staging"} { // trash is emptied behind the answer
		entries, _ := os.ReadDir(filepath.Join(e.DataRoot, dir))
		for _, entry := range entries {
			names = append(names, dir+"/"+entry.Name())
		}
	}
	return names
}

func TestBadInputOfArchives(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	outside := filepath.Join(e.Dir, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 12)
	target := strings.TrimPrefix(filepath.Join(outside, "file"), "/")
	for _, tt := range []struct {
		name    string
		entries []tar.Header
		refused bool // else it is unpacked inside the root
	}{
		{"dots", []tar.Header{{Name: up + target}}, true},
		{"dots in the middle", []tar.Header{{Name: "a/b/" + up + target}}, true},
		{"an absolute name", []tar.Header{{Name: "/" + target}}, false},
		{"through an absolute symlink", []tar.Header{{Name: "link", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "link/file"}}, false},
		{"through a relative symlink", []tar.Header{{Name: "link", Typeflag: tar.TypeSymlink, Linkname: up + strings.TrimPrefix(outside, "/")}, {Name: "link/file"}}, false},
		{"a hard link to outside", []tar.Header{{Name: "link", Typeflag: tar.TypeLink, Linkname: up + "etc/passwd"}}, true},
		{"a hard link to an absolute path", []tar.Header{{Name: "link", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}}, true},
		{"a hard link through a symlink", []tar.Header{{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "mine", Typeflag: tar.TypeLink, Linkname: "link/passwd"}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := tarOf(t, tt.entries...)
			path := filepath.Join(e.Dir, "bad.tar")
			write(t, path, string(data))
			layer := blobOf(data)
			config := blobOf(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, layer.digest))
			archive := filepath.Join(e.Dir, "archive.tar")
			write(t, archive, string(dockerArchive(t, config, layer, "archive:bad")))
			for _, r := range []testkit.Result{e.Berth("import", path, "imported:bad"), e.Berth("load", "-i", archive)} {
				if tt.refused {
					refused(t, r, 1, `.`)
				} else if r.Code != 0 && strings.Count(r.Stderr, "\n") != 1 {
					t.Errorf("exit %d, %q", r.Code, r.Stderr)
				}
			}
			if left := e.Must("images", "-aq"); tt.refused && left != "" {
				t.Errorf("images: %q", left)
			}
			for _, image := range strings.Fields(e.Must("images", "-aq")) {
				e.Must("rmi", "-f", image)
			}
			if found, _ := os.ReadDir(outside); len(found) > 0 {
				t.Errorf("written outside: %v", found)
			}
			if parts := leftovers(e); len(parts) > 0 {
				t.Errorf("left %q", parts)
			}
		})
	}
	for name, data := range map[string][]byte{
		"text":      []byte("this is not a tar archive, but a text that is long enough to look like a block of something\n"),
		"empty":     nil,
		"truncated": tarOf(t, tar.Header{Name: "file", Size: 4096})[:2048],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(e.Dir, "bad.tar")
			write(t, path, string(data))
			refused(t, e.Berth("load", "-i", path), 1, `.`)
			if name != "empty" { // an empty root file system is one
				refused(t, e.Berth("import", path, "imported:bad"), 1, `.`)
			}
			if left := e.Must("images", "-aq"); name != "empty" && left != "" {
				t.Errorf("images: %q", left)
			}
		})
	}
	t.Run("a layer that is not the one its configuration names", func(t *testing.T) {
		data := tarOf(t, tar.Header{Name: "file"})
		config := blobOf(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, blobOf(nil).digest))
		path := filepath.Join(e.Dir, "archive.tar")
		write(t, path, string(dockerArchive(t, config, blobOf(data), "archive:bad")))
		refused(t, e.Berth("load", "-i", path), 1, `sha256`)
	})
}

// dockerArchive is what docker save would write of an image with one layer.
func dockerArchive(t *testing.T, config, layer blob, tag string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"config.json", config.data},
		{"layer.tar", layer.data},
		{"manifest.json", fmt.Appendf(nil, `[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, tag)},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBadInputOfAFullDisk(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	if err := syscall.Mount("tmpfs", e.DataRoot, "tmpfs", 0, "size=32m,mode=711"); err != nil {
		t.Skipf("a tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		for _, id := range strings.Fields(e.Berth("ps", "-aq").Stdout) {
			e.Berth("rm", "-f", id)
		}
		e.Stop()
		if err := syscall.Unmount(e.DataRoot, 0); err != nil {
			t.Errorf("unmount: %v", err)
			_ = syscall.Unmount(e.DataRoot, syscall.MNT_DETACH)
		}
	})
	e.Start()
	e.Busybox()
	f := newFlawedRegistry(t, tarOf(t, tar.Header{Name: "file", Size: 4 << 20}))
	tarball := filepath.Join(e.Dir, "big.tar")
	write(t, tarball, string(tarOf(t, tar.Header{Name: "file", Size: 4 << 20})))
	running := e.Must("run", "-d", "--name", "before", "--network", "none", "busybox", "sleep", "1000")
	e.Must("create", "--name", "spare", "--network", "none", "busybox")
	e.Must("volume", "create", "old")
	before := e.Must("ps", "-aq", "--no-trunc")
	filler := filepath.Join(e.DataRoot, "filler")
	fill(t, filler)
	const cause = `no space left on device`
	refused(t, e.Berth("pull", f.addr+"/good"), 1, cause)
	refused(t, e.Berth("import", tarball, "big"), 1, cause)
	refused(t, e.Berth("run", "--network", "none", "busybox", "true"), 125, cause)
	if got := e.Must("images", "--format", "{{.Repository}}"); got != "busybox" {
		t.Errorf("images: %q", got)
	}
	if got := e.Must("ps", "-aq", "--no-trunc"); got != before {
		t.Errorf("containers: %q", got)
	}
	if got := e.Must("exec", "before", "echo", "fine"); got != "fine" {
		t.Errorf("exec: %q", got)
	}
	if parts := leftovers(e); len(parts) > 0 {
		t.Errorf("left %q", parts)
	}
	// An engine starts all the same, and what it removes is removed, if others leave it no byte.
	e.Stop()
	e.Start()
	fill(t, filler+"2")
	if got := e.Must("ps", "-aq", "--no-trunc", "--filter", "status=running"); got != running {
		t.Errorf("containers: %q", got)
	}
	e.Must("rm", "spare")
	e.Must("volume", "rm", "old")
	e.Must("exec", "before", "true")
	e.Kill()
	e.Start()
	if got := e.Must("ps", "-aq", "--no-trunc") + e.Must("images", "--format", "{{.Repository}}"); got != running+"busybox" {
		t.Errorf("there are %q", got)
	}
	for _, f := range []string{filler, filler + "2"} {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	e.Must("pull", f.addr+"/good")
	e.Must("import", tarball, "big")
	if got := e.Must("run", "--rm", "--network", "none", "busybox", "echo", "again"); got != "again" {
		t.Errorf("run after space was freed: %q", got)
	}
	e.Must("rm", "-f", "before")
}

func TestBadInputOfAReadOnlyDisk(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	if err := syscall.Mount("tmpfs", e.DataRoot, "tmpfs", 0, "size=32m,mode=711"); err != nil {
		t.Skipf("a tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(e.DataRoot, 0); err != nil {
			t.Errorf("unmount: %v", err)
			_ = syscall.Unmount(e.DataRoot, syscall.MNT_DETACH)
		}
	})
	e.Start()
	box := e.Busybox()
	e.Must("create", "--name", "kept", "--network", "none", box, "echo", "kept")
	e.Stop()
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("", e.DataRoot, "", syscall.MS_REMOUNT|flags, "size=32m,mode=711"); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	argv := e.Command()
	refused(t, e.Run("", argv[0], argv[1:]...), 1, `^berthd: `+e.DataRoot+` is on a read-only file system: make that writable`)
	remount(0)
	e.Start()
	if got := e.Must("start", "-a", "kept"); got != "kept" {
		t.Errorf("got %q", got)
	}
	e.Must("rm", "kept")
	e.Stop()
}

// fill writes until there is no space left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

func TestBadInputASecondEngine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	argv := e.Command()
	r := e.Run("", argv[0], argv[1:]...)
	if r.Code == 0 || strings.Count(strings.TrimSpace(r.Stderr), "\n") != 0 || !strings.Contains(r.Stderr, itoa(e.Pid())) || !strings.Contains(r.Stderr, e.DataRoot) && !strings.Contains(r.Stderr, e.ExecRoot) {
		t.Errorf("exit %d, %q (holder is %d)", r.Code, r.Stderr, e.Pid())
	}
	e.Must("version") // the first one is not disturbed
	r = e.Run("", argv[0], append(argv[1:], "--no-such-flag")...)
	if r.Code == 0 || !strings.Contains(r.Stderr, "unknown flag: --no-such-flag") {
		t.Errorf("an unknown flag: exit %d, %q", r.Code, r.Stderr)
	}
	write(t, filepath.Join(e.Dir, "bad.json"), `{"data-root": 7, "nonsense": true}`)
	r = e.Run("", argv[0], "--config-file", filepath.Join(e.Dir, "bad.json"), "--data-root", filepath.Join(e.Dir, "x"), "--exec-root", filepath.Join(e.Dir, "y"))
	if r.Code == 0 || strings.Count(strings.TrimSpace(r.Stderr), "\n") != 0 || !strings.Contains(r.Stderr, "bad.json") {
		t.Errorf("a bad daemon.json: exit %d, %q", r.Code, r.Stderr)
	}
}

// TestAKernelThatIsTooOldIsRefused by engine and runtime, before anything is made.
func TestAKernelThatIsTooOldIsRefused(t *testing.T) {
	testkit.Integration(t)
	setarch := testkit.NeedTool(t, "setarch")
	bin, dir, config := testkit.Binaries(t), t.TempDir(), filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"berthd", "--data-root", dir + "/d", "--exec-root", dir + "/x", "-H", "unix://" + dir + "/s", "--config-file", config},
		{"berth-runtime", "--root", dir + "/r", "run", "--bundle", dir + "/b", "c"},
	} {
		var errs bytes.Buffer
		// The release is then told as 2.6.78 or thereabouts (personality(2), UNAME26).
		cmd := exec.CommandContext(ctx, setarch, append([]string{"--uname-2.6", filepath.Join(bin, args[0])}, args[1:]...)...)
		cmd.Stderr = &errs
		err := cmd.Run()
		if text := errs.String(); err == nil || !regexp.MustCompile(`this is Linux 2\.6\.\S+, and Berth needs 5\.10 or later`).MatchString(text) || strings.Count(text, "\n") != 1 {
			t.Errorf("%s: %v: %q", args[0], err, text)
		}
	}
	if made, _ := os.ReadDir(dir); len(made) > 0 {
		t.Errorf("made: %v", made)
	}
}
