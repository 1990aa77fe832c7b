package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/testkit"
)

// volumeImage makes an image with files in a VOLUME, and returns its name.
func volumeImage(t *testing.T, e *testkit.Engine) string {
	t.Helper()
	e.Busybox()
	e.Must("run", "--name", "making", "--network", "none", "busybox", "sh", "-c",
		"mkdir -p /data/sub && echo hello > /data/f && ln /data/f /data/sub/same && ln -s f /data/l && chmod 640 /data/f && chown 1001:1002 /data /data/f && chmod 711 /data")
	e.Must("commit", "--change", "VOLUME /data", "making", "with-data")
	e.Must("rm", "making")
	return "with-data"
}

// volumeNames are those of all volumes.
func volumeNames(e *testkit.Engine) []string { return strings.Fields(e.Must("volume", "ls", "-q")) }

// run is a container without a network, to its end.
func run(c client, e *testkit.Engine, args ...string) testkit.Result {
	return c.run(e, append([]string{"run", "--rm", "--network", "none"}, args...)...)
}

func TestDataInANamedVolumeOutlivesItsContainers(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	image := volumeImage(t, e)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			name := "kept-" + c.name
			if got := c.must(e, "volume", "create", name); got != name {
				t.Errorf("create printed %q", got)
			}
			c.must(e, "run", "--rm", "--network", "none", "-v", name+":/data", image, "sh", "-c", "echo more > /data/g")
			got := c.must(e, "run", "--rm", "--network", "none", "-v", name+":/data", image, "sh", "-c",
				"cat /data/f /data/g /data/l; stat -c %u:%g:%a /data /data/f; stat -c %h /data/sub/same")
			if want := "hello\nmore\nhello\n1001:1002:711\n1001:1002:640\n2"; got != want {
				t.Errorf("the second container finds %q, want %q", got, want)
			}
			if ls := c.must(e, "volume", "ls", "-q"); ls != name {
				t.Errorf("volumes: %q", ls)
			}
			c.must(e, "volume", "rm", name)
			if _, err := os.Stat(filepath.Join(e.DataRoot, "volumes", name)); !os.IsNotExist(err) {
				t.Errorf("the directory of a removed volume: %v", err)
			}
			if r := c.run(e, "volume", "inspect", name); r.Code != 1 || !strings.Contains(r.Stderr, "get "+name+": no such volume") {
				t.Errorf("inspect of a removed volume: %d %s", r.Code, r.Stderr)
			}
		})
	}
}

func TestAnonymousVolumesGoWithRmVAndRunRm(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	image := volumeImage(t, e)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			if r := run(c, e, image, "cat", "/data/f"); r.Stdout != "hello\n" {
				t.Fatalf("%+v", r)
			}
			if left := volumeNames(e); len(left) != 0 {
				t.Errorf("run --rm left %v", left)
			}
			c.must(e, "create", "--name", "gone", "-v", "/more", "-v", "named:/n", image)
			if n := len(volumeNames(e)); n != 3 {
				t.Errorf("%d volumes of a container with three", n)
			}
			c.must(e, "rm", "-v", "gone")
			if left := volumeNames(e); len(left) != 1 || left[0] != "named" {
				t.Errorf("rm -v left %v", left)
			}
			c.must(e, "run", "--name", "plain", "--network", "none", image, "true")
			c.must(e, "rm", "plain")
			if n := len(volumeNames(e)); n != 2 {
				t.Errorf("%d volumes after a plain rm, want the named one and the anonymous one", n)
			}
			if out := c.must(e, "volume", "prune", "-f"); !strings.Contains(out, "Deleted Volumes:") || !strings.Contains(out, "Total reclaimed space: 6B") {
				t.Errorf("prune: %q", out)
			}
			if left := volumeNames(e); len(left) != 1 {
				t.Errorf("prune left %v", left)
			}
			c.must(e, "volume", "prune", "-af")
			if left := volumeNames(e); len(left) != 0 {
				t.Errorf("prune -a left %v", left)
			}
		})
	}
}

