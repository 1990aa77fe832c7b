package kernel

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnOwnThread calls f on a thread that ends when f has returned: whatever f changes of it,
// such as its namespaces, goes with it. That is never the process's first thread, which
// the Go runtime keeps for ever, and whose namespaces /proc/PID shows as the process's.
func OnOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			OnOwnThread(f) // another one, as this is taken meanwhile
			runtime.UnlockOSThread()
			close(done)
			return
		}
		defer close(done)
		f() // the thread is never unlocked, and so ends with its goroutine
	}()
	<-done
}
