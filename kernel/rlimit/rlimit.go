// Package rlimit remembers the limit of open files that this process was started with.
//
// Package syscall raises the soft limit when it is initialised, and gives the original
// back only to children that it starts itself. This package imports nothing, so it is
// initialised before syscall (packages that are ready come in the order of their paths).
package rlimit

// Limit is a struct rlimit64.
type Limit struct{ Cur, Max uint64 }

// Files is RLIMIT_NOFILE at the start of the process, or zero if it cannot be told.
var Files = original()

const nofile = 7

func original() (l Limit) {
	if get(nofile, &l) != 0 {
		return Limit{}
	}
	return l
}

// get is prlimit64(2) for this process.
//
//go:noescape
func get(resource uintptr, l *Limit) uintptr
