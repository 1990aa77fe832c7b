package images

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/durable"
	"berth/fail"
	"berth/oci"
	"berth/registry"
)

// Damage is one thing that a check found to be wrong.
type Damage struct {
	Kind     string   `json:"kind"` // database, image, blob, layer, lease, container
	ID       string   `json:"id"`
	Problem  string   `json:"problem"`          // one sentence
	Images   []string `json:"images,omitempty"` // that need it, by a name or their ID
	Repaired bool     `json:"repaired"`
	// Hint is how it was repaired, or why it was not and what to do.
	Hint string `json:"hint,omitempty"`
}

// CheckOptions guide Check.
type CheckOptions struct {
	Repair bool
	// Users names the containers that use an image, and those among them that run.
	Users func(id oci.Digest) (all, running []string)
	// Auth gives the credentials for a registry's host, nil for none.
	Auth func(host string) *registry.Auth
	// Found is told each damage, in the order of finding.
	Found func(Damage)
	// Progress gets a step for each blob and layer.
	Progress Progress
}

// CheckSummary is how much was checked.
type CheckSummary struct {
	Images int   `json:"images"`
	Blobs  int   `json:"blobs"`
	Layers int   `json:"layers"`
	Bytes  int64 `json:"bytes"` // of the blobs
}

// Check reads everything the store has and compares it with what it should be: the pages of
// the database, the records, each blob with its digest, and each layer with what its blob
// unpacks to, which takes the time of unpacking and the space of the largest layer.
//
// With Repair, what is damaged is fetched again from a registry that is known to have it,
// and layers are unpacked anew. A layer on which a running container stands is left as it is.
// Content that comes or goes meanwhile is not damage. An error means that the check itself
// could not go on.
func (s *Store) Check(ctx context.Context, o CheckOptions) (CheckSummary, error) {
	l, err := s.newLease("check", "all images")
	if err != nil {
		return CheckSummary{}, err
	}
	defer l.abort() // what was removed meanwhile goes now
	c := &check{Store: s, CheckOptions: o, lease: l, bad: map[oci.Digest]bool{}, done: map[oci.Digest]bool{}}
	c.Progress = serial(c.Progress)
	for _, step := range []func(context.Context) error{c.database, c.records, c.blobs, c.layers} {
		if err := step(ctx); err != nil {
			return c.sum, err
		}
	}
	return c.sum, nil
}

// check is one run of Check.
type check struct {
	*Store
	CheckOptions
	lease *lease
	sum   CheckSummary
	bad   map[oci.Digest]bool // blobs that are damaged, and stay so
	done  map[oci.Digest]bool // layers that were looked at
}

func (c *check) found(d Damage) {
	c.log.Error("damage found", "kind", d.Kind, "id", d.ID, "problem", d.Problem, "repaired", d.Repaired)
	c.Found(d)
}

// outcome completes d by how its repair went.
func outcome(d Damage, how string, err error) Damage {
	d.Repaired, d.Hint = err == nil, how
	if err != nil {
		d.Hint = err.Error()
	}
	return d
}

// database checks the file itself, and the rows that are not images.
func (c *check) database(ctx context.Context) error {
	problems, err := c.db.Check(ctx)
	if err != nil {
		return err
	}
	for _, p := range problems {
		c.found(Damage{Kind: "database", ID: "berth.db", Problem: p.Error(), Hint: "stop the engine and restore berth.db from a copy"})
	}
	type row struct{ bucket, key, kind, problem string }
	var rows []row
	c.mu.Lock()
	live := map[string]bool{}
	for l := range c.leases {
		live[l.id] = true
	}
	c.mu.Unlock()
	err = c.db.View(func(tx *durable.Tx) error {
		err := tx.ForEach(blobsBucket, func(key string, data []byte) error {
			if err := json.Unmarshal(data, new(blobInfo)); err != nil {
				rows = append(rows, row{blobsBucket, key, "blob", "where it came from cannot be read: " + err.Error()})
			}
			return nil
		})
		return errors.Join(err, tx.ForEach(leasesBucket, func(key string, data []byte) error {
			if !live[key] && c.stale(key) {
				rows = append(rows, row{leasesBucket, key, "lease", "it belongs to no work under way"})
			}
			return nil
		}))
	})
	if err != nil {
		return err
	}
	for _, r := range rows {
		d := Damage{Kind: r.kind, ID: r.key, Problem: r.problem}
		if c.Repair {
			d = outcome(d, "forgotten", c.db.Update(func(tx *durable.Tx) error { return tx.Delete(r.bucket, r.key) }))
		}
		c.found(d)
	}
	return nil
}

