// SPDX-License-Identifier: MIT
/*
 * Whatever way bytes get into a merged page, others must not see them: plain
 * stores, system calls, a debugger, another process, with and without write
 * permission in the page table.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

#define N 16

/* Writes the word @val at @word of @page of the peer, and sets its model. */
typedef void (*write_fn)(const struct peer *p, size_t page, int word, u64 val);

static long op_model_patch(struct region *r, const long *arg)
{
	region_model_patch(r, arg[0], arg[1], arg[2]);
	return 0;
}

static void *target(const struct peer *p, size_t page, int word)
{
	return (char *)peer_page(p, page) + word * sizeof(u64);
}

static long op_read(struct region *r, const long *arg)
{
	u64 val = arg[2], *dst = (u64 *)region_page(r, arg[0]) + arg[1];
	int fd[2];

	SYS(pipe(fd));
	CHECK_EQ(write(fd[1], &val, sizeof(val)), sizeof(val));
	CHECK_EQ(SYS(read(fd[0], dst, sizeof(*dst))), sizeof(*dst));
	close(fd[0]);
	close(fd[1]);
	region_model_patch(r, arg[0], arg[1], val);
	return 0;
}

static void by_read(const struct peer *p, size_t page, int word, u64 val)
{
	peer_call(p, op_read, page, word, val);
}

static long op_recv(struct region *r, const long *arg)
{
	u64 val = arg[2], *dst = (u64 *)region_page(r, arg[0]) + arg[1];
	int fd[2];

	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
	CHECK_EQ(write(fd[1], &val, sizeof(val)), sizeof(val));
	CHECK_EQ(SYS(recv(fd[0], dst, sizeof(*dst), 0)), sizeof(*dst));
	close(fd[0]);
	close(fd[1]);
	region_model_patch(r, arg[0], arg[1], val);
	return 0;
}

static void by_recv(const struct peer *p, size_t page, int word, u64 val)
{
	peer_call(p, op_recv, page, word, val);
}

/* The kernel's own compare-and-exchange on user memory. */
static long op_futex(struct region *r, const long *arg)
{
	int *dst = (int *)((u64 *)region_page(r, arg[0]) + arg[1]), dummy = 0;
	u64 was = *(volatile u64 *)dst;

	SYS(syscall(SYS_futex, &dummy, FUTEX_WAKE_OP, 0, 0, dst,
		    FUTEX_OP(FUTEX_OP_SET, arg[2] & 0x7ff, FUTEX_OP_CMP_EQ, 0)));
	region_model_patch(r, arg[0], arg[1],
			   (was & ~0xffffffffULL) | (arg[2] & 0x7ff));
	return 0;
}

static void by_futex(const struct peer *p, size_t page, int word, u64 val)
{
	peer_call(p, op_futex, page, word, val);
}

static long op_locked_add(struct region *r, const long *arg)
{
	u64 *dst = (u64 *)region_page(r, arg[0]) + arg[1];
	u64 was = *(volatile u64 *)dst;

	__atomic_fetch_add(dst, arg[2], __ATOMIC_SEQ_CST);
	region_model_patch(r, arg[0], arg[1], was + arg[2]);
	return 0;
}

static void by_locked_add(const struct peer *p, size_t page, int word, u64 val)
{
	peer_call(p, op_locked_add, page, word, val);
}

static void by_ptrace(const struct peer *p, size_t page, int word, u64 val)
{
	int status;

	SYS(ptrace(PTRACE_ATTACH, p->pid, NULL, NULL));
	CHECK_EQ(SYS(waitpid(p->pid, &status, 0)), p->pid);
	CHECK(WIFSTOPPED(status));
	SYS(ptrace(PTRACE_POKEDATA, p->pid, target(p, page, word), val));
	SYS(ptrace(PTRACE_DETACH, p->pid, NULL, NULL));
	peer_call(p, op_model_patch, page, word, val);
}

static void by_proc_mem(const struct peer *p, size_t page, int word, u64 val)
{
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", p->pid);
	fd = SYS(open(path, O_RDWR));
	CHECK_EQ(SYS(pwrite(fd, &val, sizeof(val),
			    (uintptr_t)target(p, page, word))), sizeof(val));
	close(fd);
	peer_call(p, op_model_patch, page, word, val);
}

static void by_vm_writev(const struct peer *p, size_t page, int word, u64 val)
{
	struct iovec from = { &val, sizeof(val) };
	struct iovec to = { target(p, page, word), sizeof(val) };

	CHECK_EQ(SYS(process_vm_writev(p->pid, &from, 1, &to, 1, 0)),
		 sizeof(val));
	peer_call(p, op_model_patch, page, word, val);
}

