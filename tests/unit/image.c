// SPDX-License-Identifier: MIT
/* Images of memory: well-formed, hostile, and compared. */
#define _GNU_SOURCE	/* mremap() */
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../cli/cli.h"
#include "../../cli/image.h"
#include "ktap.h"

#define PAGES	4
#define SIZE	(PAGES * IMAGE_PAGE)

struct file {
	Elf64_Ehdr elf;
	Elf64_Phdr load[64];
};

/* A kernel of two pages of data, the second all zero, and one of bss. */
static struct file *file_make(struct image *image)
{
	struct file *file;

	*image = (struct image){ .name = "test", .mem = -1, .size = SIZE };
	image->data = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);
	file = (struct file *)(void *)image->data;
	memcpy(file->elf.e_ident, ELFMAG, SELFMAG);
	file->elf.e_ident[EI_CLASS] = ELFCLASS64;
	file->elf.e_ident[EI_DATA] = ELFDATA2LSB;
	file->elf.e_ident[EI_VERSION] = EV_CURRENT;
	file->elf.e_type = ET_EXEC;
	file->elf.e_machine = EM_X86_64;
	file->elf.e_version = EV_CURRENT;
	file->elf.e_ehsize = sizeof(file->elf);
	file->elf.e_phoff = offsetof(struct file, load);
	file->elf.e_phentsize = sizeof(Elf64_Phdr);
	file->elf.e_phnum = 1;
	file->load[0] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_offset = IMAGE_PAGE,
				      .p_paddr = 0x100000, .p_vaddr = 0xffff0000,
				      .p_filesz = 2 * IMAGE_PAGE, .p_memsz = 3 * IMAGE_PAGE };
	image->data[IMAGE_PAGE + 5] = 7;
	return file;
}

static void placed_as_a_loader_does(void)
{
	struct image image;
	uint8_t content[IMAGE_PAGE];

	file_make(&image)->load[0].p_paddr += 0x10;
	CHECK(!image_parse(&image));
	CHECK(image.nr_pages == 1 && image.zero == 3);
	REQUIRE(image.nr_pages);
	CHECK(image.pages[0].address == 0x100000);
	CHECK(image_page(&image, &image.pages[0], content) && content[0x15] == 7);
	image_free(&image);
}

static void a_page_of_two_segments_counts_once(void)
{
	struct image image;
	struct file *file = file_make(&image);
	uint8_t content[IMAGE_PAGE];

	file->elf.e_phnum = 2;
	file->load[0].p_filesz = file->load[0].p_memsz = 0x100;
	file->load[1] = file->load[0];
	file->load[1].p_paddr += 0x800;
	CHECK(!image_parse(&image));
	CHECK(image.nr_pages == 1 && image.zero == 0);
	REQUIRE(image.nr_pages);
	CHECK(image_page(&image, &image.pages[0], content) && content[5] == 7 &&
	      content[0x805] == 7);
	image_free(&image);
}

