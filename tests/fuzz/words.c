// SPDX-License-Identifier: MIT
/*
 * PIDs, ranges and names of domains: exactly what follows the grammar and what
 * the kernel can take is accepted, and means what it says.  The input is the word;
 * an independent reader, with numbers that cannot overflow, says what to expect.
 */
#include "fuzz.h"

typedef unsigned __int128 u128;

#define LIMIT ((u128)1 << 64)

static int digit(char c, unsigned int base)
{
	const char *all = "0123456789abcdef", *at;

	at = c ? strchr(all, tolower((unsigned char)c)) : NULL;
	return at && at - all < base ? (int)(at - all) : -1;
}

/* Reads digits; a number of LIMIT or more stays there or above. */
static bool digits(const char **at, unsigned int base, u128 *value)
{
	const char *from = *at;

	*value = 0;
	for (; digit(**at, base) >= 0; ++*at)
		if (*value < LIMIT)
			*value = *value * base + (unsigned int)digit(**at, base);
	return *at > from;
}

static bool prefix(const char **at)
{
	if (strncasecmp(*at, "0x", 2) || !isxdigit((unsigned char)(*at)[2]))
		return false;
	*at += 2;
	return true;
}

static bool hexadecimal(const char **at, u128 *value)
{
	prefix(at);
	return digits(at, 16, value);
}

static bool size_word(const char **at, u128 *value)
{
	const char *unit;

	if (!digits(at, prefix(at) ? 16 : 10, value))
		return false;
	unit = **at ? strchr("KMG", toupper((unsigned char)**at)) : NULL;
	if (unit) {
		*value <<= 10 * (unit - "KMG" + 1);
		++*at;
	}
	return true;
}

/* Its start and length if @text is a range. */
static bool range_word(const char *text, uint64_t page_size, u128 *start, u128 *len)
{
	u128 end;
	bool good = hexadecimal(&text, start);

	if (good && *text == '-') {
		text++;
		good = hexadecimal(&text, &end) && end < LIMIT && end > *start;
		*len = end - *start;
	} else {
		good = good && *text++ == '+' && size_word(&text, len) && *len;
	}
	return good && !*text && *start % page_size == 0 && *len % page_size == 0 &&
	       *start + *len < LIMIT;
}

static void check_range(const char *text, uint64_t page_size)
{
	struct range range, again;
	const char *wrong = range_parse(text, page_size, &range);
	char copy[80];
	u128 start, len;

	REQUIRE(!wrong == range_word(text, page_size, &start, &len));
	if (wrong) {
		REQUIRE(*wrong && !strchr(wrong, '\n'));
		return;
	}
	REQUIRE(range.start == start && range.len == len);
	snprintf(copy, sizeof(copy), "%lx-%lx", range.start, range.start + range.len);
	REQUIRE(!range_parse(copy, page_size, &again));
	REQUIRE(!memcmp(&range, &again, sizeof(range)));
	snprintf(copy, sizeof(copy), "0x%lx+%lu", range.start, range.len);
	REQUIRE(!range_parse(copy, page_size, &again));
	REQUIRE(!memcmp(&range, &again, sizeof(range)));
}

static void check_pid(const char *text)
{
	const char *end = text;
	u128 number;
	bool good = digits(&end, 10, &number) && !*end && number && number < 1U << 31;
	pid_t pid;

	REQUIRE(pid_parse(text, &pid) == good);
	REQUIRE(!good || (u128)pid == number);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = text_of(data, size);

	check_pid(text);
	check_range(text, 4096);
	check_range(text, 65536);
	REQUIRE(domain_name_valid(text) == kernel_takes_name(text));
	free(text);
	return 0;
}
