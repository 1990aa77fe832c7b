package server

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"

	"berth/fail"
	"berth/network"
	"berth/oci"
)

func FuzzFilters(f *testing.F) {
	for _, s := range []string{"", `{"a":["b"]}`, `{"a":{"b":true}}`, `[]`, `{"until":["10m"]}`, "{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseFilters(s)
		if err != nil {
			return
		}
		_, _ = got.boolean("a", true)
		_, _ = got.until(time.Now())
		got.labels("a", map[string]string{"b": "c"})
	})
}

func FuzzAuthHeader(f *testing.F) {
	for _, s := range []string{"", "e30=", "e30", "eyJ1c2VybmFtZSI6InUifQ==", "%%%", "bnVsbA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := parseAuth(s); err != nil && a != nil {
			t.Fatal("credentials with an error")
		}
	})
}

func FuzzTimestamp(f *testing.F) {
	f.Add("1.5")
	f.Add("2026-01-01T00:00:00Z")
	f.Fuzz(func(t *testing.T, s string) { _, _ = timestamp("since", s) })
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/v1.41/containers//x/json", "/images/a/b/json", "/", "", "/v1.", "//"} {
		f.Add(s)
	}
	s := New(Config{})
	f.Fuzz(func(t *testing.T, path string) {
		v, rest, err := splitVersion(path)
		if err != nil {
			return
		}
		_, values, _ := s.find("GET", rest, v)
		for k, got := range values {
			if got == "" {
				t.Fatalf("%q: %s is empty", path, k)
			}
		}
	})
}

func FuzzWebSocketFrame(f *testing.F) {
	f.Add([]byte{0x82, 0x83, 1, 2, 3, 4, 'a', 'b', 'c'})
	f.Add([]byte{0x81, 0xFE, 0xFF, 0xFF})
	f.Add([]byte{0x88, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, payload, err := readFrame(bytes.NewReader(data))
		if err == nil && len(payload) > len(data) {
			t.Fatal("more came out than went in")
		}
	})
}

// What is taken for a reference is one also when it is read again.
func FuzzPullReference(f *testing.F) {
	f.Add("alpine", "")
	f.Add("localhost:5000/a/b:c", "")
	f.Add("a", "sha256:"+strings.Repeat("0", 64))
	f.Add("docker.io/library/a@sha256:"+strings.Repeat("f", 64), "tag")
	f.Add("[::1]:5000/a:", "1")
	f.Add("A/b//c", ":")
	f.Fuzz(func(t *testing.T, image, tag string) {
		ref, all, err := pullReference(image, tag)
		if err != nil {
			return
		}
		again, err := reference.ParseNormalizedNamed(ref.String())
		if err != nil || again.String() != ref.String() || reference.FamiliarString(again) == "" {
			t.Errorf("%q, %q is %s, read again: %v, %v", image, tag, ref, again, err)
		}
		if all != reference.IsNameOnly(ref) || strings.ContainsAny(ref.String(), " \n\x00") || strings.Contains(reference.Path(ref), "..") {
			t.Errorf("%q, %q is %q, all %v", image, tag, ref, all)
		}
	})
}

type fixedBlob []byte

func (b fixedBlob) Blob(context.Context, oci.Descriptor, int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b)), nil
}

func FuzzPlatformsOf(f *testing.F) {
	f.Add(true, []byte(`{"manifests":[{"platform":{"os":"linux","architecture":"amd64"}},{}]}`), []byte(nil))
	f.Add(false, []byte(`{"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, index bool, manifest, config []byte) {
		d := oci.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json"}
		if index {
			d.MediaType = "application/vnd.oci.image.index.v1+json"
		}
		if got, err := platformsOf(t.Context(), d, manifest, fixedBlob(config)); err == nil && got == nil {
			t.Error("no list")
		}
	})
}

// FuzzPlatform reads any platform; what it takes can be written and read again.
func FuzzPlatform(f *testing.F) {
	for _, s := range []string{"", "linux/amd64", "linux/arm/v7", "arm64", "linux(1.2.3+win32k)/amd64", `{"os":"linux","architecture":"arm","variant":"v7"}`, `{"os":1}`, "a/b/c/d", "linux/../x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePlatform(s)
		if err != nil {
			if !fail.Is(err, fail.Invalid) {
				t.Errorf("%q: %v is of class %v", s, err, fail.Of(err))
			}
			return
		}
		if p != nil && (p.OS == "" || p.Architecture == "") {
			t.Errorf("%q became %+v", s, *p)
		}
	})
}

func FuzzNetworkRequests(f *testing.F) {
	for _, s := range []string{`{"Name":"x","IPAM":{"Config":[{"Subnet":"10.0.0.0/8","IPRange":"::/0","AuxiliaryAddresses":{"a":""}}]}}`, `{"Container":"web","EndpointConfig":{"MacAddress":"00:11","IPAMConfig":{"LinkLocalIPs":["fe80::1%x"]}}}`, `{"ConfigFrom":null}`, `[]`, `{"EndpointConfig":{"IPAMConfig":null}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		b := newBench(t)
		for _, path := range []string{"/v1.41/networks/create", "/networks/create", "/v1.43/networks/front/connect", "/networks/front/disconnect", "/v1.43/containers/create", "/containers/create"} {
			if w := b.ask("POST", path, body); w.Code >= 500 && w.Code != 503 {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	})
}

func FuzzSubnetCounts(f *testing.F) {
	f.Add("10.0.0.0/24", "10.0.0.128/25", "10.0.0.1")
	f.Add("fd00::/0", "fd00::/128", "::")
	f.Fuzz(func(t *testing.T, subnet, part, gateway string) {
		p := network.Pool{}
		_ = p.Subnet.UnmarshalText([]byte(subnet))
		_ = p.Range.UnmarshalText([]byte(part))
		_ = p.Gateway.UnmarshalText([]byte(gateway))
		if !p.Subnet.IsValid() || p.Range.IsValid() && !p.Subnet.Overlaps(p.Range) {
			return
		}
		if s := poolStatus(p, nil); s.IPsInUse > 3 {
			t.Errorf("%+v: %+v", p, s)
		}
	})
}
