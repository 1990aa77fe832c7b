package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"berth/testkit"

	mobyclient "github.com/moby/moby/client"
)

// lines are the objects of a stream of JSON.
func (r apiAnswer) lines() []map[string]any {
	r.a.Helper()
	var out []map[string]any
	for d := json.NewDecoder(strings.NewReader(r.body)); ; {
		var m map[string]any
		if err := d.Decode(&m); err == io.EOF {
			return out
		} else if err != nil {
			r.a.Fatalf("%s: %v in %q", r.what, err, r.body)
		}
		out = append(out, m)
	}
}

// searchIndex answers a search for "busy" as Docker Hub's index does.
func searchIndex(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v1/search" || r.URL.Query().Get("q") != "busy" {
		http.Error(w, "no", http.StatusNotFound)
		return
	}
	fmt.Fprintf(w, `{"num_results":1,"query":"busy","results":[{"name":"busybox","description":"small, n=%s","star_count":7,"is_official":true}]}`, r.URL.Query().Get("n"))
}

// pushed is an image of the registry.
func (a *apiTest) pushed(name string) testkit.PushedImage {
	a.Helper()
	p := a.hub.PushImage(name, []byte(archiveOf(map[string]string{name: name})))
	a.Cleanup(func() { a.e.Berth("rmi", "-f", p.Ref) })
	return p
}

const auth = "X-Registry-Auth"

