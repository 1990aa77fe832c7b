package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// transfer is one piece of work with the image, in the order in which a round does them.
// cold work starts without any file in memory and ends when all that was written is on the
// disk: peers that sync nothing by themselves have no head start.
type transfer struct {
	name  string
	goals []goal
	cold  bool
	// prepare is not measured, and may be nil.
	prepare step
	work    func(context.Context, *peer) (time.Duration, error)
}

// tools are image tools without containers: they share the code of podman's storage.
func (b *bench) openTools(ctx context.Context) (tools []*peer, err error) {
	for _, name := range []string{"buildah", "skopeo"} {
		program, err := exec.LookPath(name)
		if err != nil {
			b.notes = append(b.notes, name+" is not installed: no peer")
			continue
		}
		p, err := b.newPeer(ctx, name)
		if err != nil {
			return nil, err
		}
		root, runroot := filepath.Join(p.dir, "d"), filepath.Join(p.dir, "r")
		if name == "buildah" {
			p.client = []string{program, "--root", root, "--runroot", runroot, "--storage-driver", "overlay"}
			p.form = func(verb string, args []string) []string {
				if verb == "pull" || verb == "push" {
					args = slices.Insert(slices.Clone(args), 0, "--tls-verify=false")
				}
				return append([]string{verb}, args...)
			}
		} else {
			p.client = []string{program}
			store := "containers-storage:[overlay@" + root + "+" + runroot + "]"
			p.form = func(verb string, args []string) []string { return skopeoWords(store, verb, args) }
		}
		tools = append(tools, p)
	}
	return tools, nil
}

// skopeoWords says pull, push and rmi in skopeo's words. A pushed image needs no tag there: it
// is copied under its new name.
func skopeoWords(store, verb string, args []string) []string {
	switch verb {
	case "pull":
		return []string{"copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "docker://" + args[0], store + args[0]}
	case "push":
		return []string{"copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", store + sourceRef, "docker://" + args[0]}
	case "rmi":
		return []string{"delete", store + sourceRef}
	}
	return append([]string{verb}, args...)
}

// canDo says whether a peer has such a command.
func (p *peer) canDo(t transfer) bool {
	if p.name == "buildah" || p.name == "skopeo" {
		return t.name == "pull" || t.name == "push" || t.name == removal
	}
	return true
}

// clearing is the last step of a round, which is not a row.
const clearing = "clearing"

const removal = "rmi, until the disk is free"

// emptiedSince waits until nothing of the image is left and says how long that took.
func (p *peer) emptiedSince(ctx context.Context, begin time.Time, i *subjectImage) (time.Duration, error) {
	for deadline := begin.Add(time.Minute); ; pause(ctx, 20*time.Millisecond) {
		err := p.isEmpty(i)
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return time.Since(begin), err
		}
	}
}

// transfers are the steps of a round; each leaves what the next one needs.
func (b *bench) transfers(i *subjectImage, target string) []transfer {
	saved := filepath.Join(b.dir, "saved.tar")
	return []transfer{
		{name: "pull", cold: true, goals: []goal{{against: fastest, factor: 1.5}}, work: func(ctx context.Context, p *peer) (time.Duration, error) {
			took, err := p.do(ctx, "pull", sourceRef)
			if err != nil {
				return 0, err
			}
			return took, p.holds(ctx, i)
		}},
		{name: "push", cold: true, goals: []goal{{against: fastest, factor: 1}}, prepare: func(ctx context.Context, p *peer) error {
			if err := emptyRegistry(target); err != nil || p.name == "skopeo" {
				return err
			}
			_, err := p.do(ctx, "tag", sourceRef, pushRef)
			return err
		}, work: func(ctx context.Context, p *peer) (time.Duration, error) { return p.do(ctx, "push", pushRef) }},
		{name: "save", cold: true, work: func(ctx context.Context, p *peer) (time.Duration, error) {
			defer os.Remove(saved)
			return p.do(ctx, "save", "-o", saved, sourceRef)
		}},
		// Until the disk is free: who answers before that has not done the work yet.
		{name: removal, work: func(ctx context.Context, p *peer) (time.Duration, error) {
			names := []string{sourceRef, pushRef}
			if p.name == "skopeo" {
				names = names[:1]
			}
			begin := time.Now()
			_, err := p.do(ctx, "rmi", names...)
			if err != nil {
				return 0, err
			}
			return p.emptiedSince(ctx, begin, i)
		}},
		{name: "load", cold: true, goals: []goal{{against: fastest, factor: 1}}, work: func(ctx context.Context, p *peer) (time.Duration, error) {
			return p.do(ctx, "load", "-i", i.archive)
		}},
		{name: "push of what was loaded", cold: true, prepare: func(context.Context, *peer) error { return emptyRegistry(target) },
			work: func(ctx context.Context, p *peer) (time.Duration, error) { return p.do(ctx, "push", loadedRef) }},
		{name: clearing, work: func(ctx context.Context, p *peer) (time.Duration, error) {
			begin := time.Now()
			if _, err := p.do(ctx, "rmi", loadedRef); err != nil {
				return 0, err
			}
			return p.emptiedSince(ctx, begin, i)
		}},
	}
}

