package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"

	"berth/fail"
	"berth/images"
	"berth/oci"
)

// imageRow is one row of GET /images/json: moby's newest type and what older versions
// answer.
type imageRow struct {
	image.Summary
	VirtualSize *int64 `json:"VirtualSize,omitempty"` // until 1.43
}

func listImages(w *writer, r *request) error {
	f, err := r.filters("before", "dangling", "label", "label!", "reference", "since", "until")
	if err != nil {
		return err
	}
	all, err := r.s.Images.List()
	if err != nil {
		return err
	}
	all, err = r.s.selectImages(f, all)
	if err != nil {
		return err
	}
	shared := map[oci.Digest]int64{}
	if r.boolean("shared-size") {
		shared = r.s.sharedSizes()
	}
	out := []imageRow{}
	for _, img := range all {
		row := imageSummary(img, r.version)
		if r.boolean("shared-size") {
			row.SharedSize = shared[img.ID]
		}
		if r.version >= 51 {
			users, _ := r.s.Containers.Using(img.ID)
			row.Containers = int64(len(users))
		}
		if r.version >= 47 && r.boolean("manifests") {
			if row.Manifests, err = r.s.manifests(img); err != nil && !fail.Is(err, fail.NotFound) {
				return err
			}
		}
		if refs := f["reference"]; len(refs) > 0 {
			fits := func(ref string) bool {
				return slices.ContainsFunc(refs, func(p string) bool { return matchReference(p, ref) })
			}
			row.RepoTags = slices.DeleteFunc(slices.Clone(row.RepoTags), func(s string) bool { return !fits(s) })
			row.RepoDigests = slices.DeleteFunc(slices.Clone(row.RepoDigests), func(s string) bool { return !fits(s) })
		}
		out = append(out, row)
	}
	return writeJSON(w, http.StatusOK, out)
}

