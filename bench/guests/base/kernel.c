// SPDX-License-Identifier: MIT
/*
 * What a statically linked program needs of Linux, in the program itself: the stack
 * that it starts with, memory, and a serial port for standard input and output.
 */
#include <asm/prctl.h>
#include <asm/unistd.h>
#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#define PAGE 4096ul
#define PAGE_UP(x) (((x) + PAGE - 1) & -PAGE)
#define LAPIC 0x3fe00000ul	/* where boot.S maps it; memory is below */
#define STACK (256ul << 10)

enum { COM1 = 0x3f8, PIC = 0x20, VECTORS = 32 };
enum {
	MSR_STAR = 0xc0000081,
	MSR_LSTAR = 0xc0000082,
	MSR_FMASK = 0xc0000084,
	MSR_FS_BASE = 0xc0000100,
};

/* From Xen's public interface, as far as it is used. */
struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t module_list, command_line, rsdp, ranges;
	uint32_t range_count;
};

struct range {
	uint64_t start, size;
	uint32_t type, reserved;
};

struct gate {
	uint16_t low, selector, flags, middle;
	uint32_t high, reserved;
};

extern const Elf64_Ehdr __ehdr_start;
extern char _end[];
void syscall_entry(void), interrupt_entry(void), exception_entry(void);

/* The heap grows up from the program, mappings grow down from the stack. */
static uint64_t heap, mappings, khz = 1000000;
static struct gate idt[VECTORS + 16];

static void out(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void set_msr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"(value >> 32) : "memory");
}

static uint32_t cpuid(uint32_t leaf)
{
	uint32_t a = leaf, b, c, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	return a;
}

static uint64_t tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static void clear(uint64_t start, uint64_t size)
{
	__asm__ volatile("rep stosb" : "+D"(start), "+c"(size) : "a"(0) : "memory");
}

static void print(const char *text, size_t n)
{
	while (n--) {
		while (!(in(COM1 + 5) & 0x20))
			;
		out(COM1, *text++);
	}
}

