package server

import (
	"net/http"

	"github.com/moby/moby/api/types/volume"

	"berth/fail"
)

// There are no volumes yet, and that is what these endpoints tell.

func listVolumes(w *writer, r *request) error {
	if _, err := r.filters("dangling", "driver", "label", "name"); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, volume.ListResponse{Volumes: []volume.Volume{}})
}

func noSuchVolume(w *writer, r *request) error {
	if r.Method == http.MethodDelete && r.boolean("force") {
		return noContent(w, nil)
	}
	return fail.New(fail.NotFound, "get %s: no such volume", r.path["name"])
}

func pruneVolumes(w *writer, r *request) error {
	if _, err := r.filters("all", "label", "label!"); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, volume.PruneReport{VolumesDeleted: []string{}})
}
