#include "textflag.h"

// func text() *byte
TEXT ·text(SB), NOSPLIT, $0-8
	LEAQ ·program(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// The stack below what the kernel has put there: set of all signals, mask as it was,
// status, siginfo, path. No signal is ever handled, so nobody else writes there.
#define FRAME 8192
#define SET 0
#define MASK 8
#define STATUS 16
#define INFO 32
#define PATHBUF 192
#define PATHMAX 4096

// System calls.
#define write 1
#define rt_sigprocmask 14
#define ioctl 16
#define getpid 39
#define clone 56
#define execve 59
#define wait4 61
#define kill 62
#define setpgid 109
#define rt_sigtimedwait 128
#define exit_group 231

// R12 what the kernel has put on the stack: argc, argv, 0, envp, 0
// BX  our frame
// R14 the child
// A system call changes AX, CX and R11.

// func program()
TEXT ·program(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ SP, R12
	LEAQ -FRAME(SP), BX
	CMPQ (R12), $3
	JLT  nothing

	// block all signals
	MOVQ    $-1, SET(BX)
	MOVL    $rt_sigprocmask, AX
	MOVL    $2, DI                // SIG_SETMASK
	LEAQ    SET(BX), SI
	LEAQ    MASK(BX), DX
	MOVL    $8, R10
	SYSCALL

	// fork
	MOVL    $clone, AX
	MOVL    $17, DI    // SIGCHLD
	XORL    SI, SI
	XORL    DX, DX
	XORL    R10, R10
	XORL    R8, R8
	SYSCALL
	TESTQ   AX, AX
	JLT     childless
	JEQ     child
	MOVQ    AX, R14

await:
	MOVL    $rt_sigtimedwait, AX
	LEAQ    SET(BX), DI
	LEAQ    INFO(BX), SI
	XORL    DX, DX
	MOVL    $8, R10
	SYSCALL
	MOVL    $1, R15              // WNOHANG
	CMPQ    AX, $17
	JEQ     reap
	TESTQ   AX, AX
	JGT     forward
	CMPQ    AX, $-4              // EINTR
	JEQ     await
	XORL    R15, R15             // a filter does not let us: wait for children at least
	JMP     reap

forward:
	MOVL    AX, SI
	MOVL    $kill, AX
	MOVL    R14, DI
	SYSCALL
	JMP     await

reap:
	MOVL    $wait4, AX
	MOVQ    $-1, DI
	LEAQ    STATUS(BX), SI
	MOVL    R15, DX
	XORL    R10, R10
	SYSCALL
	TESTQ   AX, AX
	JLE     await
	CMPQ    AX, R14
	JNE     reap
	MOVL    STATUS(BX), DI
	MOVL    DI, CX
	ANDL    $0x7f, CX
	JNE     signalled
	SHRL    $8, DI
	ANDL    $0xff, DI
	JMP     exit

signalled:
	LEAL    128(CX), DI

exit:
	MOVL    $exit_group, AX
	SYSCALL
	JMP     exit

nothing:
	MOVL    $127, DI
	JMP     exit

childless:
	MOVQ    $0x692d72656b636f64, AX // docker-init: cannot fork
	MOVQ    AX, PATHBUF+0(BX)
	MOVQ    $0x6e6163203a74696e, AX
	MOVQ    AX, PATHBUF+8(BX)
	MOVQ    $0x6b726f6620746f6e, AX
	MOVQ    AX, PATHBUF+16(BX)
	MOVB    $10, PATHBUF+24(BX)
	MOVL    $write, AX
	MOVL    $2, DI
	LEAQ    PATHBUF(BX), SI
	MOVL    $25, DX
	SYSCALL
	MOVL    $126, DI
	JMP     exit

child:
	MOVL    $setpgid, AX
	XORL    DI, DI
	XORL    SI, SI
	SYSCALL
	MOVL    $getpid, AX
	SYSCALL
	MOVL    AX, STATUS(BX)
	MOVL    $ioctl, AX
	XORL    DI, DI
	MOVL    $0x5410, SI  // TIOCSPGRP, which SIGTTOU would stop if it were not blocked
	LEAQ    STATUS(BX), DX
	SYSCALL
	MOVL    $rt_sigprocmask, AX
	MOVL    $2, DI
	LEAQ    MASK(BX), SI
	XORL    DX, DX
	MOVL    $8, R10
	SYSCALL

	// R13 the program's argv, R15 its envp, R8 the length of its name, R9 the error
	LEAQ    24(R12), R13
	MOVQ    (R12), CX
	LEAQ    16(R12)(CX*8), R15
	MOVL    $2, R9        // ENOENT
	MOVQ    (R13), DI
	XORL    DX, DX        // whether there is a slash
measure:
	MOVBLZX (DI), AX
	TESTL   AX, AX
	JEQ     measured
	INCQ    DI
	CMPL    AX, $'/'
	JNE     measure
	MOVL    $1, DX
	JMP     measure

measured:
	MOVQ    DI, R8
	SUBQ    (R13), R8
	TESTL   DX, DX
	JEQ     search
	MOVL    $execve, AX
	MOVQ    (R13), DI
	MOVQ    R13, SI
	MOVQ    R15, DX
	SYSCALL
	NEGQ    AX
	MOVQ    AX, R9
	JMP     failed

search:
	CMPQ    R8, $255      // NAME_MAX
	JGT     failed
	MOVQ    R15, CX
variable:
	MOVQ    (CX), SI
	TESTQ   SI, SI
	JEQ     failed
	ADDQ    $8, CX
	CMPL    (SI), $0x48544150 // PATH
	JNE     variable
	CMPB    4(SI), $'='
	JNE     variable
	LEAQ    5(SI), R10

directory: // at R10
	LEAQ    PATHBUF(BX), DI
	LEAQ    PATHBUF+PATHMAX-258(BX), DX
copy:
	MOVBLZX (R10), AX
	TESTL   AX, AX
	JEQ     named
	CMPL    AX, $':'
	JEQ     named
	INCQ    R10
	CMPQ    DI, DX
	JAE     copy          // too long: not taken
	MOVB    AX, (DI)
	INCQ    DI
	JMP     copy

named:
	CMPQ    DI, DX
	JAE     next
	LEAQ    PATHBUF(BX), CX
	CMPQ    DI, CX
	JEQ     here          // an empty one: the working directory
	MOVB    $'/', (DI)
	INCQ    DI
here:
	MOVQ    (R13), SI
	LEAQ    1(R8), CX     // with the NUL
	CLD
	REP;    MOVSB
	MOVL    $execve, AX
	LEAQ    PATHBUF(BX), DI
	MOVQ    R13, SI
	MOVQ    R15, DX
	SYSCALL
	NEGQ    AX
	CMPQ    AX, $2        // ENOENT
	JEQ     next
	CMPQ    AX, $20       // ENOTDIR
	JEQ     next
	MOVQ    AX, R9
next:
	MOVBLZX (R10), AX
	INCQ    R10
	TESTL   AX, AX
	JNE     directory

failed:
	MOVQ    $0x692d72656b636f64, AX // docker-init: cannot execute
	MOVQ    AX, PATHBUF+0(BX)
	MOVQ    $0x6e6163203a74696e, AX
	MOVQ    AX, PATHBUF+8(BX)
	MOVQ    $0x6365786520746f6e, AX
	MOVQ    AX, PATHBUF+16(BX)
	MOVL    $0x20657475, PATHBUF+24(BX)
	MOVL    $write, AX
	MOVL    $2, DI
	LEAQ    PATHBUF(BX), SI
	MOVL    $28, DX
	SYSCALL
	MOVL    $write, AX
	MOVQ    (R13), SI
	MOVQ    R8, DX
	SYSCALL
	LEAQ    PATHBUF(BX), SI
	CMPQ    R9, $2
	JEQ     missing
	CMPQ    R9, $20
	JEQ     missing
	CMPQ    R9, $13                 // EACCES
	JEQ     forbidden
	MOVB    $10, PATHBUF(BX)
	MOVL    $1, DX
	MOVL    $126, R13
	JMP     reason

missing:
	MOVQ    $0x6f6620746f6e203a, AX // : not found
	MOVQ    AX, PATHBUF+0(BX)
	MOVL    $0x0a646e75, PATHBUF+8(BX)
	MOVL    $12, DX
	MOVL    $127, R13
	JMP     reason

forbidden:
	MOVQ    $0x73696d726570203a, AX // : permission denied
	MOVQ    AX, PATHBUF+0(BX)
	MOVQ    $0x6e6564206e6f6973, AX
	MOVQ    AX, PATHBUF+8(BX)
	MOVL    $0x0a646569, PATHBUF+16(BX)
	MOVL    $20, DX
	MOVL    $126, R13

reason:
	MOVL    $write, AX
	MOVL    $2, DI
	SYSCALL
	MOVL    R13, DI
	JMP     exit

	// endMark
	BYTE $0x0f; BYTE $0x0b; BYTE $'p'; BYTE $'i'; BYTE $'d'; BYTE $'1'; BYTE $' '; BYTE $'e'; BYTE $'n'; BYTE $'d'; BYTE $'s'
	BYTE $' '; BYTE $'h'; BYTE $'e'; BYTE $'r'; BYTE $'e'; BYTE $'!'; BYTE $'!'; BYTE $0x0f; BYTE $0x0b
