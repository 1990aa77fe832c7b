#include "textflag.h"

// func text() *byte
TEXT ·text(SB), NOSPLIT, $0-8
	MOVD $·program(SB), R0
	MOVD R0, ret+0(FP)
	RET

// As on amd64.
#define FRAME 8192
#define SET 0
#define MASK 8
#define STATUS 16
#define INFO 32
#define PATHBUF 192
#define PATHMAX 4096

// System calls.
#define ioctl 29
#define write 64
#define exit_group 94
#define kill 129
#define rt_sigprocmask 135
#define rt_sigtimedwait 137
#define setpgid 154
#define getpid 172
#define clone 220
#define execve 221
#define wait4 260

// R19 what the kernel has put on the stack: argc, argv, 0, envp, 0
// R20 our frame
// R21 the child
// A system call changes R0 alone.

// func program()
TEXT ·program(SB), NOSPLIT|NOFRAME, $0-0
	MOVD RSP, R19
	SUB  $FRAME, R19, R20
	MOVD (R19), R0
	CMP  $3, R0
	BLT  nothing

	// block all signals
	MOVD $-1, R0
	MOVD R0, SET(R20)
	MOVD $2, R0             // SIG_SETMASK
	ADD  $SET, R20, R1
	ADD  $MASK, R20, R2
	MOVD $8, R3
	MOVD $rt_sigprocmask, R8
	SVC

	// fork
	MOVD $17, R0   // SIGCHLD
	MOVD $0, R1
	MOVD $0, R2
	MOVD $0, R3
	MOVD $0, R4
	MOVD $clone, R8
	SVC
	CMP  $0, R0
	BLT  childless
	BEQ  child
	MOVD R0, R21

await:
	ADD  $SET, R20, R0
	ADD  $INFO, R20, R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $rt_sigtimedwait, R8
	SVC
	MOVD $1, R22              // WNOHANG
	CMP  $17, R0
	BEQ  reap
	CMP  $0, R0
	BGT  forward
	CMN  $4, R0               // EINTR
	BEQ  await
	MOVD $0, R22              // a filter does not let us: wait for children at least
	B    reap

forward:
	MOVD R0, R1
	MOVD R21, R0
	MOVD $kill, R8
	SVC
	B    await

reap:
	MOVD $-1, R0
	ADD  $STATUS, R20, R1
	MOVD R22, R2
	MOVD $0, R3
	MOVD $wait4, R8
	SVC
	CMP  $0, R0
	BLE  await
	CMP  R21, R0
	BNE  reap
	MOVWU STATUS(R20), R1
	AND  $0x7f, R1, R0
	CBNZ R0, signalled
	LSR  $8, R1, R0
	AND  $0xff, R0, R0
	B    exit

signalled:
	ADD  $128, R0, R0

exit:
	MOVD $exit_group, R8
	SVC
	B    exit

nothing:
	MOVD $127, R0
	B    exit

childless:
	MOVD $2, R0
	ADR  cannotFork, R1
	MOVD $25, R2
	MOVD $write, R8
	SVC
	MOVD $126, R0
	B    exit

child:
	MOVD $0, R0
	MOVD $0, R1
	MOVD $setpgid, R8
	SVC
	MOVD $getpid, R8
	SVC
	MOVW R0, STATUS(R20)
	MOVD $0, R0
	MOVD $0x5410, R1     // TIOCSPGRP, which SIGTTOU would stop if it were not blocked
	ADD  $STATUS, R20, R2
	MOVD $ioctl, R8
	SVC
	MOVD $2, R0
	ADD  $MASK, R20, R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $rt_sigprocmask, R8
	SVC

	// R23 the program's argv, R24 its name, R25 its envp, R26 the length of its name, R22 the error
	ADD  $24, R19, R23
	MOVD (R19), R0
	ADD  R0<<3, R19, R25
	ADD  $16, R25, R25
	MOVD $2, R22         // ENOENT
	MOVD (R23), R24
	MOVD R24, R1
	MOVD $0, R2          // whether there is a slash
measure:
	MOVBU (R1), R0
	CBZ   R0, measured
	ADD   $1, R1
	CMP   $'/', R0
	BNE   measure
	MOVD  $1, R2
	B     measure

