package supervisor

import (
	"time"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// The ops of the protocol, and what travels with them. Both sides ignore members they
// do not know and treat missing ones as zero.
const (
	opHello   = "hello"   // → helloReply
	opCreate  = "create"  // createRequest, with one descriptor for each attachment
	opStart   = "start"   // → startReply
	opSignal  = "signal"  // signalRequest
	opResize  = "resize"  // resizeRequest
	opExec    = "exec"    // execRequest, with a descriptor if it has an attachment → execReply
	opAttach  = "attach"  // AttachOptions, with a descriptor
	opState   = "state"   // → State
	opPids    = "pids"    // → []int
	opPause   = "pause"   //
	opResume  = "resume"  //
	opUpdate  = "update"  // oci.LinuxResources
	opRoot    = "root"    // → a descriptor
	opDestroy = "destroy" //
	opCancel  = "cancel"  // with the id of a request under way; it has no answer of its own
	opTaken   = "taken"   // the exit event has been dealt with; no answer
	opEvent   = "event"   // Event, from the shim
)

type helloReply struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	ShimPid int    `json:"shimPid"`
}

type createRequest struct {
	Config Config          `json:"config"`
	Attach []AttachOptions `json:"attach,omitempty"`
}

type startReply struct {
	Pid int       `json:"pid"`
	At  time.Time `json:"at"`
}

type signalRequest struct {
	ExecID string      `json:"execID,omitempty"`
	Signal unix.Signal `json:"signal"`
	All    bool        `json:"all,omitempty"`
}

type resizeRequest struct {
	ExecID string `json:"execID,omitempty"`
	Rows   uint16 `json:"rows"`
	Cols   uint16 `json:"cols"`
}

type execRequest struct {
	Exec
	Attach *AttachOptions `json:"attach,omitempty"`
}

type execReply struct {
	Pid int `json:"pid"`
}

type updateRequest struct {
	Resources *oci.LinuxResources `json:"resources"`
}
