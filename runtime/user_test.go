package runtime

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/fail"
)

const (
	testPasswd = "# comment\nroot:x:0:0:root:/root:/bin/sh\n\nbroken\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\nhuge:x:4294967299:1::/:\n1234:x:77:78::/seventy:\nbare:x:5:6\n"
	testGroup  = "root:x:0:root\nwheel:x:10:root,alice\nalice:x:1001:\naudio:x:29:alice\nbroken:x:y:alice\n"
)

func TestUsersAreResolvedByDockersRules(t *testing.T) {
	for _, tc := range []struct {
		user   string
		groups []string
		uid    uint32
		gid    uint32
		extra  []uint32
		home   string
		err    string
	}{
		{user: "", home: "/root"},
		{user: "root", home: "/root", extra: []uint32{10}},
		{user: "alice", uid: 1000, gid: 1001, extra: []uint32{10, 29}, home: "/home/alice"},
		{user: "1000", uid: 1000, gid: 1001, extra: []uint32{10, 29}, home: "/home/alice"},
		{user: "alice:wheel", uid: 1000, gid: 10, home: "/home/alice"},
		{user: "alice:4000", uid: 1000, gid: 4000, home: "/home/alice"},
		{user: "alice:", uid: 1000, gid: 1001, extra: []uint32{10, 29}, home: "/home/alice"},
		{user: ":wheel", gid: 10, home: "/root"},
		{user: "4242", uid: 4242, home: "/"},
		{user: "4242:29", uid: 4242, gid: 29, home: "/"},
		{user: "1234", uid: 77, gid: 78, home: "/seventy"}, // a name wins over a number
		{user: "bare", uid: 5, gid: 6, home: "/"},
		{user: "alice", groups: []string{"audio", "555", "root"}, uid: 1000, gid: 1001, extra: []uint32{10, 29, 555, 0}, home: "/home/alice"},
		{user: "nobodyhere", err: "unable to find user nobodyhere: no matching entries in passwd file"},
		{user: "broken", err: "unable to find user broken: no matching entries in passwd file"},
		{user: "alice:nogroup", err: "unable to find group nogroup: no matching entries in group file"},
		{user: "alice", groups: []string{"broken"}, err: "unable to find group broken: no matching entries in group file"},
		{user: "2147483648", err: "uids and gids must be in range 0-2147483647"},
		{user: "-1", err: "uids and gids must be in range 0-2147483647"},
		{user: "99999999999999999999999", err: "uids and gids must be in range 0-2147483647"},
		{user: "a:b:c", err: `user "a:b:c": more than one colon`},
	} {
		t.Run(tc.user+" "+strings.Join(tc.groups, ","), func(t *testing.T) {
			u, home, err := resolveUser([]byte(testPasswd), []byte(testGroup), tc.user, tc.groups)
			if tc.err != "" {
				if err == nil || err.Error() != tc.err || !fail.Is(err, fail.Invalid) {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tc.user == "" || tc.user == ":wheel" {
				// The empty name is user 0, with the groups of root.
				u.AdditionalGids = nil
			}
			if u.UID != tc.uid || u.GID != tc.gid || !slices.Equal(u.AdditionalGids, tc.extra) || home != tc.home {
				t.Errorf("got %+v, home %q", u, home)
			}
		})
	}
}

func TestUserFilesAreReadInsideTheRootOnly(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(dir+"/etc", 0o755)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	// Without files every number is good, and no name is.
	if u, home, err := ResolveUser(root, "12:13", nil); err != nil || u.UID != 12 || u.GID != 13 || home != "/" {
		t.Errorf("got %+v %q %v", u, home, err)
	}
	// A link to the host's file leads nowhere.
	os.Symlink("../../../../../../../../etc/passwd", dir+"/etc/passwd")
	if _, _, err := ResolveUser(root, "daemon", nil); !fail.Is(err, fail.Invalid) {
		t.Errorf("got %v", err)
	}
	// A pipe does not block, and is refused.
	os.Remove(dir + "/etc/passwd")
	if err := unix.Mkfifo(dir+"/etc/passwd", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ResolveUser(root, "root", nil); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got %v", err)
	}
	os.Remove(dir + "/etc/passwd")
	write(t, dir+"/etc/passwd", strings.Repeat("x", maxUserFile+1), 0o644)
	if _, _, err := ResolveUser(root, "root", nil); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func FuzzResolveUser(f *testing.F) {
	f.Add([]byte(testPasswd), []byte(testGroup), "alice:wheel", "audio")
	f.Add([]byte(":::::"), []byte(":::"), ":", "")
	f.Fuzz(func(t *testing.T, passwd, group []byte, user, extra string) {
		u, home, err := resolveUser(passwd, group, user, []string{extra})
		if err != nil {
			if !fail.Is(err, fail.Invalid) {
				t.Fatalf("class %v of %v", fail.Of(err), err)
			}
			return
		}
		if home == "" || u.UID > 1<<31-1 || u.GID > 1<<31-1 {
			t.Fatalf("%+v %q", u, home)
		}
	})
}
