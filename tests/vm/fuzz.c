// SPDX-License-Identifier: MIT
/*
 * fuzz: random programs against /dev/dksm, guided by what they execute of mm/dksm.
 *
 * A program is a list of operations, one a line of text: calls of /dev/dksm, right
 * and wrong, and what else a process can do to its memory meanwhile.  It runs in a
 * process of its own, which may fork, with a time limit.  Each call must have one of
 * the results that <linux/dksm.h> gives for just these arguments, reports must add
 * up, and memory must hold what a model says.  The first finding ends the run.
 *
 * With KCOV each process notes the pairs of program counters that it executed one
 * after the other; programs with new pairs are kept and changed further.
 *
 * What a process knows is in @me: it is lost with the process, and children inherit
 * it.  What all share is in @shared.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testlib.h"

#define OPS_MAX		64
#define ARGS_MAX	10
#define FDS		3
#define REGIONS		4
#define PAGES_MAX	576		/* more than a huge page */
#define HUGE_PAGES	(HUGE_SIZE / PAGE_SIZE)
#define REGION_BASE	0x200000000000UL
#define REGION_SPAN	(1UL << 30)
#define ADDRESS_END	(0x800000000000UL - PAGE_SIZE)
#define NOBODY		65534
#define PROCESSES_MAX	4		/* of one program */
#define PROGRAM_MS	60000
#define KEPT_MAX	2048
#define SWAP_DEVICE	"/dev/zram0"	/* of swap_start() */
#define LAST		4		/* programs written before they run */
#define POISON		0xa5

#define KCOV_FILE	"/sys/kernel/debug/kcov"
#define KCOV_INIT_TRACE	_IOR('c', 1, unsigned long)
#define KCOV_ENABLE	_IO('c', 100)
#define KCOV_ENTRIES	(1UL << 17)

#define ULL(x)		((unsigned long long)(x))
#define BIT(n)		(1ULL << (n))

struct op {
	unsigned int kind;
	u64 arg[ARGS_MAX];
};

struct program {
	unsigned int n;
	struct op op[OPS_MAX];
};

/* A set of 32-bit numbers other than 0 to which all processes add. */
struct table {
	atomic_uint n;
	atomic_uint slot[1 << 17];
};

static struct shared {
	struct table pcs, pairs;
	atomic_uint processes;		/* of this program so far, peers excepted */
	atomic_uint news;		/* pairs that it was the first to execute */
	atomic_bool kill_expected;
	atomic_ullong ops;
	struct program kept[KEPT_MAX];	/* not for the processes to copy */
} *shared;

static struct {
	unsigned int seconds;
	u64 seed;
	const char *seeds, *keep;
	bool trace;
} opt = { .seconds = 60 };

/* ---- words of the language --------------------------------------------- */

#define STRINGS(...)	((const char *const[]){ __VA_ARGS__ })
#define WORDS(...)	{ .words = STRINGS(__VA_ARGS__), \
			  .limit = ARRAY_SIZE(STRINGS(__VA_ARGS__)) }
#define NUMBERS(n)	{ .limit = n }

enum { CMD_INFO, CMD_DOMAIN, CMD_MERGE, CMD_UNMERGE, CMD_ATTACH, CMD_DETACH };
enum {
	WHO_SELF, WHO_ME, WHO_PEER, WHO_PARENT, WHO_DEAD, WHO_ZOMBIE, WHO_KTHREAD,
	WHO_NEGATIVE, WHO_CLOSED, WHO_FILE, WHO_DEVICE, WHO_NR
};
enum {
	WHERE_GOOD, WHERE_TAIL, WHERE_NULL, WHERE_KERNEL, WHERE_HOLE, WHERE_END,
	WHERE_READONLY, WHERE_REGION
};
enum { MAP_KIND_PRIVATE, MAP_KIND_SHARED, MAP_KIND_FILE, MAP_KIND_HUGE };
enum { FORK_CHILD, FORK_BOTH };
enum { PEER_PLAIN, PEER_OTHER, PEER_USER };
enum { END_EXIT, END_KILL, END_EXEC };
enum {
	RACE_UNMAP, RACE_ZERO, RACE_DISCARD, RACE_WRITE, RACE_FORK, RACE_MERGE,
	RACE_UNMERGE, RACE_EXIT, RACE_KILL
};
enum { STAT_PROCESS, STAT_GLOBAL, STAT_DOMAIN };

enum arg_type {
	ARG_NONE, ARG_FD, ARG_REGION, ARG_FIRST, ARG_PAGES, ARG_SEED, ARG_STEP,
	ARG_WORD, ARG_DELAY, ARG_NUMBER, ARG_SIZE, ARG_ADDRESS, ARG_NAME,
	ARG_DOMAIN_FLAGS, ARG_ATTACH_FLAGS, ARG_WHO, ARG_CMD, ARG_WHERE, ARG_MAP,
	ARG_PROT, ARG_ADVICE, ARG_FORK, ARG_PEER, ARG_END, ARG_RACE, ARG_STAT,
	ARG_KNOB
};

/* Without a limit: any number. */
static const struct arg_kind {
	const char *const *words;
	u64 limit;
} arg_kinds[] = {
	[ARG_FD] = NUMBERS(FDS),
	[ARG_REGION] = NUMBERS(REGIONS),
	[ARG_FIRST] = NUMBERS(PAGES_MAX),
	[ARG_PAGES] = NUMBERS(PAGES_MAX + 1),
	[ARG_SEED] = NUMBERS(8),
	[ARG_STEP] = NUMBERS(2),
	[ARG_WORD] = NUMBERS(PAGE_SIZE / 8),
	[ARG_DELAY] = NUMBERS(2000),
	[ARG_NUMBER] = NUMBERS(0),
	[ARG_SIZE] = NUMBERS(0),
	[ARG_ADDRESS] = NUMBERS(0),
	[ARG_NAME] = WORDS("a", "b", "other", "empty", "hidden", "slash", "long",
			   "longest"),
	[ARG_DOMAIN_FLAGS] = WORDS("join", "create", "excl", "create_excl", "fresh",
				   "create_fresh", "excl_fresh",
				   "create_excl_fresh", "untrusted",
				   "create_untrusted", "excl_untrusted",
				   "create_excl_untrusted", "fresh_untrusted",
				   "create_fresh_untrusted",
				   "excl_fresh_untrusted",
				   "create_excl_fresh_untrusted"),
	[ARG_ATTACH_FLAGS] = WORDS("all", "no_idle", "no_learn",
				   "no_idle_no_learn", "no_vmm", "no_idle_no_vmm",
				   "no_learn_no_vmm", "no_idle_no_learn_no_vmm"),
	[ARG_WHO] = WORDS("self", "me", "peer", "parent", "dead", "zombie",
			  "kthread", "negative", "closed", "file", "device"),
	[ARG_CMD] = WORDS("info", "domain", "merge", "unmerge", "attach", "detach",
			  "next", "iowr", "tcgets", "ones"),
	[ARG_WHERE] = WORDS("good", "tail", "null", "kernel", "hole", "end",
			    "readonly", "region"),
	[ARG_MAP] = WORDS("private", "shared", "file", "huge"),
	[ARG_PROT] = WORDS("none", "read", "write"),
	[ARG_ADVICE] = WORDS("dontneed", "pageout", "cold", "collapse", "mergeable",
			     "unmergeable", "hugepage", "nohugepage", "populate"),
	[ARG_FORK] = WORDS("child", "both"),
	[ARG_PEER] = WORDS("plain", "other", "user"),
	[ARG_END] = WORDS("exit", "kill", "exec"),
	[ARG_RACE] = WORDS("unmap", "zero", "discard", "write", "fork", "merge",
			   "unmerge", "exit", "kill"),
	[ARG_STAT] = WORDS("process", "global", "domain"),
	[ARG_KNOB] = WORDS("max_page_sharing", "use_zero_pages",
			   "merge_across_nodes", "learn", "load_pages",
			   "huge_min", "busy_percent"),
};

static const char *const domain_names[] = {
	"fuzz.a", "fuzz-b", "fuzz_other", "", ".hidden", "a/b",
	"0123456789012345678901234567890123456789012345678901234567890123",
	"012345678901234567890123456789012345678901234567890123456789012",
};
enum { NAME_OTHER = 2, NAME_BAD_FIRST, NAME_BAD_LAST = 6 };

/* ---- a process of a program -------------------------------------------- */

enum prot { NOT_MAPPED, PROT_KIND_NONE, PROT_KIND_READ, PROT_KIND_WRITE };

/* @r models the contents; SEED_ANY where nobody knows. */
struct memory {
	struct region r;
	unsigned char prot[PAGES_MAX];	/* enum prot */
	bool shared[PAGES_MAX];
};

struct span {
	struct memory *m;
	size_t first, n;
};

/* What a second thread does during the next call. */
struct race {
	int what, fd;
	struct span span;
	u64 seed, delay;
};

enum { UNBOUND = -1, NOBODYS = -1 };

/*
 * @alone: no other process can have changed what we know of descriptors and of our
 * domain.
 */