func TestWhatAVolumeIsFilledWith(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	image := volumeImage(t, e)
	c := clients[0]
	data := func(volume string) string { return filepath.Join(e.DataRoot, "volumes", volume, "_data") }
	empty := func(volume string) bool {
		names, err := os.ReadDir(data(volume))
		if err != nil {
			t.Fatal(err)
		}
		return len(names) == 0
	}
	run(c, e, "-v", "none:/data:nocopy", image, "true")
	if !empty("none") {
		t.Error("nocopy copied")
	}
	// Emptied, it is filled by the next container, but not by one that has run.
	run(c, e, "-v", "again:/data", image, "sh", "-c", "rm -r /data/*")
	e.Must("create", "--name", "twice", "--network", "none", "-v", "again:/data", image, "sh", "-c", "ls /data; rm -r /data/*")
	if out := e.Must("start", "-a", "twice"); out != "f\nl\nsub" {
		t.Errorf("an emptied volume shows %q in a new container", out)
	}
	if out := e.Berth("start", "-a", "twice").Stdout; out != "" {
		t.Errorf("a volume that its container emptied shows %q the next time", out)
	}
	// What is there already is left as it is.
	e.Must("volume", "create", "own")
	if err := os.WriteFile(filepath.Join(data("own"), "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(c, e, "-v", "own:/data", image, "ls", "/data"); r.Stdout != "mine\n" {
		t.Errorf("a volume with a file shows %+v", r)
	}
	// A bind is never filled.
	dir := filepath.Join(e.Dir, "bind")
	run(c, e, "-v", dir+":/data", image, "true")
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("a bind mount's source holds %v (%v)", names, err)
	}
	// Two that start at once do not mix.
	for i := range 5 {
		name := fmt.Sprintf("race%d", i)
		var started sync.WaitGroup
		for range 2 {
			started.Go(func() {
				if r := run(c, e, "-v", name+":/data", image, "sh", "-c", "cat /data/f /data/sub/same /data/l"); r.Stdout != "hello\nhello\nhello\n" {
					t.Errorf("a container of two finds %+v", r)
				}
			})
		}
		started.Wait()
	}
	for _, home := range []string{"none", "again", "own", "race0"} {
		if names, _ := os.ReadDir(filepath.Dir(data(home))); len(names) != 1 {
			t.Errorf("beside the data of %s: %v", home, names)
		}
	}
	if r := run(c, e, "-v", "file:/etc/passwd", image, "true"); r.Code != 125 || !strings.Contains(r.Stderr, "cannot mount volume over existing file, file exists /etc/passwd") {
		t.Errorf("a volume over a file: %+v", r)
	}
}

func TestAttributesComeAlongIntoAVolume(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("create", "--name", "making", "--network", "none", "busybox", "sh", "-c",
		"mkdir -p /d/s && cp /bin/busybox /d/ping && mkfifo /d/pipe && chmod 4755 /d/ping && touch -t 202001020304 /d/old && until [ -e /go ]; do sleep 0.01; done")
	e.Must("start", "making")
	root := "/proc/" + e.Must("inspect", "-f", "{{.State.Pid}}", "making") + "/root"
	testkit.Eventually(t, "the files are made", func() bool { _, err := os.Stat(root + "/d/old"); return err == nil })
	// cap_net_raw=ep, revision 2
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for name, value := range map[string][]byte{"security.capability": capability, "user.note": []byte("x")} {
		if err := unix.Setxattr(root+"/d/ping", name, value, 0); err != nil {
			t.Skipf("setxattr %s: %v", name, err)
		}
	}
	if err := os.WriteFile(root+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e.Must("wait", "making")
	e.Must("commit", "making", "attributes")
	e.Must("run", "--rm", "--network", "none", "-v", "vol:/d", "attributes", "true")
	data := filepath.Join(e.DataRoot, "volumes", "vol", "_data")
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(data+"/ping", "security.capability", buf); err != nil || string(buf[:n]) != string(capability) {
		t.Errorf("capability: %v %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Getxattr(data+"/ping", "user.note", buf); err != nil || string(buf[:n]) != "x" {
		t.Errorf("user attribute: %v", err)
	}
	info, err := os.Stat(data + "/ping")
	if err != nil || info.Mode()&os.ModeSetuid == 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Lstat(data + "/pipe"); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe: %v", err)
	}
	if info, err := os.Stat(data + "/old"); err != nil || info.ModTime().Year() != 2020 {
		t.Errorf("the time: %v", err)
	}
}

func TestMountsAsInspectShowsThem(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		source := filepath.Join(e.Dir, "source")
		_ = os.Mkdir(source, 0o755)
		c.must(e, "create", "--name", "shown", "--network", "none",
			"-v", "named:/n", "-v", "second:/n2:ro", "-v", source+":/b", "-v", "/anon", "--tmpfs", "/t", "--mount", "type=tmpfs,dst=/t2",
			"--mount", "type=volume,src=mounted,dst=/m", "--mount", "dst=/m2", "--mount", "type=bind,src="+source+",dst=/b2,readonly,bind-propagation=rslave", "busybox", "true")
		defer c.must(e, "volume", "prune", "-af")
		defer c.must(e, "rm", "-v", "shown")
		var mounts []struct {
			Type, Name, Source, Destination, Driver, Mode, Propagation string
			RW                                                         bool
		}
		if err := json.Unmarshal([]byte(c.must(e, "inspect", "-f", "{{json .Mounts}}", "shown")), &mounts); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range mounts {
			if len(m.Name) == 64 {
				m.Source, m.Name = strings.ReplaceAll(m.Source, m.Name, "ID"), "ID"
			}
			m.Source = strings.NewReplacer(e.DataRoot, "ROOT", e.Dir, "DIR").Replace(m.Source)
			got = append(got, fmt.Sprintf("%s|%s|%s|%s|%s|%s|%v|%s", m.Type, m.Name, m.Source, m.Destination, m.Driver, m.Mode, m.RW, m.Propagation))
		}
		want := []string{
			"volume|named|ROOT/volumes/named/_data|/n|local|z|true|", "volume|second|ROOT/volumes/second/_data|/n2|local|ro|false|",
			"bind||DIR/source|/b|||true|rprivate", "tmpfs|||/t2|||true|", "volume|mounted|ROOT/volumes/mounted/_data|/m|local|z|true|",
			"volume|ID|ROOT/volumes/ID/_data|/m2|local|z|true|", "bind||DIR/source|/b2|||false|rslave", "volume|ID|ROOT/volumes/ID/_data|/anon|local||true|",
		}
		slices.Sort(got) // the official client shuffles -v
		slices.Sort(want)
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("mounts\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		echo := c.must(e, "inspect", "-f", "{{len .HostConfig.Binds}} {{json .HostConfig.Tmpfs}} {{json .HostConfig.VolumesFrom}} {{(index .HostConfig.Mounts 1).Source}}", "shown")
		if want := `3 {"/t":""} null mounted`; echo != want {
			t.Errorf("the request comes back as %s, want %s", echo, want)
		}
	})
}

