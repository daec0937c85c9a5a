// SPDX-License-Identifier: MIT
/*
 * What starts of virtual machines cost: one process runs so many of them, with equal
 * contents, one after the other, with DKSM attached or not. For some of them the
 * first KVM_RUN is timed, the first write of the guest to each of its pages, and how
 * long it takes until a signal that comes during the first KVM_RUN is answered.
 *
 * With one there is nobody to share with. Run it under `tools/vm --icount`: there a
 * nanosecond is an instruction.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>

#include <linux/kvm.h>

#include "common.h"

#define CODE 0x1000UL
/* Below it there is only the code. */
#define DATA 0x2000UL

/* 32-bit: a byte of each of %ecx pages from %edi on; HLT. */
static const unsigned char code[] = {
	0x85, 0xc9,				/* test %ecx,%ecx */
	0x74, 0x0b,				/* jz 2f */
	0x88, 0x07,				/* 1: mov %al,(%edi) */
	0x81, 0xc7, 0x00, 0x10, 0x00, 0x00,	/* add $4096,%edi */
	0x49,					/* dec %ecx */
	0x75, 0xf5,				/* jnz 1b */
	0xf4,					/* 2: hlt */
};

struct machine {
	int vcpu;
	struct kvm_run *run;
};

static int kvm;
static bool attached;
static size_t pages;
static volatile uint64_t answered;

static void check(long ret, const char *what)
{
	if (ret < 0)
		die(what);
}

static char *memory_fill(size_t machine_pages)
{
	char *memory = fill(machine_pages + DATA / PAGE);

	memset(memory, 0, DATA);
	memcpy(memory + CODE, code, sizeof(code));
	return memory;
}

/* Flat 32-bit segments, no paging. */
static void flat_set(int vcpu)
{
	struct kvm_segment flat = {
		.limit = 0xffffffff, .present = 1, .s = 1, .g = 1, .db = 1,
		.type = 11, .selector = 8,
	};
	struct kvm_sregs sregs;

	check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = flat;
	flat.type = 3;
	flat.selector = 16;
	sregs.ds = sregs.es = sregs.ss = flat;
	sregs.cr0 |= 1;
	check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
}

static struct machine machine_new(size_t machine_pages)
{
	int vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL);
	struct kvm_userspace_memory_region slot = {
		.memory_size = machine_pages * PAGE + DATA,
		.userspace_addr = (uintptr_t)memory_fill(machine_pages),
	};
	struct machine m;

	check(vm, "KVM_CREATE_VM");
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "memory");
	m.vcpu = ioctl(vm, KVM_CREATE_VCPU, 0UL);
	check(m.vcpu, "KVM_CREATE_VCPU");
	m.run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu, 0);
	if (m.run == MAP_FAILED)
		die("mmap of vcpu");
	flat_set(m.vcpu);
	return m;
}

/* Nanoseconds until the guest has written to so many pages. */
static uint64_t machine_run(struct machine *m, size_t writes)
{
	struct kvm_regs regs = {
		.rip = CODE, .rflags = 2, .rdi = DATA, .rcx = writes,
		.rax = 0x5a,
	};
	uint64_t begin;

	check(ioctl(m->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	begin = now();
	while (ioctl(m->vcpu, KVM_RUN, 0UL))
		if (errno != EINTR)
			die("KVM_RUN");
	begin = now() - begin;
	if (m->run->exit_reason != KVM_EXIT_HLT) {
		fprintf(stderr, "the guest left for reason %u\n",
			m->run->exit_reason);
		exit(1);
	}
	return begin;
}

static void attach(void)
{
	struct dksm_attach_args args = {
		.size = sizeof(args), .pidfd = DKSM_SELF,
		.flags = DKSM_ATTACH_NO_IDLE,
	};

	check(ioctl(domain_open(), DKSM_IOC_ATTACH, &args), "DKSM_IOC_ATTACH");
}

static void on_signal(int number)
{
	(void)number;
	answered = now();
}

/* The signal comes so many nanoseconds after the beginning. */
static uint64_t signal_answer(struct machine *m, long after)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct itimerspec soon = { .it_value.tv_nsec = after };
	struct sigevent event = {
		.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1,
	};
	uint64_t begin;
	timer_t timer;

	check(sigaction(SIGUSR1, &action, NULL), "sigaction");
	check(timer_create(CLOCK_MONOTONIC, &event, &timer), "timer_create");
	begin = now();
	check(timer_settime(timer, 0, &soon, NULL), "timer_settime");
	machine_run(m, 0);
	/* It may be over by then. */
	while (!answered)
		usleep(1000);
	return answered - begin - after;
}

static bool is_told(size_t number, size_t machines)
{
	return number <= 3 || number == 10 || number == 100 ||
	       number == machines;
}

static void run(size_t machines)
{
	struct machine m;
	uint64_t start;

	printf("{\"policy\": \"%s\", \"vms\": %zu, \"pages\": %zu, \"seed\": %llu, \"starts\": [",
	       attached ? "dksm" : "none", machines, pages,
	       (unsigned long long)seed);
	for (size_t i = 1; i <= machines; i++) {
		m = machine_new(pages);
		start = machine_run(&m, 0);
		if (is_told(i, machines))
			printf("%s{\"vm\": %zu, \"start_ns\": %llu, \"write_ns\": %llu}",
			       i > 1 ? ", " : "", i, (unsigned long long)start,
			       (unsigned long long)machine_run(&m, pages));
	}
	m = machine_new(8192);
	start = signal_answer(&m, 1000000);
	printf("], \"signal_ns\": %llu}\n", (unsigned long long)start);
}

static void usage(void)
{
	fputs("Usage: starts dksm|none VMS PAGES [SEED]\n"
	      "Print what the start of VMs in one process and their first writes cost, as a\n"
	      "line of JSON.\n"
	      "Example: tools/vm --icount --mem 3G -- build/bench/starts dksm 1000 64\n", stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	if (argc < 4 || argc > 5 || atoi(argv[2]) < 1 || atoi(argv[3]) < 1)
		usage();
	attached = !strcmp(argv[1], "dksm");
	if (!attached && strcmp(argv[1], "none"))
		usage();
	pages = atoi(argv[3]);
	if (argc == 5)
		seed = strtoull(argv[4], NULL, 10);
	raise_limit();
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	check(kvm, "/dev/kvm");
	if (attached)
		attach();
	run(atoi(argv[2]));
	return 0;
}
