// SPDX-License-Identifier: MIT
/*
 * Words for the reasons why a page was left alone.  They are part of the JSON
 * output and thus never change.
 */
#include <dksm.h>

static const char *const names[] = {
	[DKSM_SKIP_SHARED] = "shared",
	[DKSM_SKIP_HUGETLB] = "hugetlb",
	[DKSM_SKIP_DEVICE] = "device",
	[DKSM_SKIP_FILE] = "file",
	[DKSM_SKIP_ALREADY] = "already",
	[DKSM_SKIP_KSM] = "ksm",
	[DKSM_SKIP_PINNED] = "pinned",
	[DKSM_SKIP_BUSY] = "busy",
	[DKSM_SKIP_HUGE] = "huge",
	[DKSM_SKIP_SWAPPED] = "swapped",
	[DKSM_SKIP_NOMEM] = "nomem",
	[DKSM_SKIP_POISONED] = "poisoned",
	[DKSM_SKIP_LEARNED] = "learned",
	[DKSM_SKIP_UNMAPPED] = "unmapped",
	[DKSM_SKIP_ALONE] = "alone",
};

const char *dksm_skip_name(unsigned int reason)
{
	return reason < sizeof(names) / sizeof(names[0]) ? names[reason] : NULL;
}
