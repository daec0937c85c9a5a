/* SPDX-License-Identifier: MIT */
/*
 * The boundary between the library and what does the merging: "merge this range
 * of that process and report".  Nothing above it knows /dev/dksm.
 *
 * An engine's open function allocates its own structure with a struct dksm
 * inside and returns a pointer to that.  All other functions get it back, and
 * may be called by several threads at once, except for close.  Arguments have
 * not been checked; reports are never NULL and are all 0.
 */
#ifndef DKSM_LIB_ENGINE_H
#define DKSM_LIB_ENGINE_H

#include <dksm.h>

/**
 * struct dksm_engine - one way to merge pages
 * @close:		free everything, the handle too
 * @info:		see dksm_info_get()
 * @domain_join:	see dksm_domain_join()
 * @merge:		see dksm_merge()
 * @unmerge:		see dksm_unmerge()
 * @attach:		see dksm_attach()
 * @detach:		see dksm_detach()
 */
struct dksm_engine {
	void (*close)(struct dksm *handle);
	int (*info)(struct dksm *handle, struct dksm_info *info);
	int (*domain_join)(struct dksm *handle, const char *name,
			   unsigned int flags);
	int (*merge)(struct dksm *handle, int pidfd, uint64_t addr,
		     uint64_t len, struct dksm_report *report);
	int (*unmerge)(struct dksm *handle, int pidfd, uint64_t addr,
		       uint64_t len, struct dksm_report *report);
	int (*attach)(struct dksm *handle, int pidfd, unsigned int flags);
	int (*detach)(struct dksm *handle, int pidfd);
};

struct dksm {
	const struct dksm_engine *engine;
};

/* The engine in the kernel, behind a device file (normally /dev/dksm). */
int dksm_kernel_open(const char *device, struct dksm **handle);

#endif /* DKSM_LIB_ENGINE_H */