static struct {
	int fd[FDS];
	int domain[FDS];	/* number of the name, or UNBOUND */
	int member;		/* likewise, or NOBODYS */
	bool attached;
	bool alone;
	bool user;
	unsigned int depth;	/* forks since the program began */
	struct memory mem[REGIONS];
	unsigned char *arg, *arg_readonly;
	struct race race;
	bool race_set;
	pid_t peer, child;
	int peer_end;		/* closed when the peer is to end */
	int who[WHO_NR];	/* pidfds and other descriptors */
	const struct program *program;
	unsigned int at;
	u64 *cover;
} me;

static unsigned char *page_of(const struct memory *m, size_t page)
{
	return region_page(&m->r, page);
}

static struct span span_of(u64 region, u64 first, u64 n)
{
	struct span s = { &me.mem[region], first, n };

	if (s.n > PAGES_MAX - s.first)
		s.n = PAGES_MAX - s.first;
	return s;
}

static bool span_is_mapped(struct span s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.m->prot[s.first + i] == NOT_MAPPED)
			return false;
	return true;
}

static void model_unmap(struct span s)
{
	memset(&s.m->prot[s.first], NOT_MAPPED, s.n);
	region_model(&s.m->r, s.first, s.n, SEED_ANY, 0);
}

static void model_map(struct span s, bool is_shared)
{
	memset(&s.m->prot[s.first], PROT_KIND_WRITE, s.n);
	memset(&s.m->shared[s.first], is_shared, s.n);
	region_model(&s.m->r, s.first, s.n, SEED_ZERO, 0);
}

static void span_fill(struct span s, u64 seed, u64 step)
{
	for (size_t i = s.first; i < s.first + s.n; i++)
		if (s.m->prot[i] == PROT_KIND_WRITE)
			region_fill(&s.m->r, i, 1, (seed + (i - s.first) * step) % 8, 0);
}

static void verify(void)
{
	for (struct memory *m = me.mem; m < me.mem + REGIONS; m++)
		for (size_t i = 0; i < PAGES_MAX; i++) {
			if (m->prot[i] == NOT_MAPPED || m->r.seed[i] == SEED_ANY)
				continue;
			if (m->prot[i] == PROT_KIND_NONE)
				SYS(mprotect(page_of(m, i), PAGE_SIZE, PROT_READ));
			region_verify_range(&m->r, i, 1);
		}
}

/* ---- coverage ---------------------------------------------------------- */

static int kcov_fd[PROCESSES_MAX];
static u64 *kcov_trace[PROCESSES_MAX];	/* the number, then the program counters */

static bool kcov_setup(void)
{
	if (access(KCOV_FILE, F_OK))
		mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	for (int i = 0; i < PROCESSES_MAX; i++) {
		kcov_fd[i] = open(KCOV_FILE, O_RDWR | O_CLOEXEC);
		if (kcov_fd[i] < 0)
			return false;
		SYS(ioctl(kcov_fd[i], KCOV_INIT_TRACE, KCOV_ENTRIES));
		kcov_trace[i] = SYS(mmap(NULL, KCOV_ENTRIES * sizeof(u64),
					 PROT_READ | PROT_WRITE, MAP_SHARED,
					 kcov_fd[i], 0));
	}
	return true;
}

/* True if it is new.  A full table learns nothing more. */
static bool table_add(struct table *t, uint32_t key)
{
	uint32_t i = key * 0x9e3779b1U >> 15;

	for (size_t tries = 0; tries < 64; tries++, i++) {
		atomic_uint *slot = &t->slot[i % ARRAY_SIZE(t->slot)];
		unsigned int old = 0;

		if (atomic_compare_exchange_strong(slot, &old, key)) {
			atomic_fetch_add(&t->n, 1);
			return true;
		}
		if (old == key)
			return false;
	}
	return false;
}

static void cover_begin(void)
{
	unsigned int i = atomic_fetch_add(&shared->processes, 1);

	me.cover = NULL;
	if (i >= PROCESSES_MAX || !kcov_trace[i] ||
	    ioctl(kcov_fd[i], KCOV_ENABLE, 0))
		return;
	me.cover = kcov_trace[i];
	me.cover[0] = 0;
}

static void cover_collect(void)
{
	uint32_t last = 0;

	for (u64 i = 1; me.cover && i <= me.cover[0]; i++) {
		uint32_t pc = me.cover[i];

		if (table_add(&shared->pairs, (last * 31 ^ pc) | 1)) {
			table_add(&shared->pcs, pc);
			atomic_fetch_add(&shared->news, 1);
		}
		last = pc;
	}
	if (me.cover)
		me.cover[0] = 0;
}

/* ---- a race ------------------------------------------------------------ */

static void range_do(struct span s, int fd, unsigned long cmd)
{
	dksm_range(fd, cmd, DKSM_SELF, page_of(s.m, s.first), s.n * PAGE_SIZE, NULL);
}

