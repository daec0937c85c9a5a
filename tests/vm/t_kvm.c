// SPDX-License-Identifier: MIT
/*
 * Memory of real guests: a vCPU has page tables of its own, which a merge must
 * invalidate just like a process's.  The guest is a few bytes of 16-bit code that
 * count in fifteen pages for ever, while the host merges them.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests.h"

#define PAGES 16		/* all that 16-bit addresses reach */

struct guest {
	struct region mem;
	int vm, vcpu;
	struct kvm_run *run;
	atomic_bool stop;
	atomic_uint left;	/* exit reason, if it is no longer counting */
	pthread_t thread;
};

/* Adds one to the first word of each page but the first, then to CX. */
static const unsigned char count_code[] = {
	0xbb, 0x00, 0x10,		/* again: mov bx, 0x1000	*/
	0xff, 0x07,			/* next:  inc word [bx]		*/
	0x81, 0xc3, 0x00, 0x10,		/*        add bx, 0x1000	*/
	0x75, 0xf8,			/*        jnz next		*/
	0x41,				/*        inc cx		*/
	0xeb, 0xf2,			/*        jmp again		*/
};

static void on_kick(int sig UNUSED)
{
}

static void guest_memory(struct guest *g)
{
	struct kvm_userspace_memory_region slot = { 0 };

	g->mem = region_map(PAGES);
	slot.memory_size = region_bytes(&g->mem);
	slot.userspace_addr = (uintptr_t)g->mem.addr;
	/* All pages alike, the counter at their beginning zero. */
	region_fill(&g->mem, 0, PAGES, 5, 0);
	for (size_t i = 1; i < PAGES; i++)
		region_poke(&g->mem, i, 0, 0);
	memcpy(g->mem.addr, count_code, sizeof(count_code));
	region_model(&g->mem, 0, 1, SEED_ANY, 0);
	SYS(ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &slot));
}

static void guest_registers(struct guest *g)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rflags = 2 };

	SYS(ioctl(g->vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	SYS(ioctl(g->vcpu, KVM_SET_SREGS, &sregs));
	SYS(ioctl(g->vcpu, KVM_SET_REGS, &regs));
}

static void guest_create(struct guest *g)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), size;

	if (kvm < 0)
		SKIP("no /dev/kvm: %s", strerror(errno));
	g->vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
	if (g->vm < 0)
		SKIP("no virtual machine: %s", strerror(errno));
	guest_memory(g);
	g->vcpu = SYS(ioctl(g->vm, KVM_CREATE_VCPU, 0UL));
	size = SYS(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL));
	g->run = SYS(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
			  g->vcpu, 0));
	guest_registers(g);
	atomic_store(&g->stop, false);
}

static void *guest_thread(void *arg)
{
	struct guest *g = arg;

	while (!atomic_load(&g->stop)) {
		if (ioctl(g->vcpu, KVM_RUN, 0UL) && errno != EINTR)
			FAIL("KVM_RUN: %s", strerror(errno));
		if (g->run->exit_reason != KVM_EXIT_INTR &&
		    g->run->exit_reason != KVM_EXIT_UNKNOWN &&
		    !atomic_load(&g->stop)) {
			atomic_store(&g->left, g->run->exit_reason);
			break;
		}
	}
	return NULL;
}

static void guest_start(struct guest *g)
{
	struct sigaction sa = { .sa_handler = on_kick };

	sigaction(SIGUSR1, &sa, NULL);
	CHECK_EQ(pthread_create(&g->thread, NULL, guest_thread, g), 0);
}

static void guest_stop(struct guest *g)
{
	atomic_store(&g->stop, true);
	g->run->immediate_exit = 1;
	pthread_kill(g->thread, SIGUSR1);
	pthread_join(g->thread, NULL);
	g->run->immediate_exit = 0;
}

/* Every page has counted as often as the guest knows, none once more or less. */
static u64 guest_verify(struct guest *g)
{
	struct kvm_regs regs;
	uint16_t last = 1;

	SYS(ioctl(g->vcpu, KVM_GET_REGS, &regs));
	for (size_t i = 1; i < PAGES; i++) {
		u64 word = *(u64 *)region_page(&g->mem, i);
		uint16_t ahead = (uint16_t)word - (uint16_t)regs.rcx;

		if (word >> 16 || ahead > last)
			FAIL("page %zu counts %llu, the guest %llu (%u, %u)", i,
			     (unsigned long long)word,
			     (unsigned long long)(uint16_t)regs.rcx, ahead, last);
		last = ahead;
		region_model_patch(&g->mem, i, 0, word);
	}
	region_verify(&g->mem);
	return regs.rcx;
}

