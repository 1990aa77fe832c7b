package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"berth/testkit"
)

func TestManifestInspectShowsWhatDockerShows(t *testing.T) {
	reg, img := layeredImage(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--max-download-attempts=1"}})
	for _, args := range [][]string{{img.Ref}, {"-v", img.Ref}, {"-v", reg.Addr + "/box@" + img.Digest}} {
		got := e.Must(append([]string{"manifest", "inspect"}, args...)...)
		want := e.MustDocker(append([]string{"manifest", "inspect", "--insecure"}, args...)...)
		if got != want {
			t.Errorf("manifest inspect %v:\n%s\nDocker says:\n%s", args, got, want)
		}
	}
	refused(t, e.Berth("manifest", "inspect", reg.Addr+"/box:none"), 1, `manifest for .*/box:none not found`)
	refused(t, e.Berth("manifest", "inspect", "127.0.0.1:1/box"), 1, `connection refused`)
}

func TestAManifestListIsPutTogetherAndPushed(t *testing.T) {
	reg, img := layeredImage(t)
	other := reg.PushImage("other:arm", noisyTar(t, "arm", 9, 1000))
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	list := reg.Addr + "/all/box:2"
	if got := e.Must("manifest", "create", list, img.Ref, other.Ref); got != "Created manifest list "+list {
		t.Errorf("create: %q", got)
	}
	refused(t, e.Berth("manifest", "create", list, img.Ref), 1, `refusing to amend an existing manifest list with no --amend flag`)
	refused(t, e.Berth("manifest", "annotate", list, reg.Addr+"/no:1", "--os", "linux"), 1, `manifest for image .* does not exist in`)
	e.Must("manifest", "annotate", "--arch", "arm64", "--variant", "v8", list, other.Ref)
	digest := e.Must("manifest", "push", "--purge", list)
	refused(t, e.Berth("manifest", "push", list), 1, `No such manifest: `+list)

	var index struct {
		Manifests []struct {
			Digest   string
			Platform struct{ Architecture, Variant string }
		}
	}
	if err := json.Unmarshal([]byte(skopeo(t, e, "inspect", "--raw", "--tls-verify=false", "docker://"+list)), &index); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range index.Manifests {
		found[m.Platform.Architecture+m.Platform.Variant] = m.Digest
	}
	if len(found) != 2 || found["arm64v8"] != other.Digest {
		t.Errorf("the registry has %v, want %s and %s", found, img.Digest, other.Digest)
	}
	e.Must("pull", reg.Addr+"/all/box@"+digest)
	e.Must("run", "--rm", "--network", "none", reg.Addr+"/all/box@"+digest, "true")
	if got := e.Must("manifest", "inspect", list); !strings.Contains(got, other.Digest) {
		t.Errorf("inspect: %s", got)
	}
	if got := e.Must("manifest", "inspect", "-v", list); strings.Count(got, `"Ref": `) != 2 || !strings.Contains(got, `"variant": "v8"`) {
		t.Errorf("inspect -v: %s", got)
	}
}

func TestSearch(t *testing.T) {
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/search" {
			fmt.Fprintf(w, `{"results":[{"name":%q,"description":"one\ntwo","star_count":7,"is_official":true},{"name":"x","star_count":1}]}`, r.URL.Query().Get("q"))
			return
		}
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(s.Close)
	host := s.Listener.Addr().String()
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		want := "NAME      DESCRIPTION   STARS     OFFICIAL\nbox       one two       7         [OK]\nx                       1         "
		if got := c.must(e, "search", host+"/box"); got != want {
			t.Errorf("got\n%s, want\n%s", got, want)
		}
		if got := c.must(e, "search", "--filter", "stars=2", "--format", "{{json .}}", host+"/box"); got != `{"Description":"one two","IsOfficial":"true","Name":"box","StarCount":"7"}` {
			t.Errorf("got %s", got)
		}
	})
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--max-download-attempts=1"}})
	refused(t, e.Berth("search", reg.Addr+"/box"), 1, `cannot be searched`)
	refused(t, e.Berth("search", "127.0.0.1:1/box"), 1, `connection refused`)
	refused(t, e.Berth("search", "--limit", "101", "box"), 1, `limit 101 is outside the range of \[1, 100\]`)
	refused(t, e.Berth("search", "--filter", "colour=red", "box"), 1, `invalid filter 'colour'`)
}