measured:
	SUB  R24, R1, R26
	CBZ  R2, search
	MOVD R24, R0
	MOVD R23, R1
	MOVD R25, R2
	MOVD $execve, R8
	SVC
	NEG  R0, R22
	B    failed

search:
	CMP  $255, R26       // NAME_MAX
	BGT  failed
	MOVD R25, R3
variable:
	MOVD  (R3), R4
	CBZ   R4, failed
	ADD   $8, R3
	MOVBU (R4), R0
	CMP   $'P', R0
	BNE   variable
	MOVBU 1(R4), R0
	CMP   $'A', R0
	BNE   variable
	MOVBU 2(R4), R0
	CMP   $'T', R0
	BNE   variable
	MOVBU 3(R4), R0
	CMP   $'H', R0
	BNE   variable
	MOVBU 4(R4), R0
	CMP   $'=', R0
	BNE   variable
	ADD   $5, R4

directory: // at R4
	ADD   $PATHBUF, R20, R5
	ADD   $(PATHMAX-258), R5, R6
copy:
	MOVBU (R4), R0
	CBZ   R0, named
	CMP   $':', R0
	BEQ   named
	ADD   $1, R4
	CMP   R6, R5
	BHS   copy           // too long: not taken
	MOVB  R0, (R5)
	ADD   $1, R5
	B     copy

named:
	CMP   R6, R5
	BHS   next
	ADD   $PATHBUF, R20, R7
	CMP   R7, R5
	BEQ   here           // an empty one: the working directory
	MOVD  $'/', R0
	MOVB  R0, (R5)
	ADD   $1, R5
here:
	MOVD  R24, R1
name:
	MOVBU (R1), R0       // with the NUL
	MOVB  R0, (R5)
	ADD   $1, R1
	ADD   $1, R5
	CBNZ  R0, name
	MOVD  R7, R0
	MOVD  R23, R1
	MOVD  R25, R2
	MOVD  $execve, R8
	SVC
	NEG   R0, R0
	CMP   $2, R0         // ENOENT
	BEQ   next
	CMP   $20, R0        // ENOTDIR
	BEQ   next
	MOVD  R0, R22
next:
	MOVBU (R4), R0
	ADD   $1, R4
	CBNZ  R0, directory

failed:
	MOVD $2, R0
	ADR  cannotExecute, R1
	MOVD $28, R2
	MOVD $write, R8
	SVC
	MOVD $2, R0
	MOVD R24, R1
	MOVD R26, R2
	SVC
	MOVD $126, R23
	ADR  cannotFork, R1
	ADD  $24, R1           // its line break
	MOVD $1, R2
	CMP  $13, R22          // EACCES
	BEQ  forbidden
	CMP  $2, R22
	BEQ  missing
	CMP  $20, R22
	BEQ  missing
	B    reason

missing:
	ADR  notFound, R1
	MOVD $12, R2
	MOVD $127, R23
	B    reason

forbidden:
	ADR  denied, R1
	MOVD $20, R2

reason:
	MOVD $2, R0
	MOVD $write, R8
	SVC
	MOVD R23, R0
	B    exit

cannotFork: // docker-init: cannot fork
	WORD $0x6b636f64; WORD $0x692d7265; WORD $0x3a74696e; WORD $0x6e616320; WORD $0x20746f6e; WORD $0x6b726f66; WORD $0x0000000a
cannotExecute: // docker-init: cannot execute
	WORD $0x6b636f64; WORD $0x692d7265; WORD $0x3a74696e; WORD $0x6e616320; WORD $0x20746f6e; WORD $0x63657865; WORD $0x20657475
notFound: // : not found
	WORD $0x6f6e203a; WORD $0x6f662074; WORD $0x0a646e75
denied: // : permission denied
	WORD $0x6570203a; WORD $0x73696d72; WORD $0x6e6f6973; WORD $0x6e656420; WORD $0x0a646569

	// endMark
	WORD $0x69700b0f; WORD $0x65203164; WORD $0x2073646e; WORD $0x65726568; WORD $0x0b0f2121
