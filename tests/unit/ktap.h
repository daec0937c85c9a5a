/* SPDX-License-Identifier: MIT */
/*
 * Unit tests that print KTAP.  A test is a function; CHECK() notes a failure and
 * goes on, REQUIRE() ends the test.  The program exits with 1 if any failed.
 */
#ifndef DKSM_UNIT_KTAP_H
#define DKSM_UNIT_KTAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct ktap_test {
	const char *name;
	void (*run)(void);
};

static bool ktap_failed;

static inline bool ktap_check(bool good, const char *expr, const char *file,
			      int line)
{
	if (!good) {
		printf("# %s:%d: not true: %s\n", file, line, expr);
		ktap_failed = true;
	}
	return good;
}

#define CHECK(expr) ktap_check(expr, #expr, __FILE__, __LINE__)
#define REQUIRE(expr) do { if (!CHECK(expr)) return; } while (0)

/* Like CHECK(), and says which row of a table it was about. */
#define CHECK_FOR(what, expr) do {					\
	if (!CHECK(expr))						\
		printf("#   for: %s\n", what);				\
} while (0)

static inline int ktap_run(const struct ktap_test *tests, size_t nr)
{
	bool any = false;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("KTAP version 1\n1..%zu\n", nr);
	for (size_t i = 0; i < nr; i++) {
		ktap_failed = false;
		tests[i].run();
		any |= ktap_failed;
		printf("%s %zu %s\n", ktap_failed ? "not ok" : "ok", i + 1,
		       tests[i].name);
	}
	return any;
}

#define KTAP_MAIN(tests)						\
int main(void)								\
{									\
	return ktap_run(tests, sizeof(tests) / sizeof((tests)[0]));	\
}

#endif /* DKSM_UNIT_KTAP_H */
