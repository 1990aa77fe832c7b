// Package pid1 is a tiny init for containers: a program of one page that starts another
// one, forwards signals to it, reaps whatever else ends, and ends with its exit status.
//
// It is written in assembly, position independent and without data, so that its machine
// code can be taken from our own text and put behind an ELF header. A container that has it
// pays for a process with one page of code, shared by all, and one or two of stack.
//
// # What it does
//
// It is executed as NAME -- PROGRAM [ARGUMENT...]. It blocks all signals and forks. The child
// makes itself a process group and, if descriptor 0 is the terminal that controls the session, the
// foreground one; it unblocks what was unblocked before, and executes PROGRAM, looked for in
// PATH if it has no slash. If it cannot be executed, the child says so on descriptor 2 and exits
// with 127 (there is none) or 126.
//
// The parent waits for signals (sigtimedwait(2)): all go to the child, except SIGCHLD, on
// which it reaps. When it has reaped the child it exits with the child's status, or 128 and the
// signal that has ended it; the kernel then kills what is left in the pid namespace.
package pid1

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"unsafe"
)

// endMark stands behind the machine code.
var endMark = []byte("\x0f\x0bpid1 ends here!!\x0f\x0b")

// longest bounds the machine code.
const longest = 4096 - headers

// Program returns the program as an ELF executable for this machine's architecture.
func Program() ([]byte, error) {
	start := text()
	if start == nil {
		return nil, errors.New("there is no init for containers on " + runtime.GOARCH)
	}
	for size := 0; size < longest; size++ {
		if bytes.Equal(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(start), size)), len(endMark)), endMark) {
			return executable(unsafe.Slice(start, size)), nil
		}
	}
	return nil, errors.New("the end of the init for containers cannot be found in our own code")
}

// Sizes of the headers of a 64-bit ELF file, elf(5).
const (
	fileHeader    = 64
	programHeader = 56
	headers       = fileHeader + 2*programHeader
)

// executable is code as an ELF file: one segment, headers and all, and a stack that is not
// executable. The kernel chooses where it is loaded (ET_DYN).
func executable(code []byte) []byte {
	const (
		typeDyn   = 3
		load      = 1
		gnuStack  = 0x6474e551
		exec      = 1
		write     = 2
		read      = 4
		alignment = 64 << 10 // the largest page of any machine
	)
	size := uint64(headers + len(code))
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 2 /* 64 bits */, 1 /* little-endian */, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	b = le.AppendUint16(b, typeDyn)
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, headers) // entry
	b = le.AppendUint64(b, fileHeader)
	b = le.AppendUint64(b, 0) // no sections
	b = le.AppendUint32(b, 0)
	b = le.AppendUint16(b, fileHeader)
	b = le.AppendUint16(b, programHeader)
	b = le.AppendUint16(b, 2)
	b = append(b, 0, 0, 0, 0, 0, 0)
	for _, h := range []struct {
		kind, flags uint32
		size, align uint64
	}{{load, read | exec, size, alignment}, {gnuStack, read | write, 0, 16}} {
		b = le.AppendUint32(b, h.kind)
		b = le.AppendUint32(b, h.flags)
		for range 3 { // offset and addresses
			b = le.AppendUint64(b, 0)
		}
		b = le.AppendUint64(b, h.size)
		b = le.AppendUint64(b, h.size)
		b = le.AppendUint64(b, h.align)
	}
	return append(b, code...)
}
