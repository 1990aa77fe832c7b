package daemon

import (
	"berth/fail"
	"berth/logs/relay"
)

// LogRelayCommand is the first argument of a berthd that is no engine: a shim whose log
// goes to a server by TLS starts one for that connection, see logs/relay.
const LogRelayCommand = "log-relay"

// LogRelay is what such a berthd does.
func LogRelay(args []string) error {
	if len(args) != 1 {
		return fail.New(fail.Invalid, "%s is started by a shim, and takes one argument", LogRelayCommand)
	}
	return relay.Serve(args[0])
}
