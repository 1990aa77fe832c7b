package kernel

import (
	"strings"
	"testing"

	"berth/fail"
)

func TestKernelsThatAreTooOldAreRefused(t *testing.T) {
	for release, fine := range map[string]bool{
		"6.18.44": true, "5.10.0-46-cloud-amd64": true, "5.15.0-130-generic": true, "10.0.1": true, "6.1": true, "custom": true, "": true,
		"5.9.16": false, "4.18.0-553.el8.x86_64": false, "5.4.0-200-generic": false, "2.6.78": false,
	} {
		err := checkRelease(release)
		if (err == nil) != fine {
			t.Errorf("%s: %v", release, err)
		}
		if err != nil && (!fail.Is(err, fail.NotImplemented) || !strings.Contains(err.Error(), release) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v", release, err)
		}
	}
	if err := CheckRelease(); err != nil {
		t.Error(err)
	}
}
