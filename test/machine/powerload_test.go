package machine

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"berth/testkit"
)

// madeImage is an image that the registry has, under a name for each worker, and that can be
// loaded.
type madeImage struct {
	id     string
	refs   []string // by worker
	config []byte
	layers [][]byte
}

// archive is the image as `save` would write it, under the name given.
func (i *madeImage) archive(name string) []byte {
	files := map[string][]byte{}
	config := strings.TrimPrefix(i.id, "sha256:") + ".json"
	files[config] = i.config
	var layers []string
	for n, l := range i.layers {
		layers = append(layers, fmt.Sprintf("%d.tar", n))
		files[layers[n]] = l
	}
	files["manifest.json"], _ = json.Marshal([]any{map[string]any{"Config": config, "RepoTags": []string{name}, "Layers": layers}})
	return tarOf(files)
}

func tarOf(files map[string][]byte) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range keys(files) {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(1700000000, 0)})
		_, _ = w.Write(files[name])
	}
	_ = w.Close()
	return out.Bytes()
}

func keys[V any](m map[string]V) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// makeImages makes images that share layers: each has busybox, a layer of two, and one of its
// own, which names the checksums of the files of all.
func (w *world) makeImages(r *testkit.RegistryServer, workers int, seenAt string) {
	base, err := os.ReadFile(testkit.BusyboxTar(w.t))
	if err != nil {
		w.t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{1})
	some := func(prefix string, files, size int, sums *strings.Builder) map[string][]byte {
		out := map[string][]byte{}
		for n := range files {
			data := make([]byte, 1+rand.New(random).IntN(size))
			_, _ = random.Read(data)
			name := fmt.Sprintf("data/%s%02d", prefix, n)
			out[name] = data
			fmt.Fprintf(sums, "%x  /%s\n", sha256.Sum256(data), name)
		}
		return out
	}
	for group := range 3 {
		var shared strings.Builder
		middle := tarOf(some(fmt.Sprintf("shared%d-", group), 30, 100_000, &shared))
		for one := range 2 {
			sums := strings.Builder{}
			sums.WriteString(shared.String())
			top := some(fmt.Sprintf("own%d%d-", group, one), 20, 40_000, &sums)
			top["sums"] = []byte(sums.String())
			i := &madeImage{layers: [][]byte{base, middle, tarOf(top)}}
			var diffs []string
			for _, l := range i.layers {
				diffs = append(diffs, fmt.Sprintf("sha256:%x", sha256.Sum256(l)))
			}
			config := map[string]any{"architecture": runtime.GOARCH, "os": "linux",
				"config": map[string]any{"Cmd": []string{"true"}, "Env": []string{"PATH=/bin"}}, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}}
			if i.config, err = json.Marshal(config); err != nil {
				w.t.Fatal(err)
			}
			for n := range workers {
				p := r.PushConfig(fmt.Sprintf("w%d/image%d%d:latest", n, group, one), config, i.layers...)
				i.id = p.ID
				i.refs = append(i.refs, fmt.Sprintf("%s/w%d/image%d%d", seenAt, n, group, one))
			}
			w.images = append(w.images, i)
			w.content[i.id] = "whole"
		}
	}
}

// refused is an answer other than success.
type refused struct {
	status int
	text   string
}

func (e *refused) Error() string { return fmt.Sprintf("%d: %s", e.status, e.text) }

// call makes a request. An answer counts when all of it has arrived.
func (w *world) call(ctx context.Context, method, path string, body any) (int, []byte, error) {
	var in io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		in, kind = bytes.NewReader(b), "application/x-tar"
	default:
		data, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", w.m.Ports[apiPort], path), in)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := w.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode != http.StatusNotModified {
		return resp.StatusCode, data, &refused{resp.StatusCode, string(data)}
	}
	if bytes.Contains(data, []byte(`"errorDetail"`)) {
		return resp.StatusCode, data, &refused{resp.StatusCode, string(data)}
	}
	return resp.StatusCode, data, nil
}

// ask reads something of an engine that has to answer.
func (w *world) ask(path string, into any) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.alive, 2*time.Minute)
	defer cancel()
	_, data, err := w.call(ctx, "GET", path, nil)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		w.t.Fatalf("GET %s: %v", path, err)
	}
}

// sight is what the engine knows.
type sight struct {
	boxes             map[string]seenBox
	tags              map[string]string
	volumes, networks map[string]bool
	known             map[string]bool // what a worker has asked about
}

