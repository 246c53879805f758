/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dlopen() without RTLD_DEEPBIND, for the flavours that interpose malloc.
 *
 * A library opened with RTLD_DEEPBIND looks for free() in its own dependencies first and finds the C library's. A block
 * that the C library allocated for it (strdup, getline, ...) came from libgmem's malloc, so that free() aborts. Without
 * the flag both names mean libgmem. TBB opens its plugins this way, and OpenVINO opens TBB.
 *
 * The function clears the flag and *jumps* to the next dlopen(), so the return address stays the caller's: the dynamic
 * linker takes $ORIGIN, RUNPATH and the namespace from it. cpp/dlopen.cpp finds that next function on the first call.
 */

#if defined(__CET__) && __has_include(<cet.h>)
#include <cet.h>
#endif
#ifndef _CET_ENDBR
#define _CET_ENDBR
#endif

	.text
	.globl	dlopen
	.type	dlopen, %function
	.p2align 4
dlopen:
	.cfi_startproc

#if defined(__x86_64__)
	_CET_ENDBR
	movq	gmem_dlopen_next(%rip), %rax
	testq	%rax, %rax
	jz	.Lfind
.Ljump:
	andl	gmem_dlopen_flags(%rip), %esi
	jmp	*%rax
.Lfind:
	pushq	%rdi
	.cfi_adjust_cfa_offset 8
	pushq	%rsi
	.cfi_adjust_cfa_offset 8
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	call	gmem_dlopen_find
	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
	popq	%rsi
	.cfi_adjust_cfa_offset -8
	popq	%rdi
	.cfi_adjust_cfa_offset -8
	testq	%rax, %rax
	jnz	.Ljump
	ret

#elif defined(__aarch64__)
	hint	#34 /* bti c: the target of an indirect call */
	adrp	x16, gmem_dlopen_next
	add	x16, x16, :lo12:gmem_dlopen_next
	ldar	x16, [x16]
	cbz	x16, .Lfind
.Ljump:
	adrp	x17, gmem_dlopen_flags
	ldr	w17, [x17, :lo12:gmem_dlopen_flags]
	and	w1, w1, w17
	br	x16
.Lfind:
	stp	x29, x30, [sp, #-32]!
	.cfi_def_cfa_offset 32
	.cfi_offset x29, -32
	.cfi_offset x30, -24
	mov	x29, sp
	stp	x0, x1, [sp, #16]
	bl	gmem_dlopen_find
	mov	x16, x0
	ldp	x0, x1, [sp, #16]
	ldp	x29, x30, [sp], #32
	.cfi_restore x29
	.cfi_restore x30
	.cfi_def_cfa_offset 0
	cbnz	x16, .Ljump
	mov	x0, #0
	ret

#else
#error "dlopen() has no code for this architecture"
#endif

	.cfi_endproc
	.size	dlopen, . - dlopen

#if defined(__aarch64__)
	/* This file keeps to BTI and PAC. Without the note the linker would drop the mark of the whole library. */
	.section .note.gnu.property, "a"
	.p2align 3
	.word	4, 16, 5
	.asciz	"GNU"
	.word	0xc0000000, 4, 3, 0
#endif

	.section .note.GNU-stack, "", %progbits
