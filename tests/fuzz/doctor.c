// SPDX-License-Identifier: MIT
/*
 * What dksm doctor makes of /proc/PID/smaps, whatever files are called.  The input
 * is mappings of four bytes: flags, size, and how often the name of the file is
 * repeated; the rest is that name.
 */
#include "fuzz.h"

#define MAPPINGS 4

enum { HUGETLB = 1, WRITE = 2, SHARED = 4, FILE_BACKED = 8 };

/* One mapping as the kernel writes it, and what is to be found. */
static uint64_t mapping(FILE *out, uint64_t start, const uint8_t *data, const char *name,
			struct process_facts *expected)
{
	uint64_t bytes = (uint64_t)(data[1] + 1) << 20;
	unsigned int flags = data[0], repeat = data[2] | (unsigned int)data[3] << 8;

	fprintf(out, "%lx-%lx %s 00000000 00:21 %-26d ", start, start + bytes,
		flags & WRITE ? "rw-p" : "r--p", flags & FILE_BACKED ? 4711 : 0);
	for (size_t i = 0; i < repeat % 4096 / (strlen(name) + 1); i++)
		fputs(name, out);
	fprintf(out, "\nSize: %12lu kB\nAnonymous: %7d kB\nVmFlags: rd%s mr%s%s me \n",
		bytes >> 10, 0, flags & WRITE ? " wr" : "", flags & HUGETLB ? " ht" : "",
		flags & SHARED ? " sh" : "");
	if (flags & HUGETLB)
		expected->hugetlb_bytes += bytes;
	else if (flags & WRITE && flags & SHARED)
		expected->shared_bytes += bytes;
	else if (flags & WRITE && flags & FILE_BACKED)
		expected->file_bytes += bytes;
	return start + bytes;
}

static void check_mappings(const uint8_t *data, const char *name)
{
	struct process_facts expected = { .pid = 12 }, found = { .pid = 12 };
	uint64_t at = 0x7f0000000000;
	struct capture capture;
	FILE *out, *in;

	out = capture_begin(&capture);
	for (unsigned int i = 0; i < MAPPINGS; i++)
		at = mapping(out, at, data + 4 * i, name, &expected);
	capture_end(&capture);
	in = fmemopen(capture.text, capture.size, "r");
	REQUIRE(in);
	mappings_read(in, &found);
	REQUIRE(!memcmp(&found, &expected, sizeof(found)));
	fclose(in);
	free(capture.text);
}

/* Any bytes at all: sums of what, is not known. */
static void check_bytes(char *text, size_t size)
{
	struct process_facts found = { .pid = 12 };
	FILE *in = size ? fmemopen(text, size, "r") : NULL;

	if (in) {
		mappings_read(in, &found);
		fclose(in);
	}
}

static void check_choice(const char *text)
{
	char word[16], found[18];

	choice_word(text, word, sizeof(word));
	snprintf(found, sizeof(found), "[%s", word);
	REQUIRE(!strchr(word, ']') && (!*word || strstr(text, found)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = text_of(data, size), *newline;

	check_bytes(text, size);
	check_choice(text);
	if (size >= 4UL * MAPPINGS) {
		/* The kernel writes them as \012. */
		while ((newline = strchr(text + 4L * MAPPINGS, '\n')))
			*newline = '\\';
		check_mappings(data, text + 4L * MAPPINGS);
	}
	free(text);
	return 0;
}
