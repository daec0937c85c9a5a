// SPDX-License-Identifier: MIT
/*
 * A small VMM; see tests.h. It runs in a peer, whose region is the guest's memory
 * and whose thread is the first virtual processor. The guest is
 * tests/guests/bare.c: functions called through registers.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../guests/bare.h"
#include "tests.h"

#define VCPUS_MAX	8

__asm__(".section .rodata\n"
	".globl bare_start, bare_end\n"
	"bare_start: .incbin \"build/guests/bare.bin\"\n"
	"bare_end:\n"
	".previous\n");
extern const unsigned char bare_start[], bare_end[];

struct vcpu {
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	long result;
};

/* Of a peer; there may be one more, see op_vm_second(). */
static struct vm {
	int fd;
	unsigned int slots, vcpus;
	struct vcpu vcpu[VCPUS_MAX];
	struct region *mem;
} vm;

/* ---- making one -------------------------------------------------------- */

static int kvm_open(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		SKIP("no /dev/kvm: %s", strerror(errno));
	return kvm;
}

static void cpuid_copy(int kvm, int fd, unsigned int id)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 100 *
					  sizeof(struct kvm_cpuid_entry2));

	CHECK(cpuid);
	cpuid->nent = 100;
	SYS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid));
	for (unsigned int i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == 1)
			e->ebx = (e->ebx & 0xffffff) | id << 24;
		if (e->function == 0xb)
			e->edx = id;
	}
	SYS(ioctl(fd, KVM_SET_CPUID2, cpuid));
	free(cpuid);
}

static void long_mode(int fd)
{
	struct kvm_segment code = {
		.limit = ~0U, .selector = 8, .type = 11, .present = 1, .s = 1,
		.l = 1, .g = 1,
	};
	struct kvm_segment data = {
		.limit = ~0U, .selector = 16, .type = 3, .present = 1, .s = 1,
		.db = 1, .g = 1,
	};
	struct kvm_sregs sregs;

	SYS(ioctl(fd, KVM_GET_SREGS, &sregs));
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.idt = (struct kvm_dtable){ BARE_DESCRIPTORS, 0x2f, { 0 } };
	sregs.gdt = (struct kvm_dtable){ BARE_DESCRIPTORS + 0x100, 0x17, { 0 } };
	sregs.cr3 = BARE_TABLES;
	sregs.cr4 |= 0x20;			/* PAE */
	sregs.cr0 = 0x80000011;			/* PG, ET, PE */
	sregs.efer |= 0x500;			/* LME, LMA */
	SYS(ioctl(fd, KVM_SET_SREGS, &sregs));
}

/* As every guest does it; KVM does not find a processor for an NMI before. */
static void lapic_enable(int fd)
{
	struct kvm_lapic_state state;
	__u32 *spurious = (__u32 *)(state.regs + 0xf0);

	SYS(ioctl(fd, KVM_GET_LAPIC, &state));
	*spurious |= 0x1ff;
	SYS(ioctl(fd, KVM_SET_LAPIC, &state));
}

static void vcpu_create(int kvm, unsigned int id)
{
	int size = SYS(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL));
	struct vcpu *vcpu = &vm.vcpu[id];
	struct kvm_mp_state runnable = { KVM_MP_STATE_RUNNABLE };

	vcpu->fd = SYS(ioctl(vm.fd, KVM_CREATE_VCPU, (unsigned long)id));
	vcpu->run = SYS(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
			     vcpu->fd, 0));
	cpuid_copy(kvm, vcpu->fd, id);
	long_mode(vcpu->fd);
	lapic_enable(vcpu->fd);
	SYS(ioctl(vcpu->fd, KVM_SET_MP_STATE, &runnable));
}

static void on_kick(int sig UNUSED)
{
}

long op_vm_open(struct region *r, const long *arg)
{
	struct sigaction sa = { .sa_handler = on_kick };
	int kvm = kvm_open();

	sigaction(SIGUSR1, &sa, NULL);
	memset(&vm, 0, sizeof(vm));
	vm.mem = r;
	vm.vcpus = arg[0];
	vm.fd = SYS(ioctl(kvm, KVM_CREATE_VM, 0UL));
	SYS(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0UL));
	for (unsigned int i = 0; i < vm.vcpus; i++)
		vcpu_create(kvm, i);
	close(kvm);
	return 0;
}