static _Noreturn void end_by_kill(void)
{
	atomic_store(&shared->kill_expected, true);
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

static void *race_run(void *arg)
{
	const struct race *race = arg;
	struct span s = race->span;
	void *p = page_of(s.m, s.first);
	size_t len = s.n * PAGE_SIZE;
	pid_t pid;

	for (volatile u64 i = 0; i < race->delay * 16; i++)
		;
	switch (race->what) {
	case RACE_UNMAP:
		munmap(p, len);
		break;
	case RACE_ZERO:
		if (len)
			SYS(mmap(p, len, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		break;
	case RACE_DISCARD:
		madvise(p, len, MADV_DONTNEED);
		break;
	case RACE_WRITE:
		span_fill(s, race->seed, 1);
		break;
	case RACE_FORK:
		pid = fork();
		if (!pid)
			_exit(EXIT_OK);
		waitpid(pid, NULL, 0);
		break;
	case RACE_MERGE:
		range_do(s, race->fd, DKSM_IOC_MERGE);
		break;
	case RACE_UNMERGE:
		range_do(s, race->fd, DKSM_IOC_UNMERGE);
		break;
	case RACE_EXIT:
		_exit(EXIT_OK);
	case RACE_KILL:
		end_by_kill();
	}
	return NULL;
}

static void model_discard(struct span s)
{
	for (size_t i = s.first; i < s.first + s.n; i++)
		if (s.m->prot[i] != NOT_MAPPED && !s.m->shared[i])
			region_model(&s.m->r, i, 1, SEED_ZERO, 0);
}

static void race_model(const struct race *race)
{
	if (race->what == RACE_UNMAP)
		model_unmap(race->span);
	else if (race->what == RACE_ZERO)
		model_map(race->span, false);
	else if (race->what == RACE_DISCARD)
		model_discard(race->span);
}

/* ---- calls of /dev/dksm ------------------------------------------------ */

static const struct {
	unsigned long nr;
	size_t size;
	u64 errors;		/* those that every call can return come on top */
} cmds[] = {
	[CMD_INFO] = { DKSM_IOC_INFO, sizeof(struct dksm_info), 0 },
	[CMD_DOMAIN] = { DKSM_IOC_DOMAIN, sizeof(struct dksm_domain_args),
			 BIT(ENOENT) | BIT(EEXIST) | BIT(EACCES) | BIT(EBUSY) |
			 BIT(ENOMEM) },
#define ATTACH_ERRORS	(BIT(EBADF) | BIT(ESRCH) | BIT(EACCES) | BIT(EPERM) | \
			 BIT(ENOENT) | BIT(EXDEV) | BIT(ENOMEM) | BIT(EINTR))
	[CMD_MERGE] = { DKSM_IOC_MERGE, sizeof(struct dksm_range_args),
			ATTACH_ERRORS },
	[CMD_UNMERGE] = { DKSM_IOC_UNMERGE, sizeof(struct dksm_range_args),
			  ATTACH_ERRORS },
	[CMD_ATTACH] = { DKSM_IOC_ATTACH, sizeof(struct dksm_attach_args),
			 ATTACH_ERRORS },
	[CMD_DETACH] = { DKSM_IOC_DETACH, sizeof(struct dksm_attach_args),
			 ATTACH_ERRORS },
	/* No such calls. */
	{ _IO(DKSM_IOC_MAGIC, 6), 0, 0 },
	{ _IOWR(DKSM_IOC_MAGIC, 2, struct dksm_range_args), 0, 0 },
	{ 0x5401, 0, 0 },
	{ ~0UL, 0, 0 },
};
#define ALWAYS_ERRORS	(BIT(EFAULT) | BIT(EINVAL) | BIT(E2BIG) | BIT(ENOTTY))

struct call {
	int fd;			/* number of the descriptor */
	int cmd, who, where;
	uint32_t size, flags, reserved;
	u64 addr, len;
	int name;
};

union args {
	struct {
		uint32_t size, flags;
	};
	struct dksm_info info;
	struct dksm_domain_args domain;
	struct dksm_range_args range;
	struct dksm_attach_args attach;
};

static bool call_is_known(const struct call *c)
{
	return cmds[c->cmd].size;
}

static bool call_is_range(const struct call *c)
{
	return c->cmd == CMD_MERGE || c->cmd == CMD_UNMERGE;
}

static bool call_is_attach(const struct call *c)
{
	return c->cmd == CMD_ATTACH || c->cmd == CMD_DETACH;
}

static bool call_has_who(const struct call *c)
{
	return call_is_range(c) || call_is_attach(c);
}

static bool call_is_whole(const struct call *c)
{
	return !c->addr && !c->len;
}

static bool call_on_self(const struct call *c)
{
	return c->who == WHO_SELF || c->who == WHO_ME;
}

static union args args_of(const struct call *c)
{
	union args a;

	memset(&a, 0, sizeof(a));
	if (c->cmd == CMD_DOMAIN)
		memcpy(a.domain.name, domain_names[c->name],
		       strnlen(domain_names[c->name], DKSM_NAME_SIZE));
	else if (call_is_range(c))
		a.range = (struct dksm_range_args){
			.pidfd = me.who[c->who], .reserved = c->reserved,
			.addr = c->addr, .len = c->len,
		};
	else if (call_is_attach(c))
		a.attach = (struct dksm_attach_args){
			.pidfd = me.who[c->who], .reserved = c->reserved,
		};
	if (call_is_range(c))
		memset(&a.range.report, POISON, sizeof(a.range.report));
	a.size = c->size;
	a.flags = c->flags;
	return a;
}

/* Where the kernel is told to find @a. */
static void *args_place(struct call *c, const union args *a)
{
	size_t size = cmds[c->cmd].size;
	struct memory *m = &me.mem[0];
	unsigned char *p = me.arg;

	if (c->where == WHERE_REGION && m->prot[0] != PROT_KIND_WRITE)
		c->where = WHERE_GOOD;
	switch (c->where) {
	case WHERE_NULL:
		return NULL;
	case WHERE_KERNEL:
		return (void *)0xffff888000000000;
	case WHERE_HOLE:
		return (void *)0x0000900000000000;
	case WHERE_END:
		size = size / 2 & ~3UL;
		p = me.arg + 2 * PAGE_SIZE - size;
		break;
	case WHERE_READONLY:
		p = me.arg_readonly;
		SYS(mprotect(p, PAGE_SIZE, PROT_READ | PROT_WRITE));
		memset(p, 0, PAGE_SIZE);
		break;
	case WHERE_REGION:
		p = page_of(m, 0);
		memset(p, 0, PAGE_SIZE);
		region_model(&m->r, 0, 1, SEED_ANY, 0);
		break;
	default:
		memset(p, 0, 2 * PAGE_SIZE);
		p[size] = c->where == WHERE_TAIL;
	}
	memcpy(p, a, size);
	if (c->where == WHERE_READONLY)
		SYS(mprotect(p, PAGE_SIZE, PROT_READ));
	return p;
}

/* ---- what must come of a call ------------------------------------------ */

static u64 wrong_pointer(const struct call *c)
{
	switch (c->where) {
	case WHERE_NULL:
	case WHERE_KERNEL:
	case WHERE_HOLE:
	case WHERE_END:
		return BIT(EFAULT);
	default:
		return 0;
	}
}

static u64 wrong_size(const struct call *c)
{
	if (c->size < cmds[c->cmd].size)
		return BIT(EINVAL);
	if (c->size > PAGE_SIZE ||
	    (c->size > cmds[c->cmd].size && c->where == WHERE_TAIL))
		return BIT(E2BIG);
	return 0;
}

static u64 wrong_who(const struct call *c)
{
	switch (c->who) {
	case WHO_NEGATIVE:
	case WHO_CLOSED:
	case WHO_FILE:
	case WHO_DEVICE:
		return BIT(EBADF);
	case WHO_DEAD:
	case WHO_ZOMBIE:
		return BIT(ESRCH);
	case WHO_KTHREAD:
		return BIT(EINVAL);
	default:
		return 0;
	}
}

static u64 wrong_range(const struct call *c)
{
	if (call_is_whole(c))
		return 0;
	return !c->len || c->addr % PAGE_SIZE || c->len % PAGE_SIZE ||
	       c->addr > ADDRESS_END || c->len > ADDRESS_END - c->addr ?
	       BIT(EINVAL) : 0;
}

static u64 wrong_domain(const struct call *c)
{
	u64 wrong = 0;

	if (c->flags & ~15U ||
	    (c->flags & (DKSM_DOMAIN_CREATE | DKSM_DOMAIN_EXCL)) == DKSM_DOMAIN_EXCL ||
	    (c->name >= NAME_BAD_FIRST && c->name <= NAME_BAD_LAST))
		wrong |= BIT(EINVAL);
	if (me.domain[c->fd] != UNBOUND)
		wrong |= BIT(EBUSY);
	return wrong;
}

/* The errors that are due, whatever the state: one of them must be returned. */
static u64 errors_due(const struct call *c)
{
	u64 wrong = wrong_pointer(c) | wrong_size(c);

	if (c->cmd == CMD_DOMAIN)
		return wrong | wrong_domain(c);
	if (c->flags & ~(c->cmd == CMD_ATTACH ? 7U : 0U))
		wrong |= BIT(EINVAL);
	if (call_has_who(c))
		wrong |= wrong_who(c) | (c->reserved ? BIT(EINVAL) : 0);
	if (call_is_range(c))
		wrong |= wrong_range(c);
	return wrong;
}

/* Which of ENOMEM and 0, as bits: are there holes in the range? */
static u64 outcome_of_holes(const struct call *c)
{
	u64 region = (c->addr - REGION_BASE) / REGION_SPAN;
	u64 first = (c->addr - REGION_BASE) % REGION_SPAN / PAGE_SIZE;
	u64 n = c->len / PAGE_SIZE;

	if (!call_is_range(c) || call_is_whole(c))
		return BIT(0);
	if (!call_on_self(c) || c->addr < REGION_BASE || region >= REGIONS ||
	    n > REGION_SPAN / PAGE_SIZE - first)
		return BIT(0) | BIT(ENOMEM);
	if (first + n <= PAGES_MAX && span_is_mapped(span_of(region, first, n)))
		return BIT(0);
	return BIT(ENOMEM);
}

static u64 outcomes_of_domain(const struct call *c)
{
	u64 may = BIT(0);

	if (!(c->flags & DKSM_DOMAIN_CREATE))
		may |= BIT(ENOENT);
	if (c->flags & DKSM_DOMAIN_EXCL)
		may |= BIT(EEXIST);
	if (c->flags & (DKSM_DOMAIN_FRESH_FRAMES | DKSM_DOMAIN_UNTRUSTED))
		may |= BIT(EINVAL);
	if (me.user)
		may |= BIT(EACCES);
	/* Our child, or parent, may have bound the descriptor. */
	return me.alone ? may : may | BIT(EBUSY);
}

static u64 outcomes_of_joining(const struct call *c, u64 done)
{
	int domain = me.domain[c->fd];

	if (me.alone && call_on_self(c)) {
		if (domain == UNBOUND && me.member == NOBODYS)
			return BIT(ENOENT);
		if (domain == UNBOUND)
			return me.user ? done | BIT(EACCES) : done;
		return me.member == NOBODYS || me.member == domain ? done : BIT(EXDEV);
	}
	done |= BIT(ENOENT) | BIT(EXDEV);
	if (me.user)
		done |= BIT(EACCES) | BIT(EPERM);
	return call_on_self(c) ? done : done | BIT(ESRCH);
}

static u64 outcomes_of_detaching(const struct call *c)
{
	u64 may = BIT(0) | BIT(ENOENT);

	if (me.alone && call_on_self(c))
		may = me.attached ? BIT(0) : BIT(ENOENT);
	if (me.user)
		may |= BIT(EACCES) | BIT(EPERM);
	return call_on_self(c) ? may : may | BIT(ESRCH);
}

static u64 outcomes_of_unmerging(const struct call *c)
{
	u64 may = outcome_of_holes(c);

	if (call_on_self(c))
		return may;
	return may | BIT(ESRCH) | (me.user ? BIT(EACCES) | BIT(EPERM) : 0);
}

/* What a call with right arguments may return. */
static u64 outcomes(const struct call *c)
{
	switch (c->cmd) {
	case CMD_INFO:
		return BIT(0);
	case CMD_DOMAIN:
		return outcomes_of_domain(c);
	case CMD_MERGE:
		return outcomes_of_joining(c, outcome_of_holes(c));
	case CMD_UNMERGE:
		return outcomes_of_unmerging(c);
	case CMD_ATTACH:
		return outcomes_of_joining(c, BIT(0));
	default:
		return outcomes_of_detaching(c);
	}
}

static u64 outcomes_allowed(const struct call *c)
{
	const u64 done = BIT(0) | BIT(ENOMEM);
	bool writes = c->cmd == CMD_INFO || call_is_range(c);
	u64 may;

	if (!call_is_known(c))
		return BIT(ENOTTY);
	/* What is written there meanwhile may be the arguments. */
	if (me.race_set && c->where == WHERE_REGION)
		return cmds[c->cmd].errors | ALWAYS_ERRORS | done;
	may = errors_due(c);
	if (may && call_is_range(c) && c->where == WHERE_READONLY)
		may |= BIT(EFAULT);
	if (may && c->cmd == CMD_DOMAIN && !me.alone)
		may |= BIT(EBUSY);
	if (may)
		return may;
	may = outcomes(c);
	if (me.race_set && may & done)
		may |= done;
	/* The report cannot be written. */
	if (writes && c->where == WHERE_READONLY)
		may = (may & ~done) | BIT(EFAULT);
	return may;
}

static const char *error_name(int err)
{
	return err ? strerrorname_np(err) : "success";
}

static void outcome_check(const struct call *c, u64 allowed, int err)
{
	const char *name = arg_kinds[ARG_CMD].words[c->cmd];
	char want[120] = "";
	size_t n = 0;

	if (err && !((cmds[c->cmd].errors | ALWAYS_ERRORS) & BIT(err)))
		FAIL("op %u: %s: %s is not documented", me.at, name, error_name(err));
	if (allowed & BIT(err))
		return;
	for (int e = 0; e < 64 && n < sizeof(want); e++)
		if (allowed & BIT(e))
			n += snprintf(want + n, sizeof(want) - n, " %s", error_name(e));
	FAIL("op %u: %s: %s, but it must be one of%s", me.at, name, error_name(err),
	     want);
}

static bool report_is(const struct dksm_report *rep, unsigned char byte)
{
	const unsigned char *p = (const void *)rep;

	for (size_t i = 0; i < sizeof(*rep); i++)
		if (p[i] != byte)
			return false;
	return true;
}

static void report_of_work(const struct call *c, const struct dksm_report *rep)
{
	u64 shared_now = rep->merged + rep->published + rep->zero;

	if (c->cmd == CMD_MERGE) {
		CHECK_EQ(rep->scanned, shared_now + report_skipped(rep));
		CHECK_EQ(rep->unmerged, 0);
	} else {
		CHECK_EQ(shared_now, 0);
		CHECK_OP(rep->unmerged, <=, rep->scanned);
	}
	for (int i = DKSM_SKIP_NR; i < DKSM_SKIP_MAX; i++)
		CHECK_EQ(rep->skipped[i], 0);
	if (!call_is_whole(c))
		CHECK_OP(rep->scanned, <=, c->len / PAGE_SIZE);
}

/* May it be that the kernel did not get as far as having the arguments? */
static bool args_unread(const struct call *c, int err)
{
	return err == EFAULT || err == E2BIG || err == EBADF || err == ENOTTY ||
	       (err == EINVAL && c->size < cmds[c->cmd].size);
}

/* What the kernel has written, and what it has not. */
static void answer_check(const struct call *c, const union args *was,
			 const union args *is, int err)
{
	size_t in = cmds[c->cmd].size;

	if (c->cmd == CMD_INFO && !err) {
		CHECK_EQ(is->info.abi, DKSM_ABI_VERSION);
		CHECK_EQ(is->info.skip_nr, DKSM_SKIP_NR);
		CHECK_EQ(is->info.features, DKSM_FEATURE_KVM);
		in = offsetof(struct dksm_info, abi);
	} else if (call_is_range(c)) {
		in = offsetof(struct dksm_range_args, report);
		if (!err || err == ENOMEM)
			report_of_work(c, &is->range.report);
		else
			CHECK(report_is(&is->range.report, 0) ||
			      (args_unread(c, err) &&
			       report_is(&is->range.report, POISON)));
	}
	if (memcmp(was, is, in))
		FAIL("op %u: an input was written to", me.at);
}

/* Nothing is left that could be unmerged. */
static void unmerged_check(const struct call *c, int err)
{
	struct dksm_report rep;

	if (c->cmd != CMD_UNMERGE || (err && err != ENOMEM) || !me.alone ||
	    !call_on_self(c) || call_is_whole(c))
		return;
	dksm_range(me.fd[c->fd], DKSM_IOC_UNMERGE, DKSM_SELF, (void *)c->addr, c->len,
		   &rep);
	CHECK_EQ(rep.scanned, 0);
}

static void call_learn(const struct call *c, int err)
{
	bool worked = !err || err == ENOMEM ||
		      (err == EFAULT && c->where == WHERE_READONLY);

	if (c->cmd == CMD_DOMAIN && !err)
		me.domain[c->fd] = c->name;
	/* Who knows what became of it? */
	if ((c->who == WHO_PARENT && call_has_who(c)) ||
	    (err == EFAULT && c->where == WHERE_REGION) ||
	    (me.race_set && me.race.what == RACE_MERGE && me.member == NOBODYS))
		me.alone = false;
	if (!call_on_self(c))
		return;
	if ((c->cmd == CMD_MERGE && worked) || (c->cmd == CMD_ATTACH && !err))
		if (me.member == NOBODYS)
			me.member = me.domain[c->fd];
	if (call_is_attach(c) && !err)
		me.attached = c->cmd == CMD_ATTACH;
}

static void trace_call(const struct call *c, int err, const union args *a)
{
	const struct dksm_report *rep = &a->range.report;

	dprintf(STDERR_FILENO, "  op %u: %s: %s", me.at,
		arg_kinds[ARG_CMD].words[c->cmd], error_name(err));
	if (a && call_is_range(c) && (!err || err == ENOMEM))
		dprintf(STDERR_FILENO, ", scanned %llu merged %llu published %llu zero %llu unmerged %llu",
			ULL(rep->scanned), ULL(rep->merged), ULL(rep->published),
			ULL(rep->zero), ULL(rep->unmerged));
	dprintf(STDERR_FILENO, "\n");
}

/* A process that there is none of is oneself. */
static void call_resolve(struct call *c)
{
	if ((c->who == WHO_PEER || c->who == WHO_PARENT) && me.who[c->who] < 0)
		c->who = WHO_ME;
	me.race.fd = me.fd[c->fd];
}

static int call_raced(int fd, unsigned long nr, void *arg)
{
	pthread_t thread;
	int err;

	if (!me.race_set)
		return ioctl(fd, nr, arg) ? errno : 0;
	CHECK_EQ(pthread_create(&thread, NULL, race_run, &me.race), 0);
	err = ioctl(fd, nr, arg) ? errno : 0;
	pthread_join(thread, NULL);
	race_model(&me.race);
	return err;
}

static void call_run(struct call c)
{
	bool raced = me.race_set;
	union args was, *is;
	u64 allowed;
	int err;

	if (me.fd[c.fd] < 0)
		return;
	call_resolve(&c);
	was = args_of(&c);
	is = args_place(&c, &was);
	allowed = outcomes_allowed(&c);
	err = call_raced(me.fd[c.fd], cmds[c.cmd].nr, is);
	if (wrong_pointer(&c) || !call_is_known(&c) ||
	    (raced && c.where == WHERE_REGION))
		is = NULL;
	if (c.where == WHERE_REGION && me.mem[0].prot[0] != NOT_MAPPED)
		region_model(&me.mem[0].r, 0, 1, SEED_ANY, 0);
	if (opt.trace)
		trace_call(&c, err, is);
	outcome_check(&c, allowed, err);
	if (is)
		answer_check(&c, &was, is, err);
	call_learn(&c, err);
	if (!raced)
		unmerged_check(&c, err);
	me.race_set = false;
}

/* ---- operations -------------------------------------------------------- */

static void op_open(const u64 *a)
{
	int *fd = &me.fd[a[0]];

	if (*fd >= 0)
		close(*fd);
	*fd = open("/dev/dksm", O_RDWR | O_CLOEXEC);
	if (*fd < 0 && !(me.user && errno == EACCES))
		FAIL("op %u: open: %s", me.at, strerror(errno));
	me.domain[a[0]] = UNBOUND;
}

static void op_close(const u64 *a)
{
	if (me.fd[a[0]] >= 0)
		close(me.fd[a[0]]);
	me.fd[a[0]] = -1;
}

static void op_info(const u64 *a)
{
	call_run((struct call){
		.fd = a[0], .cmd = CMD_INFO, .size = sizeof(struct dksm_info),
	});
}

static void op_domain(const u64 *a)
{
	call_run((struct call){
		.fd = a[0], .cmd = CMD_DOMAIN, .name = a[1], .flags = a[2],
		.size = sizeof(struct dksm_domain_args),
	});
}

static void range_pages(int cmd, const u64 *a)
{
	call_run((struct call){
		.fd = a[0], .cmd = cmd, .who = a[1],
		.size = sizeof(struct dksm_range_args),
		.addr = REGION_BASE + a[2] * REGION_SPAN + a[3] * PAGE_SIZE,
		.len = a[4] * PAGE_SIZE,
	});
}

static void op_merge(const u64 *a)
{
	range_pages(CMD_MERGE, a);
}

static void op_unmerge(const u64 *a)
{
	range_pages(CMD_UNMERGE, a);
}

static void range_whole(int cmd, const u64 *a)
{
	call_run((struct call){
		.fd = a[0], .cmd = cmd, .who = a[1],
		.size = sizeof(struct dksm_range_args),
	});
}

static void op_merge_all(const u64 *a)
{
	range_whole(CMD_MERGE, a);
}

static void op_unmerge_all(const u64 *a)
{
	range_whole(CMD_UNMERGE, a);
}

static void op_attach(const u64 *a)
{
	call_run((struct call){
		.fd = a[0], .cmd = CMD_ATTACH, .who = a[1], .flags = a[2],
		.size = sizeof(struct dksm_attach_args),
	});
}

static void op_detach(const u64 *a)
{
	call_run((struct call){
		.fd = a[0], .cmd = CMD_DETACH, .who = a[1],
		.size = sizeof(struct dksm_attach_args),
	});
}

static void op_raw(const u64 *a)
{
	call_run((struct call){
		.fd = a[0], .cmd = a[1], .where = a[2], .size = a[3], .flags = a[4],
		.who = a[5], .reserved = a[6], .addr = a[7], .len = a[8],
		.name = a[9],
	});
}

static int map_file(size_t len)
{
	int fd = SYS(memfd_create("fuzz", MFD_CLOEXEC));

	SYS(ftruncate(fd, len));
	return fd;
}

static void op_map(const u64 *a)
{
	struct memory *m = &me.mem[a[0]];
	size_t n = a[1] ? a[1] : 1;
	int flags = MAP_FIXED, fd = -1;

	if (a[2] == MAP_KIND_HUGE && n < HUGE_PAGES)
		n = HUGE_PAGES;
	flags |= a[2] == MAP_KIND_SHARED ? MAP_SHARED : MAP_PRIVATE;
	if (a[2] == MAP_KIND_FILE)
		fd = map_file(n * PAGE_SIZE);
	else
		flags |= MAP_ANONYMOUS;
	SYS(munmap(m->r.addr, PAGES_MAX * PAGE_SIZE));
	model_unmap(span_of(a[0], 0, PAGES_MAX));
	SYS(mmap(m->r.addr, n * PAGE_SIZE, PROT_READ | PROT_WRITE, flags, fd, 0));
	if (fd >= 0)
		close(fd);
	if (a[2] == MAP_KIND_HUGE)
		madvise(m->r.addr, n * PAGE_SIZE, MADV_HUGEPAGE);
	model_map(span_of(a[0], 0, n), a[2] == MAP_KIND_SHARED);
}

static void op_fill(const u64 *a)
{
	span_fill(span_of(a[0], a[1], a[2]), a[3], a[4]);
}

static void op_write(const u64 *a)
{
	struct memory *m = &me.mem[a[0]];
	size_t page = a[1];

	if (m->prot[page] != PROT_KIND_WRITE ||
	    (m->r.patch_word[page] != -1 && m->r.patch_word[page] != (int)a[2]))
		return;
	region_poke(&m->r, page, a[2], a[3]);
}

static void op_unmap(const u64 *a)
{
	struct span s = span_of(a[0], a[1], a[2]);

	if (s.n)
		SYS(munmap(page_of(s.m, s.first), s.n * PAGE_SIZE));
	model_unmap(s);
}

static void model_move(struct span from, struct span to)
{
	for (size_t i = 0; i < from.n; i++) {
		size_t x = from.first + i, y = to.first + i;

		to.m->prot[y] = from.m->prot[x];
		to.m->shared[y] = from.m->shared[x];
		to.m->r.seed[y] = from.m->r.seed[x];
		to.m->r.patch_word[y] = from.m->r.patch_word[x];
		to.m->r.patch[y] = from.m->r.patch[x];
	}
	model_unmap(from);
}

/* What is at the target goes away even if the move fails. */
static void op_move(const u64 *a)
{
	struct span from = span_of(a[0], a[1], a[2]), to = span_of(a[3], a[4], a[2]);
	size_t len;

	if (from.m == to.m || !from.n || !to.n)
		return;
	from.n = to.n = from.n < to.n ? from.n : to.n;
	len = to.n * PAGE_SIZE;
	SYS(munmap(page_of(to.m, to.first), len));
	model_unmap(to);
	if (mremap(page_of(from.m, from.first), len, len, MREMAP_MAYMOVE | MREMAP_FIXED,
		   page_of(to.m, to.first)) != MAP_FAILED)
		model_move(from, to);
}

/* Page by page, since there may be holes. */
static void op_protect(const u64 *a)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	struct span s = span_of(a[0], a[1], a[2]);

	for (size_t i = s.first; i < s.first + s.n; i++) {
		if (s.m->prot[i] == NOT_MAPPED)
			continue;
		SYS(mprotect(page_of(s.m, i), PAGE_SIZE, prots[a[3]]));
		s.m->prot[i] = PROT_KIND_NONE + a[3];
	}
}

static void op_advise(const u64 *a)
{
	static const int advice[] = {
		MADV_DONTNEED, MADV_PAGEOUT, MADV_COLD, MADV_COLLAPSE, MADV_MERGEABLE,
		MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_POPULATE_READ,
	};
	struct span s = span_of(a[0], a[1], a[2]);

	madvise(page_of(s.m, s.first), s.n * PAGE_SIZE, advice[a[3]]);
	if (advice[a[3]] == MADV_DONTNEED)
		model_discard(s);
}

static void op_race(const u64 *a)
{
	me.race = (struct race){
		.what = a[0], .span = span_of(a[1], a[2], a[3]), .seed = a[4],
		.delay = a[5],
	};
	me.race_set = true;
}

static void op_stat(const u64 *a)
{
	static const char *const files[] = {
		"pages_shared", "pages_sharing", "pages_zero", "saved_bytes",
		"cow_breaks", "metadata_bytes", "merge_calls", "merge_ns", "idle_ns",
		"huge_split", "learned_volatile",
	};
	char path[160], name[DKSM_NAME_SIZE];

	if (me.user && a[0] != STAT_GLOBAL)
		return;
	if (a[0] == STAT_PROCESS) {
		dksm_process_domain(0, name);
		if (me.alone && strcmp(name, me.member == NOBODYS ? "" :
				       domain_names[me.member]))
			FAIL("op %u: in domain '%s'", me.at, name);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), DKSM_SYSFS "%s%s/%s",
			 a[0] == STAT_DOMAIN ? "domains/" : "",
			 a[0] == STAT_DOMAIN ? domain_names[0] : "", files[i]);
		if (read_u64(path) == ~0ULL && a[0] == STAT_GLOBAL)
			FAIL("op %u: %s is not a number", me.at, path);
	}
}

