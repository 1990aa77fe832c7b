package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/fail"
)

// uploads is a registry that takes blobs in its own ways.
type uploads struct {
	t *testing.T

	mu       sync.Mutex
	sessions map[string][]byte
	blobs    map[string][]byte
	log      []string
	refuse   func(r *http.Request, size int64) int // status, or 0
	cut      func(r *http.Request) int64           // break the connection after so many bytes; -1: do not
	forget   bool                                  // a broken piece is not kept
}

func newUploads(t *testing.T) *uploads {
	return &uploads{t: t, sessions: map[string][]byte{}, blobs: map[string][]byte{}}
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	note := r.Method
	if cr := r.Header.Get("Content-Range"); cr != "" {
		note += " " + cr
	}
	u.log = append(u.log, note)
	id := strings.TrimPrefix(r.URL.Path, "/upload/")
	if u.refuse != nil {
		if status := u.refuse(r, r.ContentLength); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	place := func(status int) {
		w.Header().Set("Location", "/upload/"+id+"?state="+strconv.Itoa(len(u.sessions[id])))
		if n := len(u.sessions[id]); n > 0 {
			w.Header().Set("Range", fmt.Sprintf("0-%d", n-1))
		}
		w.WriteHeader(status)
	}
	take := func() bool {
		before := len(u.sessions[id])
		var src io.Reader = r.Body
		at := int64(-1)
		if u.cut != nil {
			if at = u.cut(r); at >= 0 {
				src = io.LimitReader(r.Body, at)
			}
		}
		data, err := io.ReadAll(src)
		u.sessions[id] = append(u.sessions[id], data...)
		if at >= 0 || err != nil {
			if u.forget {
				u.sessions[id] = u.sessions[id][:before]
			}
			panic(http.ErrAbortHandler)
		}
		return true
	}
	switch r.Method {
	case http.MethodHead:
		data, ok := u.blobs[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	case http.MethodPost:
		id = strconv.Itoa(len(u.sessions))
		u.sessions[id] = nil
		place(http.StatusAccepted)
	case http.MethodGet:
		place(http.StatusNoContent)
	case http.MethodPatch:
		from, _, _ := strings.Cut(r.Header.Get("Content-Range"), "-")
		if from != strconv.Itoa(len(u.sessions[id])) || r.URL.Query().Get("state") != from {
			place(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		if take() {
			place(http.StatusAccepted)
		}
	case http.MethodPut:
		if take() {
			data := u.sessions[id]
			if digest.FromBytes(data).String() != r.URL.Query().Get("digest") {
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}`)
				return
			}
			u.blobs[r.URL.Query().Get("digest")] = data
			w.WriteHeader(http.StatusCreated)
		}
	case http.MethodDelete:
		delete(u.sessions, id)
		w.WriteHeader(http.StatusNoContent)
	}
}

func TestUploadsTakeTheWayThatTheRegistryAllows(t *testing.T) {
	data := randomBytes(5 << 20)
	times := func(n int, method string, at int64) func(*http.Request) int64 {
		return func(r *http.Request) int64 {
			if r.Method == method && r.ContentLength > at && n > 0 {
				n--
				return at
			}
			return -1
		}
	}
	for _, tt := range []struct {
		name string
		set  func(*uploads)
		want string // methods, in order
	}{
		{"in one piece", func(*uploads) {}, "POST, PUT"},
		{"in pieces, where bodies with PUT are refused", func(u *uploads) {
			u.refuse = func(r *http.Request, n int64) int {
				if r.Method == http.MethodPut && n > 0 {
					return http.StatusMethodNotAllowed
				}
				return 0
			}
		}, "POST, PUT, HEAD, DELETE, POST, PATCH 0-5242879, PUT"},
		{"in smaller pieces, where requests are limited", func(u *uploads) {
			u.refuse = func(r *http.Request, n int64) int {
				if n > 2<<20 {
					return http.StatusRequestEntityTooLarge
				}
				return 0
			}
		}, "POST, PUT, HEAD, DELETE, POST, PATCH 0-5242879, HEAD, DELETE, POST, PATCH 0-5242879, HEAD, DELETE, POST, PATCH 0-1048575, PATCH 1048576-2097151, PATCH 2097152-3145727, PATCH 3145728-4194303, PATCH 4194304-5242879, PUT"},
		{"resumed where the registry has it", func(u *uploads) { u.cut = times(1, http.MethodPut, 3<<20) },
			"POST, PUT, HEAD, GET, PATCH 3145728-5242879, PUT"},
		{"resumed twice", func(u *uploads) {
			first, second := times(1, http.MethodPut, 3<<20), times(1, http.MethodPatch, 1<<20)
			u.cut = func(r *http.Request) int64 { return max(first(r), second(r)) }
		}, "POST, PUT, HEAD, GET, PATCH 3145728-5242879, HEAD, GET, PATCH 4194304-5242879, PUT"},
		{"begun anew where nothing was kept", func(u *uploads) { u.cut, u.forget = times(1, http.MethodPut, 3<<20), true },
			"POST, PUT, HEAD, GET, DELETE, POST, PUT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := newUploads(t)
			tt.set(u)
			repo := fake(t, u.ServeHTTP)
			d := describe(data, "")
			var last int64
			if err := repo.PushBlob(t.Context(), d, opener(data), func(n int64) { last = n }); err != nil {
				t.Fatalf("%v after %s", err, strings.Join(u.log, ", "))
			}
			if !bytes.Equal(u.blobs[d.Digest.String()], data) || last != d.Size {
				t.Errorf("the registry has %d bytes, progress ended at %d", len(u.blobs[d.Digest.String()]), last)
			}
			if got := strings.Join(u.log, ", "); got != tt.want {
				t.Errorf("asked\n%s, want\n%s", got, tt.want)
			}
		})
	}
}

func TestAnUploadWhoseAnswerGotLostIsNotRepeated(t *testing.T) {
	data := randomBytes(1000)
	u := newUploads(t)
	lost := false
	repo := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && !lost {
			lost = true
			u.ServeHTTP(&discarded{header: http.Header{}}, r)
			panic(http.ErrAbortHandler)
		}
		u.ServeHTTP(w, r)
	})
	if err := repo.PushBlob(t.Context(), describe(data, ""), opener(data), nil); err != nil || strings.Join(u.log, ", ") != "POST, PUT, HEAD" {
		t.Errorf("%v after %v", err, u.log)
	}
}

type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) WriteHeader(int)             {}
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }

func TestAnUploadThatNobodyTakesEndsAndIsWithdrawn(t *testing.T) {
	u := newUploads(t)
	u.refuse = func(r *http.Request, n int64) int {
		if r.Method == http.MethodPut {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	err := fake(t, u.ServeHTTP).PushBlob(t.Context(), describe([]byte("x"), ""), opener([]byte("x")), nil)
	if !fail.Is(err, fail.Unavailable) || u.log[len(u.log)-1] != "DELETE" || len(u.sessions) != 0 {
		t.Errorf("%v after %v, %d sessions left", err, u.log, len(u.sessions))
	}
}