static void hostile_headers(void)
{
	static const struct {
		const char *says;
		Elf64_Phdr load;
		uint16_t phnum;
		uint64_t phoff;
	} rows[] = {
		{ "end of the file", { PT_LOAD, 0, SIZE + 1, 0, 0, 1, 1, 0 }, 1, 64 },
		{ "end of the file", { PT_LOAD, 0, 1, 0, 0, UINT64_MAX, UINT64_MAX, 0 }, 1, 64 },
		{ "end of the file", { PT_LOAD, 0, UINT64_MAX, 0, 0, 2, 2, 0 }, 1, 64 },
		{ "larger in the file", { PT_LOAD, 0, 0, 0, 0, 2, 1, 0 }, 1, 64 },
		{ "end of memory", { PT_LOAD, 0, 0, 0, 0, 2, UINT64_MAX, 0 }, 1, 64 },
		{ "end of memory", { PT_LOAD, 0, 0, 0, UINT64_MAX, 2, 2, 0 }, 1, 64 },
		{ "nothing in it", { PT_NOTE, 0, 0, 0, 0, 2, 2, 0 }, 1, 64 },
		{ "program headers", { PT_LOAD, 0, 0, 0, 0, 2, 2, 0 }, 65000, 64 },
		{ "ELF", { PT_LOAD, 0, 0, 0, 0, 2, 2, 0 }, 1, UINT64_MAX - 8 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct image image;
		struct file *file = file_make(&image);
		const char *wrong;

		file->load[0] = rows[i].load;
		file->elf.e_phnum = rows[i].phnum;
		file->elf.e_phoff = rows[i].phoff;
		wrong = image_parse(&image);
		CHECK_FOR(rows[i].says, wrong && strstr(wrong, rows[i].says));
		image_free(&image);
	}
}

static void a_giant_bss_needs_no_memory(void)
{
	struct image image;

	file_make(&image)->load[0].p_memsz = 1ULL << 50;
	CHECK(!image_parse(&image));
	CHECK(image.zero == (1ULL << 38) - 1 && image.nr_pages == 1);
	image_free(&image);
}

static void overlapping_segments(void)
{
	struct image image;
	struct file *file = file_make(&image);
	const char *wrong;

	file->elf.e_phnum = 2;
	file->load[1] = file->load[0];
	wrong = image_parse(&image);
	CHECK(wrong && strstr(wrong, "overlap"));
	image_free(&image);
}

static void hostile_bzimages(void)
{
	struct image image;
	const char *wrong;

	file_make(&image);
	memset(image.data, 0, SIZE);
	memcpy(image.data + 0x202, "HdrS", 4);
	memset(image.data + 0x248, 0xff, 8);
	wrong = image_parse(&image);
	CHECK(wrong && strstr(wrong, "truncated"));
	memset(image.data + 0x248, 0, 8);
	wrong = image_parse(&image);
	CHECK(wrong && strstr(wrong, "unknown"));
	image.data[0x24d] = 1;
	memcpy(image.data + 5 * 512, "\x1f\x8b", 2);
	wrong = image_parse(&image);
	CHECK(wrong && strstr(wrong, "broken bzImage"));
	image_free(&image);
}

/* Each segment has all of the file. */
static void segments_that_multiply_the_file(void)
{
	struct image image;
	struct file *file = file_make(&image);
	const char *wrong;

	file->elf.e_phnum = ARRAY_SIZE(file->load);
	for (size_t i = 0; i < ARRAY_SIZE(file->load); i++)
		file->load[i] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_paddr = i * SIZE,
					      .p_filesz = SIZE, .p_memsz = SIZE };
	wrong = image_parse(&image);
	CHECK(wrong && strstr(wrong, "more than the file"));
	image_free(&image);
}

static void more_segments_than_any_image(void)
{
	const size_t size = IMAGE_PAGE + 5000 * sizeof(Elf64_Phdr);
	struct image image;
	struct file *file = file_make(&image);
	const char *wrong;

	file->elf.e_phnum = 5000;
	image.data = mremap(image.data, SIZE, size, MREMAP_MAYMOVE);
	REQUIRE(image.data != MAP_FAILED);
	image.size = size;
	wrong = image_parse(&image);
	CHECK(wrong && strstr(wrong, "more segments"));
	image_free(&image);
}

/* Opening it would wait for a writer. */
static void a_fifo_is_no_image(void)
{
	char path[] = "/tmp/dksm-image-XXXXXX", fifo[sizeof(path) + 5];
	struct image image;

	REQUIRE(mkdtemp(path));
	snprintf(fifo, sizeof(fifo), "%s/fifo", path);
	CHECK(!mkfifo(fifo, 0600));
	alarm(5);
	CHECK(image_load(&image, fifo));
	alarm(0);
	image_free(&image);
	unlink(fifo);
	rmdir(path);
}

/* Why the first page of one raw image is not in another. */
static enum reason reason_of_first(const uint8_t *a, const uint8_t *b, uint64_t *bytes)
{
	struct comparison all = { .images = calloc(2, sizeof(struct image)), .nr = 2 };
	enum reason reason = REASON_NR;
	struct mismatches found;