type seenBox struct {
	id, image, policy, state string
	shares                   int64
	running                  bool
}

func (w *world) look() *sight {
	w.t.Helper()
	s := &sight{boxes: map[string]seenBox{}, tags: map[string]string{}, volumes: map[string]bool{}, networks: map[string]bool{}, known: map[string]bool{}}
	var list []struct{ Id string }
	w.ask("/containers/json?all=1", &list)
	for _, c := range list {
		var i struct {
			Id, Name, Image string
			State           struct {
				Status  string
				Running bool
			}
			HostConfig struct {
				CpuShares     int64
				RestartPolicy struct{ Name string }
			}
		}
		w.ask("/containers/"+c.Id+"/json", &i)
		s.boxes[strings.TrimPrefix(i.Name, "/")] = seenBox{i.Id, i.Image, i.HostConfig.RestartPolicy.Name, i.State.Status, i.HostConfig.CpuShares, i.State.Status == "running"}
	}
	var images []struct {
		Id       string
		RepoTags []string
	}
	w.ask("/images/json?all=1", &images)
	for _, i := range images {
		for _, tag := range i.RepoTags {
			s.tags[tag] = i.Id
		}
	}
	var volumes struct{ Volumes []struct{ Name string } }
	w.ask("/volumes", &volumes)
	for _, v := range volumes.Volumes {
		s.volumes[v.Name] = true
	}
	var networks []struct{ Name string }
	w.ask("/networks", &networks)
	for _, n := range networks {
		if !slices.Contains([]string{"bridge", "host", "none"}, n.Name) {
			s.networks[n.Name] = true
		}
	}
	return s
}

// strangers are what no worker knows of.
func (s *sight) strangers() (all []string) {
	for n := range s.boxes {
		all = append(all, "container "+n)
	}
	for n := range s.tags {
		all = append(all, "image "+n)
	}
	for n := range s.volumes {
		all = append(all, "volume "+n)
	}
	for n := range s.networks {
		all = append(all, "network "+n)
	}
	return slices.DeleteFunc(all, func(what string) bool { return s.known[what] })
}

// box is a container as it was acknowledged.
type box struct {
	id, name, image, policy, volume string
	wrote                           string // into the file "written"
	shares                          int64
	started, stopped, running       bool
}

// mayHold accepts a file that was copied into the container before a commit which was cut off:
// nobody promised to keep it, nor to lose it.
func (b *box) mayHold(got, ofImage string) bool {
	before, _, _ := strings.Cut(ofImage, "\n")
	return b.wrote != "" && (got == before || got == before+"\n"+b.wrote)
}

// runsAfterBoot is what the policy says.
func (b *box) runsAfterBoot() bool {
	return b.started && (b.policy == "always" || b.policy == "unless-stopped" && !b.stopped)
}

// worker makes and removes objects of its own, one request at a time.
type worker struct {
	w        *world
	n, seq   int
	rnd      *rand.Rand
	boxes    []*box
	tags     map[string]string // name → image ID
	volumes  map[string]bool
	networks map[string]bool
	// doubt finds out what became of the request that was not answered.
	doubt func(now *sight)
}

func newWorker(w *world, n int, seed uint64) *worker {
	return &worker{w: w, n: n, rnd: rand.New(rand.NewPCG(seed, uint64(n)+2)), tags: map[string]string{}, volumes: map[string]bool{}, networks: map[string]bool{}}
}

// do makes a request. acked applies it to what the worker knows; doubt settles it after a cut
// that came before the answer. It reports whether the request was carried out.
func (k *worker) do(kind, method, path string, body any, acked func(data []byte), doubt func(now *sight)) bool {
	if k.doubt != nil || k.w.alive.Err() != nil {
		return false
	}
	_, data, err := k.w.call(k.w.alive, method, path, body)
	var no *refused
	switch {
	case err == nil:
		acked(data)
		k.w.mu.Lock()
		k.w.acknowledged[kind]++
		k.w.mu.Unlock()
		return true
	case errors.As(err, &no) && no.status == http.StatusConflict:
		return false
	case errors.As(err, &no):
		k.w.t.Errorf("%s %s: %v", method, path, err)
	case k.w.alive.Err() == nil:
		// The connection broke before we noticed the cut, which comes now.
		<-k.w.alive.Done()
		k.doubt = doubt
	default:
		k.doubt = doubt
	}
	return false
}