/* @arg: descriptor, milliseconds.  Its last count, or less the reason it left for. */
static long op_guest_runs(struct region *r, const long *arg)
{
	static struct guest g;
	u64 end = now_ms() + arg[1];
	unsigned int rounds = 0;

	guest_create(&g);
	*r = g.mem;
	guest_start(&g);
	for (; now_ms() < end && !atomic_load(&g.left); rounds++) {
		sleep_ms(rounds % 4);	/* the guest must get somewhere */
		if (rounds % 16 == 15)
			unmerge(arg[0], DKSM_SELF, g.mem.addr,
				region_bytes(&g.mem));
		else
			merge(arg[0], DKSM_SELF, g.mem.addr,
			      region_bytes(&g.mem));
		if (rounds % 32 == 31) {
			guest_stop(&g);
			if (atomic_load(&g.left))
				break;
			guest_verify(&g);
			atomic_store(&g.stop, false);
			guest_start(&g);
		}
	}
	guest_stop(&g);
	if (atomic_load(&g.left))
		return -(long)atomic_load(&g.left);
	*r = g.mem;
	return guest_verify(&g);
}

static bool guests_count(int dom)
{
	struct peer p[2] = { peer_start(PAGES), peer_start(PAGES) };
	bool counted = true;

	for (int i = 0; i < 2; i++)
		peer_post(&p[i], op_guest_runs, dom, 2000);
	for (int i = 0; i < 2; i++) {
		long count = peer_result(&p[i]);

		test_note("guest %d %s %ld", i, count < 0 ?
			  "left for reason" : "counted to", labs(count));
		counted &= count >= 0;
	}
	return counted;
}

/* QEMU's emulation says who it is. */
static bool cpu_is_emulated(void)
{
	unsigned int eax, name[4] = { 0 };

	__cpuid(0x40000000, eax, name[0], name[1], name[2]);
	return !strcmp((char *)name, "TCGTCGTCGTCG");
}

/*
 * With two emulated processors a guest whose pages move runs astray once in some
 * hundred times: as often with move_pages(2) and no merging at all.  One such
 * accident is forgiven there.
 */
static void guests_count_while_merged(void)
{
	int dom = domain_open("");

	if (!guests_count(dom) && !(cpu_is_emulated() && guests_count(dom)))
		FAIL("a guest left");
}

/* ---- load, merge, run: what a VMM does --------------------------------- */

static struct guest loaded;

static long op_guest_load(struct region *r, const long *arg UNUSED)
{
	guest_create(&loaded);
	*r = loaded.mem;
	return (long)loaded.mem.addr;
}

/* Runs the guest until it has counted at least twice more in every page. */
static long op_guest_runs_on(struct region *r, const long *arg UNUSED)
{
	u64 from = guest_verify(&loaded), to = from;

	for (int i = 0; i < 200 && (uint16_t)(to - from) < 2; i++) {
		guest_start(&loaded);
		sleep_ms(50);
		guest_stop(&loaded);
		CHECK_EQ(atomic_load(&loaded.left), 0);
		atomic_store(&loaded.stop, false);
		to = guest_verify(&loaded);
	}
	CHECK_OP((uint16_t)(to - from), >=, 2);
	*r = loaded.mem;
	return 0;
}

/* One guest runs; the other's memory, loaded and merged, must not change. */
static void guest_writes_after_merge(void)
{
	int dom = domain_open("");
	struct peer p[3];

	for (int i = 0; i < 3; i++) {
		p[i] = peer_start(PAGES);
		p[i].addr = (unsigned char *)peer_call(&p[i], op_guest_load);
		merge(dom, p[i].pidfd, p[i].addr, PAGES * PAGE_SIZE);
	}
	check_shared(&p[0], &p[1], 0, PAGES);
	check_shared(&p[0], &p[2], 0, PAGES);
	for (int i = 0; i < 3; i++) {
		peer_call(&p[i], op_guest_runs_on);
		peers_verify(p, 3);
		/* The code was only read: it is shared still. */
		check_shared(&p[0], &p[2], 0, 1);
		check_private(p[i].pid, peer_page(&p[i], 1), PAGES - 1);
	}
	/* Merged again in between, run again: the same must hold. */
	for (int i = 0; i < 3; i++) {
		merge(dom, p[i].pidfd, p[i].addr, PAGES * PAGE_SIZE);
		peer_migrate(&p[i], 0);
		peer_call(&p[i], op_guest_runs_on);
		peers_verify(p, 3);
	}
	check_shared(&p[0], &p[1], 0, 1);
}

const struct test tests_kvm[] = {
	{ "kvm_guest_writes_after_merge", guest_writes_after_merge, 0 },
	{ "kvm_guests_count_while_merged", guests_count_while_merged, 0 },
	{ NULL, NULL, 0 },
};
