package runtime

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// A directory takes the place of /proc, as few kernels of test machines have such modules.
func TestLabelsAreWrittenWhereTheKernelReadsThem(t *testing.T) {
	proc := t.TempDir()
	os.MkdirAll(proc+"/self/attr/apparmor", 0o755)
	for _, file := range []string{"apparmor/exec", "exec"} {
		write(t, proc+"/self/attr/"+file, "", 0o644)
	}
	dir, err := os.Open(proc)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	b := newBuilder(new(oci.Spec), "")
	b.labels = []label{{applyProfile, "berth-default", "self/attr/apparmor/exec", "exec berth-default"}, {"apply SELinux label", "system_u:system_r:container_t:s0:c1,c2", "self/attr/exec", "system_u:system_r:container_t:s0:c1,c2"}}
	b.proc = b.p.Slot()
	b.p.Set(b.proc, b.p.File(dir))
	b.applyLabels()
	b.p.Exit(0)
	child, err := stage.Start(b.p, stage.Options{FirstFree: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(child.Pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	if ws.ExitStatus() != 0 {
		t.Errorf("status %d", ws.ExitStatus())
	}
	for file, want := range map[string]string{"apparmor/exec": "exec berth-default", "exec": "system_u:system_r:container_t:s0:c1,c2"} {
		if text, _ := os.ReadFile(proc + "/self/attr/" + file); string(text) != want {
			t.Errorf("%s: %q", file, text)
		}
	}
}

func TestAMountLabelIsGivenToFileSystemsThatTakeOne(t *testing.T) {
	for fsType, want := range map[string][]string{"tmpfs": {"size=1m", "context=a:b:c"}, "devpts": {"size=1m", "context=a:b:c"}, "proc": {"size=1m"}, "mqueue": {"size=1m"}} {
		plan := &mountPlan{Mount: oci.Mount{Type: fsType}, opts: mountOptions{data: []string{"size=1m"}}}
		if got := labelled(plan, "a:b:c"); !slices.Equal(got, want) {
			t.Errorf("%s: %v", fsType, got)
		}
		if got := labelled(plan, ""); len(got) != 1 {
			t.Errorf("%s without a label: %v", fsType, got)
		}
	}
}
