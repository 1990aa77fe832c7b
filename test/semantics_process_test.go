package test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

var processSemantics = []semantic{
	{
		name:  "exit codes 125, 126 and 127 of run",
		holds: "run exit codes: 125 docker error (bad flag, no image, unknown -u name), 126 exec denied/dir, 127 not in PATH; only the error TEXT tells the CLI which one",
		test:  runExitCodes,
	},
	{
		name:  "-u finds groups and home in the image",
		holds: "-u N: gid = passwd primary group if uid is listed else 0; -u name:group drops supplementary groups; HOME from passwd; unlisted user HOME=/",
		test:  usersOfRun,
	},
	{
		name:  "-e and --env-file",
		holds: "-e KEY copies from client only if set, -e KEY= sets empty; --env-file does no quote, comment-tail or $ processing; order PATH,HOSTNAME,TERM,user,image,HOME",
		test:  environment,
	},
	{
		name:  "-w makes a missing directory",
		holds: "-w missing dir is created root:root",
		test:  missingWorkdir,
	},
	{
		name:  "--entrypoint",
		holds: `--entrypoint takes one word and clears image CMD; --entrypoint "" resets it; ENTRYPOINT in child Dockerfile nulls inherited CMD; shell-form ENTRYPOINT ignores args`,
		test:  entrypoints,
	},
	{
		name:  "what a container may do and use without flags",
		holds: "HostConfig.Memory set => MemorySwap = 2x; --cpus => NanoCpus; shm 64 MiB tmpfs; 14 default caps (bounding a80425fb), non-root user gets none effective; ip_unprivileged_port_start=0",
		test:  defaultPowers,
	},
	{
		name:  "files that are mounted into each container",
		holds: "container /etc/hosts, hostname, resolv.conf are per-container bind mounts: not in commit/export/diff, and read-only under --read-only",
		test:  mountedFiles,
	},
	{
		name:  "no command",
		holds: `config precedence: no CMD/ENTRYPOINT at create => 400 "No command specified"`,
		test:  noCommand,
	},
}

func ownerOf(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

func runExitCodes(s *subject) {
	s.ends(125, `unknown flag: --nosuchflag`, "run", "--nosuchflag", "busybox")
	s.ends(125, `No such image: nosuchimage`, "run", "--pull", "never", "nosuchimage")
	s.ends(125, `unable to find user nosuchuser`, "run", "--rm", "-u", "nosuchuser", "busybox", "true")
	s.ends(126, `permission denied`, "run", "--rm", "busybox", "/etc/passwd")
	s.ends(126, `is a directory|permission denied`, "run", "--rm", "busybox", "/etc")
	s.ends(127, `executable file not found in \$PATH`, "run", "--rm", "busybox", "nosuchprogram")
	s.ends(127, `no such file or directory`, "run", "--rm", "busybox", "/nosuch/program")
	s.ends(3, `^$`, "run", "--rm", "busybox", "sh", "-c", "exit 3")
	for program, want := range map[string]string{"nosuchprogram": `executable file not found in \$PATH`, "/etc/passwd": `permission denied`} {
		id := s.must("create", "busybox", program)
		if a := s.api("POST", "/containers/"+id+"/start", ""); a.status != 400 || !regexp.MustCompile(want).MatchString(a.message) {
			s.Errorf("start of %s: %d %s", program, a.status, a.body)
		}
		s.must("rm", id)
	}
}

func usersOfRun(s *subject) {
	const who = `echo $(id -u):$(id -g) $(id -G) $HOME`
	for user, want := range map[string]string{
		"1001":         "1001:1002 1002 1003 /home/app", // listed: its primary group, and the groups that name it
		"app":          "1001:1002 1002 1003 /home/app",
		"4242":         "4242:0 0 /",
		"app:staff":    "1001:50 50 /home/app",
		"app:1003":     "1001:1003 1003 /home/app",
		"4242:4343":    "4242:4343 4343 /",
		"nobody":       "65534:65534 65534 /",
		"0":            "0:0 0 /root",
		"1001:nogroup": "1001:65534 65534 /home/app",
	} {
		s.says(want, "run", "--rm", "--network", "none", "-u", user, "busybox", "sh", "-c", who)
	}
}

func environment(s *subject) {
	s.image("withenv", "true", "ENV OF_IMAGE=1")
	file := s.file("env", "# a comment\nQUOTED=\"a b\" # tail\nDOLLAR=$HOME\nEMPTY=\nFROM_CLIENT\nNOT_SET_ANYWHERE\n")
	cmd := s.command("run", "--rm", "-t", "--hostname", "h", "--network", "none", "-e", "FROM_CLIENT_TOO", "-e", "NOT_SET", "-e", "NOTHING=", "--env-file", file, "withenv", "env")
	cmd.Env = append(cmd.Env, "FROM_CLIENT=file's", "FROM_CLIENT_TOO=flag's")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	want := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=h", "TERM=xterm",
		`QUOTED="a b" # tail`, "DOLLAR=$HOME", "EMPTY=", "FROM_CLIENT=file's", "FROM_CLIENT_TOO=flag's", "NOTHING=", "OF_IMAGE=1", "HOME=/root"}
	got := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(out), "\r", "")), "\n")
	if s.dockerd() && len(got) == len(want) { // whose order of -e is not always the same
		slices.Sort(got[3:9])
		slices.Sort(want[3:9])
	}
	if !slices.Equal(got, want) {
		s.Errorf("the container's environment\n got: %q\nwant: %q", got, want)
	}
}

