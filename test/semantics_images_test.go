package test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/testkit"
)

var imageSemantics = []semantic{
	{
		name:  "rmi",
		holds: "rmi by tag only untags if other refs exist; refuses while any container (even exited) uses it; -f untags, children keep layers; retag leaves <none> dangling (images -a also shows builder intermediates)",
		test:  removingImages,
	},
	{
		name:  "references",
		holds: "reference: alpine = docker.io/library/alpine:latest; first part is host only with . or : or localhost; tag+digest => digest; ID = config digest (manifest digest in containerd store), RepoDigests only after pull/push",
		test:  imageReferences,
	},
	{
		name:  "history",
		holds: `history newest first, pulled layers show <missing>, empty_layer entries have size 0 and no diff_id; diff_id is digest of UNCOMPRESSED tar, ChainID = sha256(parent + " " + diff)`,
		test:  imageHistory,
	},
	{
		name:  "how layers are applied",
		holds: "layer apply: .wh.NAME whiteouts, .wh..wh..opq opaque dirs, hardlinks across same layer, PAX xattrs (security.capability), sparse & long names, device nodes, setuid, mtime; parent dirs may be missing in the tar",
		test:  layersApplied,
	},
	{
		name:  "save, load, import",
		holds: "save by tag keeps RepoTags, by ID not; load keeps IDs; import makes one layer without config; export drops volumes",
		test:  savedImages,
	},
}

func removingImages(s *subject) {
	s.image("rmi:1", "echo 1 >/rmi")
	id := s.inspect("rmi:1", "{{.Id}}")
	s.must("tag", "rmi:1", "rmi:2")
	s.says("Untagged: rmi:1", "rmi", "rmi:1")
	s.ends(1, `(?s)unable to delete .*must be forced`, "rmi", func() string { s.must("tag", "rmi:2", "rmi:3"); return id[7:19] }())
	s.must("rmi", "rmi:3")

	s.must("run", "--name", "exitedrmi", "rmi:2", "true")
	s.ends(1, `conflict: unable to (remove repository reference|delete).* container \S+ is using its referenced image`, "rmi", "rmi:2")
	s.says("Untagged: rmi:2\nDeleted: "+id, "rmi", "-f", "rmi:2") // its layers stay for the container
	s.says(id, "inspect", "-f", "{{.Image}}", "exitedrmi")
	s.must("start", "-a", "exitedrmi")
	s.must("rm", "exitedrmi")
	s.ends(1, `No such image`, "rmi", id)

	// A child keeps its parent's layers.
	s.image("parentrmi", "echo parent >/parent")
	s.must("run", "--name", "childmaker", "parentrmi", "sh", "-c", "echo child >/child")
	s.must("commit", "childmaker", "childrmi")
	s.must("rm", "childmaker")
	s.looks(`^Untagged: parentrmi:latest`, "rmi", "-f", "parentrmi")
	s.says("parent\nchild", "run", "--rm", "childrmi", "cat", "/parent", "/child")

	// A tag that moves leaves its image without a name.
	s.image("moved", "echo 1 >/moved")
	old := s.inspect("moved", "{{.Id}}")
	s.image("moved", "echo 2 >/moved")
	s.looks("(?m)^"+old+"$", "images", "--no-trunc", "-q", "--filter", "dangling=true")
	s.looks(`(?m)^<none>\s+<none>\s+`+old[7:19], "images")
	s.says("[] []", "inspect", "-f", "{{.RepoTags}} {{.RepoDigests}}", old)
	s.must("rmi", old)
	s.must("rmi", "moved", "childrmi")
}

func imageReferences(s *subject) {
	id := s.inspect("busybox", "{{.Id}}")
	for _, name := range []string{"busybox:latest", "library/busybox", "docker.io/library/busybox:latest", "docker.io/busybox", "index.docker.io/library/busybox", id, id[7:], id[7:19]} {
		if got := s.inspect(name, "{{.Id}}"); got != id {
			s.Errorf("%s is %s", name, got)
		}
	}
	s.says("[]", "inspect", "-f", "{{.RepoDigests}}", "busybox")
	for _, tag := range []struct{ given, shown string }{
		{"refs/a:1", "refs/a:1"},
		{"docker.io/library/refsb:1", "refsb:1"},
		{"localhost/refs:1", "localhost/refs:1"},
		{"refs.example/c:1", "refs.example/c:1"},
		{"refs:5000/d:1", "refs:5000/d:1"},
	} {
		s.must("tag", "busybox", tag.given)
		s.looks(regexp.QuoteMeta(tag.shown), "inspect", "-f", "{{range .RepoTags}}[{{.}}]{{end}}", "busybox")
		if got := s.inspect("busybox", "{{range .RepoTags}}[{{.}}]{{end}}"); !strings.Contains(got, "["+tag.shown+"]") {
			s.Errorf("tag %s is shown in %s", tag.given, got)
		}
		s.says("Untagged: "+tag.shown, "rmi", tag.given)
	}
	s.ends(1, `invalid reference format: repository name .*must be lowercase`, "tag", "busybox", "x/Upper:1")

	reg := s.registry()
	name := reg.Addr + "/refs"
	s.must("tag", "busybox", name+":1")
	digest := regexp.MustCompile(`digest: (sha256:[0-9a-f]{64})`).FindStringSubmatch(s.must("push", name+":1"))
	if digest == nil {
		s.Fatal("push tells no digest")
	}
	s.says("["+name+"@"+digest[1]+"]", "inspect", "-f", "{{.RepoDigests}}", name+":1")
	s.image("refsother", "echo other >/other")
	s.must("tag", "refsother", name+":2")
	s.must("push", name+":2")
	s.must("rmi", name+":1", name+":2")
	// A tag beside a digest is not looked at.
	s.must("pull", name+":2@"+digest[1])
	s.says(id, "inspect", "-f", "{{.Id}}", name+":2@"+digest[1])
	s.says(id, "inspect", "-f", "{{.Id}}", name+"@"+digest[1])
	s.ends(1, `No such (object|image)`, "inspect", name+":2")
	s.must("rmi", name+"@"+digest[1])
	s.must("rmi", "refsother")
}

