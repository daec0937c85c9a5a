/* SPDX-License-Identifier: MIT */
/*
 * The parts of the functional tests: the peers (t_peer.c) and the lists of tests
 * that functional.c runs, one per file, each ended by NULL.
 */
#ifndef TESTS_H
#define TESTS_H

#include "testlib.h"

/* ---- peers ------------------------------------------------------------- */

/* Once per test, before the first peer. */
void peers_begin(void);

/*
 * A helper process that owns one region and does what it is told.  Peers are
 * forked before there is memory to share, unless peer_fork() is what the test is
 * about.  A peer that fails ends the whole test.
 */
struct peer {
	pid_t pid;
	int pidfd;
	unsigned int box;
	unsigned char *addr;
	size_t pages;
};

/* Runs in the peer; @r is the peer's region. */
typedef long (*peer_fn)(struct region *r, const long *arg);

struct peer peer_start(size_t pages);
/* A child of the peer, with the peer's memory. */
struct peer peer_fork(const struct peer *p);
/* Calls @fn in the peer and waits for its result; up to four arguments. */
#define peer_call(p, fn, ...) \
	peer_call_args(p, fn, (long[4]){ __VA_ARGS__ })
long peer_call_args(const struct peer *p, peer_fn fn, const long *arg);
/* The same in two halves, for things that happen at the same time. */
#define peer_post(p, fn, ...) \
	peer_post_args(p, fn, (long[4]){ __VA_ARGS__ })
void peer_post_args(const struct peer *p, peer_fn fn, const long *arg);
long peer_result(const struct peer *p);
/* Ends the peer and waits until it is gone. */
void peer_exit(struct peer *p);
void peer_kill(struct peer *p);

void peer_fill(const struct peer *p, size_t first, size_t n, u64 seed, u64 step);
void peer_poke(const struct peer *p, size_t page, int word, u64 val);
void peer_verify(const struct peer *p);
void peers_verify(const struct peer *p, size_t n);
/* The peer merges or unmerges its own region. */
struct dksm_report peer_merge(const struct peer *p, int fd);
struct dksm_report peer_unmerge(const struct peer *p, int fd);
int peer_madvise(const struct peer *p, size_t first, size_t n, int advice);
int peer_mprotect(const struct peer *p, size_t first, size_t n, int prot);
void *peer_page(const struct peer *p, size_t page);
u64 peer_frame(const struct peer *p, size_t page);
/* How many pages of a range are the same frame in both; and: all of them. */
size_t count_shared(const struct peer *a, const struct peer *b, size_t first,
		    size_t n);
void check_shared(const struct peer *a, const struct peer *b, size_t first,
		  size_t n);
/* Moves pages to the other NUMA node; what move_pages(2) returns. */
long peer_move(const struct peer *p, size_t first, size_t n, int node);
/*
 * Moves the frame of a page elsewhere, which needs a complete reverse map.
 * False if this kernel cannot; fails if the frame stays where it is.
 */
bool peer_migrate(const struct peer *p, size_t page);
/* Reports of the last merge or unmerge made with peer_post(). */
struct dksm_report peer_report(const struct peer *p);

/* Functions for peer_call(). */
long op_merge(struct region *r, const long *arg);	/* fd; 0 or -errno */
long op_unmerge(struct region *r, const long *arg);	/* fd; 0 or -errno */
long op_verify(struct region *r, const long *arg);
/* For writing, as VFIO does, for a moment; -ENOENT without gup_test. */
long op_pin(struct region *r, const long *arg);		/* first, n */

/* ---- virtual machines -------------------------------------------------- */

/*
 * A peer that is a VMM, with memory in one slot and the guest of
 * tests/guests/bare.c loaded. Pages from VM_PAGES on are for the test; everything
 * written through the guest is in the region's model.
 */
#define VM_PAGES 8		/* BARE_PAGES of guests/bare.h */
struct peer vm_start(size_t pages, unsigned int vcpus);

/* The steps of vm_start(), for peer_call(), and other memory: */
long op_vm_open(struct region *r, const long *arg);	/* processors */
long op_vm_slot(struct region *r, const long *arg);	/* page, number, address or 0 */
long op_vm_load(struct region *r, const long *arg);

/* KVM_RUN, once; 0 or -errno.  With immediate_exit; with a signal waiting. */
long op_vm_run_once(struct region *r, const long *arg);	/* immediate_exit */
long op_vm_run_signalled(struct region *r, const long *arg);
/* All processors at once write to a page each. */
long op_vm_race(struct region *r, const long *arg);	/* first page, word */
/* Start the other processors: they halt, or one of them computes. */
long op_vm_others(struct region *r, const long *arg);	/* one computes */

/*
 * If set, called before and after each KVM_RUN of the functions below; true allows
 * it to have failed with ENOMEM.
 */
extern bool (*vm_run_hook)(bool before);

/* What the guest does, on the first processor. */
long op_guest_fill(struct region *r, const long *arg);	/* first, n, seed, step */
long op_guest_poke(struct region *r, const long *arg);	/* page, word, value */
long op_guest_verify(struct region *r, const long *arg); /* as fill; bad pages */
/* Halts until NMIs have come, and writes to pages before each halt. */
long op_guest_halt(struct region *r, const long *arg);	/* NMIs, ms, first, n */
long op_guest_halt_for_ever(struct region *r, const long *arg);

/* ---- lists ------------------------------------------------------------- */

extern const struct test tests_share[];
extern const struct test tests_stats[];
extern const struct test tests_write[];
extern const struct test tests_fork[];
extern const struct test tests_map[];
extern const struct test tests_kinds[];
extern const struct test tests_unmerge[];
extern const struct test tests_huge[];
extern const struct test tests_pin[];
extern const struct test tests_track[];
extern const struct test tests_reclaim[];
extern const struct test tests_move[];
extern const struct test tests_memcg[];
extern const struct test tests_ksmd[];
extern const struct test tests_access[];
extern const struct test tests_args[];
extern const struct test tests_race[];
extern const struct test tests_kvm[];
extern const struct test tests_attach[];
extern const struct test tests_load[];
extern const struct test tests_idle[];
extern const struct test tests_second[];
extern const struct test tests_lasting[];
extern const struct test tests_learn[];
extern const struct test tests_tenants[];
extern const struct test tests_faults[];
extern const struct test tests_guests[];

/* What `functional --exec-probe DOMAIN` does: see t_fork.c. */
int exec_probe(const char *domain);

#endif /* TESTS_H */