static _Noreturn void halt(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

_Noreturn void exception(void)
{
	static const char text[] = "guest exception\n";

	print(text, sizeof(text) - 1);
	halt();
}

static long read_line(char *to, size_t size)
{
	size_t n = 0;

	while (n < size && (!n || to[n - 1] != '\n')) {
		while (!(in(COM1 + 5) & 1))
			__asm__ volatile("sti; hlt; cli" : : : "memory");
		to[n++] = in(COM1);
	}
	return n;
}

static long write_parts(const struct iovec *part, size_t count)
{
	long n = 0;

	for (; count--; part++) {
		print(part->iov_base, part->iov_len);
		n += part->iov_len;
	}
	return n;
}

static long move_heap(uint64_t to)
{
	if (to < PAGE_UP((uint64_t)_end) || to > mappings)
		return heap;
	if (to < heap)
		clear(to, heap - to);
	return heap = to;
}

static long map(size_t size, int flags)
{
	size = PAGE_UP(size);
	if (!(flags & MAP_ANONYMOUS) || flags & MAP_FIXED)
		return -EINVAL;
	if (size > mappings - PAGE_UP(heap))
		return -ENOMEM;
	return mappings -= size;
}

/* Memory comes back if it was mapped last. */
static long unmap(uint64_t start, size_t size)
{
	if (start == mappings) {
		clear(start, PAGE_UP(size));
		mappings += PAGE_UP(size);
	}
	return 0;
}

static long get_status(const char *path, struct stat *status)
{
	if (*path)
		return -ENOENT;
	clear((uint64_t)status, sizeof(*status));
	status->st_mode = S_IFCHR | 0600;
	return 0;
}

static long get_time(struct timespec *time)
{
	uint64_t now = tsc();

	time->tv_sec = now / (khz * 1000);
	time->tv_nsec = now % (khz * 1000) * 1000000 / khz;
	return 0;
}

static long get_random(uint8_t *to, size_t size)
{
	for (size_t i = 0; i < size; i++)
		to[i] = tsc() * 0x9e3779b97f4a7c15 >> 56;
	return size;
}

long syscall(long a, long b, long c, long d, long e, long number)
{
	(void)e;
	switch (number) {
	case __NR_read:
		return read_line((char *)b, c);
	case __NR_write:
		print((char *)b, c);
		return c;
	case __NR_writev:
		return write_parts((struct iovec *)b, c);
	case __NR_brk:
		return move_heap(a);
	case __NR_mmap:
		return map(b, d);
	case __NR_munmap:
		return unmap(a, b);
	case __NR_newfstatat:
		return get_status((char *)b, (struct stat *)c);
	case __NR_clock_gettime:
		return get_time((struct timespec *)b);
	case __NR_getrandom:
		return get_random((uint8_t *)a, b);
	case __NR_arch_prctl:
		if (a != ARCH_SET_FS)
			return -EINVAL;
		set_msr(MSR_FS_BASE, b);
		return 0;
	case __NR_mprotect:
	case __NR_ioctl:
		return 0;
	case __NR_set_tid_address:
		return 1;
	case __NR_exit:
	case __NR_exit_group:
		halt();
	default:
		return -ENOSYS;
	}
}

/* Only the serial port may interrupt, through the 8259 and the local APIC. */
static void setup_interrupts(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) pointer = { sizeof(idt) - 1, (uint64_t)idt };
	volatile uint32_t *lapic = (uint32_t *)LAPIC;

	for (size_t i = 0; i < sizeof(idt) / sizeof(*idt); i++) {
		uint64_t to = (uint64_t)(i < VECTORS ? exception_entry : interrupt_entry);

		idt[i] = (struct gate){ to, 8, 0x8e00, to >> 16, to >> 32, 0 };
	}
	__asm__ volatile("lidt %0" : : "m"(pointer));

	lapic[0xf0 / 4] = 0x1ff;	/* on */
	lapic[0x350 / 4] = 0x700;	/* LINT0: as the 8259 says */

	out(PIC, 0x11);
	out(PIC + 1, VECTORS);
	out(PIC + 1, 4);
	out(PIC + 1, 1);
	out(PIC + 1, ~(1 << 4));

	out(COM1 + 3, 3);		/* 8 bits */
	out(COM1 + 4, 0x0b);
	out(COM1 + 1, 1);		/* interrupt on receipt */
}

static uint64_t end_of_memory(const struct start_info *info)
{
	const struct range *range = (void *)info->ranges;
	uint64_t end = 0;

	for (uint32_t i = 0; i < info->range_count; i++) {
		uint64_t e = range[i].start + range[i].size;

		if (range[i].type == 1 && e <= LAPIC && e > end)
			end = e;
	}
	return end & -PAGE;
}

void *setup(const struct start_info *info)
{
	uint64_t top = end_of_memory(info), random = top - 32, name = top - 16;
	uint64_t stack[] = {
		1, name, 0, 0,		/* argc, argv, end, end of envp */
		AT_PHDR, (uint64_t)&__ehdr_start + __ehdr_start.e_phoff,
		AT_PHENT, __ehdr_start.e_phentsize,
		AT_PHNUM, __ehdr_start.e_phnum,
		AT_PAGESZ, PAGE,
		AT_RANDOM, random,
		AT_HWCAP, 0,
		AT_SECURE, 0,
		AT_NULL, 0,
	};
	uint64_t *sp = (uint64_t *)(random - sizeof(stack));

	setup_interrupts();
	set_msr(MSR_STAR, 8ul << 32);
	set_msr(MSR_LSTAR, (uint64_t)syscall_entry);
	set_msr(MSR_FMASK, 0x600);	/* IF, DF */
	if (cpuid(0x40000000) >= 0x40000010 && cpuid(0x40000010))
		khz = cpuid(0x40000010);

	heap = PAGE_UP((uint64_t)_end);
	mappings = top - STACK;
	get_random((uint8_t *)random, 16);
	*(uint64_t *)name = 'g' | 'u' << 8;
	for (size_t i = 0; i < sizeof(stack) / sizeof(*stack); i++)
		sp[i] = stack[i];
	return sp;
}