func (k *worker) name(kind string) string {
	k.seq++
	return fmt.Sprintf("w%d-%s%d", k.n, kind, k.seq)
}

func pick[T any](k *worker, all []T) T { return all[k.rnd.IntN(len(all))] }

// anything does something at random.
func (k *worker) anything() {
	switch n := k.rnd.IntN(100); {
	case n < 14 || len(k.tags) == 0:
		k.pull(pick(k, k.w.images))
	case n < 18:
		k.tag(pick(k, keys(k.tags)))
	case n < 30:
		k.untag(pick(k, keys(k.tags)))
	case n < 36:
		k.commit(pick(k, keys(k.tags)))
	case n < 40:
		k.load(pick(k, k.w.images))
	case n < 43:
		k.makeVolume()
	case n < 50 && len(k.volumes) > 0:
		k.dropVolume(pick(k, keys(k.volumes)))
	case n < 51 && len(k.networks) < 2:
		k.makeNetwork()
	case n < 53 && len(k.networks) > 0:
		k.dropNetwork(pick(k, keys(k.networks)))
	case n < 56:
		k.runAndForget(pick(k, keys(k.tags)))
	case n < 70 && len(k.boxes) < 5 || len(k.boxes) == 0:
		if b := k.create(pick(k, keys(k.tags)), pick(k, []string{"", "", "always", "unless-stopped"}), k.rnd.IntN(3) == 0); b != nil {
			k.start(b)
		}
	case n < 76:
		k.start(pick(k, k.boxes))
	case n < 82:
		k.stop(pick(k, k.boxes))
	case n < 86:
		k.rename(pick(k, k.boxes))
	case n < 90:
		k.update(pick(k, k.boxes))
	default:
		k.remove(pick(k, k.boxes))
	}
}

// pull brings an image under the worker's own name.
func (k *worker) pull(i *madeImage) {
	ref := i.refs[k.n] + ":latest"
	k.do("pull", "POST", "/images/create?fromImage="+url.QueryEscape(i.refs[k.n])+"&tag=latest", nil,
		func([]byte) { k.tags[ref] = i.id }, k.tagDoubt(ref, i.id))
}

// tagDoubt accepts that ref names image id, or what it named before.
func (k *worker) tagDoubt(ref, id string) func(*sight) {
	return func(now *sight) {
		if now.tags[ref] == id {
			k.tags[ref] = id
		}
	}
}

func (k *worker) tag(from string) {
	repo := k.name("tag")
	id := k.tags[from]
	k.do("tag", "POST", "/images/"+from+"/tag?tag=latest&repo="+repo, nil,
		func([]byte) { k.tags[repo+":latest"] = id }, k.tagDoubt(repo+":latest", id))
}

func (k *worker) untag(ref string) {
	force := ""
	if k.rnd.IntN(2) == 0 {
		force = "?force=1"
	}
	k.do("rmi", "DELETE", "/images/"+ref+force, nil, func([]byte) { delete(k.tags, ref) },
		func(now *sight) {
			if now.tags[ref] == "" {
				delete(k.tags, ref)
			}
		})
}

func (k *worker) load(i *madeImage) {
	name := k.name("load") + ":latest"
	k.do("load", "POST", "/images/load", i.archive(name), func([]byte) { k.tags[name] = i.id }, k.tagDoubt(name, i.id))
}

// create makes a container that checks its files and then waits; with a volume on part of
// them, if volume.
func (k *worker) create(ref, policy string, volume bool) *box {
	b := &box{name: k.name("box"), image: k.tags[ref], policy: policy}
	host := map[string]any{"NetworkMode": k.network(policy), "RestartPolicy": map[string]any{"Name": policy}}
	if volume {
		b.volume = k.name("data")
		host["Binds"] = []string{b.volume + ":/data"}
	}
	made := func() {
		k.boxes = append(k.boxes, b)
		if b.volume != "" {
			k.volumes[b.volume] = true
		}
	}
	body := map[string]any{"Image": ref, "Cmd": []string{"sleep", "1000000"}, "HostConfig": host}
	if k.do("create", "POST", "/containers/create?name="+b.name, body, func(data []byte) {
		var got struct{ Id string }
		if err := json.Unmarshal(data, &got); err != nil {
			k.w.t.Errorf("create: %v: %s", err, data)
		}
		b.id = got.Id
		made()
	}, func(now *sight) {
		if got, ok := now.boxes[b.name]; ok {
			b.id = got.id
			made()
		}
	}) {
		return b
	}
	return nil
}

