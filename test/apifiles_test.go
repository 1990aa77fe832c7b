package test

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
)

// archiveOf is a tar of files.
func archiveOf(files map[string]string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Uid: 1001, Gid: 1002}) != nil {
			panic("tar")
		}
		_, _ = io.WriteString(w, text)
	}
	_ = w.Close()
	return b.String()
}

// entries are the names in a tar, and what its files hold.
func (a *apiTest) entries(r io.Reader) map[string]string {
	a.Helper()
	out := map[string]string{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return out
		}
		a.must(err)
		data, err := io.ReadAll(t)
		a.must(err)
		out[h.Name] = string(data)
	}
}

var apiFiles = []apiCase{
	{row: "GET /containers/{id}/changes", test: func(a *apiTest) {
		id := a.create("changed", `"Cmd":["sh","-c","echo x > /etc/passwd; rm /etc/group; mkdir /new"],"HostConfig":{"NetworkMode":"none"}`)
		a.ask(204, "POST", "/containers/changed/start", "")
		a.ask(200, "POST", "/containers/changed/wait", "")
		diff, err := a.sdk.ContainerDiff(a.Context(), id, mobyclient.ContainerDiffOptions{})
		a.must(err)
		kinds := map[string]container.ChangeType{}
		for _, c := range diff.Changes {
			kinds[c.Path] = c.Kind
		}
		for path, want := range map[string]container.ChangeType{"/etc": 0, "/etc/passwd": 0, "/etc/group": 2, "/new": 1} {
			if got, found := kinds[path]; !found || got != want {
				a.Errorf("%s: %v %v, want %v", path, got, found, want)
			}
		}
		a.ask(200, "GET", "/containers/changed/changes", "").shape(`[]: Path s Kind n`)
		a.create("unchanged", "")
		if r := a.ask(200, "GET", "/containers/unchanged/changes", ""); strings.TrimSpace(r.body) != "null" && strings.TrimSpace(r.body) != "[]" {
			a.Errorf("%q", r.body)
		}
		a.ask(404, "GET", "/containers/nosuch/changes", "")
	}},
	{row: "GET /containers/{id}/export", test: func(a *apiTest) {
		id := a.create("exported", `"Cmd":["sh","-c","echo mine > /mine"],"HostConfig":{"NetworkMode":"none","Binds":["/tmp:/host"]}`)
		a.ask(204, "POST", "/containers/exported/start", "")
		a.ask(200, "POST", "/containers/exported/wait", "")
		out, err := a.sdk.ContainerExport(a.Context(), id, mobyclient.ContainerExportOptions{})
		a.must(err)
		defer out.Close()
		files := a.entries(out)
		_, mount := files["host/"]
		if files["mine"] != "mine\n" || files["etc/passwd"] == "" || !mount {
			a.Errorf("%d entries; mine is %q", len(files), files["mine"])
		}
		a.ask(404, "GET", "/containers/nosuch/export", "")
	}},
	{row: "HEAD /containers/{id}/archive", test: func(a *apiTest) {
		a.create("stat", "")
		stat, err := a.sdk.ContainerStatPath(a.Context(), "stat", mobyclient.ContainerStatPathOptions{Path: "/bin/sh"})
		a.must(err)
		if stat.Stat.Name != "sh" || stat.Stat.Mode&os.ModeSymlink == 0 || stat.Stat.LinkTarget != "/bin/busybox" {
			a.Errorf("%+v", stat.Stat)
		}
		r := a.ask(200, "HEAD", "/containers/stat/archive?path=/etc", "")
		text, err := base64.StdEncoding.DecodeString(r.header.Get("X-Docker-Container-Path-Stat"))
		a.must(err)
		a.must(json.Unmarshal(text, &r.v))
		r.shape(`.: name s size n mode n mtime s linkTarget s`).is("etc", "name")
		a.ask(404, "HEAD", "/containers/stat/archive?path=/nosuch", "")
		a.ask(404, "HEAD", "/containers/nosuch/archive?path=/", "")
		a.ask(400, "HEAD", "/containers/stat/archive?path=", "")
	}},
	{row: "GET /containers/{id}/archive", test: func(a *apiTest) {
		a.create("fetched", `"HostConfig":{"NetworkMode":"none","Binds":["fetched:/vol"]}`)
		out, err := a.sdk.CopyFromContainer(a.Context(), "fetched", mobyclient.CopyFromContainerOptions{SourcePath: "/etc/passwd"})
		a.must(err)
		defer out.Content.Close()
		if files := a.entries(out.Content); len(files) != 1 || !strings.HasPrefix(files["passwd"], "root:") || out.Stat.Name != "passwd" {
			a.Errorf("%v %+v", files, out.Stat)
		}
		r := a.ask(200, "GET", "/containers/fetched/archive?path=/etc/.", "")
		if files := a.entries(strings.NewReader(r.body)); files["./passwd"] == "" {
			a.Errorf("/etc/.: %d entries", len(files))
		}
		if r.header.Get("Content-Type") != "application/x-tar" || r.header.Get("X-Docker-Container-Path-Stat") == "" {
			a.Errorf("%v", r.header)
		}
		a.ask(200, "GET", "/containers/fetched/archive?path=/vol", "")
		a.ask(400, "GET", "/containers/fetched/archive?path=", "")
		a.ask(404, "GET", "/containers/fetched/archive?path=/nosuch", "").says("Could not find the file /nosuch in container fetched")
		a.ask(404, "GET", "/containers/nosuch/archive?path=/", "")
	}},
	{row: "PUT /containers/{id}/archive", test: func(a *apiTest) {
		a.create("filled", `"Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"none","Binds":["filled:/vol","filled-ro:/ro:ro"]}`)
		_, err := a.sdk.CopyToContainer(a.Context(), "filled", mobyclient.CopyToContainerOptions{DestinationPath: "/root", Content: strings.NewReader(archiveOf(map[string]string{"note": "text"}))})
		a.must(err)
		put := func(status int, query string) apiAnswer {
			a.Helper()
			return a.ask(status, "PUT", "/containers/filled/archive?"+query, archiveOf(map[string]string{"file": "text"}), "Content-Type", "application/x-tar")
		}
		put(200, "path=/vol")
		a.ask(204, "POST", "/containers/filled/start", "")
		put(200, "path=/tmp&copyUIDGID=1")
		if got := a.e.Must("exec", "filled", "sh", "-c", "cat /root/note /vol/file /tmp/file; stat -c %u /vol/file"); got != "texttexttext1001" {
			a.Errorf("%q", got)
		}
		put(404, "path=/nosuch")
		put(400, "path=/etc/passwd")
		put(400, "path=")
		put(403, "path=/ro")
		a.ask(404, "PUT", "/containers/nosuch/archive?path=/", archiveOf(nil), "Content-Type", "application/x-tar")
		a.ask(400, "PUT", "/containers/filled/archive?path=/tmp&noOverwriteDirNonDir=1", archiveOf(map[string]string{"../../etc/passwd/x": "bad"})[:700], "Content-Type", "application/x-tar")
		a.create("locked", `"HostConfig":{"NetworkMode":"none","ReadonlyRootfs":true}`)
		a.ask(403, "PUT", "/containers/locked/archive?path=/tmp", archiveOf(map[string]string{"file": ""}), "Content-Type", "application/x-tar")
	}},
	{row: "POST /commit", test: func(a *apiTest) {
		id := a.create("committed", `"Cmd":["sh","-c","echo mine > /mine"],"HostConfig":{"NetworkMode":"none"}`)
		a.ask(204, "POST", "/containers/committed/start", "")
		a.ask(200, "POST", "/containers/committed/wait", "")
		made, err := a.sdk.ContainerCommit(a.Context(), id, mobyclient.ContainerCommitOptions{Reference: "made:2", Comment: "why", Author: "me", Changes: []string{"ENV B=2", `CMD ["cat","/mine"]`}, Config: &container.Config{Labels: map[string]string{"l": "1"}}})
		a.must(err)
		a.Cleanup(func() { a.e.Must("rmi", "-f", made.ID) })
		a.ask(200, "GET", "/images/made:2/json", "").is(made.ID, "Id").is("why", "Comment").is("me", "Author").is("1", "Config", "Labels", "l").is("cat", "Config", "Cmd", "0")
		if got := a.e.Must("run", "--rm", "--network", "none", "made:2"); got != "mine" {
			a.Errorf("%q", got)
		}
		r := a.ask(201, "POST", "/commit?container=committed&pause=0", "").shape(`.: Id s`)
		a.e.Must("rmi", r.at("Id").(string))
		a.ask(404, "POST", "/commit?container=nosuch", "").says("No such container: nosuch")
		a.ask(400, "POST", "/commit?container=committed&repo=UPPER", "")
		a.ask(400, "POST", "/commit?container=committed&changes=RUN%20true", "")
	}},
}