static const struct {
	const char *name;
	write_fn write;
	bool forced;		/* works without write permission */
} ways[] = {
	{ "store", peer_poke, false },
	{ "locked add", by_locked_add, false },
	{ "read", by_read, false },
	{ "recv", by_recv, false },
	{ "futex", by_futex, false },
	{ "process_vm_writev", by_vm_writev, false },
	{ "ptrace", by_ptrace, true },
	{ "/proc/PID/mem", by_proc_mem, true },
};

static void start_shared(struct peer *p, size_t n, int dom)
{
	for (size_t i = 0; i < n; i++) {
		p[i] = peer_start(N);
		peer_fill(&p[i], 0, N, 1, 1);
		peer_merge(&p[i], dom);
	}
	check_shared(&p[0], &p[n - 1], 0, N);
}

static void every_way_to_write(void)
{
	int dom = domain_open("");
	struct peer p[3];

	start_shared(p, 3, dom);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		/* The first owner on one page, a later sharer on another. */
		ways[i].write(&p[0], 2 * i, 8, 0x1000 + i);
		CHECK_OP(peer_frame(&p[0], 2 * i), !=, peer_frame(&p[1], 2 * i));
		peers_verify(p, 3);
		ways[i].write(&p[1], 2 * i + 1, 9, 0x2000 + i);
		CHECK_OP(peer_frame(&p[1], 2 * i + 1), !=,
			 peer_frame(&p[2], 2 * i + 1));
		peers_verify(p, 3);
		check_shared(&p[1], &p[2], 2 * i, 1);
		check_shared(&p[0], &p[2], 2 * i + 1, 1);
	}
	peer_merge(&p[0], dom);
	peers_verify(p, 3);
}

static void forced_write_to(int prot)
{
	int dom = domain_open("");
	struct peer p[2];

	start_shared(p, 2, dom);
	CHECK_EQ(peer_mprotect(&p[0], 0, N, prot), 0);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		if (ways[i].forced)
			ways[i].write(&p[0], i, 5, 0x3000 + i);
	CHECK_EQ(peer_mprotect(&p[0], 0, N, PROT_READ | PROT_WRITE), 0);
	peers_verify(p, 2);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		if (!ways[i].forced)
			check_shared(&p[0], &p[1], i, 1);
		else
			CHECK_OP(peer_frame(&p[0], i), !=, peer_frame(&p[1], i));
}

static void forced_write_to_read_only(void)
{
	forced_write_to(PROT_READ);
}

static void forced_write_to_no_access(void)
{
	forced_write_to(PROT_NONE);
}

/* write(2) out of merged memory. */
static long op_write_out(struct region *r, const long *arg UNUSED)
{
	int fd = SYS(memfd_create("out", 0));
	char buf[PAGE_SIZE];

	CHECK_EQ(SYS(write(fd, r->addr, region_bytes(r))), region_bytes(r));
	for (size_t i = 0; i < r->pages; i++) {
		CHECK_EQ(SYS(pread(fd, buf, sizeof(buf), i * PAGE_SIZE)),
			 PAGE_SIZE);
		CHECK_EQ(page_diff(buf, r->seed[i]), -1);
	}
	close(fd);
	return 0;
}

/* Reading through the kernel must not unshare, and must read right. */
static void kernel_reads_keep_sharing(void)
{
	int dom = domain_open("");
	char buf[PAGE_SIZE], path[40];
	struct peer p[2];
	int fd;

	start_shared(p, 2, dom);
	snprintf(path, sizeof(path), "/proc/%d/mem", p[0].pid);
	fd = SYS(open(path, O_RDONLY));
	for (size_t page = 0; page < N; page++) {
		CHECK_EQ(SYS(pread(fd, buf, sizeof(buf),
				   (uintptr_t)peer_page(&p[0], page))),
			 PAGE_SIZE);
		CHECK_EQ(page_diff(buf, 1 + page), -1);
	}
	close(fd);
	peer_call(&p[0], op_write_out);
	check_shared(&p[0], &p[1], 0, N);
	/* This one pins the page to read it, which may well unshare it. */
	for (size_t page = 0; page < N; page++) {
		struct iovec to = { buf, sizeof(buf) };
		struct iovec from = { peer_page(&p[0], page), sizeof(buf) };

		CHECK_EQ(SYS(process_vm_readv(p[0].pid, &to, 1, &from, 1, 0)),
			 PAGE_SIZE);
		CHECK_EQ(page_diff(buf, 1 + page), -1);
	}
	peers_verify(p, 2);
}

const struct test tests_write[] = {
	{ "every_way_to_write", every_way_to_write, 0 },
	{ "forced_write_to_read_only", forced_write_to_read_only, 0 },
	{ "forced_write_to_no_access", forced_write_to_no_access, 0 },
	{ "kernel_reads_keep_sharing", kernel_reads_keep_sharing, 0 },
	{ NULL, NULL, 0 },
};