/* The parent puts them back. */
static void op_knob(const u64 *a)
{
	static const struct {
		u64 min, max;
	} limits[] = {
		{ 2, INT_MAX / 2 }, { 0, 1 }, { 0, 1 }, { 0, 32768 },
		{ 0, INT_MAX }, { 1, 512 }, { 0, 100 },
	};
	bool valid = a[1] >= limits[a[0]].min && a[1] <= limits[a[0]].max;
	char path[80];
	int err;

	/* Of a number that is a boolean, the kernel looks at the first digit. */
	if (limits[a[0]].max == 1 && a[1] > 1)
		return;
	snprintf(path, sizeof(path), DKSM_SYSFS "%s",
		 arg_kinds[ARG_KNOB].words[a[0]]);
	err = write_u64(path, a[1]);
	if (me.user ? err != -EACCES : valid ? err : !err)
		FAIL("op %u: %s: writing %llu: %s", me.at, path, ULL(a[1]),
		     error_name(-err));
}

static void op_user(const u64 *a UNUSED)
{
	SYS(setresgid(NOBODY, NOBODY, NOBODY));
	SYS(setresuid(NOBODY, NOBODY, NOBODY));
	me.user = true;
}

static void op_end(const u64 *a)
{
	cover_collect();
	if (a[0] == END_KILL)
		end_by_kill();
	if (a[0] == END_EXEC)
		execl("/bin/true", "true", NULL);
	_exit(EXIT_OK);
}

