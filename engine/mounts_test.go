package engine

import (
	"path"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

func TestBadMountsAreRefusedInDockersWords(t *testing.T) {
	for _, c := range []struct{ spec, text string }{
		{"", "invalid volume specification: ''"},
		{":/x", "invalid volume specification: ':/x'"},
		{"data:/x:ro:z", "invalid volume specification: 'data:/x:ro:z'"},
		{"/x:ro", "invalid volume specification: '/x:ro'"},
		{"data:x", `invalid volume specification: 'data:x': invalid mount config for type "volume": invalid mount path: 'x' mount path must be absolute`},
		{"data:/", `invalid volume specification: 'data:/': invalid mount config for type "volume": invalid specification: destination can't be '/'`},
		{"/:/", `invalid volume specification: '/:/': invalid mount config for type "bind": invalid specification: destination can't be '/'`},
		{"/tmp:/a/..", "destination can't be '/'"},
		{"data:/x:bad", "invalid mode: bad"},
		{"data:/x:ro,ro", "invalid mode: ro,ro"},
		{"data:/x:ro,rw", "invalid mode: ro,rw"},
		{"data:/x:z,Z", "invalid mode: z,Z"},
		{"data:/x:nocopy,nocopy", "invalid mode: nocopy,nocopy"},
		{"data:/x:rslave", `invalid mount config for type "volume": field BindOptions must not be specified`},
		{"/tmp:/x:nocopy", `invalid mount config for type "bind": field VolumeOptions must not be specified`},
		{"data:/x:idmap", `invalid mount config for type "volume": idmap is for bind mounts`},
		{"/tmp:/x:idmap=uids=1", `invalid idmap "uids=1": the form is idmap=uids=DISK-SEEN-COUNT[#...][;gids=...]`},
		{"/tmp:/x:idmap=uids=0-1-0", "invalid idmap"},
		{"/tmp:/x:idmap=uids=0-1-1;uids=0-1-1", "invalid idmap"},
		{"/tmp:/x:idmap=uids=4294967290-1-9", "invalid idmap"},
	} {
		if _, err := parseBind(c.spec); err == nil || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %s", c.spec, err, c.text)
		}
	}
	for _, c := range []struct {
		m    mount.Mount
		text string
	}{
		{mount.Mount{Type: "foo", Target: "/x"}, `invalid mount config for type "foo": mount type unknown`},
		{mount.Mount{Type: "volume", Target: "x"}, "mount path must be absolute"},
		{mount.Mount{Type: "volume"}, "field Target must not be empty"},
		{mount.Mount{Type: "volume", Target: "/x", ReadOnly: true}, "must not set ReadOnly mode when using anonymous volumes"},
		{mount.Mount{Type: "volume", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "a"}}, "must not set Subpath when using anonymous volumes"},
		{mount.Mount{Type: "volume", Source: "data", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "../a"}}, "subpath must be a relative path within the volume"},
		{mount.Mount{Type: "volume", Source: "data", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "/a"}}, "subpath must be a relative path within the volume"},
		{mount.Mount{Type: "volume", Source: "data", Target: "/x", BindOptions: &mount.BindOptions{}}, "field BindOptions must not be specified"},
		{mount.Mount{Type: "bind", Target: "/x"}, "field Source must not be empty"},
		{mount.Mount{Type: "bind", Source: "x", Target: "/x"}, "invalid mount path: 'x' mount path must be absolute"},
		{mount.Mount{Type: "bind", Source: "/x", Target: "/x", BindOptions: &mount.BindOptions{Propagation: "foo"}}, "invalid propagation mode: foo"},
		{mount.Mount{Type: "bind", Source: "/x", Target: "/x", Consistency: "foo"}, "invalid consistency: foo"},
		{mount.Mount{Type: "tmpfs", Source: "/x", Target: "/x"}, "field Source must not be specified"},
		{mount.Mount{Type: "tmpfs", Target: "/x", Consistency: "idmap"}, "idmap is for bind mounts"},
		{mount.Mount{Type: "image", Target: "/x"}, "field Source must not be empty"},
		{mount.Mount{Type: "image", Source: "busybox", Target: "/x", ImageOptions: &mount.ImageOptions{Subpath: "../x"}}, "subpath must be a relative path within the image"},
	} {
		if _, err := parseMount(c.m); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v, want %s", c.m, err, c.text)
		}
	}
}