// network is mostly none: the first bridge of a boot loads thirty modules, which takes an emulated
// machine most of a minute.
func (k *worker) network(policy string) string {
	if policy == "" && k.rnd.IntN(8) == 0 {
		return "bridge"
	}
	return "none"
}

func (k *worker) start(b *box) {
	started := func() { b.started, b.stopped, b.running = true, false, true }
	k.do("start", "POST", "/containers/"+b.id+"/start", nil, func([]byte) { started() },
		func(now *sight) {
			if b.policy == "unless-stopped" && b.stopped || !b.started && b.policy != "" {
				if now.boxes[b.name].state == "running" || now.boxes[b.name].state == "restarting" {
					started()
				}
			}
		})
}

func (k *worker) stop(b *box) {
	was := b.running
	k.do("stop", "POST", "/containers/"+b.id+"/stop?t=0", nil, func([]byte) { b.stopped, b.running = b.stopped || was, false },
		func(now *sight) {
			if s := now.boxes[b.name].state; was && s != "running" && s != "restarting" {
				b.stopped = true
			}
		})
}

func (k *worker) rename(b *box) {
	to := k.name("named")
	k.do("rename", "POST", "/containers/"+b.id+"/rename?name="+to, nil, func([]byte) { b.name = to },
		func(now *sight) {
			if _, ok := now.boxes[to]; ok {
				b.name = to
			}
		})
}

func (k *worker) update(b *box) {
	shares := int64(2 + k.rnd.IntN(1000))
	k.do("update", "POST", "/containers/"+b.id+"/update", map[string]any{"CpuShares": shares}, func([]byte) { b.shares = shares },
		func(now *sight) {
			if now.boxes[b.name].shares == shares {
				b.shares = shares
			}
		})
}

func (k *worker) remove(b *box) {
	gone := func() { k.boxes = slices.DeleteFunc(k.boxes, func(o *box) bool { return o == b }) }
	k.do("rm", "DELETE", "/containers/"+b.id+"?force=1&v=1", nil, func([]byte) { gone() },
		func(now *sight) {
			if _, ok := now.boxes[b.name]; !ok {
				gone()
			} else if b.running { // it may have been stopped for it
				b.stopped = !now.boxes[b.name].running && now.boxes[b.name].state != "restarting"
			}
		})
}

// commit makes an image of what a container wrote.
func (k *worker) commit(ref string) {
	b := k.create(ref, "", false)
	if b == nil {
		return
	}
	k.commitBox(b)
	k.remove(b)
}

// commitBox has a container write a file, and makes an image of it.
func (k *worker) commitBox(b *box) {
	text := k.name("text")
	k.start(b)
	if !b.running || !k.write(b, text) {
		return
	}
	k.commitAs(b, text)
}

func (k *worker) commitAs(b *box, text string) {
	repo := k.name("commit")
	whole := k.w.wanted(b.image)
	know := func(id string) {
		k.tags[repo+":latest"] = id
		k.w.mu.Lock()
		defer k.w.mu.Unlock()
		before, _, _ := strings.Cut(whole, "\n")
		k.w.content[id] = before + "\n" + text
	}
	k.do("commit", "POST", "/commit?container="+b.id+"&repo="+repo+"&tag=latest", map[string]any{}, func(data []byte) {
		var got struct{ Id string }
		if err := json.Unmarshal(data, &got); err != nil {
			k.w.t.Errorf("commit: %v: %s", err, data)
		}
		know(got.Id)
	}, func(now *sight) {
		if id := now.tags[repo+":latest"]; id != "" {
			know(id)
		}
	})
}

func (w *world) wanted(image string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.content[image]
}

// write puts a file into the container. What it means for a cut is the container's matter.
func (k *worker) write(b *box, text string) bool {
	b.wrote = text
	return k.do("files", "PUT", "/containers/"+b.id+"/archive?path=/", tarOf(map[string][]byte{"written": []byte(text)}), func([]byte) {}, func(*sight) {})
}

