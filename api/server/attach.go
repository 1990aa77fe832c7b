package server

import "berth/engine"

func attachOptions(r *request) engine.AttachOptions {
	return engine.AttachOptions{
		Stdin:      r.boolean("stdin"),
		Stdout:     r.boolean("stdout"),
		Stderr:     r.boolean("stderr"),
		Stream:     r.boolean("stream"),
		Replay:     r.boolean("logs"),
		DetachKeys: r.query("detachKeys"),
	}
}

func attachContainer(w *writer, r *request) error {
	c, err := r.s.Containers.Get(r.path["id"])
	if err != nil {
		return err
	}
	return r.s.Containers.Attach(r.Context(), c.ID, attachOptions(r), hijacker(w, r, streamType(!c.Config.Tty, r.version)))
}
