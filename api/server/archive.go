package server

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/engine"
)

// pathStatHeader carries what is told of a file, as JSON in base64.
const pathStatHeader = "X-Docker-Container-Path-Stat"

func (w *writer) setPathStat(st engine.PathStat) error {
	data, err := json.Marshal(container.PathStat{Name: st.Name, Size: st.Size, Mode: st.Mode, Mtime: st.ModTime, LinkTarget: st.LinkTarget})
	if err != nil {
		return err
	}
	w.Header().Set(pathStatHeader, base64.StdEncoding.EncodeToString(data))
	return nil
}

// statArchive looks at a file of a container.
func statArchive(w *writer, r *request) error {
	f, err := r.s.Containers.Files(r.Context(), r.path["id"])
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat(r.query("path"))
	if err != nil {
		return err
	}
	if err := w.setPathStat(st); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// getArchive sends a file of a container, and what is below it, as a tar.
func getArchive(w *writer, r *request) error {
	f, err := r.s.Containers.Files(r.Context(), r.path["id"])
	if err != nil {
		return err
	}
	defer f.Close()
	defer hangUpWhen(w, f.Interrupted())()
	return f.Archive(r.Context(), r.query("path"), func(st engine.PathStat) (io.Writer, error) {
		w.Header().Set("Content-Type", "application/x-tar")
		return w, w.setPathStat(st)
	})
}

// putArchive unpacks a tar in a directory of a container.
func putArchive(w *writer, r *request) error {
	f, err := r.s.Containers.Files(r.Context(), r.path["id"])
	if err != nil {
		return err
	}
	defer f.Close()
	defer hangUpWhen(w, f.Interrupted())()
	err = f.Extract(r.Context(), r.query("path"), r.Body, engine.ExtractOptions{
		KeepKinds: r.boolean("noOverwriteDirNonDir"), ChangeOwner: r.boolean("copyUIDGID"),
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// hangUpWhen ends waiting for a client that neither reads nor writes when interrupted is
// closed, for what it holds is wanted back. After stop the connection is the next request's:
// nothing may touch its deadlines any more, and one whose deadline has passed is not used again.
func hangUpWhen(w *writer, interrupted <-chan struct{}) (stop func()) {
	over, hungUp := make(chan struct{}), make(chan bool, 1)
	go func() { // ends with stop
		select {
		case <-interrupted:
			c := http.NewResponseController(w)
			_ = c.SetReadDeadline(time.Now())
			_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // to say why
			hungUp <- true
		case <-over:
			hungUp <- false
		}
	}()
	return func() {
		close(over)
		if <-hungUp {
			w.Header().Set("Connection", "close")
		}
	}
}

// containerChanges lists what a container's files differ in from its image's.
func containerChanges(w *writer, r *request) error {
	changes, err := r.s.Containers.Changes(r.Context(), r.path["id"])
	if err != nil {
		return err
	}
	out := make([]container.FilesystemChange, len(changes))
	for i, c := range changes {
		out[i] = container.FilesystemChange{Path: c.Path, Kind: container.ChangeType(c.Kind)}
	}
	return writeJSON(w, http.StatusOK, out)
}

// exportContainer sends all files of a container but those that are mounted in it.
func exportContainer(w *writer, r *request) error {
	stop := func() {}
	defer func() { stop() }()
	return r.s.Containers.Export(r.Context(), r.path["id"], func(interrupted <-chan struct{}) io.Writer {
		stop = hangUpWhen(w, interrupted)
		w.Header().Set("Content-Type", "application/x-tar")
		return w
	})
}
