package images

import (
	"strings"
	"testing"

	"berth/testkit"
)

func TestImageGoesFromSkopeoThroughUsAndBackToSkopeo(t *testing.T) {
	s := newStore(t)
	server := testkit.Registry(t, testkit.RegistryOptions{})
	img := gzipImage("round", layerTar("a", "one"), layerTar("b", "two", "a", "newer"))
	skopeo(t, "copy", "--dest-tls-verify=false", "--preserve-digests", "oci:"+img.layout(t, "x")+":x", "docker://"+server.Addr+"/team/app:1")

	var p steps
	ref := named(t, server.Addr+"/team/app:1")
	got, err := s.Pull(t.Context(), ref, nil, nil, p.report)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != img.config.Digest || got.Manifest.Digest != img.manifest.Digest || got.Size != 11 ||
		strings.Join(got.RepoTags, " ") != server.Addr+"/team/app:1" ||
		strings.Join(got.RepoDigests, " ") != server.Addr+"/team/app@"+img.manifest.Digest.String() {
		t.Errorf("pulled %+v", got)
	}
	if read(t, s, got.ID, "a") != "newer" || read(t, s, got.ID, "b") != "two" {
		t.Error("the root file system is not the image's")
	}
	if got := p.of(short(img.layers[0].Digest)); !strings.HasPrefix(got, "Pulling fs layer, ") || !strings.HasSuffix(got, "Downloading, Verifying Checksum, Download complete, Extracting, Pull complete") {
		t.Errorf("layer steps: %s", got)
	}
	if got := p.of("1"); got != "Pulling from team/app" {
		t.Errorf("first step: %s", got)
	}
	if got, want := p.of(""), "Digest: "+img.manifest.Digest.String()+", Status: Downloaded newer image for "+server.Addr+"/team/app:1"; got != want {
		t.Errorf("last steps: %s, want %s", got, want)
	}

	p = steps{}
	if _, err := s.Pull(t.Context(), ref, nil, nil, p.report); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(p.of(""), "Status: Image is up to date for "+server.Addr+"/team/app:1") {
		t.Errorf("second pull: %s", p.of(""))
	}

	target := named(t, server.Addr+"/other/copy:2")
	if err := s.Tag(got.ID.String()[:19], target); err != nil {
		t.Fatal(err)
	}
	p = steps{}
	if err := s.Push(t.Context(), target, nil, p.report); err != nil {
		t.Fatal(err)
	}
	if got := p.of(short(img.diffs[0])); !strings.HasSuffix(got, "Mounted from team/app") {
		t.Errorf("push steps: %s", got)
	}
	last := p.all[len(p.all)-1].Aux.(Pushed)
	if last.Tag != "2" || last.Digest != img.manifest.Digest.String() || last.Size != img.manifest.Size {
		t.Errorf("push ended with %+v", last)
	}
	digest := skopeo(t, "inspect", "--tls-verify=false", "--format={{.Digest}}", "docker://"+target.String())
	if strings.TrimSpace(digest) != img.manifest.Digest.String() {
		t.Errorf("skopeo reads back %s, pulled %s", digest, img.manifest.Digest)
	}
	p = steps{}
	if err := s.Push(t.Context(), target, nil, p.report); err != nil {
		t.Fatal(err)
	}
	if got := p.of(short(img.diffs[0])); !strings.HasSuffix(got, "Layer already exists") {
		t.Errorf("second push: %s", got)
	}
	if n := inventory(t, s); n["leases"] != 0 || n["layers"] != 2 || n["blobs"] != 4 {
		t.Errorf("left %v", n)
	}
}
