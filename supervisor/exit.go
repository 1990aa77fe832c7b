package supervisor

import (
	"fmt"
	"os"
	"sync"
	"time"

	"berth/durable"
)

// noAnswer is how long an engine that is connected may keep the exit event without
// saying that it has dealt with it.
const noAnswer = 30 * time.Second

// wait is the end of a started container.
func (s *shim) wait(stopWatching func()) {
	ended, err := s.container.Wait()
	stopWatching()
	record := ExitRecord{Code: ended.Code, StartedAt: s.file.StartedAt, ExitedAt: ended.At}
	if err != nil {
		record.Code, record.Reason, record.ExitedAt = 255, fmt.Sprintf("the end of the process is unknown: %v", err), time.Now()
	}
	durable.Failpoint("shim.exit.reaped")
	s.mu.Lock()
	s.phase = ending
	record.Health = s.healthNow()
	s.stopProbes()
	s.mu.Unlock()
	kills, err := s.container.OOMKills()
	record.OOMKilled = err == nil && kills > 0

	// With the container's own pid namespace nobody is left who could write, and the
	// kernel's part can be cleared away meanwhile; otherwise the rest is killed first.
	var cleared sync.WaitGroup
	cleared.Go(s.net.close)
	cleared.Go(func() { s.destroyContainer(s.container) })
	if !s.ownPids {
		cleared.Wait()
	}
	s.streams.drain()
	if s.log != nil {
		if err := s.log.Close(); err != nil {
			record.Log = err.Error()
		}
	}
	cleared.Wait()
	s.execWork.Wait()

	durable.Failpoint("shim.exit.before-record")
	if err := writeExit(s.cfg.Dir, record, s.cfg.Volatile); err != nil {
		fmt.Fprintln(os.Stderr, "berth-shim:", err)
		if record.Reason == "" {
			record.Reason = err.Error()
		}
	}
	durable.Failpoint("shim.exit.recorded")
	s.hide()
	durable.Failpoint("shim.exit.hidden")

	s.mu.Lock()
	s.killedForMemory(kills)
	s.exit = &record
	s.tellLocked(Event{Kind: EventExit, Exit: &record})
	connected := len(s.peers) > 0
	s.mu.Unlock()
	clientsGone := s.streams.end()
	if !connected || !s.exitTaken() {
		s.mu.Lock()
		command, env := s.file.WakeEngine, s.file.Env
		s.mu.Unlock()
		s.wakeNow(command, env)
	}
	clientsGone()
	close(s.over)
}

// exitTaken waits until an engine has dealt with the exit, or none is left. An engine that
// is about to start the container again keeps the shim till then: nobody else could wake
// the next engine if that one were killed.
func (s *shim) exitTaken() bool {
	timeout := time.NewTimer(noAnswer)
	defer timeout.Stop()
	held := s.held
	for {
		select {
		case <-s.tookExit:
			return true
		case <-timeout.C:
			return true // it is there, however slow
		case <-held:
			held = nil
			timeout.Stop()
		case <-s.alone:
			s.mu.Lock()
			none := len(s.peers) == 0
			s.mu.Unlock()
			if none {
				select {
				case <-s.tookExit:
					return true
				default:
					return false
				}
			}
		}
	}
}

// hold keeps the shim until taken.
func (s *shim) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.held:
	default:
		if s.exit != nil {
			close(s.held)
		}
	}
}

func (s *shim) taken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.tookExit:
	default:
		if s.exit != nil {
			close(s.tookExit)
		}
	}
}
