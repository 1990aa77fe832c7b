// Package stage runs a prepared list of system calls in a forked child, without a
// second Go program and without the Go runtime in the child.
//
// A container's process has to be prepared from the inside: it joins namespaces,
// mounts its file systems, drops its privileges and executes. Go cannot do that
// after a fork, because the runtime's threads are gone. So the parent writes a
// Program: every string, structure and jump is prepared as pinned memory, and the
// child only walks down the list. The child allocates nothing, takes no lock, grows
// no stack and calls nothing but raw system calls.
//
// Parent and child are joined by a socket pair of sequenced packets, which is
// close-on-exec: the child reports failures, process ids, descriptors and the points
// it has reached, and waits for one byte of the parent where the Program says so.
// When execve has succeeded the parent reads the end of the stream.
package stage

import (
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// Program is a list of system calls. It is built by one goroutine, started once with
// Start, and must not be changed afterwards.
type Program struct {
	ops     []op
	labels  []label // of ops, for errors
	targets []int32 // of labels
	slots   int
	scratch *[scratchSize]byte
	used    int
	keep    []any // what the addresses in ops point into
	files   []int // descriptors that the child needs
	// successor holds the pid that HandOver has made; 0 if the program does not.
	successor Slot
	image     *image
	message   fileMessage
}

// label says what a step is for; it is put together only when the step fails.
type label struct{ verb, object string }

func (l label) String() string {
	if l.object == "" {
		return l.verb
	}
	return l.verb + " " + l.object
}

// Slot is a register of the child: it holds the result of a call, e.g. a descriptor.
// A result that was an error is held as its negated errno.
type Slot int

// Control is the slot that holds the child's end of the socket pair.
const Control Slot = 0

// Arg is one argument of a call.
type Arg struct {
	value uintptr
	slot  bool
}

// Int is an argument with the value n.
func Int(n int) Arg { return Arg{value: uintptr(n)} }

// Arg is an argument with the value that s has when the call is made.
func (s Slot) Arg() Arg { return Arg{value: uintptr(s), slot: true} }

// Label is a place in a Program that calls can jump to. Jumps lead forward only.
type Label int

const (
	noTarget    = -1
	maxIgnored  = 4
	scratchSize = 8192
)

// op is one step. It holds no pointers, so that the child never meets a write barrier.
type op struct {
	nr       uintptr
	args     [6]uintptr
	inSlots  uint8 // bit i: args[i] is a slot
	out      int16 // slot of the result, or noTarget
	ignored  [maxIgnored]uint16
	onOK     int32 // label, after linking the index of an op; or noTarget
	onErrno  [2]uint16
	onErrnoT [2]int32
	about    int32 // index of its label
}

// Steps that are not system calls.
const (
	firstBuiltin     uintptr = 1<<20 + iota
	opJump                   // to onOK
	opJumpUnless             // to onOK unless slot args[0] is args[1]
	opJumpUnlessByte         // the same for its lowest byte
	opSet                    // out = args[0]
	opLoad32                 // out = scratch[args[0]]
	opStore32                // scratch[args[0]] = args[1]
	opMix                    // out = args[0] & args[1] | args[2]
	opDecimal                // scratch[args[0]:] = prefix of length args[2], then args[1] in decimal
	opDefaults               // every signal to its default, nothing blocked
	opNotify                 // tell the parent: kind args[0], value args[1]
	opAwait                  // wait for the parent's byte
	opFail                   // errno args[0]
	opExec                   // execute the candidates of Exec
	opCheck                  // like opExec, but only look
	opExit
)

// usualOps is as many steps as an ordinary container's program has.
const usualOps = 1024

// memory is what programs are made of: 100 kB.
type memory struct {
	ops     []op
	labels  []label
	scratch *[scratchSize]byte
	image   *image
}

// spare is that of the last discarded program.
var spare atomic.Pointer[memory]

// Discard gives a program up that was never started, or whose child has executed or ended; its
// memory serves the next one.
func (p *Program) Discard() {
	if p.image == nil {
		return
	}
	spare.Store(&memory{p.ops, p.labels, p.scratch, p.image})
	*p = Program{}
}

// New makes an empty Program.
func New() *Program {
	m := spare.Swap(nil)
	if m == nil {
		m = &memory{make([]op, 0, usualOps), make([]label, 1, 128), new([scratchSize]byte), new(image)}
	}
	clear(m.scratch[:])
	clear(m.labels)
	*m.image = image{}
	return &Program{slots: 1, scratch: m.scratch, image: m.image, ops: m.ops[:0], labels: m.labels[:1]}
}

// Slot reserves a register.
func (p *Program) Slot() Slot {
	p.slots++
	return Slot(p.slots - 1)
}

// About names what the following steps are for, in the words of an error message:
// "mount proc at", "/proc".
func (p *Program) About(verb, object string) { p.labels = append(p.labels, label{verb, object}) }

// Str is the address of s as a C string. It must not contain a NUL byte.
func (p *Program) Str(s string) Arg {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return p.Bytes(b)
}

// Bytes is the address of b, which must not be empty.
func (p *Program) Bytes(b []byte) Arg {
	p.keep = append(p.keep, &b[0])
	return Arg{value: uintptr(unsafe.Pointer(&b[0]))}
}

// Pin is the address of what ptr points at; it must be on the heap, which holds for
// everything whose address is given to this generic function.
func Pin[T any](p *Program, ptr *T) Arg {
	p.keep = append(p.keep, ptr)
	return Arg{value: uintptr(unsafe.Pointer(ptr))}
}

// File is f's descriptor, which the child then has under the same number. The parent
// must leave f open until Start has returned.
func (p *Program) File(f *os.File) Arg {
	p.keep = append(p.keep, f)
	return p.FD(int(f.Fd()))
}

// FD is like File for a bare descriptor.
func (p *Program) FD(fd int) Arg {
	p.files = append(p.files, fd)
	return Int(fd)
}

// Scratch reserves n bytes of memory that calls can write to, and gives their address
// and, for Load and Store, their offset. It panics when more than 8 KiB are asked for:
// programs reserve a fixed number of small buffers.
func (p *Program) Scratch(n int) (addr Arg, offset int) {
	offset = p.used
	p.used += (n + 7) &^ 7
	if p.used > scratchSize {
		panic("stage: out of scratch memory")
	}
	return Arg{value: uintptr(unsafe.Pointer(&p.scratch[offset]))}, offset
}

// ScratchBytes is the memory behind Scratch, to be filled before Start.
func (p *Program) ScratchBytes(offset, n int) []byte { return p.scratch[offset : offset+n] }

// Step is the call that was added last, to say how its result is treated. Without
// that, a result is dropped and an error ends the child.
type Step struct {
	p *Program
	i int
}

// Call adds a system call.
func (p *Program) Call(nr uintptr, args ...Arg) Step {
	o := op{nr: nr, about: int32(len(p.labels) - 1), out: noTarget, onOK: noTarget, onErrnoT: [2]int32{noTarget, noTarget}}
	for i, a := range args {
		o.args[i] = a.value
		if a.slot {
			o.inSlots |= 1 << i
		}
	}
	p.ops = append(p.ops, o)
	return Step{p, len(p.ops) - 1}
}

// Into keeps the result in s.
func (s Step) Into(slot Slot) Step {
	s.p.ops[s.i].out = int16(slot)
	return s
}

// Ignore goes on after any of the errors (at most four).
func (s Step) Ignore(errs ...syscall.Errno) Step {
	ignored := &s.p.ops[s.i].ignored
	for _, e := range errs {
		for j := range ignored {
			if ignored[j] == 0 {
				ignored[j] = uint16(e)
				break
			}
		}
	}
	return s
}

// OnOK jumps to l after success.
func (s Step) OnOK(l Label) Step {
	s.p.ops[s.i].onOK = int32(l)
	return s
}

// On jumps to l after the error e. It can be given twice.
func (s Step) On(e syscall.Errno, l Label) Step {
	o := &s.p.ops[s.i]
	j := 0
	if o.onErrno[0] != 0 {
		j = 1
	}
	o.onErrno[j], o.onErrnoT[j] = uint16(e), int32(l)
	return s
}

// NewLabel makes a label, which Here puts in its place.
func (p *Program) NewLabel() Label {
	p.targets = append(p.targets, noTarget)
	return Label(len(p.targets) - 1)
}

// Here is the place of l: before the step that is added next.
func (p *Program) Here(l Label) { p.targets[l] = int32(len(p.ops)) }

// Jump goes on at l.
func (p *Program) Jump(l Label) { p.Call(opJump).OnOK(l) }

// JumpUnless goes on at l if s does not hold the value v.
func (p *Program) JumpUnless(s Slot, v int, l Label) {
	p.Call(opJumpUnless, s.Arg(), Int(v)).OnOK(l)
}

// Set gives s a value.
func (p *Program) Set(s Slot, a Arg) { p.Call(opSet, a).Into(s) }

// Load32 gives s the 32-bit number in scratch memory.
func (p *Program) Load32(s Slot, offset int) { p.Call(opLoad32, Int(offset)).Into(s) }

// Store32 writes a 32-bit number to scratch memory.
func (p *Program) Store32(offset int, a Arg) { p.Call(opStore32, Int(offset), a) }

// Decimal writes prefix and a in decimal, NUL-terminated, to fresh scratch memory,
// and gives its address.
func (p *Program) Decimal(prefix string, a Arg) Arg {
	addr, off := p.Scratch(len(prefix) + 21)
	p.PutDecimal(off, prefix, a)
	return addr
}

// PutDecimal writes prefix and a in decimal, NUL-terminated, to reserved scratch memory,
// which must have room for 21 bytes more than prefix has.
func (p *Program) PutDecimal(offset int, prefix string, a Arg) {
	copy(p.scratch[offset:], prefix)
	p.Call(opDecimal, Int(offset), a, Int(len(prefix)))
}

// Mix gives s the bits of a that are in and, and those in or.
func (p *Program) Mix(s Slot, a Arg, and, or int) { p.Call(opMix, a, Int(and), Int(or)).Into(s) }

// DefaultSignals gives every signal its default action and unblocks all.
func (p *Program) DefaultSignals() { p.Call(opDefaults) }

// Notify tells the parent that the child has come here: Receive returns a Message of
// kind Reached with this value.
func (p *Program) Notify(value int) { p.Call(opNotify, Int(msgReached), Int(value)) }

// Await waits for a byte that the parent sends with Send. If the parent has closed its
// end instead, the child exits silently.
func (p *Program) Await() { p.Call(opAwait) }

// Fail ends the child with the error e.
func (p *Program) Fail(e syscall.Errno) { p.Call(opFail, Int(int(e))) }

// Respawn clones the child once more and goes on in the clone, which has the same
// parent as the child; the child itself exits. So a pid namespace that was joined
// or unshared takes effect. Receive hides this: Child.Pid is then the clone's.
func (p *Program) Respawn() {
	pid := p.Slot()
	clone := p.NewLabel()
	p.Call(syscall.SYS_CLONE, Int(syscall.CLONE_PARENT|int(syscall.SIGCHLD)), Int(0), Int(0), Int(0), Int(0)).Into(pid)
	exit := p.NewLabel()
	p.JumpUnless(pid, 0, exit)
	p.Jump(clone)
	p.Here(exit)
	p.Call(opNotify, Int(msgPid), pid.Arg())
	p.Call(opExit, Int(0))
	p.Here(clone)
	p.Await() // nothing may be told before the parent knows the new pid
}

// HandOver is a Respawn without a copy of the parent's memory for a process that only lives to
// join namespaces: all steps before it are taken in the parent's own memory, while the thread
// that called Start waits. So they must not block, wait for the parent or tell it anything but
// their failure, and not join a user or time namespace, which the kernel refuses to a process
// that shares its memory. The Child that Start gives is the clone.
func (p *Program) HandOver() {
	p.successor = p.Slot()
	p.Call(syscall.SYS_CLONE, Int(syscall.CLONE_PARENT|int(syscall.SIGCHLD)), Int(0), Int(0), Int(0), Int(0)).Into(p.successor)
	exit, on := p.NewLabel(), p.NewLabel()
	p.JumpUnless(p.successor, 0, exit)
	p.Jump(on)
	p.Here(exit)
	p.Call(opExit, Int(0))
	p.Here(on)
}

// SendFile hands the descriptor in s to the parent: Receive returns a Message of kind
// File with this value.
func (p *Program) SendFile(s Slot, value int) {
	m := p.fileMessage()
	p.Store32(m.body+4, Int(value))
	p.Store32(m.file, s.Arg())
	p.Call(syscall.SYS_SENDMSG, Control.Arg(), m.header, Int(syscall.MSG_NOSIGNAL))
}

// fileMessage is the memory for sending a descriptor: the address of the header, and the
// offsets of what differs from one to the next. All share it.
type fileMessage struct {
	header     Arg
	body, file int
}

func (p *Program) fileMessage() fileMessage {
	if p.message.file != 0 {
		return p.message
	}
	// struct msghdr, struct iovec, one message and one control message, all of the
	// sizes of 64-bit Linux.
	hdr, hdrOff := p.Scratch(56)
	iov, iovOff := p.Scratch(16)
	body, bodyOff := p.Scratch(messageSize)
	ctl, ctlOff := p.Scratch(24)
	put := func(off int, v uintptr) { *(*uintptr)(unsafe.Pointer(&p.scratch[off])) = v }
	put(hdrOff+16, iov.value)
	put(hdrOff+24, 1)
	put(hdrOff+32, ctl.value)
	put(hdrOff+40, 24)
	put(iovOff, body.value)
	put(iovOff+8, messageSize)
	p.scratch[bodyOff] = msgFile
	put(ctlOff, 20) // CMSG_LEN(4)
	put(ctlOff+8, syscall.SOL_SOCKET|syscall.SCM_RIGHTS<<32)
	p.message = fileMessage{hdr, bodyOff, ctlOff + 16}
	return p.message
}

// Exec says what to execute: argv[0] itself if it contains a slash, else the first
// of the candidates (its places in $PATH) that can be. An empty list is the same as
// none found. There is one Exec in a Program; Check and Execute refer to it.
func (p *Program) Exec(candidates, argv, env []string) {
	im := p.image
	for _, c := range candidates {
		im.candidates = append(im.candidates, p.Str(c).value)
	}
	im.argv = p.vector(argv)
	im.env = p.vector(env)
}

// vector is a NULL-terminated array of C strings.
func (p *Program) vector(list []string) uintptr {
	size := 0
	for _, s := range list {
		size += len(s) + 1
	}
	text := make([]byte, 0, size+1)
	table := make([]uintptr, len(list)+1)
	base := unsafe.Pointer(unsafe.SliceData(text[:1]))
	for i, s := range list {
		table[i] = uintptr(base) + uintptr(len(text))
		text = append(text, s...)
		text = append(text, 0)
	}
	p.keep = append(p.keep, base, &table[0])
	return uintptr(unsafe.Pointer(&table[0]))
}

// Check fails as Execute would fail if the program cannot be found.
func (p *Program) Check() { p.Call(opCheck) }

// Execute runs the program given to Exec; it is the last step.
func (p *Program) Execute() { p.Call(opExec) }

// Exit ends the child.
func (p *Program) Exit(code int) { p.Call(opExit, Int(code)) }

// link makes the labels into indices.
func (p *Program) link() error {
	if p.slots > math.MaxInt16 {
		return fmt.Errorf("stage: %d registers: a program has at most %d", p.slots, math.MaxInt16)
	}
	p.Call(opExit, Int(255)) // a Program that does not execute ends here
	resolve := func(t *int32, from int, o *op) error {
		if *t == noTarget {
			return nil
		}
		to := p.targets[*t]
		if int(to) <= from {
			return fmt.Errorf("stage: step %d (%s) jumps back or nowhere", from, p.labels[o.about])
		}
		*t = to
		return nil
	}
	for i := range p.ops {
		o := &p.ops[i]
		for _, t := range []*int32{&o.onOK, &o.onErrnoT[0], &o.onErrnoT[1]} {
			if err := resolve(t, i, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// JumpUnlessByte goes on at l if the lowest byte of s is not v.
func (p *Program) JumpUnlessByte(s Slot, v byte, l Label) {
	p.Call(opJumpUnlessByte, s.Arg(), Int(int(v))).OnOK(l)
}
