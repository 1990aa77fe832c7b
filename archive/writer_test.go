package archive

import "testing"

func TestLabelsOfThisMachineAreLeftOut(t *testing.T) {
	for name, want := range map[string]bool{
		"security.capability": true, "user.x": true, "system.posix_acl_access": true,
		"security.selinux": false, "security.ima": false, "system.nfs4_acl": false,
	} {
		if portable(name) != want {
			t.Error(name)
		}
	}
}