// registry is one that the engine reaches on loopback.
func (s *subject) registry() *testkit.RegistryServer {
	s.Helper()
	reg := testkit.Registry(s.T, testkit.RegistryOptions{})
	if s.d != nil {
		reg.ServeIn(s.d.Pid)
	}
	return reg
}

func imageHistory(s *subject) {
	s.image("history:1", "echo 1 >/one", "ENV A=1")
	s.must("run", "--name", "historymaker", "history:1", "sh", "-c", "echo 2 >/two")
	s.must("commit", "-m", "second", "historymaker", "history:2")
	s.must("rm", "historymaker")
	id := s.inspect("history:2", "{{.Id}}")
	s.looks(`^`+id[7:19]+`\|second\n.*\|\n.*\|Imported from -`, "history", "--format", "{{.ID}}|{{.Comment}}", "history:2")

	reg := s.registry()
	plain := layerTar(tarEntry{tar.Header{Name: "empty"}, ""})
	second := layerTar(tarEntry{tar.Header{Name: "file"}, "second"})
	config := map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/x"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{sumOf(plain), sumOf(second)}},
		"history": []map[string]any{
			{"created": "2024-01-01T00:00:00Z", "created_by": "ADD first"},
			{"created": "2024-01-01T00:00:01Z", "created_by": "ENV A=1", "empty_layer": true},
			{"created": "2024-01-01T00:00:02Z", "created_by": "ADD second", "comment": "said"},
		},
	}
	name := reg.PushConfig("history:1", config, plain, second).Ref
	s.must("pull", name)
	s.says(fmt.Sprintf("%s|ADD second|6B|said\n<missing>|ENV A=1|0B|\n<missing>|ADD first|0B|", s.inspect(name, "{{.Id}}")[7:19]),
		"history", "--format", "{{.ID}}|{{.CreatedBy}}|{{.Size}}|{{.Comment}}", name)
	s.says("["+sumOf(plain)+" "+sumOf(second)+"]", "inspect", "-f", "{{.RootFS.Layers}}", name)
	if s.e != nil { // where ours keeps layers
		chain := strings.TrimPrefix(sumOf([]byte(sumOf(plain)+" "+sumOf(second))), "sha256:")
		found := false
		_ = filepath.WalkDir(filepath.Join(s.e.DataRoot, "layers"), func(path string, d os.DirEntry, err error) error {
			found = found || strings.Contains(d.Name(), chain)
			return err
		})
		if !found {
			s.Errorf("no layer is kept by its chain ID %s", chain)
		}
	}
	s.must("rmi", name, "history:2", "history:1")
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

type tarEntry struct {
	tar.Header
	text string
}

