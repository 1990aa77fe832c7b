package test

import (
	"os"
	"path/filepath"
	"testing"

	"berth/testkit"
)

func TestCpOfARunningAndAStoppedContainer(t *testing.T) {
	for _, driver := range []string{"overlay", "copy"} {
		t.Run(driver, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--storage-driver", driver}})
			e.Busybox()
			bind := filepath.Join(e.Dir, "bind")
			if err := os.Mkdir(bind, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, c := range clients {
				t.Run(c.name, func(t *testing.T) {
					c.must(e, "run", "-d", "--name", "cc", "--network", "none", "-v", "vol:/vol", "-v", bind+":/bind", "--tmpfs", "/tm", "busybox", "sleep", "1000")
					src := filepath.Join(e.Dir, "src")
					must(t, os.MkdirAll(filepath.Join(src, "sub"), 0o755), os.WriteFile(filepath.Join(src, "sub/f"), []byte("content\n"), 0o640))
					for _, state := range []string{"running", "stopped"} {
						dirs := []string{"/root", "/vol", "/bind"}
						if state == "running" {
							dirs = append(dirs, "/tm")
						} else {
							c.must(e, "kill", "cc")
							c.must(e, "wait", "cc")
						}
						for _, dir := range dirs {
							c.must(e, "cp", src, "cc:"+dir+"/"+state)
							to := filepath.Join(t.TempDir(), "out")
							c.must(e, "cp", "cc:"+dir+"/"+state, to)
							data, err := os.ReadFile(filepath.Join(to, "sub/f"))
							if err != nil || string(data) != "content\n" {
								t.Errorf("%s, %s: %q, %v", state, dir, data, err)
							}
						}
					}
					if _, err := os.Stat(filepath.Join(bind, "stopped/sub/f")); err != nil {
						t.Error(err)
					}
					c.must(e, "rm", "cc")
					c.must(e, "volume", "rm", "vol")
					must(t, os.RemoveAll(filepath.Join(bind, "running")), os.RemoveAll(filepath.Join(bind, "stopped")))
				})
			}
		})
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