func TestMountsAreShownAsDockerShowsThem(t *testing.T) {
	for _, c := range []struct {
		spec string
		want MountPoint
	}{
		{"/tmp:/b", MountPoint{Type: "bind", Source: "/tmp", Destination: "/b", RW: true, Propagation: "rprivate"}},
		{"/tmp/:/b/:ro,rslave", MountPoint{Type: "bind", Source: "/tmp", Destination: "/b", Mode: "ro,rslave", Propagation: "rslave"}},
		{"data:/n", MountPoint{Type: "volume", Name: "data", Destination: "/n", Driver: "local", Mode: "z", RW: true}},
		{"data:/n:ro,nocopy", MountPoint{Type: "volume", Name: "data", Destination: "/n", Driver: "local", Mode: "ro,nocopy"}},
	} {
		r, err := parseBind(c.spec)
		if err != nil || r.Point != c.want {
			t.Errorf("%q: %+v %v, want %+v", c.spec, r.Point, err, c.want)
		}
	}
}

func FuzzParseBind(f *testing.F) {
	for _, s := range []string{"/a:/b", "/a:/b:ro,z", "xx:/y", ":", "/a:/b:rshared,ro", "/:/x", "/x", "data:/x:nocopy", "/a:/b:idmap=uids=0-1000-1#5-5-2;gids=0-1000-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseBind(s)
		if err == nil {
			checkRequest(t, r)
		}
	})
}

func FuzzParseMount(f *testing.F) {
	f.Add("volume", "data", "/x", "sub", "", "rprivate")
	f.Add("bind", "/a", "/x", "", "idmap=uids=0-1-1", "rshared")
	f.Add("image", "busybox", "/x/../y", "a/b", "cached", "")
	f.Fuzz(func(t *testing.T, kind, source, target, subpath, consistency, propagation string) {
		m := mount.Mount{Type: mount.Type(kind), Source: source, Target: target, Consistency: mount.Consistency(consistency)}
		switch m.Type {
		case mount.TypeVolume:
			m.VolumeOptions = &mount.VolumeOptions{Subpath: subpath}
		case mount.TypeImage:
			m.ImageOptions = &mount.ImageOptions{Subpath: subpath}
		case mount.TypeBind:
			m.BindOptions = &mount.BindOptions{Propagation: mount.Propagation(propagation)}
		}
		if r, err := parseMount(m); err == nil {
			checkRequest(t, r)
		}
	})
}

// checkRequest holds what the parts behind the parsers rely on.
func checkRequest(t *testing.T, r mountRequest) {
	t.Helper()
	p := r.Point
	if !path.IsAbs(p.Destination) || p.Destination == "/" || path.Clean(p.Destination) != p.Destination {
		t.Errorf("destination %q", p.Destination)
	}
	if p.Type == "bind" && !path.IsAbs(p.Source) || path.IsAbs(r.Subpath) || strings.HasPrefix(path.Clean(r.Subpath), "..") {
		t.Errorf("%+v", r)
	}
}

func TestWhatCoversWhat(t *testing.T) {
	f := newFixture(t)
	f.create("lender", func(r *CreateRequest) {
		r.HostConfig.Binds = []string{"lent:/a", "lent:/b", "/tmp:/t:ro"}
		r.Config.Volumes = map[string]struct{}{"/anon": {}}
		r.HostConfig.Tmpfs = map[string]string{"/scratch": ""}
	})
	f.create("second", func(r *CreateRequest) { r.HostConfig.Binds = []string{"second:/b"} })
	id := f.create("borrower", func(r *CreateRequest) {
		r.HostConfig.VolumesFrom = []string{"lender:ro", "second"}
		r.HostConfig.Binds = []string{"own:/a"}
		r.Config.Volumes = map[string]struct{}{"/a": {}, "/anon": {}, "/img": {}}
	})
	c, err := f.Containers.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	lender, _ := f.Containers.Get("lender")
	at := map[string]MountPoint{}
	for _, p := range c.Mounts {
		at[p.Destination] = p
	}
	if len(at) != 5 || at["/a"].Name != "own" || !at["/a"].RW || at["/b"].Name != "second" || !at["/b"].RW || at["/t"].RW ||
		at["/anon"].Name != lender.Mounts[3].Name || at["/anon"].RW || len(at["/img"].Name) != 64 {
		t.Errorf("mounts %+v", c.Mounts)
	}
}

