package test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/testkit"
)

// What flags do that other tests of flags, limits, volumes and networks do not look at. Flags that
// get along share a container; each pattern must be in what the shell says.
var flagEffects = []struct {
	flags, shell string
	want         []string
}{
	{`--network bridge -h box --domainname example.org --env-file DIR/env -e FROM_CLIENT -e LATER=2 -e LATER=3 -e NOT_SET -l x=y --label-file DIR/env`,
		`cat /proc/sys/kernel/domainname; env; grep box /etc/hosts`,
		[]string{`(?m)^example\.org$`, `(?m)^QUOTED="a b" # tail$`, `(?m)^PLAIN=1$`, `(?m)^EMPTY=$`, `(?m)^FROM_FILE=client's$`, `(?m)^FROM_CLIENT=client's$`, `(?m)^LATER=3$`, `box\.example\.org box`}},
	{`--device /dev/null:/dev/readable:r --device /dev/zero:/dev/both:rw --device DIR/nodes:/dev/many --cap-add MKNOD --device-cgroup-rule c_10:200_rwm`,
		`ls -l /dev/readable /dev/both /dev/many/a; head -c1 /dev/both | wc -c; mknod /dev/mine c 10 200 && echo made; cat /sys/fs/cgroup/devices/devices.list 2>/dev/null || echo c 10:200 rwm`,
		[]string{`1, +3 .*/dev/readable`, `1, +5 .*/dev/both`, `1, +3 .*/dev/many/a`, `(?m)^1$`, `made`, `c 10:200 rwm`}},
	{`--tmpfs /plain --tmpfs /given:size=1m,mode=710,uid=7,gid=8,exec --mount type=tmpfs,dst=/mounted,tmpfs-size=2m,tmpfs-mode=1730 --shm-size 3m`,
		`grep -E ' (/plain|/given|/mounted|/dev/shm) ' /proc/mounts; stat -c '%n %a %u %g' /given /mounted`,
		[]string{`/plain tmpfs rw,nosuid,nodev,noexec`, `/given tmpfs rw,nosuid,nodev,relatime,size=1024k,mode=710,uid=7,gid=8`, `/mounted tmpfs .*size=2048k`, `/dev/shm tmpfs .*size=3072k`, `/given 710 7 8`, `/mounted 1730 0 0`}},
	{`--ulimit nofile=64:128 --ulimit core=0 --ulimit nproc=50:60 --ulimit fsize=1000000 --ulimit stack=1000000 --oom-score-adj 300 --group-add 4711 --group-add staff -u 12:34`,
		`cat /proc/self/limits; cat /proc/self/oom_score_adj; id -G`,
		[]string{`Max open files +64 +128`, `Max core file size +0 +0`, `Max processes +50 +60`, `Max file size +1000000 `, `Max stack size +1000000 `, `(?m)^300$`, `(?m)^34 50 4711$|(?m)^34 4711 50$`}},
	{`--sysctl net.core.somaxconn=99 --sysctl kernel.msgmax=9001 --sysctl kernel.shm_rmid_forced=1 --sysctl fs.mqueue.msg_max=11 --sysctl net.ipv4.ip_unprivileged_port_start=700`,
		`cd /proc/sys; cat net/core/somaxconn kernel/msgmax kernel/shm_rmid_forced fs/mqueue/msg_max net/ipv4/ip_unprivileged_port_start | xargs`,
		[]string{`^99 9001 1 11 700$`}},
	{`--privileged`, `grep -c ' /sys sysfs rw' /proc/mounts; grep -cE ' /sys/fs/cgroup[^ ]* cgroup2? rw' /proc/mounts >/dev/null && echo groups; mkdir /sys/fs/cgroup/*/below 2>/dev/null; ls -d /sys/fs/cgroup/*/below | wc -l; rmdir /sys/fs/cgroup/*/below; head -c1 /proc/keys >/dev/null && echo keys; wc -c < /proc/sys/kernel/panic`,
		[]string{`(?m)^1\ngroups$`, `keys`}},
	{`--privileged --security-opt writable-cgroups=false --security-opt seccomp=DIR/nomkdir`, `grep -cE ' /sys/fs/cgroup[^ ]* cgroup2? ro' /proc/mounts >/dev/null && echo read-only; mkdir /x 2>&1; grep Seccomp: /proc/self/status`,
		[]string{`read-only`, `No space left`, `Seccomp:\t2`}},
	{`--security-opt writable-cgroups=true`, `grep -cE ' /sys/fs/cgroup[^ ]* cgroup2? rw' /proc/mounts >/dev/null && echo writable; grep -c ' /sys sysfs ro' /proc/mounts`, []string{`writable\n1`}},
	{`--ipc host --uts host --cgroupns host --pid host --userns host`, `for n in ipc uts cgroup pid user; do readlink /proc/self/ns/$n; done`,
		[]string{`^HOST/ipc\nHOST/uts\nHOST/cgroup\nHOST/pid\nHOST/user$`}},
	{`--ipc none`, `grep -c ' /dev/shm ' /proc/mounts; grep -c ' /dev/mqueue ' /proc/mounts`, []string{`^0\n1$`}},
	{`--ipc container:donor --pid container:donor --network container:donor`, `cat /dev/shm/left; readlink /proc/self/ns/ipc; readlink /proc/1/ns/ipc; ps`, []string{`^there\n(ipc:\[\d+\])\n`, `sleep 1000`}},
	{`--volumes-from donor:ro`, `cat /kept/left; touch /kept/x 2>&1`, []string{`there\n.*Read-only`}},
	{`-v DIR:/a:ro -v DIR:/b --mount type=bind,src=DIR,dst=/c,ro --mount type=volume,src=DATA,dst=/d,volume-nocopy --mount type=bind,src=DIR/made,dst=/e,bind-create-src`,
		`grep -E ' /[abcde] ' /proc/self/mountinfo; touch /a/x /c/x 2>&1; ls -d /e`, []string{` /a ro`, ` /b rw`, ` /c ro`, ` /d rw`, `/a/x: Read-only.*\n.*/c/x: Read-only`, `(?m)^/e$`}},
	{`--workdir /made/up -u 5 --read-only=false`, `pwd; stat -c %u /made/up; id -u`, []string{`^/made/up\n0\n5$`}},
	{`--cgroup-parent CGROUP --annotation a=b --stop-signal USR1 --stop-timeout 1 --isolation default --platform linux/ARCH --pull never --quiet --sig-proxy=false --log-driver none`,
		`echo ran`, []string{`^ran$`}},
	{`--memory 64m --memory-swap 64m --oom-kill-disable=false --blkio-weight 0 --kernel-memory 1g --disable-content-trust --umask 0027`, `echo ran; umask; touch /made; stat -c %a /made`, []string{`^ran\n0027\n640$`}},
}

