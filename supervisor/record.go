package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"berth/durable"
	"berth/fail"
	"berth/supervisor/external"
)

// ExitRecord is <Dir>/exit.json: how the last run of the container ended.
type ExitRecord struct {
	Code      int       `json:"code"`
	OOMKilled bool      `json:"oomKilled,omitempty"`
	Reason    string    `json:"reason,omitempty"` // "supervisor lost", …
	Log       string    `json:"log,omitempty"`    // what became of log lines that are lost; empty: nothing was
	StartedAt time.Time `json:"startedAt"`
	ExitedAt  time.Time `json:"exitedAt"`
	// Health is what its health check had told last; nil without one, or if the shim was lost.
	Health *HealthState `json:"health,omitempty"`
}

// reasonLost is the Reason of a container whose shim was killed.
const reasonLost = "supervisor lost"

// ReadExit reads the exit record in dir; a missing one is class NotFound.
func ReadExit(dir string) (ExitRecord, error) {
	var r ExitRecord
	err := durable.ReadJSON(exitPath(dir), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return r, fail.Mark(fail.NotFound, err)
	}
	return r, err
}

// RemoveExit deletes the record before the container runs again. A missing one is no
// error.
func RemoveExit(dir string) error {
	if err := os.Remove(exitPath(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func writeExit(dir string, r ExitRecord, volatile bool) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	write := durable.WriteFile
	if volatile {
		write = durable.WriteFileVolatile
	}
	if err := write(exitPath(dir), data, 0o600); err != nil {
		return fmt.Errorf("write exit record: %w", err)
	}
	return nil
}

// runState is <RunDir>/state.json: what is needed to clear up after a shim that was
// killed. It is there from before the container is made until after its exit record.
type runState struct {
	Version    int       `json:"version"`
	ID         string    `json:"id"`
	Dir        string    `json:"dir"`
	ShimPid    int       `json:"shimPid"`
	ShimBirth  uint64    `json:"shimBirth"`
	Pid        int       `json:"pid,omitempty"`      // once the container is made
	PidBirth   uint64    `json:"pidBirth,omitempty"` // its start time as in proc_pid_stat(5)
	Cgroup     string    `json:"cgroup,omitempty"`
	Started    bool      `json:"started,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	Volatile   bool      `json:"volatile,omitempty"`
	WakeEngine []string  `json:"wakeEngine,omitempty"`
	Env        []string  `json:"env,omitempty"`     // for WakeEngine
	Runtime    *Runtime  `json:"runtime,omitempty"` // nil: our own
}

func (r runState) write(runDir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := durable.WriteFileVolatile(filepath.Join(runDir, stateName), data, 0o600); err != nil {
		return fmt.Errorf("write run state: %w", err)
	}
	return nil
}

// clearRunDir removes what a shim keeps in runDir, the socket last: who sees it gone
// knows that all is said. The directory goes too if nobody else uses it.
func clearRunDir(runDir string) {
	_ = external.Remove(filepath.Join(runDir, bundleName)) // gone already, mostly
	for _, name := range []string{stateName, crashName, socketName} {
		os.Remove(filepath.Join(runDir, name))
	}
	os.Remove(runDir)
}