long op_vm_slot(struct region *r, const long *arg)
{
	struct kvm_userspace_memory_region slot = {
		.slot = vm.slots++,
		.guest_phys_addr = arg[0] * PAGE_SIZE,
		.memory_size = arg[1] * PAGE_SIZE,
		.userspace_addr = arg[2] ? (__u64)arg[2] :
				  (uintptr_t)region_page(r, arg[0]),
	};

	SYS(ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, &slot));
	return 0;
}

/* Page tables for 1 GiB, descriptors, code. */
long op_vm_load(struct region *r, const long *arg UNUSED)
{
	u64 *pml4 = (u64 *)(r->addr + BARE_TABLES);
	u64 *pdpt = pml4 + 512, *pd = pdpt + 512;
	u64 *idt = (u64 *)(r->addr + BARE_DESCRIPTORS);
	u64 *gdt = idt + 0x100 / 8;

	pml4[0] = (BARE_TABLES + 0x1000) | 3;
	pdpt[0] = (BARE_TABLES + 0x2000) | 3;
	for (u64 i = 0; i < 512; i++)
		pd[i] = i << 21 | 0x83;
	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	idt[4] = 0x00008e0000080000 | BARE_NMI_ENTRY;	/* vector 2 */
	/* cppcheck-suppress comparePointers; both are labels in one section */
	memcpy(r->addr + BARE_CODE, bare_start, bare_end - bare_start);
	region_model(r, 0, BARE_PAGES, SEED_ANY, 0);
	return 0;
}

struct peer vm_start(size_t pages, unsigned int vcpus)
{
	struct peer p = peer_start(pages);

	peer_call(&p, op_vm_open, vcpus);
	peer_call(&p, op_vm_slot, 0, pages, 0);
	peer_call(&p, op_vm_load);
	return p;
}

/* ---- running ----------------------------------------------------------- */

static void vcpu_set(struct vcpu *vcpu, unsigned int fn, const long *arg)
{
	struct kvm_regs regs = {
		.rip = BARE_CODE, .rflags = 2,
		.rsp = BARE_STACKS - (vcpu - vm.vcpu) * BARE_STACK_SIZE,
		.rdi = fn, .rsi = arg[0], .rdx = arg[1], .rcx = arg[2],
		.r8 = arg[3],
	};

	SYS(ioctl(vcpu->fd, KVM_SET_REGS, &regs));
}

bool (*vm_run_hook)(bool before);

/* 0, -EINTR, or -ENOMEM where the hook says that it may be. */
static int vcpu_enter(struct vcpu *vcpu)
{
	bool may_fail = false;
	int err;

	if (vm_run_hook)
		vm_run_hook(true);
	err = ioctl(vcpu->fd, KVM_RUN, 0UL) ? -errno : 0;
	if (vm_run_hook)
		may_fail = vm_run_hook(false);
	if (err && err != -EINTR && !(err == -ENOMEM && may_fail))
		FAIL("KVM_RUN: %s", strerror(-err));
	return err;
}

/* Until the function has returned; signals only interrupt it. */
static long vcpu_run(struct vcpu *vcpu)
{
	struct kvm_regs regs;

	for (;;) {
		if (vcpu_enter(vcpu))
			continue;
		if (vcpu->run->exit_reason == KVM_EXIT_IO &&
		    vcpu->run->io.port == BARE_PORT)
			break;
		FAIL("the guest left for reason %u (%#llx)",
		     vcpu->run->exit_reason,
		     (unsigned long long)vcpu->run->internal.suberror);
	}
	SYS(ioctl(vcpu->fd, KVM_GET_REGS, &regs));
	return regs.rax;
}

static long guest_call(unsigned int fn, const long *arg)
{
	vcpu_set(&vm.vcpu[0], fn, arg);
	return vcpu_run(&vm.vcpu[0]);
}

static void nmi_send(unsigned int id)
{
	struct kvm_msi msi = {
		.address_lo = 0xfee00000 | id << 12,
		.data = 4 << 8,			/* delivery mode NMI */
	};

	CHECK_OP(SYS(ioctl(vm.fd, KVM_SIGNAL_MSI, &msi)), >, 0);
}

long op_vm_run_once(struct region *r UNUSED, const long *arg)
{
	int err;

	vcpu_set(&vm.vcpu[0], BARE_VERIFY, (long[4]){ 0 });
	vm.vcpu[0].run->immediate_exit = arg[0];
	err = ioctl(vm.vcpu[0].fd, KVM_RUN, 0UL) ? -errno : 0;
	vm.vcpu[0].run->immediate_exit = 0;
	return err;
}