// layerTar is a layer with these entries; what has no kind is a file.
func layerTar(entries ...tarEntry) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		h.Size = int64(len(e.text))
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func layersApplied(s *subject) {
	base, err := os.ReadFile(testkit.BusyboxTar(s.T))
	if err != nil {
		s.Fatal(err)
	}
	long := strings.Repeat("long/", 40) + strings.Repeat("n", 200)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	lower := layerTar(
		tarEntry{tar.Header{Name: "gone"}, "gone"}, tarEntry{tar.Header{Name: "kept"}, "kept"},
		tarEntry{tar.Header{Name: "dir/", Typeflag: tar.TypeDir}, ""}, tarEntry{tar.Header{Name: "dir/old"}, "old"},
		tarEntry{tar.Header{Name: "opaque/", Typeflag: tar.TypeDir}, ""}, tarEntry{tar.Header{Name: "opaque/old"}, "old"},
	)
	upper := layerTar(
		tarEntry{tar.Header{Name: ".wh.gone"}, ""}, tarEntry{tar.Header{Name: "dir/.wh.old"}, ""},
		tarEntry{tar.Header{Name: "opaque/", Typeflag: tar.TypeDir}, ""}, tarEntry{tar.Header{Name: "opaque/.wh..wh..opq"}, ""}, tarEntry{tar.Header{Name: "opaque/new"}, "new"},
		tarEntry{tar.Header{Name: "missing/parents/file", Uid: 7, Gid: 8, Mode: 0o4711}, "x"},
		tarEntry{tar.Header{Name: "linked", Typeflag: tar.TypeLink, Linkname: "missing/parents/file", Uid: 7, Gid: 8, Mode: 0o4711}, ""},
		tarEntry{tar.Header{Name: long}, "long"},
		tarEntry{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""},
		tarEntry{tar.Header{Name: "capable", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability}}, "x"},
	)
	config := map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{sumOf(base), sumOf(lower), sumOf(upper)}}}
	name := s.registry().PushConfig("applied:1", config, base, lower, upper).Ref
	s.must("pull", name)
	got := s.must("run", "--rm", "--network", "none", name, "sh", "-c", `ls -d /gone /dir/old 2>&1 | grep -c "No such"; cat /kept; echo; ls /dir | wc -l; ls /opaque
stat -c "%u:%g %a %h %Y" /missing/parents/file; stat -c "%u:%g %a" /missing; test /linked -ef /missing/parents/file; echo $?
cat /`+long+`; echo; stat -c "%F %t:%T" /null; echo x >/null; echo $?; ls -a / | grep -c wh; true`)
	want := "2\nkept\n0\nnew\n7:8 4711 2 1700000000\n0:0 755\n0\nlong\ncharacter special file 1:3\n0\n0"
	if got != want {
		s.Errorf("in the container:\n got: %q\nwant: %q", got, want)
	}
	id := s.must("run", "-d", "--network", "none", name, "sleep", "1000")
	attribute := make([]byte, 100)
	n, err := unix.Lgetxattr("/proc/"+s.inspect(id, "{{.State.Pid}}")+"/root/capable", "security.capability", attribute)
	if err != nil || string(attribute[:n]) != capability {
		s.Errorf("the capability of /capable: %q, %v", attribute[:max(n, 0)], err)
	}
	s.must("rm", "-f", id)
	s.must("rmi", name)
}

func savedImages(s *subject) {
	dir := s.TempDir()
	s.image("saved:1", "mkdir /vol; echo in image >/vol/file; echo x >/kept", "VOLUME /vol", "ENV A=1")
	id := s.inspect("saved:1", "{{.Id}}")
	byTag, byID := filepath.Join(dir, "tag.tar"), filepath.Join(dir, "id.tar")
	s.must("save", "-o", byTag, "saved:1")
	s.must("save", "-o", byID, id)
	tags := func(archive string) (tags []string) {
		data, err := os.ReadFile(archive)
		if err != nil {
			s.Fatal(err)
		}
		var manifest []struct{ RepoTags []string }
		for r := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := r.Next()
			if err != nil {
				s.Fatalf("no manifest.json in %s: %v", archive, err)
			}
			if h.Name == "manifest.json" {
				if err := json.NewDecoder(r).Decode(&manifest); err != nil || len(manifest) != 1 {
					s.Fatal(err, manifest)
				}
				return manifest[0].RepoTags
			}
		}
	}
	if got := tags(byTag); len(got) != 1 || got[0] != "saved:1" {
		s.Errorf("saved by tag: %q", got)
	}
	if got := tags(byID); len(got) != 0 {
		s.Errorf("saved by ID: %q", got)
	}
	s.must("rmi", "saved:1")
	s.says("Loaded image ID: "+id, "load", "-i", byID)
	s.says("[]", "inspect", "-f", "{{.RepoTags}}", id)
	s.must("rmi", id)
	s.looks(`Loaded image: saved:1`, "load", "-i", byTag)
	s.says(id, "inspect", "-f", "{{.Id}}", "saved:1")

	s.says("1 [] []", "inspect", "-f", "{{len .RootFS.Layers}} {{.Config.Entrypoint}} {{.Config.Env}}", func() string { return s.must("import", testkit.BusyboxTar(s.T)) }())

	exported := filepath.Join(dir, "exported.tar")
	s.must("create", "--name", "exported", "saved:1")
	s.must("export", "-o", exported, "exported")
	names := strings.Join(tarNames(s.T, exported), "\n")
	if !regexp.MustCompile(`(?m)^kept$`).MatchString(names) || !regexp.MustCompile(`(?m)^vol/$`).MatchString(names) {
		s.Errorf("export lacks what the image has:\n%s", names)
	}
	s.must("rm", "-v", "exported")
	s.must("create", "--name", "exported", "-v", "exportedvolume:/other", "busybox")
	s.must("cp", "-q", exported, "exported:/other/file")
	s.must("export", "-o", exported, "exported")
	if names := strings.Join(tarNames(s.T, exported), "\n"); regexp.MustCompile(`(?m)^other/file$`).MatchString(names) {
		s.Error("export has what is in a volume")
	}
	s.must("rm", "exported")
	s.must("rmi", "saved:1")
}

func dirHeader(name string) tar.Header {
	return tar.Header{Name: name + "/", Typeflag: tar.TypeDir}
}

func fileHeader(name string) tar.Header { return tar.Header{Name: name} }
