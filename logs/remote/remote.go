// Package remote sends what containers write to log servers: syslog, journald, fluentd and
// GELF. A Sender has a queue of its own, so that a server that is slow or gone holds a
// container up for a bounded time only.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Message is one line without its newline, or a part of one.
type Message struct {
	Stream string // "stdout" or "stderr"
	Time   time.Time
	Text   []byte // valid during the call
	// Open: no newline follows, because the line was cut at 16 KiB or the stream ended.
	Open bool
	// Part is the number, from 1 on, of a part of a line that was cut; 0: a whole line.
	// Line is the same random text for all parts.
	Part int
	Line string
}

// Config says where a container's messages go, and how.
type Config struct {
	Driver  string `json:"driver"`            // "syslog", "journald", "fluentd" or "gelf"
	Network string `json:"network,omitempty"` // unix, unixgram, udp, tcp or tls
	Address string `json:"address,omitempty"` // host:port or path; empty: the driver's own
	TLS     TLS    `json:"tls,omitzero"`
	// Relay is a program with its arguments that makes TLS connections for us: it gets a
	// TLSRequest as its last argument and a socket as descriptor 3, see ServeTLS.
	Relay []string `json:"relay,omitempty"`

	Tag    string            `json:"tag"`
	Fields map[string]string `json:"fields,omitempty"` // what labels, env and their patterns ask for

	ContainerID   string    `json:"containerID"`
	ContainerName string    `json:"containerName"`
	ImageID       string    `json:"imageID,omitempty"`
	ImageName     string    `json:"imageName,omitempty"`
	Command       string    `json:"command,omitempty"`
	Created       time.Time `json:"created,omitzero"`

	Buffer     int           `json:"buffer,omitempty"`   // bytes that may wait; 0: 1 MiB
	NonBlock   bool          `json:"nonBlock,omitempty"` // never let the container wait
	Async      bool          `json:"async,omitempty"`    // the server need not be there at the start
	RetryWait  time.Duration `json:"retryWait,omitempty"`
	MaxRetries int           `json:"maxRetries,omitempty"` // 0: no bound
	Timeout    time.Duration `json:"timeout,omitempty"`    // of one write or answer; 0: 10 s

	Facility  int    `json:"facility,omitempty"` // syslog: RFC 5424, table 1
	Format    string `json:"format,omitempty"`   // syslog: "", rfc3164, rfc5424, rfc5424micro
	Ack       bool   `json:"ack,omitempty"`      // fluentd: every chunk is acknowledged
	SubSecond bool   `json:"subSecond,omitempty"`
	Compress  string `json:"compress,omitempty"` // gelf over UDP: gzip, zlib, none
	Level     int    `json:"level,omitempty"`
}

// TLS names files in PEM; empty ones are not used. Without CA the system's are trusted.
type TLS struct {
	CA         string `json:"ca,omitempty"`
	Cert       string `json:"cert,omitempty"`
	Key        string `json:"key,omitempty"`
	SkipVerify bool   `json:"skipVerify,omitempty"`
}

// driver turns messages into bytes and brings those to a connection.
type driver interface {
	// encode appends one message.
	encode(dst []byte, m *Message) []byte
	// send sends the messages of b, which end at ends, and returns how many of them the
	// server has or may have. Less than all only with an error.
	send(c net.Conn, b []byte, ends []int) (int, error)
}

const (
	defaultBuffer  = 1 << 20
	defaultTimeout = 10 * time.Second
	// patience is how long a container waits for a server that takes nothing. After that
	// lines are dropped instead, until the server takes some again.
	patience = 5 * time.Second
	// farewell is how long the end of a container waits for what is left in the queue.
	farewell = 3 * time.Second
	// maxWait bounds the growing pauses between attempts.
	maxWait = 10 * time.Second
)