// stale reports whether a lease's row has no work: one that was begun since has.
func (c *check) stale(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.leases {
		if l.id == id {
			return false
		}
	}
	return true
}

func (s *Store) isDamaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.damaged) > 0
}

// records deals with images whose records cannot be read.
func (c *check) records(ctx context.Context) error {
	c.mu.Lock()
	damaged := maps.Clone(c.damaged)
	c.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(damaged)) {
		d := Damage{Kind: "image", ID: id, Problem: "its record cannot be read: " + damaged[id].Error()}
		if c.Repair {
			how, err := c.mendRecord(ctx, id)
			d = outcome(d, how, err)
		}
		c.found(d)
	}
	if c.Repair && len(damaged) > 0 {
		c.publishLayout()
	}
	return nil
}

// mendRecord makes the record of an image anew, from what the content store's index.json
// says of it. An image of which that tells nothing, or that is not wholly here, is
// forgotten.
func (c *check) mendRecord(ctx context.Context, id string) (how string, err error) {
	ix, err := c.Store.blobs.Index()
	if err != nil {
		return "", err
	}
	var got arrival
	for _, d := range ix.Manifests {
		data, err := c.Store.blobs.Read(d.Digest)
		if err != nil {
			continue
		}
		name := d.Annotations[ocispec.AnnotationRefName]
		d.Annotations = nil
		v, artifact, err := parseManifest(d, data)
		if err != nil || artifact != "" || v.Config.Digest.String() != id {
			continue
		}
		raw, err := c.Store.blobs.Read(v.Config.Digest)
		if err != nil {
			continue
		}
		p, err := newPlan(v, raw)
		if err != nil {
			continue
		}
		names := got.names
		if name != "" {
			names = append(names, name)
		}
		got = arrival{arrived: p.arrived, names: names}
	}
	if got.id != "" {
		c.lease.keepLayers(got.chains...)
		c.lease.keepBlobs(got.v.blobs()...)
		if err = c.record(got); err == nil {
			return "made anew from its manifest", nil
		}
	}
	err = c.db.Update(func(tx *durable.Tx) error { return tx.Delete(imagesBucket, id) })
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	delete(c.damaged, id)
	c.mu.Unlock()
	return "forgotten, for its manifest is not known: pull or load the image again", nil
}

// all lists the records, in the order of their IDs.
func (c *check) all() []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*entry
	for _, id := range slices.Sorted(maps.Keys(c.index.images)) {
		all = append(all, c.index.images[id])
	}
	return all
}

// need is a blob that images need.
type need struct {
	oci.Descriptor
	by       []*entry
	optional bool // an index: it only tells where a manifest came from
}

// needs lists the blobs of all records, each once, manifests and configurations first.
func (c *check) needs() []*need {
	var list []*need
	known := map[oci.Digest]*need{}
	add := func(e *entry, d oci.Descriptor, optional bool) {
		n := known[d.Digest]
		if n == nil {
			n = &need{Descriptor: d, optional: optional}
			known[d.Digest] = n
			list = append(list, n)
		}
		n.optional = n.optional && optional
		if !slices.Contains(n.by, e) {
			n.by = append(n.by, e)
		}
	}
	entries := c.all()
	c.sum.Images = 0
	for _, e := range entries {
		if !e.Hidden {
			c.sum.Images++
		}
		c.lease.keepLayers(e.Chains...)
		for _, v := range e.Variants {
			c.lease.keepBlobs(v.blobs()...)
			add(e, v.Manifest, false)
			add(e, v.Target, true)
			add(e, v.Config, false)
		}
	}
	for _, e := range entries {
		for _, v := range e.Variants {
			for _, l := range v.Layers {
				add(e, l, false)
			}
		}
	}
	return list
}