func TestFlagsOfRunTakeEffectInTheContainer(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "env"), "# a comment\n\nPLAIN=1\nQUOTED=\"a b\" # tail\n  \nEMPTY=\nFROM_FILE\nABSENT\n")
	write(t, filepath.Join(dir, "nomkdir"), `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}`)
	if err := os.Mkdir(filepath.Join(dir, "nodes"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out := unix.Mknod(filepath.Join(dir, "nodes", "a"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); out != nil {
		t.Fatal(out)
	}
	e.Must("run", "-d", "--name", "donor", "--ipc", "shareable", "-v", "/kept", "busybox", "sh", "-c", "echo there >/dev/shm/left; echo there >/kept/left; exec sleep 1000")
	testkit.Eventually(t, "the donor has left its notes", func() bool { return e.Berth("exec", "donor", "cat", "/kept/left").Stdout == "there\n" })
	group := e.CgroupParent
	if e.Systemd {
		group = filepath.Base(group) // slices are given by name
	}
	for _, f := range flagEffects {
		t.Run(f.flags, func(t *testing.T) {
			args := []string{"run", "--rm"}
			if !strings.Contains(f.flags, "--network") {
				args = append(args, "--network", "none")
			}
			for _, a := range strings.Fields(f.flags) {
				if strings.HasPrefix(a, "c_") {
					a = strings.ReplaceAll(a, "_", " ")
				}
				args = append(args, strings.NewReplacer("DIR", dir, "CGROUP", group, "ARCH", runtime.GOARCH, "DATA", "effects").Replace(a))
			}
			r := withVariables(e, append(args, "busybox", "sh", "-c", f.shell)...)
			said := strings.TrimSuffix(r.Stdout, "\n")
			for _, ns := range []string{"ipc", "uts", "cgroup", "pid", "user"} {
				if link, _ := os.Readlink("/proc/self/ns/" + ns); link != "" {
					said = strings.ReplaceAll(said, link, "HOST/"+ns)
				}
			}
			for _, want := range f.want {
				if !regexp.MustCompile(want).MatchString(said) {
					t.Errorf("no %s in (exit %d)\n%s%s", want, r.Code, said, r.Stderr)
				}
			}
		})
	}
}

// withVariables runs berth, with variables that command lines and files import.
func withVariables(e *testkit.Engine, args ...string) testkit.Result {
	return e.RunWith([]string{"FROM_CLIENT=client's", "FROM_FILE=client's"}, "", filepath.Join(e.Bin, "berth"), args...)
}

func TestEntrypointWorkdirAndCIDFile(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Must("import", "--change", `ENTRYPOINT ["/bin/echo","entry"]`, "--change", `CMD ["command"]`, testkit.BusyboxTar(t), "withentry")
	cid := filepath.Join(e.Dir, "cid")
	for _, c := range []struct {
		args, want string
		code       int
	}{
		{`withentry`, "entry command", 0},
		{`withentry more words`, "entry more words", 0},
		{`--entrypoint /bin/true withentry`, "", 0},
		{`--entrypoint id withentry -u`, "0", 0},
		{`--entrypoint= withentry echo alone`, "alone", 0},
		{`--entrypoint= withentry`, "No command specified|no command specified", 125},
		{`--entrypoint nosuch withentry`, "nosuch", 127},
		{`--entrypoint /etc withentry`, "/etc", 126},
		{`--cidfile CID withentry`, "entry command", 0},
		{`--cidfile CID withentry`, "container ID file found", 125},
		{`--cidfile /no/such/dir/cid withentry`, "failed to create the container ID file", 125},
		{`-w relative withentry`, "the working directory 'relative' is invalid, it needs to be an absolute path", 125},
		{`--pull never nosuchimage`, "No such image: nosuchimage:latest", 125},
		{`--env-file /no/such withentry`, "no such file", 125},
		{`--label-file /no/such withentry`, "no such file", 125},
	} {
		r := e.Berth(strings.Fields("run --rm --network none " + strings.ReplaceAll(c.args, "CID", cid))...)
		said := strings.TrimSpace(r.Stdout + r.Stderr)
		if r.Code != c.code || !regexp.MustCompile(c.want).MatchString(said) || c.code == 0 && said != c.want {
			t.Errorf("%s: exit %d, %q (want %d, %s)", c.args, r.Code, said, c.code, c.want)
		}
	}
	if id, err := os.ReadFile(cid); err != nil || len(id) != 64 {
		t.Errorf("cidfile: %q %v", id, err)
	}
	if left := e.Must("ps", "-aq"); left != "" {
		t.Errorf("left: %s", left)
	}
}

func TestConflictingFlagsAreOneLineAndLeaveNothing(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "donor", "busybox", "sleep", "1000")
	for _, c := range []struct{ flags, why string }{
		{"--rm --restart always", "conflicting options: cannot specify both --restart and --rm"},
		{"-d -a stdout", "conflicting options: cannot specify both --attach and --detach"},
		{"--network container:donor -h name", "conflicting options: hostname and the network mode"},
		{"--network container:donor -p 80:80", "conflicting options: port publishing and the container type network mode"},
		{"--network container:donor --expose 80", "conflicting options: port exposing and the container type network mode"},
		{"--network container:donor --dns 1.1.1.1", "conflicting options: dns and the network mode"},
		{"--network container:donor --add-host a:1.1.1.1", "conflicting options: custom host-to-IP mapping and the network mode"},
		{"--network container:donor --mac-address 02:42:0a:00:00:09", "sharing network namespace with another container"},
		{"--network host --link donor", "conflicting options: host type networking can't be used with links|link"},
		{"--network host --sysctl net.core.somaxconn=9", "not allowed in host network namespace"},
		{"--ipc host --sysctl kernel.msgmax=9000", "not allowed in host (IPC|ipc) namespace"},
		{"--uts host -h name", "conflicting options: hostname and the UTS mode"},
		{"--ipc container:donor", "non-shareable IPC"},
		{"--health-cmd true --no-healthcheck", "--no-healthcheck conflicts with --health-\\* options"},
		{"--cpus 1 --cpu-period 1000", "Nano CPUs and CPU Period cannot both be set"},
		{"-v /tmp:/x --mount type=tmpfs,dst=/x", "Duplicate mount point: /x"},
		{"--mount type=bind,src=/no/such,dst=/x", "bind source path does not exist: /no/such"},
		{"--mount type=bind,dst=/x", "field Source must not be empty|source"},
		{"--mount type=volume,src=vv,dst=/x,tmpfs-size=1m", "cannot mix 'tmpfs-\\*' options with mount type 'volume'"},
		{"--mount type=npipe,src=a,dst=/x", "npipe|mount type unknown"},
		{"--mount type=bind,src=/tmp,dst=/x,what=1", "unexpected key 'what'|unknown"},
		{"--mount type=bind,src=/tmp", "target is required"},
		{"--device /no/such", "no such file or directory|error gathering device information"},
		{"--device /etc/passwd", "not a device node"},
		{"--device /dev/null:/dev/x:rwx", "bad mode specified: rwx|invalid device"},
		{"--device dev/null", "not an absolute path"},
		{"--device-read-bps /no/such:1mb", "/no/such"},
		{"--device-read-bps dev:1mb", "bad format for device path: dev:1mb"},
		{"--device-read-bps /dev/null:much", "invalid rate for device: /dev/null:much"},
		{"--device-read-iops /dev/null:-1", "invalid rate for device: /dev/null:-1"},
		{"--blkio-weight-device /dev/null:5", "invalid weight for device: /dev/null:5"},
		{"--storage-opt size=1g", "mounted with prjquota"},
		{"--gpus most", "most"},
		{"--userns private", "USER mode|user namespace"},
		{"--cap-add FLY", "FLY"},
		{"--log-driver nosuch", "nosuch"},
		{"--stop-signal NOSUCH", "NOSUCH"},
		{"-u nosuch", "nosuch"},
		{"--group-add nosuch", "nosuch"},
		{"--restart sometimes", "invalid restart policy"},
		{"--restart on-failure:-1", "maximum retry count cannot be negative|invalid"},
		{"--restart always:3", "maximum retry count can only be used with 'on-failure'|invalid"},
		{"--detach-keys ctrl-", "detach"},
		{"--memory 5b", "Minimum memory limit allowed is 6MB"},
		{"--isolation process", "invalid isolation"},
		{"--umask 1000", "invalid umask 01000"},
		{"--annotation =x", "annotation key"},
		{"--umask 9", "invalid syntax"},
		{"--name a/b", "Invalid container name"},
		{"--name donor", "is already in use by container"},
		{"-e =x", "invalid environment variable"},
		{"--add-host nothing", "bad format for add-host"},
		{"--ulimit nofile", "invalid ulimit argument|invalid"},
		{"--sysctl nothing", "sysctl"},
		{"--tmpfs relative", "absolute"},
	} {
		args := append([]string{"run"}, strings.Fields(c.flags)...)
		if !strings.Contains(c.flags, "--restart") {
			args = append(args, "--rm") // what only a start finds out leaves a container otherwise, as in Docker
		}
		r := e.Berth(append(args, "busybox", "true")...)
		said := strings.Split(strings.TrimSpace(r.Stderr), "\n")
		for len(said) > 1 && (strings.HasPrefix(said[len(said)-1], "See 'berth run") || strings.HasPrefix(said[len(said)-1], "Run 'berth run") || said[len(said)-1] == "") {
			said = said[:len(said)-1]
		}
		code := 125
		if strings.HasPrefix(c.flags, "-d ") {
			code = 1 // as Docker's
		}
		if strings.Contains(said[0], "no such file or directory") {
			code = 127 // Docker's command line has only the text to judge by
		}
		if r.Code != code || len(said) != 1 || !regexp.MustCompile(c.why).MatchString(said[0]) {
			t.Errorf("%s: exit %d, %q (want %d and one line like %s)", c.flags, r.Code, r.Stderr, code, c.why)
		}
	}
	if left := e.Must("ps", "-a", "--format", "{{.Names}} {{.Command}} {{.Status}}"); strings.Contains(left, "\n") {
		t.Errorf("left:\n%s", left)
	}
	if left := e.Must("volume", "ls", "-q"); left != "" {
		t.Errorf("volumes left: %s", left)
	}
}

func TestAContainerWithTheAPISocketIsAClientWithOurCredentials(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Berth("version") // makes the client's home
	config := filepath.Join(e.Dir, "home", ".docker")
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(config, "config.json"), `{"auths":{"registry.test":{"auth":"dXNlcjpzZWNyZXQ="}}}`)
	out := e.Must("run", "--rm", "--network", "none", "--use-api-socket", "busybox", "sh", "-c",
		`printf 'GET /_ping HTTP/1.0\r\n\r\n' | nc local:/var/run/docker.sock 2>/dev/null; ls -l /var/run/docker.sock; stat -c %a $DOCKER_CONFIG/config.json; cat $DOCKER_CONFIG/config.json`)
	for _, want := range []string{`srw.*docker.sock`, `(?m)^600$`, `registry.test`, `secret|dXNlcjpzZWNyZXQ=`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in %s", want, out)
		}
	}
}