// Sender brings messages to a server. It is safe for concurrent use.
type Sender struct {
	cfg    Config
	driver driver
	dial   func(context.Context) (net.Conn, error)
	conn   net.Conn // owned by run after Open

	ctx    context.Context // ends when nothing is worth waiting for any more
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when run has ended

	patience, farewell time.Duration

	mu      sync.Mutex // guards all below
	changed *sync.Cond
	queue   []byte
	ends    []int // of the messages in queue
	spare   []byte
	closing bool
	stuck   bool // the server has taken nothing for as long as we wait
	lost    int
	err     error // of the last attempt
}

// Open makes a sender. Unless the configuration is Async, the server has to be there.
func Open(ctx context.Context, cfg Config) (*Sender, error) {
	if cfg.Buffer <= 0 {
		cfg.Buffer = defaultBuffer
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.RetryWait <= 0 {
		cfg.RetryWait = 100 * time.Millisecond
	}
	s := &Sender{cfg: cfg, done: make(chan struct{}), patience: patience, farewell: farewell}
	s.changed = sync.NewCond(&s.mu)
	var err error
	if s.driver, s.dial, err = newDriver(cfg); err != nil {
		return nil, err
	}
	if !cfg.Async {
		if s.conn, err = s.connect(ctx); err != nil {
			return nil, err
		}
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	go s.run() // ends with Close
	return s, nil
}

func newDriver(cfg Config) (driver, func(context.Context) (net.Conn, error), error) {
	dial := func(ctx context.Context) (net.Conn, error) { return dialTo(ctx, cfg) }
	switch cfg.Driver {
	case "syslog":
		return newSyslog(cfg), func(ctx context.Context) (net.Conn, error) { return dialSyslog(ctx, cfg) }, nil
	case "journald":
		return newJournald(cfg), func(ctx context.Context) (net.Conn, error) { return dialJournald(ctx, cfg) }, nil
	case "fluentd":
		return newFluentd(cfg), dial, nil
	case "gelf":
		return newGELF(cfg), dial, nil
	}
	return nil, nil, fmt.Errorf("no log driver sends to %q", cfg.Driver)
}

func (s *Sender) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	return s.dial(ctx)
}

// Add queues a message; Flush sees to it that it is sent.
func (s *Sender) Add(m *Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || len(s.queue) >= s.cfg.Buffer && !s.room() {
		s.lost++
		return
	}
	if s.queue == nil {
		s.queue, s.spare = s.spare, nil
	}
	s.queue = s.driver.encode(s.queue, m)
	s.ends = append(s.ends, len(s.queue))
}

// Flush begins to send what was added.
func (s *Sender) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// room waits for room in the queue, and tells whether there is some. The caller holds mu.
func (s *Sender) room() bool {
	if s.cfg.NonBlock || s.stuck {
		return false
	}
	s.changed.Broadcast()
	over := false
	timer := time.AfterFunc(s.patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		over = true
		s.changed.Broadcast()
	})
	defer timer.Stop()
	for len(s.queue) >= s.cfg.Buffer && !over && !s.closing {
		s.changed.Wait()
	}
	if len(s.queue) < s.cfg.Buffer {
		return true
	}
	s.stuck = over
	return false
}

// run sends what is queued, until the sender is closed and nothing is left or worth it.
func (s *Sender) run() {
	defer close(s.done)
	for {
		s.mu.Lock()
		for len(s.ends) == 0 && !s.closing {
			s.changed.Wait()
		}
		batch, ends := s.queue, s.ends
		s.queue, s.ends = nil, nil
		s.changed.Broadcast()
		s.mu.Unlock()
		if len(ends) == 0 {
			break
		}
		s.deliver(batch, ends)
		s.mu.Lock()
		if s.spare == nil && cap(batch) <= 256<<10 {
			s.spare = batch[:0]
		}
		s.mu.Unlock()
	}
	if s.conn != nil {
		s.conn.Close()
	}
}