static bool status_is_fine(int status)
{
	if (WIFEXITED(status))
		return WEXITSTATUS(status) == EXIT_OK;
	return WTERMSIG(status) == SIGKILL && atomic_load(&shared->kill_expected);
}

static void child_wait(pid_t pid)
{
	int status;

	SYS(waitpid(pid, &status, 0));
	if (!status_is_fine(status))
		FAIL("op %u: a child ended with status %#x", me.at, status);
}

/* What others can write to is not in the model any more. */
static void shared_forget(void)
{
	for (struct memory *m = me.mem; m < me.mem + REGIONS; m++)
		for (size_t i = 0; i < PAGES_MAX; i++)
			if (m->shared[i] && m->prot[i] != NOT_MAPPED)
				region_model(&m->r, i, 1, SEED_ANY, 0);
}

static _Noreturn void peer_run(int mode, int end)
{
	int fd = me.user ? -1 : open("/dev/dksm", O_RDWR | O_CLOEXEC);
	char c = 0;

	if (mode == PEER_OTHER && fd >= 0 &&
	    !dksm_bind(fd, domain_names[NAME_OTHER], DKSM_DOMAIN_CREATE))
		range_do(span_of(0, 0, PAGES_MAX), fd, DKSM_IOC_MERGE);
	if (mode == PEER_USER && !me.user)
		op_user(NULL);
	SYS(write(end, &c, 1));
	while (read(end, &c, 1) > 0)
		;
	verify();
	_exit(EXIT_OK);
}

/* A process with a copy of our memory, until the program ends. */
static void op_peer(const u64 *a)
{
	int ends[2];
	char c;

	if (me.peer || me.depth)
		return;
	shared_forget();
	SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
	me.peer = SYS(fork());
	if (!me.peer) {
		close(ends[1]);
		me.cover = NULL;
		peer_run(a[0], ends[0]);
	}
	close(ends[0]);
	me.peer_end = ends[1];
	me.who[WHO_PEER] = syscall(SYS_pidfd_open, me.peer, 0);
	SYS(read(me.peer_end, &c, 1));
}

static void peer_finish(void)
{
	if (!me.peer)
		return;
	close(me.peer_end);
	child_wait(me.peer);
	me.peer = 0;
}

/* The child has no children of its own yet. */
static void child_begin(void)
{
	me.depth++;
	me.child = me.peer = 0;
	me.who[WHO_PARENT] = me.who[WHO_ME];
	me.who[WHO_ME] = syscall(SYS_pidfd_open, getpid(), 0);
	cover_begin();
}

