package images

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/fail"
	"berth/oci"
	"berth/testkit"
)

func TestImportMakesAnImageOfOneLayer(t *testing.T) {
	layer := layerTar("a", "imported")
	packed := func(tool string) []byte {
		cmd := exec.Command(testkit.NeedTool(t, tool), "-c")
		cmd.Stdin = bytes.NewReader(layer)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, tt := range map[string]struct {
		data      []byte
		layerType string
	}{
		"plain": {layer, oci.DockerLayer},
		"gzip":  {gz(layer), oci.DockerLayerGzip},
		"bzip2": {packed("bzip2"), oci.DockerLayer},
		"xz":    {packed("xz"), oci.DockerLayer},
		"zstd":  {zst(layer), oci.DockerLayer},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			id, err := s.Import(t.Context(), bytes.NewReader(tt.data), ImportOptions{
				Ref: named(t, "base"), Changes: []string{`CMD ["sh"]`, "ENV A=1\nENV B=$A"}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Get("base:latest")
			if err != nil || got.ID != id || got.Size != 8 || read(t, s, id, "a") != "imported" {
				t.Fatalf("%+v, %v", got, err)
			}
			c := got.Config
			if strings.Join(c.Config.Cmd, " ") != "sh" || strings.Join(c.Config.Env, " ") != "A=1 B=1" ||
				c.Architecture == "" || c.OS != "linux" || time.Since(*c.Created) > time.Minute || c.History[0].Comment != "Imported from -" {
				t.Errorf("configuration %+v", c)
			}
			if !strings.Contains(string(got.RawConfig), `"comment":"Imported from -"`) {
				t.Errorf("%s", got.RawConfig)
			}
			rows, err := s.History("base", nil)
			if err != nil || len(rows) != 1 || rows[0].Size != 8 || rows[0].Comment != "Imported from -" || rows[0].ID != id.String() || rows[0].Tags[0] != "base:latest" {
				t.Errorf("history %+v, %v", rows, err)
			}
			v := s.entry(id).current()
			if v.Layers[0].MediaType != tt.layerType {
				t.Errorf("layer %+v", v.Layers[0])
			}
			if n := inventory(t, s); n["blobs"] != 3 || n["layers"] != 1 || len(n) != 2 {
				t.Errorf("there is %v", n)
			}
		})
	}
}

func TestBadImportsLeaveNothing(t *testing.T) {
	s := newStore(t)
	for name, tt := range map[string]struct {
		data []byte
		o    ImportOptions
		says string
	}{
		"empty":      {nil, ImportOptions{}, "the archive is empty"},
		"no tar":     {noise(3000), ImportOptions{}, "import: "},
		"cut gzip":   {gz(layerTar("a", "x"))[:50], ImportOptions{}, "the gzip stream is cut off"},
		"bad change": {layerTar("a", "x"), ImportOptions{Changes: []string{"RUN x"}}, "RUN is not a valid change command"},
		"digest":     {layerTar("a", "x"), ImportOptions{Ref: named(t, "a@sha256:"+strings.Repeat("a", 64))}, "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Import(t.Context(), bytes.NewReader(tt.data), tt.o)
			if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v (%v)", err, fail.Of(err))
			}
			if n := inventory(t, s); n["blobs"] != 0 || n["layers"] != 0 || len(n) != 1 {
				t.Errorf("left %v", n)
			}
		})
	}
}

func TestChangesBecomeConfiguration(t *testing.T) {
	tests := []struct {
		lines []string
		want  string // JSON of the configuration
	}{
		{[]string{`CMD ["a", "b c"]`}, `{"Cmd":["a","b c"]}`},
		{[]string{`cmd echo "hi" $X`}, `{"Cmd":["/bin/sh","-c","echo \"hi\" $X"]}`},
		{[]string{`ENTRYPOINT ["/e"]`}, `{"Entrypoint":["/e"]}`},
		{[]string{`CMD ["a"]`, `ENTRYPOINT ["/e"]`}, `{"Entrypoint":["/e"],"Cmd":["a"]}`},
		{[]string{`ENV A=1 B="two words" C=three\ words D='$A'`}, `{"Env":["A=1","B=two words","C=three words","D=$A"]}`},
		{[]string{`ENV A the rest of it`, `ENV A=${A}!`, `ENV B=${X:-def} C=${A:+set}`}, `{"Env":["A=the rest of it!","B=def","C=set"]}`},
		{[]string{`EXPOSE 80 53/udp 7000-7002`}, `{"ExposedPorts":{"53/udp":{},"7000/tcp":{},"7001/tcp":{},"7002/tcp":{},"80/tcp":{}}}`},
		{[]string{`LABEL a=1 "b c"="d e"`}, `{"Labels":{"a":"1","b c":"d e"}}`},
		{[]string{`ONBUILD RUN make`}, `{"OnBuild":["RUN make"]}`},
		{[]string{`STOPSIGNAL SIGINT`, `USER 1000:staff`}, `{"User":"1000:staff","StopSignal":"SIGINT"}`},
		{[]string{`VOLUME ["/a b", "/c"]`, `VOLUME /d /e`}, `{"Volumes":{"/a b":{},"/c":{},"/d":{},"/e":{}}}`},
		{[]string{`WORKDIR /a`, `WORKDIR b/../c`}, `{"WorkingDir":"/a/c"}`},
		{[]string{`HEALTHCHECK --interval=5s --retries=2 CMD curl -f x`}, `{"Healthcheck":{"Test":["CMD-SHELL","curl -f x"],"Interval":5000000000,"Retries":2}}`},
		{[]string{`HEALTHCHECK CMD ["true"]`}, `{"Healthcheck":{"Test":["CMD","true"]}}`},
		{[]string{`HEALTHCHECK NONE`}, `{"Healthcheck":{"Test":["NONE"]}}`},
		{[]string{"", "# comment", "ENV A=1 \\\n B=2"}, `{"Env":["A=1","B=2"]}`},
	}
	for _, tt := range tests {
		var c containerConfig
		if err := applyChanges(&c, tt.lines); err != nil {
			t.Errorf("%q: %v", tt.lines, err)
			continue
		}
		got, _ := json.Marshal(c)
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%q: %s", tt.lines, diff)
		}
	}
}

func TestMalformedChangesAreInvalid(t *testing.T) {
	for _, line := range []string{"FROM x", "ENV", "ENV A", "ENV A=1 B", `ENV A="x`, "ENV =x", "ENV A=${B", "ENV A=${B/c/d}",
		"EXPOSE", "EXPOSE x", "EXPOSE 99999", "EXPOSE 80/icmp", "STOPSIGNAL SIGNOPE", "USER a b", "VOLUME", `VOLUME [""]`,
		"ONBUILD", "ONBUILD FROM x", "ONBUILD ONBUILD RUN x", "HEALTHCHECK", "HEALTHCHECK CMD", "HEALTHCHECK --interval=1us CMD x",
		"HEALTHCHECK --nope=1 CMD x", "HEALTHCHECK NONE x", "WORKDIR"} {
		var c containerConfig
		if err := applyChanges(&c, []string{line}); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func FuzzChanges(f *testing.F) {
	for _, s := range []string{`ENV A="x y" B=$A`, `HEALTHCHECK --interval=5s CMD x`, `VOLUME ["/a"]`, `EXPOSE 1-65535/tcp`, "LABEL a=\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		var c containerConfig
		if err := applyChanges(&c, []string{line}); err != nil && !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", line, err)
		}
	})
}
