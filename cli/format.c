// SPDX-License-Identifier: MIT
/* Numbers for people. */
#include <inttypes.h>
#include <unistd.h>

#include "cli.h"

uint64_t page_bytes(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

struct text text_bytes(uint64_t bytes)
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB",
					     "PiB", "EiB" };
	double value = (double)bytes / 1024;
	struct text text;
	size_t unit = 0;

	if (bytes < 1024) {
		snprintf(text.chars, sizeof(text.chars), "%" PRIu64 " B",
			 bytes);
		return text;
	}
	/* What would be printed as 1024.0 is one of the next unit. */
	for (; value >= 1023.95 && unit + 1 < ARRAY_SIZE(units); unit++)
		value /= 1024;
	snprintf(text.chars, sizeof(text.chars), "%.1f %s", value, units[unit]);
	return text;
}

struct text text_ns(uint64_t ns)
{
	struct text text;

	if (ns < 1000)
		snprintf(text.chars, sizeof(text.chars), "%" PRIu64 " ns", ns);
	else if (ns < 999950)
		snprintf(text.chars, sizeof(text.chars), "%.1f us",
			 (double)ns / 1e3);
	else if (ns < 999950000)
		snprintf(text.chars, sizeof(text.chars), "%.1f ms",
			 (double)ns / 1e6);
	else
		snprintf(text.chars, sizeof(text.chars), "%.1f s",
			 (double)ns / 1e9);
	return text;
}
