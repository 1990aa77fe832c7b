package supervisor

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/logs"
)

// streams are the standard streams of one process: its output goes to the log and to
// every attached client, their input to it.
type streams struct {
	tty      bool
	once     bool // stdin ends when the first client with Stdin leaves
	log      *logs.Writer
	detached func()

	outputs sync.WaitGroup // one goroutine each

	mu      sync.Mutex // guards all below
	stdin   *os.File   // nil: closed, or /dev/null from the start
	readers []*os.File
	slave   *os.File // the terminal's other side, see terminal
	clients map[*client]struct{}
	ended   bool // no further client may come
}

func newStreams(tty, once bool, log *logs.Writer, detached func()) *streams {
	return &streams{tty: tty, once: once, log: log, detached: detached, clients: map[*client]struct{}{}}
}

// pipes makes the process's ends of its streams; ours are kept. The caller closes them
// after the process is made. Without stdin they are nil there: /dev/null.
func (s *streams) pipes(stdin bool) (theirs [3]*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(theirs)
			s.abandon()
		}
	}()
	if stdin {
		var ours *os.File
		if theirs[0], ours, err = pipe(false); err != nil {
			return theirs, err
		}
		s.stdin = ours
	}
	for i := 1; i <= 2; i++ {
		var ours *os.File
		if ours, theirs[i], err = pipe(true); err != nil {
			return theirs, err
		}
		s.readers = append(s.readers, ours)
	}
	return theirs, nil
}

