/* SPDX-License-Identifier: MIT */
/*
 * Statistics read from folders that the caller names by descriptor: the
 * library's own functions pass the kernel's, tests pass made-up ones.  No
 * function closes the descriptor it gets.  Errors as in dksm.h.
 */
#ifndef DKSM_LIB_STAT_H
#define DKSM_LIB_STAT_H

#include <dksm.h>

/* @dir: like /sys/kernel/mm/dksm */
int dksm_stat_read_global(int dir, struct dksm_global *global);
/* @dir: like /sys/kernel/mm/dksm/domains */
int dksm_stat_read_domains(int dir, struct dksm_domain **domains, size_t *nr);
/* @proc: like /proc; @pid: the name of a folder in it */
int dksm_stat_read_process(int proc, const char *pid,
			   struct dksm_process *process);

#endif /* DKSM_LIB_STAT_H */
