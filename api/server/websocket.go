package server

func attachWebSocket(w *writer, r *request) error { return notYet("attaching by WebSocket")(w, r) }
