package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var volumeSemantics = []semantic{
	{
		name:  "an empty volume is filled from the image whenever it is mounted",
		holds: "volume copy-up happens whenever the named/anonymous volume is EMPTY at mount, not only at creation; copies contents + owner + mode of the target dir onto the volume root; skipped by nocopy; never for binds",
		test:  volumeCopyUp,
	},
	{
		name:  "image VOLUMEs become anonymous volumes",
		holds: "image VOLUMEs become anonymous volumes at create; removed by --rm and rm -v, left behind by plain rm; named volumes always survive",
		test:  imageVolumes,
	},
	{
		name:  "a missing bind source is made by -v and refused by --mount",
		holds: "-v /missing:/x creates a root 0755 host dir; --mount type=bind with a missing source fails (125)",
		test:  missingBindSource,
	},
	{
		name:  "cp",
		holds: "cp dir to missing dest creates dest as the copy; again => dest/dir; dir/. merges contents; file to missing/dir fails; works on stopped containers; keeps numeric owner (-a = chown to container USER!)",
		test:  copying,
	},
	{
		name:  "a mount hides what the image has",
		holds: "bind/volume target hides image content; --tmpfs default noexec,nosuid,nodev; --read-only still leaves /dev, /dev/shm, volumes writable",
		test:  mountsHide,
	},
}

func volumeCopyUp(s *subject) {
	s.image("copyup", "mkdir -p /data/sub; echo x >/data/file; chown 1001:1002 /data; chmod 0751 /data")
	const look = "stat -c '%u:%g %a' /data; ls /data"
	full := "1001:1002 751\nfile\nsub"

	s.must("volume", "create", "copyup1") // empty before its first mount
	s.says(full, "run", "--rm", "-v", "copyup1:/data", "copyup", "sh", "-c", look)
	s.must("run", "--rm", "-v", "copyup1:/elsewhere", "busybox", "rm", "-r", "/elsewhere/file", "/elsewhere/sub")
	s.says(full, "run", "--rm", "-v", "copyup1:/data", "copyup", "sh", "-c", look)

	s.must("run", "--rm", "-v", "copyup2:/elsewhere", "busybox", "touch", "/elsewhere/mine")
	s.says("0:0 755\nmine", "run", "--rm", "-v", "copyup2:/data", "copyup", "sh", "-c", look)
	s.says(full, "run", "--rm", "-v", "/data", "copyup", "sh", "-c", look)
	s.says(full, "run", "--rm", "--mount", "type=volume,dst=/data", "copyup", "sh", "-c", look)

	s.says("", "run", "--rm", "-v", "copyup3:/data:nocopy", "copyup", "ls", "/data")
	s.says("", "run", "--rm", "--mount", "type=volume,dst=/data,volume-nocopy", "copyup", "ls", "/data")
	s.says("", "run", "--rm", "-v", s.TempDir()+":/data", "copyup", "ls", "/data")
}

func imageVolumes(s *subject) {
	s.image("withvolume", "mkdir -p /vol; echo x >/vol/file", "VOLUME /vol")
	exists := func(volume string) bool { return s.do("volume", "inspect", volume).Code == 0 }
	anonymous := func(container string) string {
		name := s.inspect(container, `{{range .Mounts}}{{if eq .Destination "/vol"}}{{.Type}} {{.Name}}{{end}}{{end}}`)
		if !regexp.MustCompile(`^volume [0-9a-f]{64}$`).MatchString(name) {
			s.Errorf("the mount at /vol of %s is %q", container, name)
		}
		return strings.TrimPrefix(name, "volume ")
	}
	s.must("create", "--name", "plainrm", "-v", "withname:/named", "withvolume")
	volume := anonymous("plainrm")
	if !exists(volume) {
		s.Error("create has made no volume")
	}
	s.must("rm", "plainrm")
	if !exists(volume) {
		s.Error("rm without -v has removed the volume")
	}
	s.must("volume", "rm", volume)

	s.must("create", "--name", "rmv", "-v", "withname:/named", "withvolume")
	volume = anonymous("rmv")
	s.must("rm", "-v", "rmv")
	if exists(volume) {
		s.Error("rm -v has left the volume")
	}

	run := s.begin("run", "--rm", "-i", "--name", "runrm", "-v", "withname:/named", "withvolume", "cat")
	s.eventually("runrm runs", func() bool { return s.do("inspect", "-f", "{{.State.Running}}", "runrm").Stdout == "true\n" })
	volume = anonymous("runrm")
	run.in.Close()
	if code := run.end(); code != 0 {
		s.Errorf("run ends with %d: %s", code, run.errs.String())
	}
	s.eventually("--rm removes the volume", func() bool { return !exists(volume) })
	if !exists("withname") {
		s.Error("the named volume is gone")
	}
}

