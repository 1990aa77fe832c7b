package seccomp

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// call is struct seccomp_data.
type call struct {
	number, audit uint32
	args          [6]uint64
}

// run interprets a filter as the kernel does (net/core/filter.c), as far as seccomp(2)
// lets programs go, and counts the instructions.
func run(filter []unix.SockFilter, c call) (verdict uint32, steps int, err error) {
	var data [64]byte
	le := binary.LittleEndian
	le.PutUint32(data[0:], c.number)
	le.PutUint32(data[4:], c.audit)
	for i, a := range c.args {
		le.PutUint64(data[16+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(filter); pc++ {
		in := filter[pc]
		steps++
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K%4 != 0 || in.K > 60 {
				return 0, steps, fmt.Errorf("%d: load at %d", pc, in.K)
			}
			acc = le.Uint32(data[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(acc > in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(acc&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K, steps, nil
		default:
			return 0, steps, fmt.Errorf("%d: unknown instruction %#x", pc, in.Code)
		}
	}
	return 0, steps, fmt.Errorf("the program runs off its end")
}