// runAndForget is a container that removes itself: after a cut nothing of it may be there.
func (k *worker) runAndForget(ref string) {
	name, id := k.name("brief"), ""
	body := map[string]any{"Image": ref, "Cmd": []string{"true"}, "HostConfig": map[string]any{"AutoRemove": true, "NetworkMode": "none"}}
	if k.do("create --rm", "POST", "/containers/create?name="+name, body, func(data []byte) {
		var got struct{ Id string }
		_ = json.Unmarshal(data, &got)
		id = got.Id
	}, func(*sight) {}) {
		k.do("start --rm", "POST", "/containers/"+id+"/start", nil, func([]byte) {}, func(*sight) {})
	}
}

func (k *worker) makeVolume() {
	name := k.name("volume")
	k.do("volume create", "POST", "/volumes/create", map[string]any{"Name": name}, func([]byte) { k.volumes[name] = true },
		func(now *sight) {
			if now.volumes[name] {
				k.volumes[name] = true
			}
		})
}

func (k *worker) dropVolume(name string) {
	k.do("volume rm", "DELETE", "/volumes/"+name, nil, func([]byte) { delete(k.volumes, name) },
		func(now *sight) {
			if !now.volumes[name] {
				delete(k.volumes, name)
			}
		})
}

func (k *worker) makeNetwork() {
	name := k.name("network")
	k.do("network create", "POST", "/networks/create", map[string]any{"Name": name}, func([]byte) { k.networks[name] = true },
		func(now *sight) {
			if now.networks[name] {
				k.networks[name] = true
			}
		})
}

func (k *worker) dropNetwork(name string) {
	k.do("network rm", "DELETE", "/networks/"+name, nil, func([]byte) { delete(k.networks, name) },
		func(now *sight) {
			if !now.networks[name] {
				delete(k.networks, name)
			}
		})
}

// runImage runs a container of an image and returns what it says of its files.
func (k *worker) runImage(ref string) (said string, err error) {
	ctx, cancel := context.WithTimeout(k.w.alive, 3*time.Minute)
	defer cancel()
	var made struct{ Id string }
	body := map[string]any{"Image": ref, "Cmd": checkFiles, "HostConfig": map[string]any{"NetworkMode": "none"}}
	_, data, err := k.w.call(ctx, "POST", "/containers/create", body)
	if err == nil {
		err = json.Unmarshal(data, &made)
	}
	for _, step := range []string{"start", "wait"} {
		if err == nil {
			_, _, err = k.w.call(ctx, "POST", "/containers/"+made.Id+"/"+step, nil)
		}
	}
	if err == nil {
		_, data, err = k.w.call(ctx, "GET", "/containers/"+made.Id+"/logs?stdout=1&stderr=1", nil)
	}
	if err == nil {
		_, _, err = k.w.call(ctx, "DELETE", "/containers/"+made.Id, nil)
	}
	return plain(data), err
}

// readBox starts a container, if need be, and returns what it says of its files.
func (k *worker) readBox(b *box) (said string, err error) {
	ctx, cancel := context.WithTimeout(k.w.alive, 3*time.Minute)
	defer cancel()
	if _, _, err := k.w.call(ctx, "POST", "/containers/"+b.id+"/start", nil); err != nil {
		return "", err
	}
	b.started, b.stopped, b.running = true, false, true
	_, data, err := k.w.call(ctx, "POST", "/containers/"+b.id+"/exec", map[string]any{"AttachStdout": true, "AttachStderr": true, "Cmd": checkFiles})
	var made struct{ Id string }
	if err == nil {
		err = json.Unmarshal(data, &made)
	}
	if err == nil {
		_, data, err = k.w.call(ctx, "POST", "/exec/"+made.Id+"/start", map[string]any{})
	}
	return plain(data), err
}

// plain is the text of a multiplexed stream (Engine API, "Stream format").
func plain(stream []byte) string {
	var out strings.Builder
	for len(stream) >= 8 {
		n := min(int(binary.BigEndian.Uint32(stream[4:8])), len(stream)-8)
		out.Write(stream[8 : 8+n])
		stream = stream[8+n:]
	}
	return strings.TrimSpace(out.String())
}

// compare tells of what was acknowledged and is not so.
func (k *worker) compare(when string, now *sight) {
	t := k.w.t
	for _, b := range k.boxes {
		now.known["container "+b.name] = true
		got, ok := now.boxes[b.name]
		switch {
		case !ok:
			t.Errorf("%s: container %s is lost", when, b.name)
		case got.id != b.id || got.image != b.image || got.shares != b.shares || strings.TrimPrefix(got.policy, "no") != b.policy:
			t.Errorf("%s: container %+v is %+v", when, b, got)
		}
		b.running = got.running
	}
	for ref, id := range k.tags {
		now.known["image "+ref] = true
		if now.tags[ref] != id {
			t.Errorf("%s: image %s is %q, not %s", when, ref, now.tags[ref], id)
		}
	}
	for name := range k.volumes {
		now.known["volume "+name] = true
		if !now.volumes[name] {
			t.Errorf("%s: volume %s is lost", when, name)
		}
	}
	for name := range k.networks {
		now.known["network "+name] = true
		if !now.networks[name] {
			t.Errorf("%s: network %s is lost", when, name)
		}
	}
}