func TestMountsOfEveryKind(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	everyKindOfMount(t, e)
}

func everyKindOfMount(t *testing.T, e *testkit.Engine) {
	image := volumeImage(t, e)
	source := filepath.Join(e.Dir, "source")
	if err := os.MkdirAll(filepath.Join(source, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(source, "below"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(filepath.Join(source, "below"), unix.MNT_DETACH) }()
	if err := unix.Mount("", filepath.Join(source, "below"), "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(e.Dir, "alone")
	if err := os.Mkdir(alone, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", alone, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(alone, unix.MNT_DETACH) }()
	if err := unix.Mount("", alone, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	run(clients[0], e, "-v", "parts:/p", "busybox", "sh", "-c", "mkdir -p /p/a/b; echo deep > /p/a/b/f; ln -s a/b /p/in; ln -s /etc /p/out; ln -s ../.. /p/up")
	e.Must("run", "-d", "--name", "lender", "--network", "none", "-v", "lent:/lent", "-v", source+":/host:ro", image, "sleep", "1000")
	defer e.Must("rm", "-f", "-v", "lender")
	write := " 2>/dev/null && echo written || echo refused"
	for _, tt := range []struct {
		name  string
		flags []string
		shell string
		code  int
		want  string // regular expression
	}{
		{"a volume is writable", []string{"-v", "vol:/x"}, "touch /x/f" + write, 0, "^written$"},
		{"a read-only volume is not", []string{"-v", "vol:/x:ro"}, "touch /x/f" + write, 0, "^refused$"},
		{"a read-only volume by --mount", []string{"--mount", "type=volume,src=vol,dst=/x,readonly"}, "touch /x/f" + write, 0, "^refused$"},
		{"volumes stay writable in a read-only container", []string{"--read-only", "-v", "vol:/x"}, "touch /x/f" + write, 0, "^written$"},
		{"volume-nocopy", []string{"--mount", "type=volume,src=empty,dst=/data,volume-nocopy"}, "ls /data", 0, "^$"},
		{"a part of a volume", []string{"--mount", "type=volume,src=parts,dst=/x,volume-subpath=a/b"}, "cat /x/f", 0, "^deep$"},
		{"a part through a link", []string{"--mount", "type=volume,src=parts,dst=/x,volume-subpath=in"}, "cat /x/f", 0, "^deep$"},
		{"a file of a volume", []string{"--mount", "type=volume,src=parts,dst=/x,volume-subpath=a/b/f"}, "cat /x", 0, "^deep$"},
		{"a part read-only", []string{"--mount", "type=volume,src=parts,dst=/x,volume-subpath=a,readonly"}, "touch /x/f" + write, 0, "^refused$"},
		{"a missing part", []string{"--mount", "type=volume,src=parts,dst=/x,volume-subpath=no"}, "true", 125, `subpath "no" does not exist`},
		{"a part that leads out by an absolute link", []string{"--mount", "type=volume,src=parts,dst=/x,volume-subpath=out"}, "true", 125, `subpath "out" leads out of what is mounted`},
		{"a part that leads out by ..", []string{"--mount", "type=volume,src=parts,dst=/x,volume-subpath=up"}, "true", 125, `subpath "up" leads out of what is mounted`},
		{"a bind of a file", []string{"-v", source + "/file:/etc/motd:ro"}, "cat /etc/motd", 0, "^text$"},
		{"a missing source is made", []string{"-v", e.Dir + "/made/deep:/x"}, "stat -c %u:%a /x", 0, "^0:755$"},
		{"and by --mount where asked", []string{"--mount", "type=bind,src=" + e.Dir + "/made2,dst=/x,bind-create-src"}, "stat -c %u:%a /x", 0, "^0:755$"},
		{"recursive read-only", []string{"-v", source + ":/x:ro"}, "touch /x/below/f" + write, 0, "^refused$"},
		{"bind-recursive=writable", []string{"--mount", "type=bind,src=" + source + ",dst=/x,readonly,bind-recursive=writable"}, "touch /x/below/f" + write + "; touch /x/g" + write, 0, "^written\nrefused$"},
		{"bind-recursive=readonly", []string{"--mount", "type=bind,src=" + source + ",dst=/x,readonly,bind-recursive=readonly,bind-propagation=rprivate"}, "touch /x/below/f" + write, 0, "^refused$"},
		{"bind-recursive=disabled", []string{"--mount", "type=bind,src=" + source + ",dst=/x,bind-recursive=disabled"}, "grep -c ' /x/below ' /proc/self/mountinfo", 1, "^0$"},
		{"rshared", []string{"-v", source + "/below:/x:rshared"}, "grep ' /x ' /proc/self/mountinfo", 0, "shared:"},
		{"rslave", []string{"-v", source + "/below:/x:rslave"}, "grep ' /x ' /proc/self/mountinfo", 0, "master:"},
		{"shared needs a shared source", []string{"-v", alone + ":/x:rshared"}, "true", 125, "path " + alone + " is mounted on " + alone + " but it is not a shared mount"},
		{"slave needs one too", []string{"-v", alone + ":/x:slave"}, "true", 125, "is not a shared or slave mount"},
		{"private", []string{"-v", source + "/below:/x:private"}, "grep ' /x ' /proc/self/mountinfo | grep -c shared:", 1, "^0$"},
		{"tmpfs options", []string{"--tmpfs", "/x:size=1m,mode=1770,uid=7,exec"}, "stat -c %u:%a /x; grep ' /x ' /proc/self/mountinfo", 0, `(?s)^7:1770\n.*rw,nosuid,nodev,relatime.*size=1024k`},
		{"tmpfs by --mount", []string{"--mount", "type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=700"}, "stat -c %a /x; df -k /x | tail -1", 0, `(?s)^700\n.* 1024 `},
		{"tmpfs over a VOLUME", []string{"--tmpfs", "/data"}, "ls /data; grep -c ' /data ' /proc/self/mountinfo", 0, "^1$"},
		{"an image", []string{"--mount", "type=image,src=with-data,dst=/i"}, "cat /i/data/f; touch /i/f" + write, 0, "^hello\nrefused$"},
		{"a part of an image", []string{"--mount", "type=image,src=with-data,dst=/i,image-subpath=data/sub"}, "cat /i/same", 0, "^hello$"},
		{"a file of an image", []string{"--mount", "type=image,src=with-data,dst=/i,image-subpath=data/f"}, "cat /i", 0, "^hello$"},
		{"a part that an image has not", []string{"--mount", "type=image,src=with-data,dst=/i,image-subpath=no"}, "true", 125, `subpath "no" does not exist`},
		{"an image that is not there", []string{"--mount", "type=image,src=nope,dst=/i"}, "true", 125, "No such image: nope"},
		{"volumes of another", []string{"--volumes-from", "lender"}, "ls /data; touch /lent/x" + write + "; touch /host/x" + write, 0, "^f\nl\nsub\nwritten\nrefused$"},
		{"volumes of another, read-only", []string{"--volumes-from", "lender:ro"}, "touch /lent/x" + write, 0, "^refused$"},
		{"an own one goes over a borrowed one", []string{"--volumes-from", "lender", "-v", "mine:/lent"}, "grep ' /lent ' /proc/self/mountinfo", 0, "/mine/_data"},
		{"mounts within mounts, whatever their order", []string{"-v", "inner:/x/y", "-v", "outer:/x"}, "touch /x/y/in /x/out; ls /x", 0, "^out\ny$"},
		{"one volume twice", []string{"-v", "vol:/x", "-v", "vol:/y:ro"}, "echo same > /x/t; cat /y/t; touch /y/u" + write, 0, "^same\nrefused$"},
		{"a missing mount point is made", []string{"-v", "vol:/deep/down/here"}, "stat -c %u:%a /deep/down", 0, "^0:755$"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.name, "recursive") && unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) == unix.ENOSYS {
				t.Skip("mounts are made read-only recursively since Linux 5.12")
			}
			r := run(clients[0], e, append(tt.flags, image, "sh", "-c", tt.shell)...)
			out := strings.TrimSuffix(r.Stdout, "\n")
			if tt.code == 125 {
				out = r.Stderr
			}
			if r.Code != tt.code || !regexp.MustCompile(tt.want).MatchString(out) {
				t.Errorf("exit %d, stdout %q, stderr %q, want %d and %s", r.Code, r.Stdout, r.Stderr, tt.code, tt.want)
			}
		})
	}
	for _, name := range volumeNames(e) {
		if len(name) == 64 && !strings.Contains(e.Must("volume", "ls", "-q", "-f", "dangling=false"), name) {
			t.Errorf("an anonymous volume is left: %s", name)
		}
	}
}

func TestMountsOfEveryKindWithRunc(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Runtime: "other=" + testkit.NeedTool(t, "runc")})
	everyKindOfMount(t, e)
}

