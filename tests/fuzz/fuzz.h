/* SPDX-License-Identifier: MIT */
/*
 * What the fuzzers of user space share.  A fuzzer checks properties with
 * REQUIRE(); its comment says how it reads its input.
 */
#ifndef DKSM_FUZZ_H
#define DKSM_FUZZ_H

#include <ctype.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../cli/cli.h"

#define REQUIRE(expr) do {						\
	if (!(expr)) {							\
		dprintf(2, "%s:%d: not true: %s\n", __FILE__, __LINE__,	\
			#expr);						\
		abort();						\
	}								\
} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The kernel's own rule, see name_is_valid() in mm/dksm/domain.c. */
static inline bool kernel_takes_name(const char *name)
{
	size_t len = strnlen(name, DKSM_NAME_SIZE);

	if (!len || len == DKSM_NAME_SIZE || name[0] == '.')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isascii(name[i]) ||
		    (!isalnum(name[i]) && !strchr("._-", name[i])))
			return false;
	return true;
}

/* Input as text that ends at a NUL of its own; to be freed. */
static inline char *text_of(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	REQUIRE(text);
	if (size)
		memcpy(text, data, size);
	text[size] = 0;
	return text;
}

struct capture {
	FILE *out;
	char *text;
	size_t size;
};

static inline FILE *capture_begin(struct capture *capture)
{
	capture->out = open_memstream(&capture->text, &capture->size);
	REQUIRE(capture->out);
	return capture->out;
}

/* What was written: text without a NUL inside; to be freed. */
static inline char *capture_end(struct capture *capture)
{
	REQUIRE(!fclose(capture->out));
	REQUIRE(strlen(capture->text) == capture->size);
	return capture->text;
}

/* All of @text is one object, strictly, and UTF-8; to be put. */
static inline struct json_object *json_of(char *text)
{
	struct json_tokener *tokener = json_tokener_new();
	struct json_object *root;
	size_t len = strlen(text);

	REQUIRE(tokener && len && text[len - 1] == '\n');
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT |
			       JSON_TOKENER_VALIDATE_UTF8);
	root = json_tokener_parse_ex(tokener, text, (int)len - 1);
	REQUIRE(json_tokener_get_error(tokener) == json_tokener_success);
	REQUIRE(json_tokener_get_parse_end(tokener) == len - 1);
	REQUIRE(json_object_is_type(root, json_type_object));
	json_tokener_free(tokener);
	return root;
}

static inline struct json_object *json_child(struct json_object *object, const char *key)
{
	struct json_object *value = NULL;

	REQUIRE(json_object_object_get_ex(object, key, &value));
	return value;
}

static inline bool json_number_is(struct json_object *object, const char *key,
				  uint64_t number)
{
	struct json_object *value = json_child(object, key);

	return json_object_is_type(value, json_type_int) &&
	       json_object_get_uint64(value) == number;
}

static inline bool json_string_is(struct json_object *object, const char *key,
				  const char *string)
{
	return !strcmp(json_object_get_string(json_child(object, key)), string);
}

#endif /* DKSM_FUZZ_H */
