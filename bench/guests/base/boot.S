/* SPDX-License-Identifier: MIT */
/*
 * From the PVH entry (protected mode, no paging) to long mode with the first GiB
 * mapped one to one, but the local APIC at its end; and the entries by SYSCALL,
 * interrupt and exception. All runs in ring 0. The C code that is called from here
 * is compiled to leave SSE registers alone.
 */
#define CODE	0x08
#define DATA	0x10

	.section .note.Xen, "a", @note
	.balign	4
	.long	4, 8, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.quad	pvh_entry

	.section .note.GNU-stack, "", @progbits

	.text
	.code32
pvh_entry:				/* ebx: struct hvm_start_info */
	movl	$page_pointers + 3, page_root
	movl	$page_directory + 3, page_pointers
	mov	$0x83, %eax		/* present, writable, 2 MiB */
	xor	%ecx, %ecx
1:	mov	%eax, page_directory(, %ecx, 8)
	add	$0x200000, %eax
	inc	%ecx
	cmp	$512, %ecx
	jb	1b
	movl	$0xfee0009b, page_directory + 511 * 8	/* local APIC, uncached */
	mov	$page_root, %eax
	mov	%eax, %cr3
	mov	$0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx	/* EFER: SCE, LME */
	rdmsr
	or	$0x101, %eax
	wrmsr
	mov	$0x80010033, %eax	/* PG, WP, NE, ET, MP, PE */
	mov	%eax, %cr0
	lgdt	gdt_pointer
	ljmp	$CODE, $long_mode

	.code64
long_mode:
	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$stack_top, %esp
	mov	%ebx, %edi
	call	setup			/* returns the program's stack */
	mov	%rax, %rsp
	xor	%edx, %edx		/* no function to call at exit */
	xor	%ebp, %ebp
	jmp	_start

	/* The red zone of the caller stays whole, as nothing is pushed there. */
	.globl	syscall_entry
syscall_entry:
	mov	%rsp, caller_stack
	mov	$stack_top, %esp
	push	%rcx			/* return address */
	push	%r11			/* flags */
	push	%rdi
	push	%rsi
	push	%rdx
	push	%r10
	push	%r8
	push	%r9
	mov	%r10, %rcx
	mov	%rax, %r9		/* number, for the sixth argument */
	call	syscall
	pop	%r9
	pop	%r8
	pop	%r10
	pop	%rdx
	pop	%rsi
	pop	%rdi
	mov	(%rsp), %r11
	popf
	pop	%rcx
	mov	caller_stack, %rsp
	jmp	*%rcx

	/* Interrupts are on only where read() halts; all that they do is wake it. */
	.globl	interrupt_entry
interrupt_entry:
	push	%rax
	mov	$0x20, %al		/* end of interrupt */
	out	%al, $0x20
	pop	%rax
	iretq

	.globl	exception_entry
exception_entry:
	mov	$stack_top, %esp
	call	exception

	.section .rodata
	.balign	8
gdt:	.quad	0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt

	.bss
	.balign	4096
page_root:
	.skip	4096
page_pointers:
	.skip	4096
page_directory:
	.skip	4096
	.skip	8192
stack_top:
caller_stack:
	.skip	8