/* The child goes on, and the parent either meanwhile, or when it is done. */
static void op_fork(const u64 *a)
{
	if (me.child || me.depth >= 2)
		return;
	shared_forget();
	cover_collect();
	me.alone &= a[0] == FORK_CHILD;
	me.child = SYS(fork());
	if (!me.child) {
		child_begin();
		return;
	}
	me.alone = false;
	if (a[0] == FORK_CHILD) {
		child_wait(me.child);
		me.child = 0;
		me.at = me.program->n;
	}
}

/* ---- programs ---------------------------------------------------------- */

static const struct op_kind {
	const char *name;
	void (*run)(const u64 *a);
	unsigned int weight;
	enum arg_type args[ARGS_MAX + 1];
} op_kinds[] = {
	{ "open", op_open, 4, { ARG_FD } },
	{ "close", op_close, 2, { ARG_FD } },
	{ "info", op_info, 1, { ARG_FD } },
	{ "domain", op_domain, 8, { ARG_FD, ARG_NAME, ARG_DOMAIN_FLAGS } },
	{ "merge", op_merge, 24, { ARG_FD, ARG_WHO, ARG_REGION, ARG_FIRST, ARG_PAGES } },
	{ "unmerge", op_unmerge, 10,
	  { ARG_FD, ARG_WHO, ARG_REGION, ARG_FIRST, ARG_PAGES } },
	{ "merge_all", op_merge_all, 2, { ARG_FD, ARG_WHO } },
	{ "unmerge_all", op_unmerge_all, 2, { ARG_FD, ARG_WHO } },
	{ "attach", op_attach, 4, { ARG_FD, ARG_WHO, ARG_ATTACH_FLAGS } },
	{ "detach", op_detach, 3, { ARG_FD, ARG_WHO } },
	{ "raw", op_raw, 16,
	  { ARG_FD, ARG_CMD, ARG_WHERE, ARG_SIZE, ARG_NUMBER, ARG_WHO, ARG_NUMBER,
	    ARG_ADDRESS, ARG_ADDRESS, ARG_NAME } },
	{ "map", op_map, 8, { ARG_REGION, ARG_PAGES, ARG_MAP } },
	{ "fill", op_fill, 14, { ARG_REGION, ARG_FIRST, ARG_PAGES, ARG_SEED, ARG_STEP } },
	{ "write", op_write, 8, { ARG_REGION, ARG_FIRST, ARG_WORD, ARG_NUMBER } },
	{ "unmap", op_unmap, 4, { ARG_REGION, ARG_FIRST, ARG_PAGES } },
	{ "move", op_move, 4,
	  { ARG_REGION, ARG_FIRST, ARG_PAGES, ARG_REGION, ARG_FIRST } },
	{ "protect", op_protect, 4, { ARG_REGION, ARG_FIRST, ARG_PAGES, ARG_PROT } },
	{ "advise", op_advise, 8, { ARG_REGION, ARG_FIRST, ARG_PAGES, ARG_ADVICE } },
	{ "race", op_race, 10,
	  { ARG_RACE, ARG_REGION, ARG_FIRST, ARG_PAGES, ARG_SEED, ARG_DELAY } },
	{ "stat", op_stat, 3, { ARG_STAT } },
	{ "knob", op_knob, 3, { ARG_KNOB, ARG_NUMBER } },
	{ "user", op_user, 2, { ARG_NONE } },
	{ "peer", op_peer, 4, { ARG_PEER } },
	{ "fork", op_fork, 5, { ARG_FORK } },
	{ "end", op_end, 2, { ARG_END } },
};