func (n *need) images() (names []string) {
	for _, e := range n.by {
		names = append(names, e.called())
	}
	return names
}

// called is a name of the image, or its ID if it has none.
func (e *entry) called() string {
	switch {
	case len(e.Names) > 0:
		return familiar(e.Names[0])
	case len(e.Digests) > 0:
		return familiar(e.Digests[0])
	}
	return e.ID.String()
}

// blobs checks every blob: those that images need, and whatever else is there.
func (c *check) blobs(ctx context.Context) error {
	needed := map[oci.Digest]bool{}
	for _, n := range c.needs() {
		needed[n.Digest] = true
		err := c.verify(ctx, n.Digest)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil || n.optional && fail.Is(err, fail.NotFound) {
			continue
		}
		d := Damage{Kind: "blob", ID: n.Digest.String(), Problem: problemOf(err), Images: n.images()}
		if c.Repair {
			from, err := c.refetch(ctx, n)
			d = outcome(d, "fetched again from "+from, err)
		}
		c.bad[n.Digest] = !d.Repaired
		c.found(d)
	}
	var others []oci.Digest
	err := c.Store.blobs.Walk(func(d oci.Digest, _ int64) error {
		if !needed[d] {
			others = append(others, d)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	for _, other := range others {
		err := c.verify(ctx, other)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil || fail.Is(err, fail.NotFound) {
			continue
		}
		d := Damage{Kind: "blob", ID: other.String(), Problem: problemOf(err)}
		if c.Repair {
			d = outcome(d, "deleted, for no image needs it", c.Store.blobs.Delete(other))
		}
		c.found(d)
	}
	return nil
}

func problemOf(err error) string {
	if fail.Is(err, fail.NotFound) {
		return "it is missing"
	}
	return err.Error()
}

func (c *check) verify(ctx context.Context, d oci.Digest) error {
	c.Progress(Step{ID: short(d), Status: "Checking blob"})
	c.sum.Blobs++
	return c.Store.blobs.Verify(ctx, d, func(n int) { c.sum.Bytes += int64(n) })
}

// refetch gets a blob from a registry that is known to have it, and tells which.
func (c *check) refetch(ctx context.Context, n *need) (from string, err error) {
	repos, err := c.sources(n)
	if err != nil {
		return "", err
	}
	if len(repos) == 0 && !(isForeign(n.Descriptor) && len(n.URLs) > 0) {
		return "", fail.New(fail.NotFound, "no registry is known that has it: load, import or pull the image again")
	}
	var failed error
	for _, repo := range repos {
		c.Progress(Step{ID: short(n.Digest), Status: "Fetching from " + familiar(repo)})
		named, err := reference.ParseNormalizedNamed(repo)
		if err == nil {
			var auth *registry.Auth
			if c.Auth != nil {
				auth = c.Auth(reference.Domain(named))
			}
			err = c.fetchFrom(ctx, source{store: c.Store, repo: c.registry.Repository(named, auth), ref: named}, n.Descriptor)
		}
		if err == nil {
			return familiar(repo), nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		failed = err
	}
	return "", failed
}

func (c *check) fetchFrom(ctx context.Context, src source, d oci.Descriptor) error {
	w, err := c.Store.blobs.Renew(ctx, d.Digest)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Restart(); err != nil {
		return err
	}
	if !oci.IsManifest(d.MediaType) && !oci.IsIndex(d.MediaType) {
		return c.fill(ctx, w, d, src.blob, nil)
	}
	data, err := src.repo.Manifest(ctx, d)
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	_, err = w.Commit(d.Size)
	return err
}

// sources lists the repositories that a blob may be had from: where it was seen, and those
// by whose names its images are known.
func (c *check) sources(n *need) (repos []string, err error) {
	info, err := c.blobInfo(n.Digest)
	if err == nil {
		repos = info.Repos
	}
	for _, e := range n.by {
		for _, full := range e.Digests { // a promise of the registry's
			if repo := repoOf(full); !slices.Contains(repos, repo) {
				repos = append(repos, repo)
			}
		}
	}
	return repos, nil
}

// layers checks every layer of an image, from the lowest up.
func (c *check) layers(ctx context.Context) error {
	for _, e := range c.all() {
		if e.Artifact != "" {
			continue
		}
		if err := c.imageLayers(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (c *check) imageLayers(ctx context.Context, e *entry) error {
	v := e.current()
	if c.bad[v.Config.Digest] || c.bad[v.Manifest.Digest] {
		return nil // told already; without them nobody knows what the layers should be
	}
	raw, err := c.Store.blobs.Read(v.Config.Digest)
	if err != nil {
		return nil // gone since
	}
	p, err := newPlan(v, raw)
	if err == nil && !slices.Equal(p.chains, e.Chains) {
		err = errors.New("its layers are not those of its configuration")
	}
	if err != nil {
		c.found(Damage{Kind: "image", ID: e.ID.String(), Problem: err.Error(), Images: []string{e.called()}, Hint: "remove it and pull or load it again"})
		return nil
	}
	var parent oci.Digest
	for i, chain := range p.chains {
		if !c.done[chain] {
			c.done[chain] = true
			below := parent
			whole, err := c.layer(ctx, e, below, p.diffs[i], v.Layers[i])
			if err != nil {
				return err
			}
			if !whole && i+1 < len(p.chains) && !c.Store.layers.Has(chain) {
				return nil // what lies on it cannot be unpacked for comparison
			}
		}
		parent = chain
	}
	return nil
}

// layer checks one layer, and reports whether it is whole in the end.
func (c *check) layer(ctx context.Context, e *entry, parent, diff oci.Digest, d oci.Descriptor) (whole bool, err error) {
	chain := oci.NextChainID(parent, diff)
	damage := Damage{Kind: "layer", ID: chain.String(), Images: []string{e.called()}}
	if c.bad[d.Digest] {
		if !c.Store.layers.Has(chain) {
			damage.Problem, damage.Hint = "it is missing", "its blob has to be repaired first"
			c.found(damage)
		}
		return false, nil
	}
	c.Progress(Step{ID: short(chain), Status: "Checking layer"})
	f, err := c.Store.blobs.Open(d.Digest)
	if err != nil {
		return false, nil // gone since, with its image
	}
	defer f.Close()
	tar, _, err := decompress(f)
	if err != nil {
		return false, err
	}
	defer tar.Close()
	c.sum.Layers++
	got, err := c.Store.layers.Check(ctx, parent, diff, tar)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil {
		damage.Problem, damage.Hint = err.Error(), "it could not be compared with its blob"
		c.found(damage)
		return false, nil
	}
	if len(got.Problems) == 0 {
		return true, got.Close()
	}
	damage.Problem = strings.Join(got.Problems, "; ")
	if !c.Repair {
		c.found(damage)
		return false, got.Close()
	}
	damage = outcome(damage, "unpacked again", c.replace(chain, got.Repair))
	c.found(damage)
	return damage.Repaired, got.Close()
}

// replace runs repair while no container begins to use the layer, if none that runs does.
func (c *check) replace(chain oci.Digest, repair func() error) error {
	c.removal.Lock()
	defer c.removal.Unlock()
	if c.Users != nil {
		for _, e := range c.all() {
			if !slices.Contains(e.Chains, chain) {
				continue
			}
			if _, running := c.Users(e.ID); len(running) > 0 {
				return fail.New(fail.Conflict, "running containers stand on it: stop %s and repair again", strings.Join(shortIDs(running), ", "))
			}
		}
	}
	return repair()
}

func shortIDs(ids []string) (short []string) {
	for _, id := range ids {
		short = append(short, shortID(id))
	}
	return short
}