/* A signal that is blocked except for the guest keeps KVM from entering it. */
long op_vm_run_signalled(struct region *r UNUSED, const long *arg UNUSED)
{
	unsigned char buffer[sizeof(struct kvm_signal_mask) + 8] = { 0 };
	struct kvm_signal_mask *mask = (struct kvm_signal_mask *)buffer;
	sigset_t set;
	int err;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	mask->len = 8;
	SYS(ioctl(vm.vcpu[0].fd, KVM_SET_SIGNAL_MASK, mask));
	raise(SIGUSR1);
	vcpu_set(&vm.vcpu[0], BARE_VERIFY, (long[4]){ 0 });
	err = ioctl(vm.vcpu[0].fd, KVM_RUN, 0UL) ? -errno : 0;
	SYS(ioctl(vm.vcpu[0].fd, KVM_SET_SIGNAL_MASK, NULL));
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	return err;
}

static void *race_thread(void *arg)
{
	struct vcpu *vcpu = arg;

	vcpu->result = vcpu_run(vcpu);
	return NULL;
}

/* Every processor writes word @arg[1] + its number of its own page from @arg[0]. */
long op_vm_race(struct region *r, const long *arg)
{
	for (unsigned int i = 0; i < vm.vcpus; i++) {
		vcpu_set(&vm.vcpu[i], BARE_POKE,
			 (long[4]){ arg[0] + i, arg[1], i + 1 });
		region_model_patch(r, arg[0] + i, arg[1], i + 1);
	}
	for (unsigned int i = 0; i < vm.vcpus; i++)
		pthread_create(&vm.vcpu[i].thread, NULL, race_thread,
			       &vm.vcpu[i]);
	for (unsigned int i = 0; i < vm.vcpus; i++)
		pthread_join(vm.vcpu[i].thread, NULL);
	return 0;
}

/* The other processors halt, for good, and one is in the guest if @arg[0]. */
long op_vm_others(struct region *r UNUSED, const long *arg)
{
	for (unsigned int i = 1; i < vm.vcpus; i++) {
		if (arg[0] && i == 1)
			vcpu_set(&vm.vcpu[i], BARE_POLL,
				 (long[4]){ BARE_PAGES, -1 });
		else
			vcpu_set(&vm.vcpu[i], BARE_HALT,
				 (long[4]){ 1L << 40, 0, 0 });
		pthread_create(&vm.vcpu[i].thread, NULL, race_thread,
			       &vm.vcpu[i]);
	}
	sleep_ms(50);
	return 0;
}

/* ---- what the guest does ----------------------------------------------- */

long op_guest_fill(struct region *r, const long *arg)
{
	guest_call(BARE_FILL, arg);
	region_model(r, arg[0], arg[1], arg[2], arg[3]);
	return 0;
}

long op_guest_poke(struct region *r, const long *arg)
{
	region_model_patch(r, arg[0], arg[1], arg[2]);
	guest_call(BARE_POKE, arg);
	return 0;
}

long op_guest_verify(struct region *r UNUSED, const long *arg)
{
	return guest_call(BARE_VERIFY, arg);
}

struct alarm {
	unsigned int ms;
	atomic_bool stop;
};

static void *alarm_thread(void *arg)
{
	struct alarm *alarm = arg;

	while (!atomic_load(&alarm->stop)) {
		sleep_ms(alarm->ms);
		nmi_send(0);
	}
	return NULL;
}

/* @arg: NMIs (those that come at once count once), milliseconds before each. */
long op_guest_halt(struct region *r, const long *arg)
{
	struct alarm alarm = { .ms = arg[1] };
	pthread_t thread;

	CHECK_EQ(pthread_create(&thread, NULL, alarm_thread, &alarm), 0);
	guest_call(BARE_HALT, (long[4]){ arg[0], arg[2], arg[3] });
	atomic_store(&alarm.stop, true);
	pthread_join(thread, NULL);
	if (arg[3])
		region_model(r, arg[2], arg[3], SEED_ANY, 0);
	return 0;
}

long op_guest_halt_for_ever(struct region *r UNUSED, const long *arg UNUSED)
{
	return guest_call(BARE_HALT, (long[4]){ 1L << 40, 0, 0 });
}
