// SPDX-License-Identifier: MIT
/* JSON: insertion order is output order, numbers are unsigned 64-bit. */
#include <json-c/json.h>
#include <stdlib.h>

#include "cli.h"

static void *must(void *memory)
{
	if (!memory) {
		fputs("dksm: out of memory\n", stderr);
		exit(EXIT_FAILED);
	}
	return memory;
}

struct json_object *json_new(void)
{
	return must(json_object_new_object());
}

struct json_object *json_new_list(void)
{
	return must(json_object_new_array());
}

void json_add_number(struct json_object *object, const char *key,
		     uint64_t number)
{
	json_object_object_add(object, key,
			       must(json_object_new_uint64(number)));
}

void json_add_decimal(struct json_object *object, const char *key, double value)
{
	char digits[32];

	snprintf(digits, sizeof(digits), "%.1f", value);
	json_object_object_add(object, key, value < 0 ? NULL :
			       must(json_object_new_double_s(value, digits)));
}

void json_add_string(struct json_object *object, const char *key,
		     const char *string)
{
	json_object_object_add(object, key, string ?
			       must(json_object_new_string(string)) : NULL);
}

void json_print(FILE *out, struct json_object *object)
{
	const int flags = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
			  JSON_C_TO_STRING_NOSLASHESCAPE;

	fprintf(out, "%s\n", json_object_to_json_string_ext(object, flags));
	json_object_put(object);
}
