// Package oci holds the handshake types that Berth's packages exchange: what the
// OCI specifications define, under one import, and the few structures of ours that
// travel between images, engine, supervisor and runtime.
package oci

import (
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Aliases of the specifications' own types.
type (
	Digest     = digest.Digest
	Descriptor = ocispec.Descriptor
	Manifest   = ocispec.Manifest
	Index      = ocispec.Index
	Image      = ocispec.Image
	Platform   = ocispec.Platform
	Spec       = specs.Spec
	Process    = specs.Process
	Mount      = specs.Mount
	User       = specs.User

	LinuxResources = specs.LinuxResources
)

// Rootfs says how to make a container's root file system. It is filled by images
// (who knows what a layer is), carried by the engine and mounted by the runtime.
//
// Either Path is set (a directory that exists, as in an OCI bundle), or Lower is:
// then the root is an overlay, built as a detached mount.
type Rootfs struct {
	Path  string   `json:"path,omitempty"`
	Lower []string `json:"lower,omitempty"` // directories, top-most layer first
	Upper string   `json:"upper,omitempty"` // empty: a read-only overlay of Lower
	Work  string   `json:"work,omitempty"`
	// Volatile: what is written need not survive the machine, so nothing is ever synced.
	Volatile bool `json:"volatile,omitempty"`
}

// ChainID is the identity of a stack of layers (image-spec, "Layer ChainID"):
// the first diff ID itself, then the digest of "parent diffID" for each further one.
// An empty stack has the empty chain ID.
func ChainID(diffIDs []Digest) Digest {
	var chain Digest
	for _, d := range diffIDs {
		chain = NextChainID(chain, d)
	}
	return chain
}

// NextChainID is the chain ID of diff stacked on the chain parent.
func NextChainID(parent, diff Digest) Digest {
	if parent == "" {
		return diff
	}
	return digest.FromString(parent.String() + " " + diff.String())
}

// Media types of Docker's image manifest version 2, schema 2, which registries
// still serve and which we keep byte for byte.
const (
	DockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	DockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig       = "application/vnd.docker.container.image.v1+json"
	DockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	DockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// IsIndex reports whether mediaType names an image index or manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == DockerManifestList
}

// IsManifest reports whether mediaType names an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == DockerManifest
}