// holds proves that a peer has the image whole: its ID is the digest of its configuration,
// which names the content of every layer.
func (p *peer) holds(ctx context.Context, i *subjectImage) error {
	var got string
	var err error
	switch p.name {
	case "skopeo":
		return nil // proves the digests itself, and has no command that tells an ID
	case "buildah":
		got, err = p.ask(ctx, "inspect", "--type", "image", "--format", "{{.FromImageID}}", sourceRef)
	default:
		got, err = p.ask(ctx, "image", "inspect", "--format", "{{.Id}}", sourceRef)
	}
	if err == nil && strings.TrimPrefix(got, "sha256:") != strings.TrimPrefix(i.id, "sha256:") {
		err = fmt.Errorf("%s has image %s after the pull, and not %s", p.name, got, i.id)
	}
	return err
}

// isEmpty proves that nothing of the image is left, which would make the next pull cheap.
func (p *peer) isEmpty(i *subjectImage) error {
	var left int64
	err := filepath.WalkDir(filepath.Join(p.dir, "d"), func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			left += info.Size()
		}
		return nil
	})
	if err == nil && left > i.packed/10 {
		err = fmt.Errorf("%s still has %d MB after rmi", p.name, left/1_000_000)
	}
	return err
}

// roundsTime bounds the rounds together: one more is begun only if it is likely to fit.
const roundsTime = 10 * time.Minute

// measureTransfers does all transfers on every peer in turn, and that in some rounds.
func (b *bench) measureTransfers(ctx context.Context, peers []*peer, i *subjectImage, rounds int) ([]result, error) {
	target := filepath.Join(b.dir, "pushed")
	for _, s := range spaces(peers) {
		if err := s.startRegistry(ctx, i.registry, sourcePort); err != nil {
			return nil, err
		}
		if err := s.startRegistry(ctx, target, targetPort); err != nil {
			return nil, err
		}
	}
	work := b.transfers(i, target)
	results := make([]result, len(work))
	for j, t := range work {
		results[j] = result{section: "Images", row: t.name, unit: "s", goals: t.goals}
		for _, p := range peers {
			results[j].cells = append(results[j].cells, cell{peer: p.name})
		}
	}
	begin := time.Now()
	for round := range rounds {
		if spent := time.Since(begin); round > 0 && spent+spent/time.Duration(round) > roundsTime {
			b.notes = append(b.notes, fmt.Sprintf("What moves images was measured %d times: a round takes %s here.", round, (spent/time.Duration(round)).Round(time.Second)))
			break
		}
		for k, p := range peers {
			for j, t := range work {
				c := &results[j].cells[k]
				if !p.canDo(t) || c.why != "" || ctx.Err() != nil {
					continue
				}
				seconds, err := b.transfer(ctx, p, t)
				if err != nil {
					c.fail(err)
					continue
				}
				c.values = append(c.values, seconds)
				fmt.Fprintf(os.Stderr, "Images: %s, %s: %.2f s\n", t.name, p.name, seconds)
			}
		}
	}
	return slices.DeleteFunc(results, func(r result) bool { return r.row == clearing }), ctx.Err()
}

func spaces(peers []*peer) (all []*space) {
	for _, p := range peers {
		if !slices.Contains(all, p.space) {
			all = append(all, p.space)
		}
	}
	return all
}

func (b *bench) transfer(ctx context.Context, p *peer, t transfer) (float64, error) {
	if t.prepare != nil {
		if err := t.prepare(ctx, p); err != nil {
			return 0, err
		}
	}
	if !t.cold {
		took, err := t.work(ctx, p)
		return took.Seconds(), err
	}
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return 0, fmt.Errorf("empty the caches: %w", err)
	}
	pause(ctx, settle)
	took, err := t.work(ctx, p)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	dir, err := os.Open(b.dir)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return 0, fmt.Errorf("sync: %w", err)
	}
	return (took + time.Since(begin)).Seconds(), nil
}