// deliver sends one batch, over as many connections as it takes.
func (s *Sender) deliver(batch []byte, ends []int) {
	wait := s.cfg.RetryWait
	for failures := 0; ; {
		sent, err := s.attempt(batch, ends)
		if sent > 0 {
			failures, wait = 0, s.cfg.RetryWait
			batch, ends = without(batch, ends, sent)
		}
		s.mu.Lock()
		s.stuck = s.stuck && sent == 0
		if errors.Is(err, unix.EMSGSIZE) && len(ends) > 0 { // no server would ever take it
			s.lost, s.err = s.lost+1, err
			batch, ends = without(batch, ends, 1)
			if err = nil; len(ends) > 0 {
				s.mu.Unlock()
				continue
			}
		}
		if err == nil {
			s.mu.Unlock()
			return
		}
		s.err = err
		failures++
		if s.cfg.MaxRetries > 0 && failures > s.cfg.MaxRetries || s.ctx.Err() != nil {
			s.lost += len(ends)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if failures == 1 && sent > 0 {
			continue // the connection had grown old: a new one may do at once
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-s.ctx.Done():
			pause.Stop()
		}
		wait = min(wait*3/2, max(maxWait, s.cfg.RetryWait))
	}
}

// without takes the first n messages off.
func without(batch []byte, ends []int, n int) ([]byte, []int) {
	from := ends[n-1]
	rest := make([]int, 0, len(ends)-n)
	for _, end := range ends[n:] {
		rest = append(rest, end-from)
	}
	return batch[from:], rest
}

// attempt sends over one connection. A broken one is closed.
func (s *Sender) attempt(batch []byte, ends []int) (sent int, err error) {
	if s.conn != nil && hungUp(s.conn) {
		s.conn.Close()
		s.conn = nil
	}
	if s.conn == nil {
		if s.conn, err = s.connect(s.ctx); err != nil {
			s.conn = nil
			return 0, err
		}
	}
	conn := s.conn
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	sent, err = s.driver.send(conn, batch, ends)
	if err != nil {
		conn.Close()
		s.conn = nil
	}
	return sent, err
}

// Close sends what is left, for a few seconds at most. The error says what was lost.
func (s *Sender) Close() error {
	s.mu.Lock()
	s.closing = true
	s.changed.Broadcast()
	s.mu.Unlock()
	timer := time.AfterFunc(s.farewell, func() { s.cancel(context.DeadlineExceeded) })
	<-s.done
	timer.Stop()
	s.cancel(nil)
	if s.lost == 0 {
		return nil
	}
	return fmt.Errorf("%d log lines did not reach the %s server: %w", s.lost, s.cfg.Driver, s.err)
}

// hungUp tells that the other side of a stream has closed it: what is written then would
// be lost without an error.
func hungUp(c net.Conn) (yes bool) {
	if isDatagram(c) {
		return false
	}
	raw, err := rawOf(c)
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		yes = err == nil && n > 0 && p[0].Revents != 0
	})
	return yes
}

// sendStream writes messages to a stream.
func sendStream(c net.Conn, timeout time.Duration, b []byte, ends []int) (int, error) {
	const piece = 64 << 10
	written := 0
	for written < len(b) {
		_ = c.SetWriteDeadline(time.Now().Add(timeout))
		n, err := c.Write(b[written:min(len(b), written+piece)])
		written += n
		if err != nil {
			return whole(ends, written), err
		}
	}
	return len(ends), nil
}

// whole is the number of messages that lie in the first n bytes.
func whole(ends []int, n int) int {
	for i, end := range ends {
		if end > n {
			return i
		}
	}
	return len(ends)
}

// sendDatagrams writes each message as one.
func sendDatagrams(c net.Conn, timeout time.Duration, b []byte, ends []int, one func([]byte) error) (int, error) {
	from := 0
	for i, end := range ends {
		_ = c.SetWriteDeadline(time.Now().Add(timeout))
		if err := one(b[from:end]); err != nil {
			return i, err
		}
		from = end
	}
	return len(ends), nil
}
