package kernel

import (
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnOwnThreadIsNeverTheFirst(t *testing.T) {
	var work sync.WaitGroup
	for range 8 * runtime.GOMAXPROCS(0) {
		work.Go(func() {
			for range 50 {
				OnOwnThread(func() {
					if unix.Gettid() == os.Getpid() {
						t.Error("it is the first thread")
					}
				})
			}
		})
	}
	work.Wait()
}