func TestImagesWithLinksCannotPutMountsOnTheHost(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	outside := filepath.Join(e.Dir, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	e.Must("run", "--name", "making", "--network", "none", "busybox", "sh", "-c",
		"ln -s "+outside+" /data && ln -s ../../../../../.."+outside+" /up && ln -s /proc/1/root"+outside+" /magic && mkdir /d && ln -s "+outside+" /d/sub")
	e.Must("commit", "making", "hostile")
	for _, target := range []string{"/data", "/up", "/d/sub", "/data/new/dir", "/magic/x"} {
		for _, runtime := range []string{"berth", "runc"} {
			r := run(clients[0], e, "--runtime", runtime, "-v", "vol:"+target, "hostile", "sh", "-c", "echo in > "+target+"/f")
			if r.Code != 0 && !strings.HasPrefix(target, "/magic") {
				t.Logf("%s with %s: %s", target, runtime, r.Stderr)
			}
			if names, _ := os.ReadDir(outside); len(names) != 0 {
				t.Fatalf("%s with %s reached the host: %v", target, runtime, names)
			}
		}
	}
	if data, _ := os.ReadFile(filepath.Join(e.DataRoot, "volumes", "vol", "_data", "f")); string(data) != "in\n" {
		t.Errorf("the volume holds %q", data)
	}
	// Nor is the host copied into a volume.
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/data", "/up", "/d/sub"} {
		name := "copied" + strings.ReplaceAll(target, "/", "-")
		run(clients[0], e, "-v", name+":"+target, "hostile", "true")
		if names, _ := os.ReadDir(filepath.Join(e.DataRoot, "volumes", name, "_data")); len(names) != 0 {
			t.Errorf("%s: the volume got the host's %v", target, names)
		}
	}
}