func missingBindSource(s *subject) {
	missing := filepath.Join(s.TempDir(), "a", "b")
	s.must("run", "--rm", "-v", missing+":/x", "busybox", "test", "-d", "/x")
	info, err := os.Stat(missing)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o755 || ownerOf(info) != 0 {
		s.Errorf("%s: %v, %v", missing, info, err)
	}
	again := filepath.Join(s.TempDir(), "c")
	s.ends(125, `bind source path does not exist: `+again, "run", "--rm", "--mount", "type=bind,src="+again+",dst=/x", "busybox", "true")
	if _, err := os.Stat(again); err == nil {
		s.Error("--mount has made its source")
	}
}

func mountsHide(s *subject) {
	s.image("hidden", "mkdir /full; echo x >/full/file")
	dir := s.TempDir()
	s.says("", "run", "--rm", "-v", dir+":/full", "hidden", "ls", "/full")
	s.must("run", "--rm", "-v", "hiding:/elsewhere", "busybox", "touch", "/elsewhere/mine")
	s.says("mine", "run", "--rm", "-v", "hiding:/full", "hidden", "ls", "/full")
	s.says("", "run", "--rm", "--tmpfs", "/full", "hidden", "ls", "/full")
	options := s.must("run", "--rm", "--tmpfs", "/t", "busybox", "sh", "-c", `grep " /t tmpfs " /proc/mounts | cut -d" " -f4`)
	for _, want := range []string{"rw", "noexec", "nosuid", "nodev"} {
		if !strings.Contains(","+options+",", ","+want+",") {
			s.Errorf("--tmpfs /t is mounted with %s, without %s", options, want)
		}
	}
	s.says("root no\n/dev yes\n/dev/shm yes\n/v yes\n/bind yes\n/t yes", "run", "--rm", "--read-only", "-v", "hiding:/v", "-v", dir+":/bind", "--tmpfs", "/t", "busybox", "sh", "-c",
		`try() { if touch $1/try 2>/dev/null; then echo $2 yes; else echo $2 no; fi; }; try "" root; for d in /dev /dev/shm /v /bind /t; do try $d $d; done`)
}

func copying(s *subject) {
	dir := s.TempDir()
	for _, d := range []string{"dir", "back"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			s.Fatal(err)
		}
	}
	file := filepath.Join(dir, "dir", "file")
	if err := os.WriteFile(file, []byte("x"), 0o640); err != nil {
		s.Fatal(err)
	}
	if err := os.Chown(file, 1234, 4321); err != nil {
		s.Fatal(err)
	}
	list := func(path string) string {
		return s.must("exec", "copies", "sh", "-c", "cd "+path+" && find . | sort | tr '\\n' ' '")
	}
	is := func(path, want string) {
		s.Helper()
		if got := list(path); got != want {
			s.Errorf("below %s: %q, want %q", path, got, want)
		}
	}
	s.must("run", "-d", "--name", "copies", "-u", "nobody", "busybox", "sleep", "1000")
	s.must("cp", filepath.Join(dir, "dir"), "copies:/made")
	is("/made", ". ./file ")
	s.must("cp", filepath.Join(dir, "dir"), "copies:/made")
	is("/made", ". ./dir ./dir/file ./file ")
	s.must("cp", filepath.Join(dir, "dir")+"/.", "copies:/home")
	is("/home", ". ./app ./file ")
	s.ends(1, `(?i)(no such|not find|not exist)`, "cp", file, "copies:/missing/dir/file")
	s.ends(1, `(?i)(no such|not find|not exist)`, "cp", file, "copies:/missing/")
	s.ends(1, `(?i)(no such|not find|not exist)`, "cp", "copies:/nosuch", dir)
	s.says("1234:4321 640", "exec", "copies", "stat", "-c", "%u:%g %a", "/made/file")
	s.must("cp", "-a", file, "copies:/archived")
	s.says("65534:65534 640", "exec", "copies", "stat", "-c", "%u:%g %a", "/archived")

	s.must("stop", "-t", "0", "copies")
	s.must("cp", file, "copies:/tmp/stopped")
	back := filepath.Join(dir, "back")
	s.must("cp", "copies:/made", filepath.Join(back, "new"))
	s.must("cp", "copies:/made/.", back)
	s.must("cp", "copies:/tmp/stopped", back)
	for _, name := range []string{"new/file", "new/dir/file", "file", "dir/file", "stopped"} {
		if text, err := os.ReadFile(filepath.Join(back, name)); err != nil || string(text) != "x" {
			s.Errorf("%s: %q, %v", name, text, err)
		}
	}
	s.must("rm", "copies")
}