func TestPullPolicyQuietAndPlatformOfRun(t *testing.T) {
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	box, err := os.ReadFile(testkit.BusyboxTar(t))
	if err != nil {
		t.Fatal(err)
	}
	push := func(word string) {
		layer := noisyTar(t, word, 1, 10)
		reg.PushConfig("box:1", map[string]any{"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Cmd": []string{"/bin/sh", "-c", "echo " + word}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digestText(box), digestText(layer)}}}, box, layer)
	}
	ref := reg.Addr + "/box:1"
	push("one")
	run := func(code int, out, says string, flags ...string) {
		t.Helper()
		r := e.Berth(append(append([]string{"run", "--rm", "--network", "none"}, flags...), ref)...)
		if r.Code != code || strings.TrimSpace(r.Stdout) != out || !regexp.MustCompile(says).MatchString(r.Stderr) {
			t.Errorf("%v: exit %d, %q %q, want %d %q %s", flags, r.Code, r.Stdout, r.Stderr, code, out, says)
		}
	}
	run(125, "", `No such image: `+regexp.QuoteMeta(ref), "--pull", "never")
	run(0, "one", `(?s)Unable to find image '.*box:1' locally.*Pulling from box.*Status: Downloaded newer image`)
	push("two")
	run(0, "one", `^$`)
	run(0, "one", `^$`, "--pull", "missing")
	run(0, "one", `^$`, "--pull", "never")
	run(0, "two", `Status: Downloaded newer image`, "--pull", "always")
	run(0, "two", `Status: Image is up to date`, "--pull", "always")
	run(0, "two", `^$`, "--pull=always", "--quiet")
	e.Must("rmi", ref)
	run(0, "two", `^$`, "-q", "--platform", "linux/"+runtime.GOARCH)
	run(125, "", `.`, "--pull", "always", "--platform", "linux/riscv64")
	run(125, "", `invalid platform|unknown operating system|error parsing`, "--platform", "not/a/real/platform")
}