func TestBindMountsWithOtherOwners(t *testing.T) {
	for _, runtime := range []string{"berth", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{})
			e.Busybox()
			dir, err := os.MkdirTemp("/var/tmp", "bi")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := os.Chown(dir, 4321, 4322); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for i, tt := range []struct {
				flags []string
				shell string
				want  string
				owner [2]uint32
			}{
				{[]string{"-v", dir + ":/x:idmap"}, "stat -c %u:%g /x; touch /x/F; stat -c %u:%g /x/F", "0:0\n0:0\n", [2]uint32{4321, 4322}},
				{[]string{"-u", "app", "-v", dir + ":/x:idmap"}, "touch /x/F; stat -c %u:%g /x /x/F", "1001:1002\n1001:1002\n", [2]uint32{4321, 4322}},
				{[]string{"-u", "app", "--mount", "type=bind,src=" + dir + ",dst=/x,idmap"}, "touch /x/F; stat -c %u:%g /x /x/F", "1001:1002\n1001:1002\n", [2]uint32{4321, 4322}},
				{[]string{"-u", "app", "--mount", "type=bind,src=" + dir + ",dst=/x,idmap"}, "touch /x/F; stat -c %u:%g /x /x/F", "1001:1002\n1001:1002\n", [2]uint32{4321, 4322}},
				{[]string{"-v", dir + ":/x:idmap=uids=4321-7-1#0-0-1;gids=4322-8-1#0-0-1"}, "stat -c %u:%g /x; touch /x/F && chown 7:8 /x/F", "7:8\n", [2]uint32{4321, 4322}},
				{[]string{"-v", dir + ":/x:ro,idmap"}, "touch /x/F 2>/dev/null || stat -c %u:%g /x", "0:0\n", [2]uint32{}},
			} {
				file := fmt.Sprintf("f%d", i)
				args := append([]string{"--runtime", runtime}, tt.flags...)
				c := clients[i%2]
				if c.name == "docker" { // which knows no such word
					for n := range args {
						args[n] = strings.Replace(args[n], ",dst=/x,idmap", ",dst=/x,consistency=idmap", 1)
					}
				}
				r := run(c, e, append(args, "busybox", "sh", "-c", strings.ReplaceAll(tt.shell, "F", file))...)
				if strings.Contains(r.Stderr, "the file system of") {
					t.Skipf("no mapped ids here: %s", r.Stderr)
				}
				if r.Code != 0 || r.Stdout != tt.want {
					t.Errorf("%v: %+v, want %q", tt.flags, r, tt.want)
				}
				var st unix.Stat_t
				err := unix.Stat(filepath.Join(dir, file), &st)
				if tt.owner == [2]uint32{} {
					continue
				}
				if err != nil || st.Uid != tt.owner[0] || st.Gid != tt.owner[1] {
					t.Errorf("%v: on disk it is %d:%d (%v), want %v", tt.flags, st.Uid, st.Gid, err, tt.owner)
				}
			}
			if r := run(clients[0], e, "--runtime", runtime, "-v", "/proc:/x:idmap=uids=0-7-1", "busybox", "true"); r.Code != 125 || !strings.Contains(r.Stderr, "map ids: the file system of /proc cannot do that") {
				t.Errorf("mapped ids of /proc: %+v", r)
			}
		})
	}
}

