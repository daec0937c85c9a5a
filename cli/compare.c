// SPDX-License-Identifier: MIT
/*
 * Compares images page by page.  Equal pages get one number: first by hash, then by
 * their bytes.  Why a page has no equal one in another image is found by pieces of
 * it: where most of them are there tells how far it has moved.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "image.h"

#define PIECE	16U	/* the alignment of functions */
#define VOTES	4	/* pieces that must have moved alike */

struct entry {
	uint64_t hash;
	uint32_t image;
	uint32_t page;
};

/* A piece of an image: what it holds, and where it is. */
struct piece {
	uint64_t hash;
	uint64_t address;
};

struct pieces {
	struct piece *list;
	size_t nr;
};

static void *allocate(size_t nr, size_t size)
{
	void *memory = calloc(nr ? nr : 1, size);

	if (!memory) {
		fputs("dksm analyze: out of memory\n", stderr);
		exit(EXIT_FAILED);
	}
	return memory;
}

static int by_hash(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

static struct page *page_of(const struct comparison *all, const struct entry *entry)
{
	return &all->images[entry->image].pages[entry->page];
}

static bool page_read(const struct comparison *all, const struct entry *entry, uint8_t *content)
{
	return image_page(&all->images[entry->image], page_of(all, entry), content);
}

/* The entry that holds this, or the one behind the last. */
static size_t entry_find(const struct comparison *all, const struct entry *entries, size_t nr,
			 const uint8_t *content)
{
	uint8_t other[IMAGE_PAGE];
	size_t i = 0;

	while (i < nr && !(page_read(all, &entries[i], other) &&
			   !memcmp(content, other, sizeof(other))))
		i++;
	return i;
}

/*
 * Numbers pages of one hash; more than one number only if hashes collide, or pages of
 * a process change.  One page of each number is kept at the front.
 */
static void number_run(struct comparison *all, struct entry *run, size_t nr)
{
	uint8_t content[IMAGE_PAGE];
	size_t different = 0, same;

	for (size_t i = 0; i < nr; i++) {
		struct entry entry = run[i];
		bool there = page_read(all, &entry, content);

		same = there ? entry_find(all, run, different, content) : different;
		page_of(all, &entry)->content = same < different ?
			page_of(all, &run[same])->content : all->contents++;
		if (there && same == different) {
			run[i] = run[different];
			run[different++] = entry;
		}
	}
}

static size_t pages_in(const struct comparison *all)
{
	size_t nr = 0;

	for (size_t i = 0; i < all->nr; i++)
		nr += all->images[i].nr_pages;
	return nr;
}

static void number_contents(struct comparison *all)
{
	size_t nr = pages_in(all), filled = 0, end;
	struct entry *entries = allocate(nr, sizeof(*entries));

	for (uint32_t i = 0; i < all->nr; i++)
		for (uint32_t j = 0; j < all->images[i].nr_pages; j++)
			entries[filled++] =
				(struct entry){ all->images[i].pages[j].hash, i, j };
	qsort(entries, nr, sizeof(*entries), by_hash);
	all->contents = 0;
	for (size_t start = 0; start < nr; start = end) {
		for (end = start + 1; end < nr && entries[end].hash == entries[start].hash;)
			end++;
		number_run(all, entries + start, end - start);
	}
	free(entries);
}

/* How often each content is in some images. */
static uint32_t *count_contents(const struct comparison *all, size_t first, size_t nr)
{
	uint32_t *counts = allocate(all->contents, sizeof(*counts));

	for (size_t i = first; i < first + nr; i++)
		for (size_t j = 0; j < all->images[i].nr_pages; j++)
			counts[all->images[i].pages[j].content]++;
	return counts;
}

static void count_shared(struct comparison *all, size_t b)
{
	uint32_t *counts = count_contents(all, b, 1);

	for (size_t i = 0; i < all->contents; i++)
		all->distinct[b] += counts[i] != 0;
	for (size_t a = 0; a < all->nr; a++)
		for (size_t i = 0; i < all->images[a].nr_pages; i++)
			all->shared[a * all->nr + b] +=
				counts[all->images[a].pages[i].content] > (a == b);
	free(counts);
}

void compare(struct comparison *all)
{
	number_contents(all);
	all->shared = allocate(all->nr * all->nr, sizeof(*all->shared));
	all->distinct = allocate(all->nr, sizeof(*all->distinct));
	for (size_t b = 0; b < all->nr; b++)
		count_shared(all, b);
}

void comparison_free(struct comparison *all)
{
	for (size_t i = 0; i < all->nr; i++)
		image_free(&all->images[i]);
	free(all->images);
	free(all->shared);
	free(all->distinct);
}

uint64_t frames_of(const struct comparison *all, size_t first, size_t nr, uint64_t instances)
{
	const uint64_t most = 256;	/* mappings of a frame: max_page_sharing */
	uint32_t *counts = count_contents(all, first, nr);
	uint64_t frames = 0;

	for (size_t i = 0; i < all->contents; i++)
		frames += (counts[i] * instances + most - 1) / most;
	free(counts);
	return frames;
}

/* False for a piece that says nothing: all bytes are the same. */
static bool piece_hash(const uint8_t *bytes, uint64_t *hash)
{
	uint64_t words[2];

	memcpy(words, bytes, sizeof(words));
	*hash = (words[0] ^ words[1] >> 29) * 0x9e3779b97f4a7c15ULL + words[1];
	return memcmp(bytes, bytes + 1, PIECE - 1);
}

static struct pieces pieces_of(const struct image *image)
{
	struct pieces all = { allocate(image->nr_pages * (IMAGE_PAGE / PIECE),
				       sizeof(*all.list)), 0 };
	uint8_t content[IMAGE_PAGE];

	for (size_t i = 0; i < image->nr_pages; i++) {
		if (!image_page(image, &image->pages[i], content))
			continue;
		for (uint64_t at = 0; at < IMAGE_PAGE; at += PIECE) {
			all.list[all.nr].address = image->pages[i].address + at;
			all.nr += piece_hash(content + at, &all.list[all.nr].hash);
		}
	}
	qsort(all.list, all.nr, sizeof(*all.list), by_hash);
	return all;
}

/* The only piece with this hash, or NULL: what is there often says little. */
static const struct piece *piece_find(const struct pieces *all, uint64_t hash)
{
	const struct piece *found = all->nr ? bsearch(&hash, all->list, all->nr,
						      sizeof(*found), by_hash) : NULL;

	if (!found || (found > all->list && found[-1].hash == hash) ||
	    (found + 1 < all->list + all->nr && found[1].hash == hash))
		return NULL;
	return found;
}

/* By how much most pieces of a page, one each @step bytes, have moved; how many have. */
static size_t moved_by(const struct pieces *there, const uint8_t *content, uint64_t address,
		       uint64_t step, uint64_t *distance)
{
	uint64_t moves[IMAGE_PAGE] = { 0 }, hash;
	size_t nr = 0, best = 0, run = 0;

	for (uint64_t at = 0; at <= IMAGE_PAGE - PIECE; at += step) {
		const struct piece *piece = piece_hash(content + at, &hash) ?
					    piece_find(there, hash) : NULL;

		if (piece)
			moves[nr++] = piece->address - (address + at);
	}
	qsort(moves, nr, sizeof(*moves), by_hash);
	for (size_t i = 0; i < nr; i++) {
		run = i && moves[i] == moves[i - 1] ? run + 1 : 1;
		if (run > best) {
			best = run;
			*distance = moves[i];
		}
	}
	return best;
}

static bool is_text(const uint8_t *content)
{
	size_t text = 0, given = 0;

	for (size_t i = 0; i < IMAGE_PAGE; i++) {
		text += isprint(content[i]) || isspace(content[i]);
		given += content[i] != 0;
	}
	return text > given * 9 / 10;
}

/* Of a page and what is in the image at any address; no page there: zeroes. */
static uint64_t bytes_differ(const struct image *image, uint64_t address, const uint8_t *content)
{
	uint8_t other[2 * IMAGE_PAGE] = { 0 };
	uint64_t offset = address % IMAGE_PAGE, nr = 0;

	for (uint64_t at = 0; at < sizeof(other); at += IMAGE_PAGE) {
		const struct page *page = image_find(image, address - offset + at);

		if (page && !image_page(image, page, other + at))
			return IMAGE_PAGE;
	}
	for (size_t i = 0; i < IMAGE_PAGE; i++)
		nr += content[i] != other[offset + i];
	return nr;
}

/* Text and tables need not move by a multiple of what functions are aligned to. */
static enum reason reason_of(const struct image *b, const struct pieces *there,
			     const uint8_t *content, uint64_t address, uint64_t *bytes)
{
	uint64_t distance = 0;
	size_t votes = moved_by(there, content, address, PIECE, &distance);

	if (votes < VOTES)
		votes = moved_by(there, content, address, 1, &distance);
	if (votes >= VOTES) {
		*bytes = bytes_differ(b, address + distance, content);
		if (*bytes <= IMAGE_PAGE / 2)
			return distance % IMAGE_PAGE ? REASON_OFFSET : REASON_ADDRESSES;
	}
	*bytes = 0;
	return is_text(content) ? REASON_STRINGS : REASON_OTHER;
}

static const char *label_in(const struct labels *labels, uint64_t address)
{
	const struct label *label = NULL;

	for (uint64_t at = 0; at < IMAGE_PAGE && !label; at += PIECE)
		label = label_find(labels, address + at);
	return label ? label->name : NULL;
}

static struct mismatch *mismatch_for(struct mismatches *all, enum reason reason,
				     const char *section)
{
	struct mismatch *list = all->list;

	for (size_t i = 0; i < all->nr; i++)
		if (list[i].reason == reason && !strcmp(list[i].section, section))
			return &list[i];
	list = realloc(list, (all->nr + 1) * sizeof(*list));
	if (!list)
		exit(EXIT_FAILED);
	all->list = list;
	list[all->nr] = (struct mismatch){ .reason = reason, .section = section };
	return &list[all->nr++];
}

static void mismatch_add(struct mismatches *all, const struct image *image, uint64_t address,
			 enum reason reason, uint64_t bytes)
{
	const char *section = label_in(&image->sections, address);
	const char *function = label_in(&image->functions, address);
	struct mismatch *mismatch = mismatch_for(all, reason, section ? section : "");

	mismatch->pages++;
	mismatch->bytes += bytes;
	if (!function)
		return;
	if (!mismatch->first)
		mismatch->first = function;
	mismatch->last = function;
}

static int by_pages(const void *a, const void *b)
{
	const struct mismatch *left = a, *right = b;

	return (left->pages < right->pages) - (left->pages > right->pages);
}

struct mismatches mismatches_find(const struct comparison *all, size_t a, size_t b)
{
	const struct image *image = &all->images[a], *other = &all->images[b];
	uint32_t *counts = count_contents(all, b, 1);
	struct pieces there = pieces_of(other);
	struct mismatches found = { NULL, 0 };
	uint8_t content[IMAGE_PAGE];
	enum reason reason;
	uint64_t bytes;

	for (size_t i = 0; i < image->nr_pages; i++) {
		const struct page *page = &image->pages[i];

		if (counts[page->content] || !image_page(image, page, content))
			continue;
		reason = reason_of(other, &there, content, page->address, &bytes);
		mismatch_add(&found, image, page->address, reason, bytes);
	}
	if (found.nr)
		qsort(found.list, found.nr, sizeof(*found.list), by_pages);
	free(there.list);
	free(counts);
	return found;
}

const char *reason_text(enum reason reason)
{
	static const char *const texts[REASON_NR] = {
		[REASON_OFFSET] = "offset", [REASON_ADDRESSES] = "addresses",
		[REASON_STRINGS] = "strings", [REASON_OTHER] = "other",
	};

	return texts[reason];
}