func imageSummary(img images.Image, v version) imageRow {
	row := imageRow{Summary: image.Summary{
		ID:          img.ID.String(),
		RepoTags:    orEmpty(img.RepoTags),
		RepoDigests: orEmpty(img.RepoDigests),
		Labels:      img.Config.Config.Labels,
		Containers:  -1,
		SharedSize:  -1,
		Size:        img.Size,
	}}
	if img.Config.Created != nil {
		row.Created = img.Config.Created.Unix()
	}
	if v < 44 {
		row.VirtualSize = &img.Size
	}
	if v < 43 && len(row.RepoTags) == 0 && len(row.RepoDigests) == 0 {
		row.RepoTags, row.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
	}
	if v >= 48 && img.Target.Digest != "" {
		d := img.Target
		row.Descriptor = &d
	}
	return row
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// manifests describes the manifests of an image.
func (s *Server) manifests(img images.Image) ([]image.ManifestSummary, error) {
	parts, err := s.Images.Manifests(img.ID)
	if err != nil {
		return nil, err
	}
	out := []image.ManifestSummary{}
	for _, p := range parts {
		m := image.ManifestSummary{ID: p.Descriptor.Digest.String(), Descriptor: p.Descriptor, Available: p.Available, Kind: image.ManifestKindUnknown}
		m.Size.Content = p.Content
		m.Size.Total = p.Content + p.Unpacked
		switch {
		case p.Attests != "":
			m.Kind = image.ManifestKindAttestation
			m.AttestationData = &image.AttestationProperties{For: p.Attests}
		case p.Artifact == "" && p.Platform.OS != "" && p.Platform.OS != "unknown":
			m.Kind = image.ManifestKindImage
			m.ImageData = &image.ImageProperties{Platform: p.Platform, Containers: []string{}}
			m.ImageData.Size.Unpacked = p.Unpacked
			if p.Image != "" {
				users, _ := s.Containers.Using(p.Image)
				m.ImageData.Containers = orEmpty(users)
			}
		}
		out = append(out, m)
	}
	return out, nil
}

// sharedSizes tells for each image how many of its bytes other images have too. Sizes of
// single layers come from the history rows of the image.
func (s *Server) sharedSizes() map[oci.Digest]int64 {
	all, err := s.Images.List()
	if err != nil {
		return nil
	}
	count := map[oci.Digest]int{}
	for _, img := range all {
		var chain oci.Digest
		for _, d := range img.Config.RootFS.DiffIDs {
			chain = oci.NextChainID(chain, d)
			count[chain]++
		}
	}
	out := map[oci.Digest]int64{}
	for _, img := range all {
		sizes := s.layerSizes(img)
		var chain oci.Digest
		for i, d := range img.Config.RootFS.DiffIDs {
			chain = oci.NextChainID(chain, d)
			if count[chain] > 1 && i < len(sizes) {
				out[img.ID] += sizes[i]
			}
		}
		if _, ok := out[img.ID]; !ok {
			out[img.ID] = 0
		}
	}
	return out
}

// layerSizes are the unpacked sizes of an image's layers, lowest first.
func (s *Server) layerSizes(img images.Image) []int64 {
	rows, err := s.Images.History(img.ID.String(), nil)
	if err != nil {
		return nil
	}
	var sizes []int64
	for i := len(rows) - 1; i >= 0; i-- {
		j := len(rows) - 1 - i
		if j < len(img.Config.History) && img.Config.History[j].EmptyLayer {
			continue
		}
		sizes = append(sizes, rows[i].Size)
	}
	return sizes
}

// selectImages applies the filters of image lists, except that reference also narrows
// the names that are shown.
func (s *Server) selectImages(f filters, all []images.Image) ([]images.Image, error) {
	dangling, err := f.boolean("dangling", false)
	if err != nil {
		return nil, err
	}
	until, err := f.until(time.Now())
	if err != nil {
		return nil, err
	}
	var before, after time.Time
	for _, b := range []struct {
		key string
		at  *time.Time
	}{{"before", &before}, {"since", &after}} {
		for _, ref := range f[b.key] {
			img, err := s.Images.Get(ref)
			if err != nil {
				return nil, err
			}
			*b.at = img.Created()
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(img images.Image) bool {
		labels := img.Config.Config.Labels
		switch at := img.Created(); {
		case len(f["dangling"]) > 0 && dangling != (len(img.RepoTags) == 0),
			!f.labels("label", labels),
			len(f["label!"]) > 0 && f.labels("label!", labels),
			!before.IsZero() && !at.Before(before),
			!after.IsZero() && !at.After(after),
			!until.IsZero() && at.After(until):
			return true
		}
		return !f.any("reference", func(p string) bool {
			fits := func(ref string) bool { return matchReference(p, ref) }
			return slices.ContainsFunc(img.RepoTags, fits) || slices.ContainsFunc(img.RepoDigests, fits)
		})
	}), nil
}

// imageInspect is the answer of GET /images/{name}/json: moby's newest type, the fields
// that older versions have, and those that the newest omits when empty and older ones do not.
type imageInspect struct {
	image.InspectResponse
	Parent          *string        `json:"Parent,omitempty"` // these two until 1.51
	DockerVersion   *string        `json:"DockerVersion,omitempty"`
	Comment         *string        `json:"Comment,omitempty"`
	Author          *string        `json:"Author,omitempty"`
	Container       *string        `json:"Container,omitempty"` // these two until 1.44
	ContainerConfig *inspectConfig `json:"ContainerConfig,omitempty"`
	VirtualSize     *int64         `json:"VirtualSize,omitempty"` // until 1.43
	Config          any            // until 1.49 with all fields of a container's configuration
}

func inspectImage(w *writer, r *request) error {
	if r.boolean("manifests") && r.query("platform") != "" {
		return fail.New(fail.Invalid, "conflicting options: manifests and platform options cannot both be set")
	}
	platform, err := parsePlatform(r.query("platform"))
	if err != nil {
		return err
	}
	img, err := r.s.Images.GetExact(r.path["name"], platform)
	if err != nil {
		return err
	}
	out, err := imageAnswer(img, r.s.Images.GraphDriver(), r.version)
	if err != nil {
		return err
	}
	if r.version >= 48 && r.boolean("manifests") {
		if out.Manifests, err = r.s.manifests(img); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// imageExtra are fields of a configuration that the OCI type lacks.
type imageExtra struct {
	DockerVersion string                          `json:"docker_version"`
	Comment       string                          `json:"comment"`
	Container     string                          `json:"container"`
	Config        dockerspec.DockerOCIImageConfig `json:"config"`
}

func imageAnswer(img images.Image, driver string, v version) (imageInspect, error) {
	var extra imageExtra
	if err := json.Unmarshal(img.RawConfig, &extra); err != nil {
		return imageInspect{}, fmt.Errorf("configuration of image %s: %w", img.ID, err)
	}
	if extra.Comment == "" && len(img.Config.History) > 0 {
		extra.Comment = img.Config.History[len(img.Config.History)-1].Comment
	}
	out := imageInspect{InspectResponse: image.InspectResponse{
		ID:           img.ID.String(),
		RepoTags:     orEmpty(img.RepoTags),
		RepoDigests:  orEmpty(img.RepoDigests),
		Architecture: img.Config.Architecture,
		Variant:      img.Config.Variant,
		Os:           img.Config.OS,
		OsVersion:    img.Config.OSVersion,
		Size:         img.Size,
		GraphDriver:  &storage.DriverData{Name: driver},
		RootFS:       image.RootFS{Type: "layers"},
		Metadata:     image.Metadata{LastTagTime: img.LastTagged},
	}}
	if img.Config.Created != nil {
		out.Created = img.Config.Created.UTC().Format(time.RFC3339Nano)
	}
	for _, d := range img.Config.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	keep := func(s string, always bool) *string {
		if s == "" && !always {
			return nil
		}
		return &s
	}
	out.Comment, out.Author = keep(extra.Comment, v < 52), keep(img.Config.Author, v < 52)
	out.DockerVersion, out.Parent = keep(extra.DockerVersion, v < 52), keep("", v < 52)
	if v < 44 {
		out.VirtualSize = &out.Size
	}
	if v < 45 {
		empty := containerConfig(dockerspec.DockerOCIImageConfig{})
		out.Container, out.ContainerConfig = &extra.Container, &empty
	}
	if v < 50 {
		out.Config = containerConfig(extra.Config)
	} else {
		out.Config = extra.Config
	}
	if v >= 48 && img.Target.Digest != "" {
		d := img.Target
		out.Descriptor = &d
	}
	return out, nil
}

// containerConfig is an image's configuration in the form that versions until 1.49
// answer: with the fields that only containers use, empty.
func containerConfig(c dockerspec.DockerOCIImageConfig) inspectConfig {
	out := &container.Config{
		User: c.User, Env: c.Env, Cmd: c.Cmd, Entrypoint: c.Entrypoint, Volumes: c.Volumes, WorkingDir: c.WorkingDir,
		Labels: c.Labels, StopSignal: c.StopSignal, Healthcheck: c.Healthcheck, OnBuild: c.OnBuild, Shell: c.Shell,
	}
	out.ExposedPorts = exposedPorts(c.ExposedPorts)
	return inspectConfig{Config: out, Labels: c.Labels, OnBuild: &out.OnBuild}
}

func imageHistory(w *writer, r *request) error {
	platform, err := parsePlatform(r.query("platform"))
	if err != nil {
		return err
	}
	rows, err := r.s.Images.History(r.path["name"], platform)
	if err != nil {
		return err
	}
	out := []image.HistoryResponseItem{}
	for _, h := range rows {
		out = append(out, image.HistoryResponseItem{ID: h.ID, Created: unixOrZero(h.Created), CreatedBy: h.CreatedBy, Comment: h.Comment, Tags: h.Tags, Size: h.Size})
	}
	return writeJSON(w, http.StatusOK, out)
}

func unixOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func tagImage(w *writer, r *request) error {
	target, err := taggedName(r.query("repo"), r.query("tag"))
	if err != nil {
		return err
	}
	if err := r.s.Images.Tag(r.path["name"], target); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// taggedName makes the reference of repo and tag ("latest" if there is none).
func taggedName(repo, tag string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return nil, fail.New(fail.Invalid, "invalid reference %q: %w", repo, err)
	}
	if _, ok := named.(reference.Digested); ok {
		return nil, fail.New(fail.Invalid, "refusing to create a tag with a digest reference")
	}
	if tag != "" {
		if named, err = reference.WithTag(reference.TrimNamed(named), tag); err != nil {
			return nil, fail.New(fail.Invalid, "invalid tag %q: %w", tag, err)
		}
	}
	return reference.TagNameOnly(named), nil
}

func removeImage(w *writer, r *request) error {
	name := r.path["name"]
	if strings.TrimSpace(name) == "" {
		return fail.New(fail.Invalid, "image name cannot be blank")
	}
	platforms, err := r.platforms("platforms")
	if err != nil {
		return err
	}
	done, err := r.s.Images.Remove(r.Context(), name, images.RemoveOptions{Force: r.boolean("force"), NoPrune: r.boolean("noprune"), Platforms: platforms, Users: r.s.Containers.Using})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, removals(done))
}

func removals(done []images.Removal) []image.DeleteResponse {
	out := []image.DeleteResponse{}
	for _, d := range done {
		out = append(out, image.DeleteResponse{Untagged: d.Untagged, Deleted: d.Deleted})
	}
	return out
}

// pruneImages removes images that no container uses: those without a name, or all of
// them with dangling=false.
func pruneImages(w *writer, r *request) error {
	f, err := r.filters("dangling", "label", "label!", "until")
	if err != nil {
		return err
	}
	danglingOnly, err := f.boolean("dangling", true)
	if err != nil {
		return err
	}
	delete(f, "dangling")
	all, err := r.s.Images.List()
	if err != nil {
		return err
	}
	all, err = r.s.selectImages(f, all)
	if err != nil {
		return err
	}
	before, err := r.s.Images.Usage()
	if err != nil {
		return err
	}
	report := image.PruneReport{}
	for _, img := range all {
		if users, _ := r.s.Containers.Using(img.ID); len(users) > 0 || (danglingOnly && len(img.RepoTags) > 0) {
			continue
		}
		names := append(slices.Clone(img.RepoTags), img.RepoDigests...)
		if len(names) == 0 {
			names = []string{img.ID.String()}
		}
		for _, name := range names {
			done, err := r.s.Images.Remove(r.Context(), name, images.RemoveOptions{Users: r.s.Containers.Using})
			if fail.Is(err, fail.Conflict) || fail.Is(err, fail.NotFound) {
				continue // someone uses or removed it meanwhile
			}
			if err != nil {
				return err
			}
			report.ImagesDeleted = append(report.ImagesDeleted, removals(done)...)
		}
	}
	if _, err := r.s.Images.Collect(r.Context(), r.s.imageInUse()); err != nil {
		return err
	}
	after, err := r.s.Images.Usage()
	if err != nil {
		return err
	}
	report.SpaceReclaimed = uint64(max(before-after, 0))
	r.s.tellPrune("image", report.SpaceReclaimed)
	return writeJSON(w, http.StatusOK, report)
}

// imageInUse tells of an image whether a container holds it.
func (s *Server) imageInUse() func(oci.Digest) bool {
	return func(id oci.Digest) bool {
		users, _ := s.Containers.Using(id)
		return len(users) > 0
	}
}
