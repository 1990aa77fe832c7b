// Package oci holds the handshake types that Berth's packages exchange: what the
// OCI specifications define, under one import, and the few structures of ours that
// travel between images, engine, supervisor and runtime.
package oci

import (
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci/bundle"
)

// Aliases of the specifications' own types.
type (
	Digest     = digest.Digest
	Descriptor = ocispec.Descriptor
	Manifest   = ocispec.Manifest
	Index      = ocispec.Index
	Image      = ocispec.Image
	Platform   = ocispec.Platform

	Spec           = bundle.Spec
	Process        = bundle.Process
	Mount          = bundle.Mount
	User           = bundle.User
	LinuxResources = bundle.LinuxResources

	Rootfs = bundle.Rootfs
)

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