// pipe makes a pipe of which one end, ours, is non-blocking.
func pipe(oursReads bool) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	ours := fds[1]
	if oursReads {
		ours = fds[0]
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

func closeAll(files [3]*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// terminal takes the master side of the process's terminal, which the runtime keeps. The other
// side is held open, too: a program like an init that closes its terminal and opens /dev/console
// later would else find nobody who still reads, for a terminal that nobody has open is at its end.
func (s *streams) terminal(console *os.File) error {
	if console == nil {
		return errors.New("the runtime made no terminal")
	}
	raw, err := console.SyscallConn()
	if err != nil {
		return err
	}
	fd, other := -1, uintptr(0)
	var errno unix.Errno
	e := raw.Control(func(master uintptr) {
		if fd, err = unix.FcntlInt(master, unix.F_DUPFD_CLOEXEC, 3); err == nil {
			err = unix.SetNonblock(fd, true)
		}
		other, _, errno = unix.Syscall(unix.SYS_IOCTL, master, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	})
	if e == nil && errno == 0 {
		s.slave = os.NewFile(other, "terminal")
	}
	if e != nil || err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return errors.Join(err, e)
	}
	f := os.NewFile(uintptr(fd), "terminal")
	s.stdin, s.readers = f, []*os.File{f}
	return nil
}

// resize sets the size of the terminal.
func (s *streams) resize(rows, cols uint16) error {
	if !s.tty {
		return fail.New(fail.Invalid, "the process has no terminal to resize")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.readers) == 0 {
		return fail.New(fail.Conflict, "the process is not running")
	}
	raw, err := s.readers[0].SyscallConn()
	if err != nil {
		return err
	}
	e := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	return errors.Join(err, e)
}

// run starts reading the output.
func (s *streams) run() {
	for i, r := range s.readers {
		stream, name := byte(toStdout), logs.Stdout
		if i == 1 {
			stream, name = toStderr, logs.Stderr
		}
		s.outputs.Go(func() { s.copy(stream, name, &output{f: r}) }) // ends with the stream; see drain
	}
}

func (s *streams) copy(stream byte, name string, r *output) {
	tee := func(data []byte) { s.spread(stream, data) }
	if s.log != nil {
		_ = s.log.Copy(name, r, tee) // a stream that cannot be read has ended
		return
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			tee(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

func (s *streams) spread(stream byte, data []byte) {
	s.mu.Lock()
	if len(s.clients) == 0 {
		s.mu.Unlock()
		return
	}
	var few [4]*client
	to := few[:0]
	for c := range s.clients {
		if c.wants(stream) {
			to = append(to, c)
		}
	}
	s.mu.Unlock()
	for _, c := range to {
		c.write(stream, data)
	}
}

// attach joins a client, whose descriptor it takes over.
func (s *streams) attach(fd int, opts AttachOptions) error {
	c, err := newClient(fd, opts, s.tty)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		c.f.Close()
		return fail.New(fail.Conflict, "the process has ended")
	}
	s.clients[c] = struct{}{}
	s.mu.Unlock()
	go s.serve(c) // ends when the client leaves or was told the end
	return nil
}

func (s *streams) serve(c *client) {
	var each func([]byte) error
	var eof func()
	if c.opts.Stdin {
		each, eof = s.input, s.inputEnds
	}
	detached := c.read(each, eof)
	if detached {
		s.mu.Lock()
		delete(s.clients, c)
		s.mu.Unlock()
		c.finish()
		if s.detached != nil {
			s.detached()
		}
	}
	<-c.closed
	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
}

func (s *streams) input(data []byte) error {
	s.mu.Lock()
	stdin := s.stdin
	s.mu.Unlock()
	if stdin == nil {
		return os.ErrClosed
	}
	_, err := stdin.Write(data)
	return err
}

// inputEnds closes stdin after a client has closed its side or left, if that is the
// rule. A terminal stays open: it has no half to close.
func (s *streams) inputEnds() {
	if s.once && !s.tty {
		s.closeStdin()
	}
}

func (s *streams) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil && !s.tty {
		s.stdin.Close()
	}
	s.stdin = nil
}

// drain is called after the process has ended. What is in the streams is read, and what
// others who still hold them write later is not waited for. Then there are no more
// outputs, and the clients have or will get all of it.
func (s *streams) drain() {
	s.mu.Lock()
	for c := range s.clients {
		c.unblock()
	}
	for _, r := range s.readers {
		_ = r.SetReadDeadline(time.Unix(1, 0))
	}
	s.mu.Unlock()
	s.closeStdin()
	s.outputs.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.readers {
		r.Close()
	}
	s.readers = nil
	s.slave.Close() // nil without a terminal
}

// end closes the clients' connections, each after its buffer was written. It returns
// at once; wait tells when the last has gone.
func (s *streams) end() (wait func()) {
	s.mu.Lock()
	s.ended = true
	var left []*client
	for c := range s.clients {
		left = append(left, c)
	}
	s.mu.Unlock()
	for _, c := range left {
		c.finish()
	}
	return func() {
		for _, c := range left {
			<-c.closed
		}
	}
}

// abandon closes what there is of streams that never ran.
func (s *streams) abandon() {
	if s.stdin != nil && !s.tty {
		s.stdin.Close()
	}
	for _, r := range s.readers {
		r.Close()
	}
	s.stdin, s.readers = nil, nil
}

// output reads one of the process's streams. After its deadline, which is set when those
// whose output counts have ended, it reads what is there without waiting, and no more than
// the stream can hold: of what they wrote, nothing more can be in it, and whoever else has
// it may write without end.
type output struct {
	f    *os.File
	late bool // the deadline has passed
	left int  // bytes that may be read then
}

func (o *output) Read(p []byte) (int, error) {
	n, err := o.f.Read(p)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return o.readNow(p)
	case errors.Is(err, unix.EIO): // a terminal that nobody has open on the other side
		return n, io.EOF
	}
	return n, err
}

func (o *output) readNow(p []byte) (n int, err error) {
	raw, err := o.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	e := raw.Control(func(fd uintptr) {
		if !o.late {
			o.late, o.left = true, capacity(int(fd))
		}
		for {
			if n, err = unix.Read(int(fd), p[:min(len(p), o.left)]); err != unix.EINTR {
				return
			}
		}
	})
	if e != nil {
		return 0, e
	}
	if n <= 0 {
		return 0, io.EOF
	}
	o.left -= n
	return n, nil
}

// capacity is how many bytes a stream can hold at most. A process may have changed that of
// a pipe. A terminal has less: the kernel bounds the buffer of a pseudo-terminal to 8 KiB
// and a few writes (pty_common_install), before the 4 KiB of the line discipline.
func capacity(fd int) int {
	if size, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err == nil {
		return size
	}
	return 64 << 10
}
