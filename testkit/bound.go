package testkit

import (
	"os/exec"
	"runtime"
	"testing"
)

// startBound starts a program that is to end with us, by SysProcAttr.Pdeathsig. The kernel sends that
// signal when the thread ends that started the program, and any of ours may (kernel.OnOwnThread): one
// is kept for it until the test is over.
func startBound(t testing.TB, cmd *exec.Cmd) error {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-over
	}()
	return <-started
}
