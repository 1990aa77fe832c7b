package kernel

import (
	"os"
	"strings"
	"sync"
)

// InUserNamespace tells whether this process is in another user namespace than the first one.
var InUserNamespace = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	f := strings.Fields(string(text))
	return len(f) != 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295"
})