func TestVolumesThatAreMounts(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	image := volumeImage(t, e)
	mounted := func(volume string) bool {
		data, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(data), " "+filepath.Join(e.DataRoot, "volumes", volume, "_data")+" ")
	}
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			c.must(e, "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=77", "fast")
			c.must(e, "run", "-d", "--name", "one", "--network", "none", "-v", "fast:/x", "busybox", "sleep", "1000")
			c.must(e, "run", "-d", "--name", "two", "--network", "none", "-v", "fast:/y", "busybox", "sleep", "1000")
			c.must(e, "exec", "one", "sh", "-c", "echo shared > /x/f")
			if out := c.must(e, "exec", "two", "sh", "-c", "cat /y/f; stat -c %u /y; df -k /y | tail -1"); !regexp.MustCompile(`(?s)^shared\n77\n.* 1024 `).MatchString(out) {
				t.Errorf("the second container finds %q", out)
			}
			c.must(e, "kill", "one")
			c.must(e, "wait", "one")
			if !mounted("fast") {
				t.Error("unmounted though a container uses it")
			}
			c.must(e, "rm", "-f", "one", "two")
			testkit.Eventually(t, "it is unmounted after the last user", func() bool { return !mounted("fast") })
			c.must(e, "volume", "rm", "fast")
		})
	}
	host := filepath.Join(e.Dir, "elsewhere")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	e.Must("volume", "create", "-o", "type=none", "-o", "device="+host, "-o", "o=bind", "bound")
	run(clients[0], e, "-v", "bound:/data", image, "true")
	if data, err := os.ReadFile(filepath.Join(host, "f")); string(data) != "hello\n" {
		t.Errorf("a bound volume was not filled: %v", err)
	}
	e.Must("volume", "create", "-o", "type=none", "-o", "device="+host, "-o", "o=bind,ro", "bound-ro")
	if r := run(clients[0], e, "-v", "bound-ro:/x", "busybox", "touch", "/x/y"); r.Code == 0 || !strings.Contains(r.Stderr, "Read-only file system") {
		t.Errorf("writing to a volume with o=ro: %+v", r)
	}
	e.Must("volume", "rm", "bound", "bound-ro")
	if _, err := os.Stat(filepath.Join(host, "f")); err != nil {
		t.Errorf("removing the volume removed what it was mounted from: %v", err)
	}
	for _, tt := range []struct{ device, o, text string }{
		{"/no/such", "bind", "error while mounting volume '.*': failed to mount local volume: mount /no/such:.*: no such file or directory"},
		{"/etc/passwd", "bind,password=geheim", "failed to mount local volume: .*password=\\*\\*\\*"},
	} {
		e.Must("volume", "create", "-o", "type=none", "-o", "device="+tt.device, "-o", "o="+tt.o, "broken")
		r := run(clients[0], e, "-v", "broken:/x", "busybox", "true")
		if r.Code == 0 || !regexp.MustCompile(tt.text).MatchString(r.Stderr) || strings.Contains(r.Stderr, "geheim") {
			t.Errorf("%s: %+v", tt.device, r)
		}
		if out := e.Must("ps", "-aq"); out != "" {
			t.Errorf("the container that could not start is left: %s", out)
		}
		e.Must("volume", "rm", "broken")
	}
	// An engine that is killed leaves the mount to the containers. When one ends its shim wakes
	// the next engine, which takes it away after the last of them.
	e.Must("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "scratch")
	e.Must("run", "-d", "--name", "lives", "--network", "none", "-v", "scratch:/x", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "dies", "--network", "none", "-v", "scratch:/x", "busybox", "sleep", "1000")
	first, last := pidOf(t, e, "dies"), pidOf(t, e, "lives")
	e.Kill()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "an engine is woken", func() bool { return e.Berth("inspect", "-f", "{{.State.Status}}", "dies").Stdout == "exited\n" })
	if !mounted("scratch") {
		t.Error("the new engine unmounted a volume that is used")
	}
	if out := e.Must("exec", "lives", "sh", "-c", "echo still > /x/f; cat /x/f"); out != "still" {
		t.Errorf("%q", out)
	}
	lock, err := os.ReadFile(filepath.Join(e.ExecRoot, "berthd.lock"))
	if err != nil {
		t.Fatal(err)
	}
	var woken int
	if _, err := fmt.Sscanf(string(lock), "berthd (pid %d,", &woken); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Kill(woken, syscall.SIGKILL), syscall.Kill(last, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the next engine has unmounted it", func() bool { return !mounted("scratch") })
}