func digestText(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// Flags of the network, of streams and of health, by run and by create.
func TestFlagsOfNetworksHealthAndStreamsOfRunAndCreate(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	subnet := someSubnet(e, "flags")
	six := "fd00:" + strings.ReplaceAll(subnet, ".", ":")
	e.Must("network", "create", "--ipv6", "--subnet", subnet+".0/24", "--subnet", six+"::/64", "front")
	e.Must("run", "-d", "--name", "donor", "-v", "/lent", "busybox", "sleep", "1000")
	const asks = `ip addr; cat /etc/resolv.conf /etc/hosts; ls -d /lent; echo [$A][$l] pid $$; nslookup me 2>&1; nslookup alias2 2>&1; tty`
	for n, both := range []struct {
		flags, shell string
		want         []string
	}{
		{`--network front --ip SUBNET.N --ip6 SIX::N --mac-address 02:42:0a:00:00:0N --network-alias me --link-local-ip 169.254.7.N --add-host other:1.2.3.4 --add-host gateway:host-gateway --dns 127.0.0.9 --dns-option ndots:3 --dns-search example.org`, asks,
			[]string{`inet SUBNET\.N/24`, `inet6 SIX::N/64`, `ether 02:42:0a:00:00:0N`, `169\.254\.7\.N`, `1\.2\.3\.4\s+other`, `\d\s+gateway`, `options .*ndots:3`, `search example\.org`, `SUBNET\.N`}},
		{`--net front --net-alias alias2 --dns-opt timeout:1 --volumes-from donor --init --label-file DIR/env --env-file DIR/env --log-opt max-size=1m --volume-driver local --restart no`, asks,
			[]string{`options .*timeout:1`, `(?m)^/lent$`, `\[\]\[1\] pid [2-9]`, `(?s)alias2.*Address.*SUBNET\.`}},
		{`--link donor:given -P --expose 80 --expose 90/udp -q --pull missing --platform linux/ARCH --isolation default --disable-content-trust -i`, asks, []string{`\sgiven [0-9a-f]{12} donor`, `not a tty`}},
		{`--health-cmd true --health-interval 9s --health-timeout 8s --health-retries 7 --health-start-period 6s --health-start-interval 5s -a stdout -a stderr`, `echo out; echo err >&2`, []string{`out\n`, `err`}},
		{`--no-healthcheck --runtime berth --cpu-rt-period 1000000 --log-driver json-file -t`, `tty`, []string{`/dev/(pts/0|console)`}},
	} {
		for k, command := range []string{"run", "create"} {
			host := fmt.Sprint(2*n + k + 2)
			replace := strings.NewReplacer("SUBNET\\.", regexp.QuoteMeta(subnet)+"\\.", "SUBNET.", subnet+".", "SIX", six, "DIR", e.Dir, "ARCH", runtime.GOARCH)
			fill := func(s string) string { return strings.ReplaceAll(replace.Replace(s), "N", host) }
			write(t, filepath.Join(e.Dir, "env"), "l=1\n")
			name := fmt.Sprint(command, n)
			args := []string{command, "--name", name}
			if testkit.UnifiedCgroups() {
				both.flags = strings.ReplaceAll(both.flags, "--cpu-rt-period 1000000 ", "") // refused there
			}
			for _, a := range strings.Fields(both.flags) {
				args = append(args, fill(a))
			}
			r := e.Berth(append(args, "busybox", "sh", "-c", both.shell)...)
			if command == "create" && r.Code == 0 {
				r = e.Berth("start", "-a", name)
			}
			for _, want := range both.want {
				if !regexp.MustCompile(fill(want)).MatchString(r.Stdout + r.Stderr) {
					t.Errorf("%s %s: exit %d, no %s in %s%s", command, both.flags, r.Code, fill(want), r.Stdout, r.Stderr)
				}
			}
			e.Must("rm", "-f", "-v", name)
		}
	}
}
