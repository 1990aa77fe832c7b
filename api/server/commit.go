package server

import (
	"net/http"

	"github.com/moby/moby/api/types/container"

	"berth/engine"
)

// commitContainer makes an image of a container's changes.
func commitContainer(w *writer, r *request) error {
	c := engine.CommitRequest{
		Author: r.query("author"), Comment: r.query("comment"),
		Changes: r.list("changes"), Pause: r.booleanOr("pause", true),
	}
	if repo := r.query("repo"); repo != "" {
		ref, err := taggedName(repo, r.query("tag"))
		if err != nil {
			return err
		}
		c.Ref = ref
	}
	if err := bodyJSON(w, r, &c.Config, false); err != nil {
		return err
	}
	id, err := r.s.Containers.Commit(r.Context(), r.query("container"), c)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.CommitResponse{ID: id.String()})
}