func pidOf(t *testing.T, e *testkit.Engine, container string) int {
	t.Helper()
	pid, err := strconv.Atoi(e.Must("inspect", "-f", "{{.State.Pid}}", container))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestAnImageThatIsMountedStays(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--storage-driver", "copy"}})
	image := volumeImage(t, e)
	e.Must("create", "--name", "user", "--network", "none", "--mount", "type=image,src="+image+",dst=/i,image-subpath=data", "-v", "vol:/data", "busybox", "cat", "/i/f")
	if r := e.Berth("rmi", image); r.Code != 1 || !strings.Contains(r.Stderr, "container") {
		t.Errorf("rmi of a mounted image: %+v", r)
	}
	e.Must("rmi", "-f", image)
	if out := e.Must("start", "-a", "user"); out != "hello" {
		t.Errorf("a container with an image whose name is gone shows %q", out)
	}
	e.Must("rm", "user")
	if r := run(clients[0], e, "--mount", `type=volume,src=made,dst=/o,volume-label=a=b,"volume-opt=o=size=1m,uid=5",volume-opt=type=tmpfs,volume-opt=device=tmpfs`, "busybox", "stat", "-c", "%u", "/o"); r.Stdout != "5\n" {
		t.Errorf("a volume made by --mount with options: %+v", r)
	}
	if out := e.Must("volume", "inspect", "-f", "{{.Labels}} {{.Options}}", "made"); out != "map[a:b] map[device:tmpfs o:size=1m,uid=5 type:tmpfs]" {
		t.Errorf("inspect of it: %q", out)
	}
}

func TestBadVolumesAndMountsGetOneLine(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		c.must(e, "create", "--name", "user", "-v", "used:/x", "busybox")
		defer c.must(e, "rm", "user")
		id := c.must(e, "inspect", "-f", "{{.Id}}", "user")
		create := func(args ...string) []string {
			return append([]string{"create", "--network", "none"}, append(args, "busybox")...)
		}
		for _, tt := range []struct {
			args []string
			code int
			want string
		}{
			{[]string{"volume", "rm", "used"}, 1, `remove used: volume is in use - \[` + id + `\]`},
			{[]string{"volume", "rm", "-f", "used"}, 1, `volume is in use`},
			{[]string{"volume", "rm", "nope"}, 1, `get nope: no such volume`},
			{[]string{"volume", "rm", "-f", "nope"}, 0, ``},
			{[]string{"volume", "inspect", "nope"}, 1, `get nope: no such volume`},
			{[]string{"volume", "create", "a/b"}, 1, `includes invalid characters for a local volume name`},
			{[]string{"volume", "create", "-d", "foo", "new"}, 1, `error looking up volume plugin foo: plugin "foo" not found`},
			{[]string{"volume", "create", "-o", "foo=bar", "new"}, 1, `create new: invalid option: "foo"`},
			{[]string{"volume", "create", "-o", "type=tmpfs", "new"}, 1, `create new: missing required option: "device"`},
			{[]string{"volume", "create", "-o", "size=1g", "new"}, 1, `quota size requested but no quota support`},
			{[]string{"volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "used"}, 1, `the volume exists with other options`},
			{[]string{"volume", "ls", "-f", "foo=bar"}, 1, `invalid filter 'foo'`},
			{[]string{"volume", "prune", "-f", "--filter", "until=1h"}, 1, `invalid filter 'until'`},
			{create("--mount", "type=bind,src=/no/such,dst=/x"), 1, `bind source path does not exist: /no/such`},
			{create("--mount", "type=bind,src=/tmp,dst=x"), 1, `invalid mount path: 'x' mount path must be absolute`},
			{create("-v", "vol:x"), 1, `mount path must be absolute`},
			{create("-v", "vol:/"), 1, `destination can't be '/'`},
			{create("-v", "/tmp:/x", "-v", "/etc:/x"), 1, `Duplicate mount point: /x`},
			{create("-v", "vol:/x", "--tmpfs", "/x"), 1, `Duplicate mount point: /x`},
			{create("-v", "vol:/x:bad"), 1, `invalid mode: bad`},
			{create("-v", "a/b:/x"), 1, `If you intended to pass a host directory, use absolute path`},
			{create("--volume-driver", "foo", "-v", "vol:/x"), 1, `error looking up volume plugin foo`},
			{create("--volumes-from", "nobody"), 1, `No such container: nobody`},
			{create("--volumes-from", "user:bad"), 1, `invalid mode: bad`},
			{create("-v", "/tmp:/x:idmap=nonsense"), 1, `invalid idmap "nonsense"`},
		} {
			r := c.run(e, tt.args...)
			if r.Code != tt.code || !regexp.MustCompile(tt.want).MatchString(r.Stderr) || strings.Count(strings.TrimSpace(r.Stderr), "\n") > 0 {
				t.Errorf("%v: exit %d (want %d), stderr %q, want %s", tt.args, r.Code, tt.code, r.Stderr, tt.want)
			}
		}
		if left := strings.Join(volumeNames(e), " "); left != "used" {
			t.Errorf("what was refused left volumes: %s", left)
		}
	})
}

func TestVolumesInListsEventsAndDiskUsage(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		now := func() string {
			t := time.Now()
			return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
		}
		start := now()
		c.must(e, "volume", "create", "--label", "tier=db", "data")
		c.must(e, "volume", "create", "spare")
		c.must(e, "run", "--name", "user", "--network", "none", "-v", "data:/x:ro", "-v", "data:/y", "busybox", "sh", "-c", "echo 1234567 > /y/f")
		if got := c.must(e, "volume", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}}", "-f", "label=tier=db"); got != "data local local tier=db" {
			t.Errorf("ls: %q", got)
		}
		if got := c.must(e, "volume", "ls", "-q", "-f", "dangling=true"); got != "spare" {
			t.Errorf("dangling: %q", got)
		}
		if got := c.must(e, "ps", "-a", "--format", "{{.Names}} {{.Mounts}} {{.LocalVolumes}}", "-f", "volume=data"); got != "user data,data 2" && got != "user data 1" {
			t.Errorf("ps: %q", got)
		}
		if got := c.must(e, "system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}"); !strings.Contains(got, "Local Volumes 2 1 8B 0B (0%)") {
			t.Errorf("df: %q", got)
		}
		if got := c.must(e, "system", "df", "-v"); !regexp.MustCompile(`(?m)^data +1 +8B`).MatchString(got) || !regexp.MustCompile(`(?m)^spare +0 +0B`).MatchString(got) {
			t.Errorf("df -v: %q", got)
		}
		c.must(e, "rm", "user")
		c.must(e, "volume", "rm", "data")
		e.Must("system", "prune", "-f", "--volumes")
		if got := volumeNames(e); len(got) != 1 || got[0] != "spare" {
			t.Errorf("system prune --volumes left %v", got)
		}
		c.must(e, "volume", "prune", "-af")
		got := c.must(e, "events", "--since", start, "--until", now(), "--filter", "type=volume", "--format", "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.destination}} {{index .Actor.Attributes \"read/write\"}}")
		got = strings.ReplaceAll(got, "<no value>", "")
		var lines []string
		for _, l := range strings.Split(got, "\n") {
			lines = append(lines, strings.Join(strings.Fields(l), " "))
		}
		if len(lines) > 4 {
			slices.Sort(lines[2:4]) // the official client sends several -v in any order
		}
		want := []string{"create data", "create spare", "mount data /x false", "mount data /y true", "unmount data", "destroy data", "prune", "destroy spare", "prune"}
		if strings.Join(lines, "|") != strings.Join(want, "|") {
			t.Errorf("events %q, want %q", lines, want)
		}
	})
}