func missingWorkdir(s *subject) {
	s.says("/a/b/c\n0:0 755", "run", "--rm", "--network", "none", "-u", "1001", "-w", "/a/b/c", "busybox", "sh", "-c", "pwd; stat -c '%u:%g %a' .")
}

func entrypoints(s *subject) {
	s.image("entry", "true", `ENTRYPOINT ["echo", "entry"]`, `CMD ["cmd"]`)
	s.says("entry cmd", "run", "--rm", "entry")
	s.says("entry own", "run", "--rm", "entry", "own")
	s.says("", "run", "--rm", "--entrypoint", "echo", "entry")
	s.says("a", "run", "--rm", "--entrypoint", "echo", "entry", "a")
	s.ends(127, `echo a`, "run", "--rm", "--entrypoint", "echo a", "entry")
	s.says("own", "run", "--rm", "--entrypoint", "", "entry", "echo", "own")
	s.ends(125, `(?i)no command specified`, "run", "--rm", "--entrypoint", "", "entry")

	s.must("create", "--name", "parentofentry", "entry")
	s.must("commit", "-c", `ENTRYPOINT ["echo", "child"]`, "parentofentry", "childentry")
	s.must("commit", "-c", "ENTRYPOINT echo shell", "parentofentry", "shellentry")
	s.must("rm", "parentofentry")
	s.says("shell", "run", "--rm", "shellentry", "ignored")
	s.says(`["/bin/sh","-c","echo shell"]`, "inspect", "-f", "{{json .Config.Entrypoint}}", "shellentry")
}

func defaultPowers(s *subject) {
	s.must("create", "--name", "powers", "--memory", "64m", "--cpus", "0.5", "busybox")
	s.says("67108864 134217728 500000000 67108864", "inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.ShmSize}}", "powers")
	s.must("rm", "powers")
	caps := func(user string) string {
		return s.must("run", "--rm", "-u", user, "busybox", "sh", "-c", `echo $(awk '/^CapEff|^CapBnd/ {print $2}' /proc/self/status)`)
	}
	if got := caps("0"); got != "00000000a80425fb 00000000a80425fb" {
		s.Errorf("root has %s", got)
	}
	if got := caps("1001"); got != "0000000000000000 00000000a80425fb" {
		s.Errorf("an ordinary user has %s", got)
	}
	s.says("tmpfs 65536\n0", "run", "--rm", "busybox", "sh", "-c",
		`echo $(awk '$2 == "/dev/shm" {print $3}' /proc/mounts) $(df -k /dev/shm | awk 'END {print $2}'); cat /proc/sys/net/ipv4/ip_unprivileged_port_start`)
}

func mountedFiles(s *subject) {
	const own = "/etc/hosts /etc/hostname /etc/resolv.conf"
	s.must("run", "--name", "mountedfiles", "--hostname", "first", "busybox", "sh", "-c", "for f in "+own+"; do grep -q \" $f \" /proc/mounts || echo $f is no mount; echo added >>$f || echo not writable; done; touch /etc/mine")
	s.says("", "logs", "mountedfiles")
	s.must("commit", "mountedfiles", "mountedfilesimage")
	s.says("second\n0\nmine", "run", "--rm", "--hostname", "second", "mountedfilesimage", "sh", "-c", "cat /etc/hostname; cat "+own+" | grep -c added; ls /etc/mine | sed s:.*/::")
	archive := s.TempDir() + "/saved.tar"
	s.must("save", "-o", archive, "mountedfilesimage")
	for n, files := range layersIn(s.T, archive) {
		for _, f := range files {
			if n > 0 && regexp.MustCompile(`etc/(hosts|hostname|resolv\.conf)`).MatchString(f) {
				s.Errorf("the committed layer has %s", f)
			}
		}
	}
	if diff := s.must("diff", "mountedfiles"); diff != "C /etc\nA /etc/mine" {
		s.Errorf("diff: %q", diff)
	}
	s.must("export", "-o", archive, "mountedfiles")
	exported, err := os.Open(archive)
	if err != nil {
		s.Fatal(err)
	}
	defer exported.Close()
	mine := false
	for r := tar.NewReader(exported); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.Fatal(err)
		}
		mine = mine || h.Name == "etc/mine"
		if regexp.MustCompile(`^etc/(hosts|hostname|resolv\.conf)$`).MatchString(h.Name) && h.Size != 0 {
			s.Errorf("export has the %d bytes of %s", h.Size, h.Name)
		}
	}
	if !mine {
		s.Error("export lacks /etc/mine")
	}
	s.ends(1, `(?s)hosts: Read-only.*hostname: Read-only.*resolv.conf: Read-only`, "run", "--rm", "--read-only", "busybox", "touch", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
	s.must("rm", "mountedfiles")
}

func noCommand(s *subject) {
	s.must("import", s.file("empty.tar", string(tarOf(s.T))), "nocommand:latest")
	s.ends(1, `(?i)no command specified`, "create", "nocommand")
	if a := s.api("POST", "/containers/create", `{"Image":"nocommand"}`); a.status != 400 || !strings.EqualFold(a.message, "No command specified") {
		s.Errorf("create: %d %s", a.status, a.body)
	}
}
