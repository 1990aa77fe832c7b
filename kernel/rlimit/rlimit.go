// Package rlimit remembers the limit of open files that this process was started with.
//
// Package os raises the soft limit when it is initialised, and gives the original back
// only to children that it starts itself. This package depends on syscall alone, so it
// is initialised before os (packages that are ready come in the order of their paths).
package rlimit

import "syscall"

// Files is RLIMIT_NOFILE at the start of the process, or zero if it cannot be told.
var Files = original()

func original() (l syscall.Rlimit) {
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return syscall.Rlimit{}
	}
	return l
}
