/* SPDX-License-Identifier: MIT */
/* What the programs of the guests have in common. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Say that the guest is ready; from then on check its data once a line of input. */
int serve(bool (*intact)(void));

/* Serve with text, which is the same in all guests, and what 'pack' makes of it. */
typedef size_t packer(void *to, size_t room, const void *from, size_t size);
int keep(packer *pack, packer *unpack);

/*
 * Say that the guest is ready; from then on call 'work', which returns how many
 * operations it did, and print about once a second how many a second those were.
 */
int run(uint64_t (*work)(void));

/* The next of a series of pseudo-random numbers. */
uint64_t next(uint64_t *state);

/* A start for such a series that differs between guests. */
uint64_t seed(void);
