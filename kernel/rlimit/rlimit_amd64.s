#include "textflag.h"

// func get(resource uintptr, l *Limit) uintptr
TEXT ·get(SB),NOSPLIT,$0-24
	MOVQ	$302, AX	// prlimit64
	MOVQ	$0, DI
	MOVQ	resource+0(FP), SI
	MOVQ	$0, DX
	MOVQ	l+8(FP), R10
	SYSCALL
	MOVQ	AX, ret+16(FP)
	RET