func TestVolumesGoWithTheirContainersOnlyWhenTheyShould(t *testing.T) {
	anonymous := func(r *CreateRequest) {
		r.HostConfig.Binds = []string{"named:/n"}
		r.Config.Volumes = map[string]struct{}{"/anon": {}}
	}
	names := func(f *fixture) (named, anon int) {
		for _, v := range f.opt.Volumes.List() {
			if v.Anonymous() {
				anon++
			} else {
				named++
			}
		}
		return named, anon
	}
	for _, c := range []struct {
		name   string
		change func(*CreateRequest)
		end    func(f *fixture)
		anon   int
	}{
		{"a plain rm leaves all", nil, func(f *fixture) { _ = f.Containers.Remove(t.Context(), "me", RemoveOptions{}) }, 1},
		{"rm -v takes the anonymous", nil, func(f *fixture) { _ = f.Containers.Remove(t.Context(), "me", RemoveOptions{Volumes: true}) }, 0},
		{"prune leaves all", nil, func(f *fixture) { _, _, _ = f.Containers.Prune(t.Context(), nil) }, 1},
		{"--rm takes the anonymous", func(r *CreateRequest) { r.HostConfig.AutoRemove = true }, func(f *fixture) {
			f.start("me")
			f.shims.of(f.id("me")).exit(0)
			eventually(t, "it is gone", func() bool { return f.status("me") == "none" })
		}, 0},
		{"what another one uses stays", nil, func(f *fixture) {
			f.create("other", func(r *CreateRequest) { r.HostConfig.VolumesFrom = []string{"me"} })
			_ = f.Containers.Remove(t.Context(), "me", RemoveOptions{Volumes: true})
		}, 1},
		{"and goes with the last user", nil, func(f *fixture) {
			f.create("other", func(r *CreateRequest) { r.HostConfig.VolumesFrom = []string{"me"} })
			_ = f.Containers.Remove(t.Context(), "me", RemoveOptions{Volumes: true})
			_ = f.Containers.Remove(t.Context(), "other", RemoveOptions{Volumes: true})
		}, 0},
		{"a --rm container that went without an engine", func(r *CreateRequest) { r.HostConfig.AutoRemove = true }, func(f *fixture) {
			f.start("me")
			s := f.shims.of(f.id("me"))
			f.crash()
			s.exit(0)
			f.open()
			eventually(t, "it is gone", func() bool { return f.status("me") == "none" })
		}, 0},
		{"a --rm container that the machine forgot", func(r *CreateRequest) { r.HostConfig.AutoRemove = true }, func(f *fixture) {
			f.crash()
			f.forgetVolatile()
			f.open()
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.create("me", func(r *CreateRequest) {
				anonymous(r)
				if c.change != nil {
					c.change(r)
				}
			})
			c.end(f)
			if named, anon := names(f); named != 1 || anon != c.anon {
				t.Errorf("%d named and %d anonymous volumes are left", named, anon)
			}
		})
	}
}

func TestAnEngineKnowsTheUsersOfVolumesAgain(t *testing.T) {
	f := newFixture(t)
	id := f.create("me", func(r *CreateRequest) { r.HostConfig.Binds = []string{"data:/n"} })
	f.crash()
	f.open()
	err := f.opt.Volumes.Remove(t.Context(), "data")
	if err == nil || err.Error() != "remove data: volume is in use - ["+id+"]" {
		t.Errorf("removal of a used volume: %v", err)
	}
	if err := f.Containers.Remove(t.Context(), "me", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.opt.Volumes.Remove(t.Context(), "data"); err != nil {
		t.Error(err)
	}
}

func TestAFailedCreationLeavesNoVolume(t *testing.T) {
	f := newFixture(t)
	f.create("taken", nil)
	for name, change := range map[string]func(*CreateRequest){
		"a bad second volume": func(r *CreateRequest) { r.HostConfig.Binds = []string{"first:/a", "x:/b"} },
		"a taken name": func(r *CreateRequest) {
			r.Name, r.HostConfig.Binds = "taken", []string{"first:/a"}
		},
		"an unknown image to mount": func(r *CreateRequest) {
			r.HostConfig.Binds = []string{"first:/a"}
			r.HostConfig.Mounts = []mount.Mount{{Type: "image", Source: "nope", Target: "/i"}}
		},
	} {
		r := CreateRequest{Config: &container.Config{Image: "busybox"}, HostConfig: &container.HostConfig{NetworkMode: "none"}}
		change(&r)
		if _, _, err := f.Containers.Create(t.Context(), r); err == nil {
			t.Errorf("%s: was created", name)
		}
		if left := f.opt.Volumes.List(); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

func TestVolumesAreFilledUntilTheContainerHasRun(t *testing.T) {
	f := newFixture(t)
	f.create("me", func(r *CreateRequest) { r.HostConfig.Binds = []string{"data:/n", "kept:/k:nocopy", "/tmp:/t"} })
	for _, want := range []bool{true, false} {
		f.start("me")
		cfg := f.shims.of(f.id("me")).cfg
		if len(cfg.Sources) != 2 || cfg.Sources[0].Fill != want || cfg.Sources[1].Fill {
			t.Errorf("sources %+v", cfg.Sources)
		}
		f.shims.of(f.id("me")).exit(0)
		eventually(t, "it has ended", func() bool { return f.status("me") == exited })
	}
}

func (f *fixture) id(name string) string {
	c, err := f.Containers.Get(name)
	if err != nil {
		f.t.Fatal(err)
	}
	return c.ID
}