var apiImages = []apiCase{
	{row: "GET /images/json", test: func(a *apiTest) {
		a.e.Must("tag", "busybox", "listed:1")
		a.Cleanup(func() { a.e.Must("rmi", "listed:1") })
		list, err := a.sdk.ImageList(a.Context(), mobyclient.ImageListOptions{All: true, SharedSize: true, Manifests: true, Filters: make(mobyclient.Filters).Add("reference", "listed")})
		a.must(err)
		if len(list.Items) != 1 || list.Items[0].SharedSize < 0 || list.Items[0].Size <= 0 {
			a.Errorf("%+v", list.Items)
		}
		for _, m := range everyVersion {
			a.ask(200, "GET", v(m, "/images/json"), "").shape(`[]: Id s ParentId s RepoTags l RepoDigests l Created n Size n SharedSize n Labels o0 Containers n ` + until(44, m, "VirtualSize n ", "") + until(48, m, "Descriptor -", "Descriptor o?"))
		}
		for query, want := range map[string]int{
			`filters={"reference":["listed:*"]}`: 1, `filters={"reference":["listed:2"]}`: 0, `filters={"dangling":["true"]}`: 0, `filters={"label":["x"]}`: 0, `filters={"reference":{"listed":true}}`: 1, `filters={"before":["busybox"]}`: 0, `filters={"since":["busybox"]}`: 0, `filters={"until":["1"]}`: 0,
		} {
			if got := len(a.ask(200, "GET", "/images/json?"+query, "").v.([]any)); got != want {
				a.Errorf("%s: %d, want %d", query, got, want)
			}
		}
		a.ask(400, "GET", `/images/json?filters={"colour":["red"]}`, "").says("invalid filter 'colour'")
		a.ask(404, "GET", `/images/json?filters={"before":["nosuch"]}`, "")
	}},
	{row: "POST /images/create", test: func(a *apiTest) {
		p := a.pushed("pulled:1")
		pull, err := a.sdk.ImagePull(a.Context(), p.Ref, mobyclient.ImagePullOptions{})
		a.must(err)
		a.must(pull.Wait(a.Context()))
		if id := a.e.Must("inspect", "-f", "{{.Id}}", p.Ref); id != p.ID {
			a.Errorf("pulled %s, want %s", id, p.ID)
		}
		repo := p.Ref[:strings.LastIndex(p.Ref, ":")]
		r := a.ask(200, "POST", "/images/create?fromImage="+repo+"&tag="+p.Digest+"&platform=linux/amd64", "")
		if last := r.lines(); len(last) < 2 || !strings.HasPrefix(fmt.Sprint(last[len(last)-1]["status"]), "Status: ") {
			a.Errorf("%q", r.body)
		}
		for _, header := range []string{registryAuth("u", "p"), strings.TrimRight(registryAuth("u", "p"), "="), "e30=", "e30"} {
			a.ask(200, "POST", "/images/create?fromImage="+repo+"&tag=1", "", auth, header)
		}
		a.ask(404, "POST", "/images/create?fromImage="+repo+"&tag=nosuch", "")
		a.ask(404, "POST", "/images/create?fromImage="+a.hub.Addr+"/nosuch&tag=1", "")
		a.ask(400, "POST", "/images/create?fromImage=UPPER&tag=1", "")
		a.ask(400, "POST", "/images/create?fromImage="+repo+"&tag=1&platform=a/b/c/d", "")
		imported, err := a.sdk.ImageImport(a.Context(), mobyclient.ImageImportSource{Source: strings.NewReader(archiveOf(map[string]string{"f": "x"})), SourceName: "-"}, "imported:1", mobyclient.ImageImportOptions{Message: "hello", Changes: []string{"ENV A=1"}})
		a.drain(imported, err)
		a.ask(200, "GET", "/images/imported:1/json", "").is("A=1", "Config", "Env", "0").is("hello", "Comment")
		a.e.Must("rmi", "imported:1")
		a.ask(400, "POST", "/images/create?fromSrc=-&repo=UPPER", archiveOf(nil), "Content-Type", "application/x-tar")
	}},
	{row: "GET /images/{name}/json", test: func(a *apiTest) {
		p := a.pushed("seen/deep:1")
		a.e.Must("pull", p.Ref)
		one, err := a.sdk.ImageInspect(a.Context(), p.Ref, mobyclient.ImageInspectWithManifests(true))
		a.must(err)
		if one.ID != p.ID || len(one.RepoTags) != 1 || len(one.RepoDigests) != 1 || len(one.Manifests) == 0 {
			a.Errorf("%+v", one)
		}
		repo := p.Ref[:strings.LastIndex(p.Ref, ":")]
		for _, m := range everyVersion {
			config := `Hostname s Domainname s AttachStdin b AttachStdout b AttachStderr b Tty b OpenStdin b StdinOnce b Image s OnBuild l0 User s Env l0 Cmd l0 Volumes o0 WorkingDir s Entrypoint l0 Labels o0 …`
			a.ask(200, "GET", v(m, "/images/"+p.Ref+"/json"), "").is(p.ID, "Id").shape(`
				.: Id s RepoTags l RepoDigests l Created s? Config o Architecture s Os s Size n GraphDriver o? RootFS o Metadata o Variant s? OsVersion s? Identity o? Manifests - ` + until(44, m, "VirtualSize n ", "") + until(45, m, "Container s ContainerConfig o ", "") + until(48, m, "", "Descriptor o? ") + until(52, m, "Parent s Comment s DockerVersion s Author s", "Parent s? Comment s? DockerVersion s? Author s?") + `
				RootFS: Type s Layers l
				Metadata: LastTagTime s
				Config: ` + until(50, m, config, `Cmd l …`))
		}
		for _, ref := range []string{p.ID, strings.TrimPrefix(p.ID, "sha256:"), strings.TrimPrefix(p.ID, "sha256:")[:12], repo + "@" + p.Digest, p.Ref + "@" + p.Digest} {
			a.ask(200, "GET", "/images/"+ref+"/json", "").is(p.ID, "Id")
		}
		a.ask(200, "GET", `/images/`+p.Ref+`/json?platform={"os":"linux","architecture":"amd64"}`, "")
		a.ask(404, "GET", `/images/`+p.Ref+`/json?platform={"os":"linux","architecture":"s390x"}`, "")
		a.ask(404, "GET", "/images/nosuch/json", "").says("No such image: nosuch:latest")
		a.ask(400, "GET", "/images/UPPER/json", "").says("invalid reference format")
		a.ask(400, "GET", `/images/`+p.Ref+`/json?manifests=1&platform={"os":"linux","architecture":"amd64"}`, "")
	}},
	{row: "GET /images/{name}/history", test: func(a *apiTest) {
		rows, err := a.sdk.ImageHistory(a.Context(), "busybox")
		a.must(err)
		if len(rows.Items) == 0 || rows.Items[0].Size == 0 {
			a.Errorf("%+v", rows)
		}
		a.ask(200, "GET", "/images/busybox/history", "").shape(`[]: Id s Created n CreatedBy s Tags l0 Size n Comment s`)
		a.ask(404, "GET", "/images/nosuch/history", "").says("No such image: nosuch")
	}},
	{row: "POST /images/{name}/push", test: func(a *apiTest) {
		ref := a.hub.Addr + "/mine:1"
		a.e.Must("tag", "busybox", ref)
		a.e.Must("tag", "busybox", a.hub.Addr+"/mine:2")
		a.Cleanup(func() { a.e.Must("rmi", ref, a.hub.Addr+"/mine:2") })
		push, err := a.sdk.ImagePush(a.Context(), ref, mobyclient.ImagePushOptions{RegistryAuth: registryAuth("", "")})
		a.must(err)
		var digest string
		for m, err := range push.JSONMessages(a.Context()) {
			a.must(err)
			if m.Aux != nil {
				var aux struct {
					Tag, Digest string
					Size        int
				}
				a.must(json.Unmarshal(*m.Aux, &aux))
				if aux.Tag != "1" || aux.Size == 0 {
					a.Errorf("%+v", aux)
				}
				digest = aux.Digest
			}
		}
		a.ask(200, "GET", "/distribution/"+ref+"/json", "").is(digest, "Descriptor", "digest")
		r := a.ask(200, "POST", "/images/"+a.hub.Addr+"/mine/push", "", auth, "e30=") // all tags
		if !strings.Contains(r.body, `"Tag":"1"`) || !strings.Contains(r.body, `"Tag":"2"`) {
			a.Errorf("%q", r.body)
		}
		a.ask(404, "POST", "/images/"+a.hub.Addr+"/nosuch/push?tag=1", "", auth, "e30=").says("An image does not exist locally with the tag: " + a.hub.Addr + "/nosuch")
		a.ask(400, "POST", "/images/"+a.hub.Addr+"/mine/push?tag=.bad", "", auth, "e30=")
	}},
	{row: "POST /images/{name}/tag", never: []int{409}, test: func(a *apiTest) {
		// 409 was for a tag that another image has; it has been moved silently since 2017.
		_, err := a.sdk.ImageTag(a.Context(), mobyclient.ImageTagOptions{Source: "busybox", Target: "tagged:1"})
		a.must(err)
		a.ask(201, "POST", "/images/tagged:1/tag?repo=tagged&tag=2", "")
		a.ask(201, "POST", "/images/tagged:1/tag?repo=tagged:3", "")
		a.e.Must("rmi", "tagged:1", "tagged:2", "tagged:3")
		a.ask(404, "POST", "/images/nosuch/tag?repo=x", "").says("No such image: nosuch")
		a.ask(400, "POST", "/images/busybox/tag?repo=UPPER", "").says("must be lowercase")
		a.ask(400, "POST", "/images/busybox/tag?repo=x&tag=-bad", "")
	}},
	{row: "DELETE /images/{name}", test: func(a *apiTest) {
		a.e.Must("tag", "busybox", "gone:1")
		out, err := a.sdk.ImageRemove(a.Context(), "gone:1", mobyclient.ImageRemoveOptions{})
		a.must(err)
		if len(out.Items) != 1 || out.Items[0].Untagged != "gone:1" {
			a.Errorf("%+v", out.Items)
		}
		id := a.ask(201, "POST", "/commit?container="+a.create("", "")+"&repo=two&tag=1", "").at("Id").(string)
		a.e.Must("tag", "two:1", "other:1")
		a.ask(409, "DELETE", "/images/"+id, "").says("image is referenced in multiple repositories")
		a.ask(200, "DELETE", "/images/other:1", "").shape(`[]: Untagged s? Deleted s?`)
		r := a.ask(200, "DELETE", "/images/"+id, "")
		if !strings.Contains(r.body, `"Deleted":"`+id+`"`) {
			a.Errorf("%q", r.body)
		}
		a.ask(404, "DELETE", "/images/"+id, "").says("No such image")
		a.sleeper("image-user")
		a.ask(409, "DELETE", "/images/busybox", "").says("conflict")
		a.ask(409, "DELETE", "/images/"+a.e.Must("inspect", "-f", "{{.Id}}", "busybox")+"?force=1", "")
		a.ask(400, "DELETE", "/images/UPPER", "")
	}},
	{row: "GET /images/search", test: func(a *apiTest) {
		index := httptest.NewServer(http.HandlerFunc(searchIndex))
		defer index.Close()
		term := strings.TrimPrefix(index.URL, "http://") + "/busy"
		found, err := a.sdk.ImageSearch(a.Context(), term, mobyclient.ImageSearchOptions{Limit: 5})
		a.must(err)
		if len(found.Items) != 1 || found.Items[0].StarCount != 7 || !found.Items[0].IsOfficial || found.Items[0].Description != "small, n=5" {
			a.Errorf("%+v", found.Items)
		}
		a.ask(200, "GET", "/images/search?term="+term, "").shape(`[]: name s description s star_count n is_official b is_automated b?`)
		a.ask(200, "GET", `/images/search?term=`+term+`&filters={"stars":["8"]}`, "")
		a.ask(400, "GET", "/images/search?term="+term+"&limit=1000", "")
		a.ask(400, "GET", "/images/search?term="+term+`&filters={"colour":["red"]}`, "")
	}},
	{row: "POST /images/prune", test: func(a *apiTest) {
		made := a.ask(201, "POST", "/commit?container="+a.create("", "")+"&changes=LABEL%20prune=1", "").at("Id").(string)
		a.e.Must("tag", "busybox", "kept:1")
		a.Cleanup(func() { a.e.Berth("rmi", "kept:1") })
		a.ask(200, "POST", `/images/prune?filters={"label":["nobody"]}`, "").shape(`.: ImagesDeleted l0 SpaceReclaimed n`)
		out, err := a.sdk.ImagePrune(a.Context(), mobyclient.ImagePruneOptions{Filters: make(mobyclient.Filters).Add("dangling", "true").Add("label", "prune")})
		a.must(err)
		if !strings.Contains(fmt.Sprintf("%+v", out.Report.ImagesDeleted), made) {
			a.Errorf("%+v", out.Report)
		}
		a.ask(200, "POST", `/images/prune?filters={"dangling":["false"],"until":["24h"]}`, "")
		a.ask(400, "POST", `/images/prune?filters={"colour":["red"]}`, "").says("invalid filter 'colour'")
		a.ask(400, "POST", `/images/prune?filters={"dangling":["maybe"]}`, "")
	}},
	{row: "GET /images/{name}/get", test: func(a *apiTest) {
		r := a.ask(200, "GET", "/images/busybox/get", "")
		files := a.entries(strings.NewReader(r.body))
		var manifest []struct {
			Config   string
			RepoTags []string
			Layers   []string
		}
		a.must(json.Unmarshal([]byte(files["manifest.json"]), &manifest))
		if len(manifest) != 1 || manifest[0].RepoTags[0] != "busybox:latest" || files[manifest[0].Config] == "" || files["index.json"] == "" || files["oci-layout"] == "" || r.header.Get("Content-Type") != "application/x-tar" {
			a.Errorf("%v", manifest)
		}
		a.ask(404, "GET", "/images/nosuch/get", "").says("No such image: nosuch")
	}},
	{row: "GET /images/get", test: func(a *apiTest) {
		a.e.Must("tag", "busybox", "second:1")
		a.Cleanup(func() { a.e.Must("rmi", "second:1") })
		out, err := a.sdk.ImageSave(a.Context(), []string{"busybox", "second:1"})
		a.must(err)
		defer out.Close()
		files := a.entries(out)
		if !strings.Contains(files["manifest.json"], "busybox:latest") || !strings.Contains(files["manifest.json"], "second:1") {
			a.Errorf("%s", files["manifest.json"])
		}
		a.ask(404, "GET", "/images/get?names=busybox&names=nosuch", "")
	}},
	{row: "POST /images/load", test: func(a *apiTest) {
		saved := a.ask(200, "GET", "/images/busybox/get", "").body
		out, err := a.sdk.ImageLoad(a.Context(), strings.NewReader(saved), mobyclient.ImageLoadWithQuiet(true))
		if text := a.drain(out, err); !strings.Contains(text, `{"stream":"Loaded image: busybox:latest\n"}`) {
			a.Errorf("%q", text)
		}
		r := a.ask(200, "POST", "/images/load?quiet=0", saved, "Content-Type", "application/x-tar")
		if r.header.Get("Content-Type") != "application/json" || len(r.lines()) == 0 {
			a.Errorf("%v %q", r.header, r.body)
		}
		if status := plain(a, "POST", "/images/load", "this is no tar"); status != 400 && status != 200 {
			a.Errorf("not a tar: %d", status)
		}
	}},
	{row: "GET /distribution/{name}/json", test: func(a *apiTest) {
		p := a.pushed("far/away:1")
		far, err := a.sdk.DistributionInspect(a.Context(), p.Ref, mobyclient.DistributionInspectOptions{})
		a.must(err)
		if far.Descriptor.Digest.String() != p.Digest || len(far.Platforms) != 1 || far.Platforms[0].OS != "linux" {
			a.Errorf("%+v", far)
		}
		a.ask(200, "GET", "/distribution/"+p.Ref+"/json", "").shape(`.: Descriptor o Platforms l
			Descriptor: mediaType s digest s size n …
			Platforms[]: architecture s os s …`)
		locked := testkit.Registry(a, testkit.RegistryOptions{Auth: true})
		a.ask(401, "GET", "/distribution/"+locked.Addr+"/x:1/json", "", auth, registryAuth("x", "y"))
		a.ask(400, "GET", "/distribution/UPPER/json", "")
		a.ask(404, "GET", "/distribution/"+a.hub.Addr+"/nosuch:1/json", "")
	}},
}