// singles are requests after whose answer the power is cut. prepare does what is needed
// before, and returns the request.
var singles = []struct {
	name    string
	prepare func(k *worker) (last func())
}{
	{"the removal of a volume that holds something", func(k *worker) func() {
		b := k.fresh("", true)
		k.start(b)
		k.remove(b)
		return func() { k.dropVolume(b.volume) }
	}},
	{"the start of a container that restarts always", func(k *worker) func() {
		b := k.fresh("always", false)
		return func() { k.start(b) }
	}},
	{"the second start of a container without a policy", func(k *worker) func() {
		b := k.fresh("", false)
		k.start(b)
		k.stop(b)
		return func() { k.start(b) }
	}},
	{"the start that fills a volume", func(k *worker) func() {
		b := k.fresh("always", true)
		return func() { k.start(b) }
	}},
	{"a load", func(k *worker) func() {
		return func() { k.load(pick(k, k.w.images)) }
	}},
	{"a commit", func(k *worker) func() {
		b := k.fresh("", false)
		k.start(b)
		text := k.name("text")
		k.write(b, text)
		return func() { k.commitAs(b, text) }
	}},
	{"the stop of a container that restarts unless it is stopped", func(k *worker) func() {
		b := k.fresh("unless-stopped", false)
		k.start(b)
		return func() { k.stop(b) }
	}},
	{"a pull", func(k *worker) func() {
		i := pick(k, k.w.images)
		if k.tags[i.refs[k.n]+":latest"] != "" {
			k.untag(i.refs[k.n] + ":latest")
		}
		return func() { k.pull(i) }
	}},
	{"the removal of a container and its anonymous volume", func(k *worker) func() {
		b := k.freshWith("", map[string]any{"/data": map[string]any{}})
		k.start(b)
		return func() { k.remove(b) }
	}},
	{"a rename", func(k *worker) func() {
		b := k.fresh("", false)
		return func() { k.rename(b) }
	}},
	{"the removal of an image", func(k *worker) func() {
		i := pick(k, k.w.images)
		k.load(i)
		ref := fmt.Sprintf("w%d-load%d:latest", k.n, k.seq)
		return func() { k.untag(ref) }
	}},
	{"an update of a container that runs", func(k *worker) func() {
		b := k.fresh("always", false)
		k.start(b)
		return func() { k.update(b) }
	}},
	{"the creation of a network", func(k *worker) func() { return k.makeNetwork }},
	{"the creation of a volume", func(k *worker) func() { return k.makeVolume }},
	{"a tag", func(k *worker) func() {
		k.pull(k.w.images[0])
		return func() { k.tag(k.w.images[0].refs[k.n] + ":latest") }
	}},
}

// fresh is a new container of an image that is there.
func (k *worker) fresh(policy string, volume bool) *box {
	k.pull(k.w.images[k.n])
	b := k.create(k.w.images[k.n].refs[k.n]+":latest", policy, volume)
	if b == nil {
		k.w.t.Fatal("no container could be made")
	}
	return b
}

// freshWith is fresh with anonymous volumes.
func (k *worker) freshWith(policy string, volumes map[string]any) *box {
	k.pull(k.w.images[k.n])
	ref := k.w.images[k.n].refs[k.n] + ":latest"
	b := &box{name: k.name("box"), image: k.tags[ref], policy: policy}
	body := map[string]any{"Image": ref, "Cmd": []string{"sleep", "1000000"}, "Volumes": volumes, "HostConfig": map[string]any{"NetworkMode": "none"}}
	if !k.do("create", "POST", "/containers/create?name="+b.name, body, func(data []byte) {
		var got struct{ Id string }
		_ = json.Unmarshal(data, &got)
		b.id = got.Id
		k.boxes = append(k.boxes, b)
	}, func(*sight) {}) {
		k.w.t.Fatal("no container could be made")
	}
	return b
}
