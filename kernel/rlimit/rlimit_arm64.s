#include "textflag.h"

// func get(resource uintptr, l *Limit) uintptr
TEXT ·get(SB),NOSPLIT,$0-24
	MOVD	$261, R8	// prlimit64
	MOVD	$0, R0
	MOVD	resource+0(FP), R1
	MOVD	$0, R2
	MOVD	l+8(FP), R3
	SVC
	MOVD	R0, ret+16(FP)
	RET