func TestCrashesAroundVolumesLeaveNothing(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	image := volumeImage(t, e)
	e.Must("volume", "create", "kept")
	if err := os.WriteFile(filepath.Join(e.DataRoot, "volumes", "kept", "_data", "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	points := append(failpoints(t, "volumes."), "engine.create.directory", "engine.create.volatile", "engine.remove.begin", "engine.remove.recorded", "engine.start.created", "engine.start.started", "engine.autoremove.begin")
	reached := 0
	for i, p := range points {
		t.Run(p, func(t *testing.T) {
			e.Kill()
			e.Start("BERTH_FAILPOINT=" + p)
			named := fmt.Sprintf("named%d", i)
			died := func() bool { return e.Berth("version").Code != 0 }
			_ = e.Berth("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "mounted")
			created := !died() && e.Berth("create", "--name", "anon", "--network", "none", "-v", "/more", image, "true").Code == 0
			removed := created && e.Berth("rm", "-v", "anon").Code == 0
			ran := removed && e.Berth("run", "--rm", "--network", "none", "-v", named+":/n", "-v", "mounted:/m", image, "true").Code == 0
			if ran && !died() {
				_ = e.Berth("volume", "rm", named)
			}
			if !died() {
				t.Logf("not reached")
				e.Must("volume", "prune", "-af", "--filter", "label!=keep")
				restoreKept(t, e)
				return
			}
			reached++
			e.Await()
			e.Start()
			for _, id := range strings.Fields(e.Must("ps", "-aq", "-f", "status=created", "-f", "status=dead")) {
				e.Must("rm", "-v", id)
			}
			testkit.Eventually(t, "the --rm container is gone", func() bool { return e.Must("ps", "-aq") == "" })
			testkit.Eventually(t, "no anonymous volume is left", func() bool {
				for _, name := range volumeNames(e) {
					if len(name) == 64 {
						return false
					}
				}
				return true
			})
			entries, _ := os.ReadDir(filepath.Join(e.DataRoot, "volumes"))
			if len(entries) != len(volumeNames(e)) {
				t.Errorf("directories %v, volumes %v", entries, volumeNames(e))
			}
			if data, _ := os.ReadFile(filepath.Join(e.DataRoot, "volumes", "kept", "_data", "f")); string(data) != "kept" {
				t.Error("a volume has lost its data")
			}
			e.Must("volume", "rm", "-f", named, "mounted")
		})
	}
	if reached < len(points)-3 {
		t.Errorf("only %d of %d failpoints were reached", reached, len(points))
	}
}

func restoreKept(t *testing.T, e *testkit.Engine) {
	t.Helper()
	e.Must("volume", "create", "kept")
	if err := os.WriteFile(filepath.Join(e.DataRoot, "volumes", "kept", "_data", "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestACopyIntoAVolumeThatIsCutOffIsMadeGood(t *testing.T) {
	for _, p := range failpoints(t, "runtime.fill.") {
		t.Run(p, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{})
			image := volumeImage(t, e)
			e.Kill()
			e.Start("BERTH_FAILPOINT=" + p)
			if r := run(clients[0], e, "-v", "vol:/data", image, "true"); r.Code == 0 {
				t.Fatal("the shim has not died")
			}
			e.Kill()
			e.Start()
			if r := run(clients[0], e, "-v", "vol:/data", image, "sh", "-c", "cat /data/f /data/sub/same; stat -c %u:%a /data"); r.Stdout != "hello\nhello\n1001:711\n" {
				t.Errorf("the next container finds %+v", r)
			}
			if names, _ := os.ReadDir(filepath.Join(e.DataRoot, "volumes", "vol")); len(names) != 1 {
				t.Errorf("beside the data: %v", names)
			}
		})
	}
}