static void memory_setup(void)
{
	for (int i = 0; i < REGIONS; i++)
		me.mem[i].r = region_at((void *)(REGION_BASE + i * REGION_SPAN),
					PAGES_MAX);
	me.arg = SYS(mmap(NULL, 4 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	SYS(munmap(me.arg + 2 * PAGE_SIZE, PAGE_SIZE));
	me.arg_readonly = me.arg + 3 * PAGE_SIZE;
}

static _Noreturn void program_run(const struct program *p)
{
	setpgid(0, 0);
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	memory_setup();
	for (int i = 0; i < FDS; i++) {
		me.fd[i] = -1;
		me.domain[i] = UNBOUND;
	}
	me.member = NOBODYS;
	me.alone = true;
	me.who[WHO_ME] = syscall(SYS_pidfd_open, getpid(), 0);
	me.program = p;
	cover_begin();
	for (me.at = 0; me.at < p->n; me.at++) {
		atomic_fetch_add(&shared->ops, 1);
		op_kinds[p->op[me.at].kind].run(p->op[me.at].arg);
		cover_collect();
	}
	verify();
	cover_collect();
	if (me.child)
		child_wait(me.child);
	peer_finish();
	_exit(EXIT_OK);
}

static void program_print(FILE *f, const struct program *p, const char *prefix)
{
	for (unsigned int i = 0; i < p->n; i++) {
		const struct op_kind *kind = &op_kinds[p->op[i].kind];

		fprintf(f, "%s%s", prefix, kind->name);
		for (int j = 0; kind->args[j] != ARG_NONE; j++) {
			u64 a = p->op[i].arg[j];

			if (arg_kinds[kind->args[j]].words)
				fprintf(f, " %s", arg_kinds[kind->args[j]].words[a]);
			else
				fprintf(f, a < 100000 ? " %llu" : " %#llx", ULL(a));
		}
		fprintf(f, "\n");
	}
}

static bool arg_parse(const char *word, const struct arg_kind *kind, u64 *value)
{
	char *end;

	if (!word)
		return false;
	for (u64 i = 0; kind->words && i < kind->limit; i++)
		if (!strcmp(word, kind->words[i])) {
			*value = i;
			return true;
		}
	*value = strtoull(word, &end, 0);
	return !kind->words && *word && !*end &&
	       (!kind->limit || *value < kind->limit);
}

static bool op_parse(char *line, struct op *op)
{
	char *word = strtok(line, " \t\n");

	for (op->kind = 0; op->kind < ARRAY_SIZE(op_kinds); op->kind++)
		if (!strcmp(word, op_kinds[op->kind].name))
			break;
	if (op->kind == ARRAY_SIZE(op_kinds))
		return false;
	for (int i = 0; op_kinds[op->kind].args[i] != ARG_NONE; i++)
		if (!arg_parse(strtok(NULL, " \t\n"),
			       &arg_kinds[op_kinds[op->kind].args[i]], &op->arg[i]))
			return false;
	return !strtok(NULL, " \t\n");
}

static struct program program_read(const char *path)
{
	struct program p = { 0 };
	FILE *f = fopen(path, "re");
	char line[300];

	if (!f) {
		fprintf(stderr, "fuzz: %s: %s\n", path, strerror(errno));
		exit(2);
	}
	for (int nr = 1; fgets(line, sizeof(line), f); nr++) {
		if (line[strspn(line, " \t")] == '#' || !line[strspn(line, " \t\n")])
			continue;
		if (p.n == OPS_MAX || !op_parse(line, &p.op[p.n++])) {
			fprintf(stderr, "fuzz: %s:%d: not an operation, or one too many\n",
				path, nr);
			exit(2);
		}
	}
	fclose(f);
	return p;
}

/* ---- running one ------------------------------------------------------- */

static char knob_was[4][24];
static int taint_fd = -1;
static char taint_was[24];
static unsigned int executions;
static int last_fd[LAST] = { -1, -1, -1, -1 };

static void taint_read(char buf[24])
{
	ssize_t n = pread(taint_fd, buf, 23, 0);

	buf[n > 0 ? n : 0] = 0;
}

static void knobs_each(bool save)
{
	for (size_t i = 0; i < ARRAY_SIZE(knob_was); i++) {
		char path[80];

		snprintf(path, sizeof(path), DKSM_SYSFS "%s",
			 arg_kinds[ARG_KNOB].words[i]);
		if (save)
			snprintf(knob_was[i], sizeof(knob_was[i]), "%llu",
				 ULL(read_u64(path)));
		else
			write_str(path, knob_was[i]);
	}
}

/* On disk before it runs, in case the kernel does not survive it. */
static void last_write(const struct program *p)
{
	int fd = last_fd[executions % LAST];
	char text[16384];
	FILE *f;

	if (fd < 0)
		return;
	f = fmemopen(text, sizeof(text), "w");
	if (!f)
		FAIL("no memory");
	fprintf(f, "# execution %u of seed %llu\n", executions, ULL(opt.seed));
	program_print(f, p, "");
	fflush(f);
	if (ftruncate(fd, 0) || pwrite(fd, text, ftell(f), 0) < 0 || fdatasync(fd))
		perror("fuzz: --keep");
	fclose(f);
}

static void stack_print(pid_t pid)
{
	char path[40], line[160];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		fprintf(stderr, "  %s", line);
	if (f)
		fclose(f);
}

/* Its status; -1 if it does not end. */
static int program_wait(pid_t pid)
{
	struct pollfd end = { .events = POLLIN };
	bool ended;
	int status;

	end.fd = SYS((int)syscall(SYS_pidfd_open, pid, 0));
	ended = poll(&end, 1, PROGRAM_MS) == 1;
	close(end.fd);
	if (!ended)
		stack_print(pid);
	kill(-pid, SIGKILL);
	SYS(waitpid(pid, &status, 0));
	while (waitpid(-pid, NULL, 0) > 0)
		;
	return ended ? status : -1;
}

static bool uses_knobs(const struct program *p)
{
	for (unsigned int i = 0; i < p->n; i++)
		if (op_kinds[p->op[i].kind].run == op_knob)
			return true;
	return false;
}

/* True if it found something: @why says what. */
static bool program_execute(const struct program *p, char why[512])
{
	const char *verdict;
	char taint[24];
	int status;
	pid_t pid;

	last_write(p);
	executions++;
	test_begin("fuzz");
	atomic_store(&shared->processes, 0);
	atomic_store(&shared->news, 0);
	atomic_store(&shared->kill_expected, false);
	pid = SYS(fork());
	if (!pid)
		program_run(p);
	setpgid(pid, pid);
	status = program_wait(pid);
	if (uses_knobs(p))
		knobs_each(false);
	taint_read(taint);
	if (test_verdict(&verdict))
		snprintf(why, 512, "%s", verdict);
	else if (status == -1)
		snprintf(why, 512, "no end after %d s", PROGRAM_MS / 1000);
	else if (!status_is_fine(status))
		snprintf(why, 512, "ended with status %#x", status);
	else if (strcmp(taint, taint_was))
		snprintf(why, 512, "the kernel is tainted now: see its log");
	else
		return false;
	return true;
}

/* ---- new programs ------------------------------------------------------ */

static u64 rng;
static unsigned int kept_n;

static u64 below(u64 n)
{
	return rnd(&rng) % n;
}

static u64 draw_number(void)
{
	static const u64 interesting[] = {
		0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 4095, 4096, 4097, 65535,
		INT_MAX, 1ULL << 31, UINT_MAX, 1ULL << 32, LONG_MAX, 1ULL << 63,
		~0ULL, ~4095ULL,
	};

	return below(4) ? interesting[below(ARRAY_SIZE(interesting))] :
			  rnd(&rng) >> below(60);
}

static u64 draw_size(void)
{
	size_t size = cmds[below(CMD_DETACH + 1)].size;

	return below(4) == 0 ? draw_number() : below(3) ? size : size + below(17) - 8;
}

static u64 draw_address(void)
{
	u64 page = REGION_BASE + below(REGIONS) * REGION_SPAN + below(40) * PAGE_SIZE;

	switch (below(8)) {
	case 0:
		return draw_number();
	case 1:
		return page + below(PAGE_SIZE);
	case 2:
		return ADDRESS_END + (below(5) - 2) * PAGE_SIZE;
	case 3:
	case 4:
		return below(64) * PAGE_SIZE;
	default:
		return page;
	}
}

/* Small ones mostly, since every page takes time. */
static u64 draw_pages(u64 limit)
{
	return below(16) == 0 ? below(limit) : below(4) ? below(40) : below(4);
}

static u64 draw_arg(enum arg_type type)
{
	switch (type) {
	case ARG_FIRST:
		return below(2) ? 0 : draw_pages(PAGES_MAX);
	case ARG_PAGES:
		return draw_pages(PAGES_MAX + 1);
	case ARG_FD:
	case ARG_REGION:
	case ARG_WHERE:
	case ARG_WHO:
		return below(3) ? 0 : below(arg_kinds[type].limit);
	case ARG_NUMBER:
		return below(2) ? 0 : draw_number();
	case ARG_SIZE:
		return draw_size();
	case ARG_ADDRESS:
		return draw_address();
	default:
		return below(arg_kinds[type].limit);
	}
}

static struct op draw_op(void)
{
	unsigned int sum = 0, r;
	struct op op = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(op_kinds); i++)
		sum += op_kinds[i].weight;
	for (r = below(sum); r >= op_kinds[op.kind].weight; op.kind++)
		r -= op_kinds[op.kind].weight;
	for (int i = 0; op_kinds[op.kind].args[i] != ARG_NONE; i++)
		op.arg[i] = draw_arg(op_kinds[op.kind].args[i]);
	/* The size that is right is what takes a raw call further. */
	if (op_kinds[op.kind].run == op_raw && call_is_known(&(struct call){
		.cmd = op.arg[1] }) && below(2))
		op.arg[3] = cmds[op.arg[1]].size;
	return op;
}

static void op_insert(struct program *p, unsigned int where, const struct op *op)
{
	if (p->n == OPS_MAX)
		return;
	memmove(&p->op[where + 1], &p->op[where], (p->n - where) * sizeof(*op));
	p->op[where] = *op;
	p->n++;
}

static void op_remove(struct program *p, unsigned int where)
{
	p->n--;
	memmove(&p->op[where], &p->op[where + 1], (p->n - where) * sizeof(p->op[0]));
}

/* Something that works, for others to go on from. */
static struct program draw_program(void)
{
	static const struct {
		const char *line;
	} start[] = {
		{ "open 0" }, { "domain 0 a create" }, { "map 0 16 private" },
		{ "fill 0 0 16 1 1" }, { "merge 0 self 0 0 16" },
	};
	struct program p = { 0 };
	unsigned int n = below(8) ? ARRAY_SIZE(start) : below(ARRAY_SIZE(start));

	for (unsigned int i = 0; i < n; i++) {
		char line[40];

		snprintf(line, sizeof(line), "%s", start[i].line);
		op_parse(line, &p.op[p.n++]);
	}
	for (u64 i = below(24) + 1; i; i--) {
		struct op op = draw_op();

		op_insert(&p, p.n, &op);
	}
	return p;
}

static void tweak(struct op *op)
{
	const enum arg_type *args = op_kinds[op->kind].args;
	int n = 0;

	while (args[n] != ARG_NONE)
		n++;
	if (n) {
		int i = below(n);

		op->arg[i] = draw_arg(args[i]);
	}
}

static void program_splice(struct program *p, const struct program *other)
{
	p->n = below(p->n + 1);
	for (unsigned int i = below(other->n + 1); i < other->n; i++)
		op_insert(p, p->n, &other->op[i]);
}

static void mutate(struct program *p)
{
	unsigned int where = p->n ? below(p->n) : 0;
	struct op op;

	switch (p->n ? below(10) : 0) {
	case 0:
	case 1:
	case 2:
		op = draw_op();
		op_insert(p, below(p->n + 1), &op);
		break;
	case 3:
		op_remove(p, where);
		break;
	case 4:
		op = p->op[where];
		op_insert(p, below(p->n + 1), &op);
		break;
	case 5:
		program_splice(p, &shared->kept[below(kept_n)]);
		break;
	default:
		tweak(&p->op[where]);
	}
}

static struct program next_program(void)
{
	struct program p;

	if (!kept_n || !below(10))
		return draw_program();
	p = shared->kept[below(kept_n)];
	for (u64 i = below(3) + 1; i; i--)
		mutate(&p);
	return p;
}

/* ---- the run ----------------------------------------------------------- */

static void file_write(const char *name, const struct program *p)
{
	char path[PATH_MAX];
	FILE *f;

	if (!opt.keep)
		return;
	snprintf(path, sizeof(path), "%s/%s", opt.keep, name);
	f = fopen(path, "we");
	if (!f) {
		fprintf(stderr, "fuzz: %s: %s\n", path, strerror(errno));
		exit(2);
	}
	program_print(f, p, "");
	fclose(f);
}

static void keep(const struct program *p)
{
	char name[32];

	if (!p->n || kept_n == KEPT_MAX)
		return;
	snprintf(name, sizeof(name), "input-%04u", kept_n);
	file_write(name, p);
	shared->kept[kept_n++] = *p;
}

static void last_open(void)
{
	char path[PATH_MAX];

	if (!opt.keep)
		return;
	mkdir(opt.keep, 0755);
	for (int i = 0; i < LAST; i++) {
		snprintf(path, sizeof(path), "%s/last-%d", opt.keep, i);
		last_fd[i] = SYS(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	}
}

/* What exists in the kernel as long as processes share pages. */
struct left {
	u64 domains, frames, zero, bytes;
};

static struct left left_now(void)
{
	struct left left = {
		.frames = read_u64(DKSM_SYSFS "pages_shared"),
		.zero = read_u64(DKSM_SYSFS "pages_zero"),
		.bytes = read_u64(DKSM_SYSFS "metadata_bytes"),
	};
	DIR *dir = opendir(DKSM_SYSFS "domains");

	while (dir && readdir(dir))
		left.domains++;
	if (dir)
		closedir(dir);
	return left;
}

static void domains_print(void)
{
	DIR *dir = opendir(DKSM_SYSFS "domains");
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			printf("# left: domain %s\n", entry->d_name);
	if (dir)
		closedir(dir);
}

/*
 * Freeing may be deferred a little, hence the patience; and a frame in the swap cache
 * that nobody maps any more stays there until memory is wanted, or swap ends.
 */
static bool leaks(const struct left *before, char why[512])
{
	u64 from = now_ms();
	bool swapped = true;
	struct left now;

	for (;;) {
		now = left_now();
		if (!memcmp(&now, before, sizeof(now)))
			return false;
		if (now_ms() > from + 10000)
			break;
		if (swapped && now_ms() > from + 500) {
			swapped = swapoff(SWAP_DEVICE);
			swapon(SWAP_DEVICE, 0);
		}
		lru_drain();
		sleep_ms(10);
	}
	snprintf(why, 512, "left behind: %+lld domains, %+lld frames, %+lld zero pages, %+lld bytes",
		 (long long)(now.domains - before->domains),
		 (long long)(now.frames - before->frames),
		 (long long)(now.zero - before->zero),
		 (long long)(now.bytes - before->bytes));
	domains_print();
	return true;
}

static int pc_compare(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return (x > y) - (x < y);
}

/* Symbols come in the order of their addresses. */
static unsigned int functions_count(void)
{
	u64 *pc = calloc(ARRAY_SIZE(shared->pcs.slot), sizeof(*pc));
	FILE *f = fopen("/proc/kallsyms", "re");
	unsigned int count = 0;
	unsigned long long addr;
	size_t n = 0, i = 0;
	char line[256];

	for (size_t j = 0; j < ARRAY_SIZE(shared->pcs.slot); j++)
		if (shared->pcs.slot[j])
			pc[n++] = 0xffffffff00000000 | shared->pcs.slot[j];
	qsort(pc, n, sizeof(*pc), pc_compare);
	while (f && i < n && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx", &addr) != 1 || pc[i] >= addr)
			continue;
		count++;
		while (i < n && pc[i] < addr)
			i++;
	}
	if (f)
		fclose(f);
	free(pc);
	return count;
}

static void progress(u64 from)
{
	fprintf(stderr, "fuzz: %llu s: %u executions, %llu operations, %u kept, %u PCs, %u pairs\n",
		ULL(now_ms() - from) / 1000, executions,
		ULL(atomic_load(&shared->ops)), kept_n,
		atomic_load(&shared->pcs.n), atomic_load(&shared->pairs.n));
}

/* True if the program found something, which is printed. */
static bool try_program(const struct program *p, const char *name)
{
	char why[512];

	if (!program_execute(p, why))
		return false;
	printf("# %s: %s\n", name, why);
	program_print(stdout, p, "#   ");
	file_write("finding", p);
	return true;
}

/* In the order of their names, so that a run can be repeated. */
static bool seeds_run(void)
{
	struct dirent **entry;
	char path[PATH_MAX];
	bool found = false;
	int n = scandir(opt.seeds, &entry, NULL, alphasort);

	if (n < 0) {
		fprintf(stderr, "fuzz: %s: %s\n", opt.seeds, strerror(errno));
		exit(2);
	}
	for (int i = 0; i < n && !found; i++) {
		struct program p;

		if (entry[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", opt.seeds, entry[i]->d_name);
		p = program_read(path);
		found = try_program(&p, path);
		keep(&p);
	}
	return found;
}

static bool fuzz_run(u64 from, const struct left *before)
{
	u64 end = from + opt.seconds * 1000ULL, next = from + 10000;
	char why[512];

	while (now_ms() < end) {
		struct program p = next_program();

		if (try_program(&p, "finding"))
			return true;
		if (atomic_load(&shared->news))
			keep(&p);
		if (now_ms() >= next) {
			progress(from);
			next += 10000;
		}
		if (executions % LAST == 0 && leaks(before, why))
			break;
	}
	if (!leaks(before, why))
		return false;
	printf("# by one of the last %d programs: %s\n", LAST, why);
	return true;
}

static int fuzz(void)
{
	struct left before = left_now();
	u64 from = now_ms();
	bool found;

	printf("KTAP version 1\n1..1\n");
	fflush(stdout);
	if (!kcov_setup())
		fprintf(stderr, "fuzz: no KCOV in this kernel: nothing guides it\n");
	found = (opt.seeds && seeds_run()) || fuzz_run(from, &before);
	progress(from);
	fprintf(stderr, "fuzz: %u functions\n", functions_count());
	printf("%s 1 ioctl_fuzz # seed %llu, %u executions, %llu operations, %u PCs\n",
	       found ? "not ok" : "ok", ULL(opt.seed), executions,
	       ULL(atomic_load(&shared->ops)), atomic_load(&shared->pcs.n));
	return found ? EXIT_FAIL : EXIT_OK;
}

static int replay(char **files)
{
	bool found = false;

	opt.trace = true;
	for (; *files; files++) {
		struct program p = program_read(*files);

		fprintf(stderr, "%s\n", *files);
		found |= try_program(&p, *files);
	}
	return found ? EXIT_FAIL : EXIT_OK;
}

/* What was found, less the numbers: what a check says comes after its place. */
static bool finds(const struct program *p, const char *what)
{
	char why[512];

	for (int tries = 0; tries < 8; tries++)
		if (program_execute(p, why) &&
		    !strncmp(why, what, strcspn(what, " ")))
			return true;
	return false;
}

static int minimise(const char *file)
{
	struct program p = program_read(file);
	char what[512] = "";

	for (int tries = 0; !what[0] && tries < 20; tries++)
		program_execute(&p, what);
	if (!what[0]) {
		fprintf(stderr, "fuzz: %s finds nothing\n", file);
		return EXIT_FAIL;
	}
	for (unsigned int i = p.n; i-- > 0; ) {
		struct program less = p;

		op_remove(&less, i);
		if (finds(&less, what))
			p = less;
	}
	printf("# %s\n", what);
	program_print(stdout, &p, "");
	return EXIT_OK;
}

static int dead_pidfd(bool reap)
{
	pid_t pid = SYS(fork());
	siginfo_t info;
	int fd;

	if (!pid)
		_exit(EXIT_OK);
	fd = syscall(SYS_pidfd_open, pid, 0);
	SYS(waitid(P_PID, pid, &info, WEXITED | (reap ? 0 : WNOWAIT)));
	return fd;
}

static void setup(void)
{
	shared = SYS(mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	rng = (opt.seed + 1) * 0x9e3779b97f4a7c15ULL | 1;
	me.who[WHO_SELF] = DKSM_SELF;
	me.who[WHO_PEER] = me.who[WHO_PARENT] = -1;
	me.who[WHO_DEAD] = dead_pidfd(true);
	me.who[WHO_ZOMBIE] = dead_pidfd(false);
	me.who[WHO_KTHREAD] = syscall(SYS_pidfd_open, 2, 0);
	me.who[WHO_NEGATIVE] = INT_MIN;
	me.who[WHO_CLOSED] = 9999;
	me.who[WHO_FILE] = SYS(open("/dev/null", O_RDONLY | O_CLOEXEC));
	me.who[WHO_DEVICE] = dksm_open();
	taint_fd = SYS(open("/proc/sys/kernel/tainted", O_RDONLY | O_CLOEXEC));
	taint_read(taint_was);
	knobs_each(true);
	swap_start(64UL << 20);
	last_open();
}

static _Noreturn void usage(int status)
{
	fprintf(status ? stderr : stdout,
		"usage: fuzz [OPTIONS]\n"
		"       fuzz --replay FILE...\n"
		"       fuzz --minimise FILE\n"
		"Random programs against /dev/dksm; KTAP with the first finding.\n"
		"  --seconds N    how long (60)\n"
		"  --seed S       of the random numbers; guided runs differ all the same\n"
		"  --seeds DIR    begin with the programs there\n"
		"  --keep DIR     write programs there that reach new code (input-*), the one\n"
		"                 that found something (finding), and each of the last ones\n"
		"                 before it runs (last-*), for when the kernel dies\n"
		"  --replay       run programs, and tell what each call returned\n"
		"  --minimise     leave out of a program what is not needed to find the same\n"
		"Examples, on the host:\n"
		"  tools/vm -- build/tests/fuzz --seeds tests/fuzz/ioctl\n"
		"  tools/vm --kernel debug --timeout 1800 --out build/fuzz -- \\\n"
		"    build/tests/fuzz --seconds 1200 --seeds tests/fuzz/ioctl --keep build/fuzz\n"
		"  tools/vm --kernel debug -- build/tests/fuzz --replay build/fuzz/last-*\n"
		"  tools/vm --kernel debug -- build/tests/fuzz --minimise build/fuzz/finding\n");
	exit(status);
}

static u64 number(const char *text)
{
	char *end;
	u64 n = strtoull(text, &end, 0);

	if (*end || end == text) {
		fprintf(stderr, "fuzz: %s is not a number\n", text);
		exit(2);
	}
	return n;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seconds", required_argument, NULL, 't' },
		{ "seed", required_argument, NULL, 's' },
		{ "seeds", required_argument, NULL, 'd' },
		{ "keep", required_argument, NULL, 'k' },
		{ "replay", no_argument, NULL, 'r' },
		{ "minimise", required_argument, NULL, 'm' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	const char *victim = NULL;
	bool again = false;
	int c;

	opt.seed = now_ms();
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 't': opt.seconds = number(optarg); break;
		case 's': opt.seed = number(optarg); break;
		case 'd': opt.seeds = optarg; break;
		case 'k': opt.keep = optarg; break;
		case 'r': again = true; break;
		case 'm': victim = optarg; break;
		case 'h': usage(0);
		default: usage(2);
		}
	}
	if (again ? optind == argc : optind < argc)
		usage(2);
	test_begin("fuzz");
	if (access("/dev/dksm", R_OK | W_OK)) {
		fprintf(stderr, "fuzz: /dev/dksm: %s\n", strerror(errno));
		return EXIT_FAIL;
	}
	setup();
	if (victim)
		return minimise(victim);
	return again ? replay(argv + optind) : fuzz();
}
