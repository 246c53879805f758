/* SPDX-License-Identifier: Apache-2.0 */
/* A call to an address that is no landing pad, in code whose pages are guarded by BTI. */
	.text
	.globl	calls_no_landing_pad
	.type	calls_no_landing_pad, %function
calls_no_landing_pad:
	.cfi_startproc
	hint	#34 /* bti c */
	stp	x29, x30, [sp, #-16]!
	.cfi_def_cfa_offset 16
	.cfi_offset x29, -16
	.cfi_offset x30, -8
	adr	x9, .Lnot_a_landing_pad
	blr	x9
	ldp	x29, x30, [sp], #16
	.cfi_restore x29
	.cfi_restore x30
	.cfi_def_cfa_offset 0
	ret
.Lnot_a_landing_pad:
	ret
	.cfi_endproc
	.size	calls_no_landing_pad, . - calls_no_landing_pad

	.section .note.GNU-stack, "", %progbits
