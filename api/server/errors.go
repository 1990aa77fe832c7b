package server

import (
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/common"

	"berth/fail"
)

// statuses is the one place where classes become HTTP statuses.
var statuses = map[fail.Class]int{
	fail.Internal:       http.StatusInternalServerError,
	fail.NotFound:       http.StatusNotFound,
	fail.Invalid:        http.StatusBadRequest,
	fail.Conflict:       http.StatusConflict,
	fail.NotModified:    http.StatusNotModified,
	fail.Unauthorized:   http.StatusUnauthorized,
	fail.Forbidden:      http.StatusForbidden,
	fail.Unavailable:    http.StatusServiceUnavailable,
	fail.NotImplemented: http.StatusNotImplemented,
	fail.Canceled:       http.StatusServiceUnavailable, // a time limit of ours; of a client that left nobody reads it
}

func status(err error) int { return statuses[fail.Of(err)] }

// writeError answers with err's status and {"message": …}. 304 has no body.
func writeError(w *writer, err error) {
	code := status(err)
	if code == http.StatusNotModified {
		w.WriteHeader(code)
		return
	}
	_ = writeJSON(w, code, common.ErrorResponse{Message: strings.TrimSpace(err.Error())})
}
