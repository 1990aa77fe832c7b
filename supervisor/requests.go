package supervisor

import (
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	oci "berth/oci/bundle"
)

// The ops of the protocol, and what travels with them. Both sides ignore members they
// do not know and treat missing ones as zero.
const (
	opHello   = "hello"   // → helloReply
	opCreate  = "create"  // createRequest, with one descriptor for each attachment → helloReply
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
	opNetwork = "network" // Network → networkReply
	opRoot    = "root"    // → a descriptor
	opPolicy  = "policy"  // Policy
	opDestroy = "destroy" //
	opCancel  = "cancel"  // with the id of a request under way; it has no answer of its own
	opHold    = "hold"    // the exit event will be dealt with later; no answer
	opTaken   = "taken"   // the exit event has been dealt with; no answer
	opEvent   = "event"   // Event, from the shim
)

type helloReply struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	ShimPid int    `json:"shimPid"`
	Ports   []Port `json:"ports,omitempty"` // as they were bound
}

type networkReply struct {
	Ports []Port `json:"ports,omitempty"`
}

type createRequest struct {
	Config wireConfig      `json:"config"`
	Attach []AttachOptions `json:"attach,omitempty"`
}

// wireConfig is a Config as it travels. Its specification has no room for other platforms
// than Linux: what encoding/json notes of every type that it meets a shim keeps for life.
type wireConfig struct {
	Config
	Spec *linuxSpec `json:"spec"`
}

// linuxSpec is an oci.Spec of Linux.
type linuxSpec struct {
	Version     string            `json:"ociVersion"`
	Process     *oci.Process      `json:"process,omitempty"`
	Root        *specs.Root       `json:"root,omitempty"`
	Hostname    string            `json:"hostname,omitempty"`
	Domainname  string            `json:"domainname,omitempty"`
	Mounts      []oci.Mount       `json:"mounts,omitempty"`
	Hooks       *specs.Hooks      `json:"hooks,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Linux       *specs.Linux      `json:"linux,omitempty"`
}

func toWireConfig(c Config) wireConfig {
	w := wireConfig{Config: c}
	if s := c.Spec; s != nil {
		w.Spec = &linuxSpec{Version: s.Version, Process: s.Process, Root: s.Root, Hostname: s.Hostname, Domainname: s.Domainname,
			Mounts: s.Mounts, Hooks: s.Hooks, Annotations: s.Annotations, Linux: s.Linux}
	}
	return w
}

func (w wireConfig) config() Config {
	c := w.Config
	if s := w.Spec; s != nil {
		c.Spec = &oci.Spec{Version: s.Version, Process: s.Process, Root: s.Root, Hostname: s.Hostname, Domainname: s.Domainname,
			Mounts: s.Mounts, Hooks: s.Hooks, Annotations: s.Annotations, Linux: s.Linux}
	}
	return c
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