	if (!all.images)
		return REASON_NR;
	file_make(&all.images[0]);
	file_make(&all.images[1]);
	memset(all.images[0].data, 0, SIZE);
	memcpy(all.images[0].data, a, IMAGE_PAGE);
	memcpy(all.images[1].data, b, SIZE);
	CHECK(!image_parse(&all.images[0]) && !image_parse(&all.images[1]));
	compare(&all);
	found = mismatches_find(&all, 0, 1);
	if (CHECK(found.nr == 1)) {
		reason = found.list[0].reason;
		*bytes = found.list[0].bytes;
	}
	free(found.list);
	comparison_free(&all);
	return reason;
}

static void reasons(void)
{
	uint8_t a[IMAGE_PAGE], b[SIZE] = { 0 };
	uint64_t bytes = 0, pointer;

	for (size_t i = 0; i < sizeof(a); i++)
		a[i] = (uint8_t)(random() >> 8);
	memcpy(b + IMAGE_PAGE + 5, a, IMAGE_PAGE);
	memset(b + IMAGE_PAGE + 105, 0, 10);
	memset(a + 100, 1, 10);
	CHECK(reason_of_first(a, b, &bytes) == REASON_OFFSET && bytes == 10);
	memset(b, 0x5a, sizeof(b));
	CHECK(reason_of_first(a, b, &bytes) == REASON_OTHER && !bytes);
	for (size_t i = 0; i < sizeof(a); i++)
		a[i] = (uint8_t)"some words"[(i * i / 7 + i) % 11];
	CHECK(reason_of_first(a, b, &bytes) == REASON_STRINGS && !bytes);
	/* A few addresses among zeroes are no text. */
	memset(a, 0, sizeof(a));
	pointer = 0xffffffff81000000;
	memcpy(a + 64, &pointer, sizeof(pointer));
	CHECK(reason_of_first(a, b, &bytes) == REASON_OTHER && !bytes);
}

/* Two raw images: one page equal, one moved by 16 bytes, one with 8 bytes changed. */
static void pages_and_reasons(void)
{
	struct comparison all = { .images = calloc(2, sizeof(struct image)), .nr = 2 };
	struct mismatches found;
	uint8_t *a, *b;

	REQUIRE(all.images);
	file_make(&all.images[0]);
	file_make(&all.images[1]);
	a = all.images[0].data;
	b = all.images[1].data;
	for (size_t i = 0; i < SIZE; i++)
		a[i] = (uint8_t)(random() >> 8);
	memcpy(b, a, SIZE);
	memcpy(b + IMAGE_PAGE + 16, a + IMAGE_PAGE, IMAGE_PAGE - 16);
	for (size_t i = 0; i < 8; i++)
		b[2 * IMAGE_PAGE + 64 + i] ^= 0xff;
	CHECK(!image_parse(&all.images[0]) && !image_parse(&all.images[1]));
	compare(&all);
	CHECK(all.shared[1] == 2 && all.shared[2] == 2 && all.contents == 6);
	CHECK(frames_of(&all, 0, 2, 1) == 6 && frames_of(&all, 0, 2, 129) == 8);
	found = mismatches_find(&all, 0, 1);
	CHECK(found.nr == 2);
	for (size_t i = 0; i < found.nr; i++)
		CHECK(found.list[i].pages == 1 &&
		      (found.list[i].reason == REASON_OFFSET ||
		       (found.list[i].reason == REASON_ADDRESSES && found.list[i].bytes == 8)));
	free(found.list);
	comparison_free(&all);
}

static const struct ktap_test tests[] = {
	{ "placed as a loader does", placed_as_a_loader_does },
	{ "a page of two segments counts once", a_page_of_two_segments_counts_once },
	{ "hostile headers", hostile_headers },
	{ "a giant bss needs no memory", a_giant_bss_needs_no_memory },
	{ "overlapping segments", overlapping_segments },
	{ "hostile bzImages", hostile_bzimages },
	{ "segments that multiply the file", segments_that_multiply_the_file },
	{ "more segments than any image", more_segments_than_any_image },
	{ "a FIFO is no image", a_fifo_is_no_image },
	{ "reasons", reasons },
	{ "pages and reasons", pages_and_reasons },
};

KTAP_MAIN(tests)
