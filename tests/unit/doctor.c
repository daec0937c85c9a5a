// SPDX-License-Identifier: MIT
/* dksm doctor's judgement: each fact, one at a time, on an otherwise healthy host. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../cli/cli.h"
#include "ktap.h"

#define MIB (1ULL << 20)

static struct host_facts healthy_host(void)
{
	return (struct host_facts){
		.features = DKSM_FEATURE_KVM, .thp = "madvise",
		.global = { .use_zero_pages = 1, .learn = 128,
			    .busy_percent = 1 },
	};
}

static struct process_facts healthy_process(void)
{
	return (struct process_facts){
		.pid = 12, .vm_fds = 1,
		.stat = {
			.domain = "web", .pages_merged = 100,
			.pages_sharing = 90, .attached = 1, .idle = 1,
			.learn = 1, .vms = 1, .idle_passes = 1,
		},
	};
}

static const struct finding *finding(const struct findings *all,
				     const char *code)
{
	for (size_t i = 0; i < all->nr; i++)
		if (!strcmp(all->list[i].code, code))
			return &all->list[i];
	return NULL;
}

/* The one finding, of that severity, and all of its text. */
static void expect(const struct findings *all, enum severity severity,
		   const char *code)
{
	const struct finding *found = finding(all, code);

	CHECK_FOR(code, all->nr == 1 && found);
	if (!found)
		return;
	CHECK_FOR(code, found->severity == severity);
	CHECK_FOR(code, strlen(found->text) < sizeof(found->text) - 1);
	CHECK_FOR(code, strchr(found->text, ':') ||
		  severity == SEVERITY_NOTE || strstr(found->text, "pinned"));
	CHECK_FOR(code, findings_bad(all) == (severity != SEVERITY_NOTE));
}

#define HOST(severity, code, change) do { \
		struct findings all = { .nr = 0 }; \
		struct host_facts host = healthy_host(); \
		change; \
		doctor_host(&all, &host); \
		expect(&all, severity, code); \
	} while (0)

static void hosts(void)
{
	struct findings none = { .nr = 0 };
	struct host_facts healthy = healthy_host();

	doctor_host(&none, &healthy);
	CHECK(!none.nr && !findings_bad(&none));
	HOST(SEVERITY_ERROR, "no_dksm",
	     host.stat_err = host.open_err = -ENODEV; host.kvm_err = -ENOENT);
	HOST(SEVERITY_ERROR, "no_device", host.open_err = -ENODEV);
	HOST(SEVERITY_ERROR, "device_access", host.open_err = -EACCES);
	HOST(SEVERITY_ERROR, "no_kvm_support", host.features = 0);
	HOST(SEVERITY_WARNING, "no_kvm", host.kvm_err = -ENOENT);
	HOST(SEVERITY_WARNING, "zero_pages_off",
	     host.global.use_zero_pages = 0);
	HOST(SEVERITY_WARNING, "learning_off", host.global.learn = 0);
	HOST(SEVERITY_WARNING, "busy_off", host.global.busy_percent = 0);
	HOST(SEVERITY_WARNING, "thp_always", strcpy(host.thp, "always");
	     host.global.counters.huge_split = UINT64_MAX);
	HOST(SEVERITY_WARNING, "ksmd_runs", host.ksmd_runs = true);
}

#define PROCESS(severity, code, change) do { \
		struct findings all = { .nr = 0 }; \
		struct process_facts process = healthy_process(); \
		struct dksm_process *stat = &process.stat; \
		(void)stat; \
		change; \
		doctor_process(&all, &process); \
		expect(&all, severity, code); \
	} while (0)

static void processes(void)
{
	struct process_facts healthy = healthy_process();
	struct findings none = { .nr = 0 };

	doctor_process(&none, &healthy);
	CHECK(!none.nr);
	healthy.stat_err = -ENODEV;	/* the host's finding says it all */
	doctor_process(&none, &healthy);
	CHECK(!none.nr);
	/* A kernel's image that the VMM has mapped is no snapshot. */
	healthy = healthy_process();
	healthy.file_bytes = 23 * MIB;
	healthy.anonymous_bytes = 60 * MIB;
	doctor_process(&none, &healthy);
	CHECK(!none.nr);
	PROCESS(SEVERITY_ERROR, "no_process", process.stat_err = -ESRCH);
	PROCESS(SEVERITY_ERROR, "process_access", process.stat_err = -EACCES);
	PROCESS(SEVERITY_ERROR, "hugetlb_memory",
		process.hugetlb_bytes = 64 * MIB);
	PROCESS(SEVERITY_ERROR, "shared_memory",
		process.shared_bytes = 64 * MIB);
	PROCESS(SEVERITY_NOTE, "file_memory", process.file_bytes = 64 * MIB);
	PROCESS(SEVERITY_NOTE, "shared_memory", process.shared_bytes = 16 * MIB;
		process.anonymous_bytes = 32 * MIB);
	PROCESS(SEVERITY_NOTE, "shared_memory", process.shared_bytes = 64 * MIB;
		stat->load.skipped[DKSM_SKIP_SHARED] = 500;
		stat->load.scanned = 500 + 2048);
	PROCESS(SEVERITY_ERROR, "not_attached",
		stat->attached = stat->pages_merged = 0);
	PROCESS(SEVERITY_NOTE, "not_attached", stat->attached = 0);
	PROCESS(SEVERITY_WARNING, "no_vm", process.vm_fds = 0);
	PROCESS(SEVERITY_WARNING, "no_kvm_run", stat->vms = 0;
		stat->pages_merged = stat->idle_passes = 0);
	PROCESS(SEVERITY_WARNING, "idle_off", stat->idle = 0);
	PROCESS(SEVERITY_WARNING, "never_idle", stat->idle_passes = 0);
	PROCESS(SEVERITY_WARNING, "paused", process.paused = true;
		stat->idle_passes = 0);
	PROCESS(SEVERITY_WARNING, "paused", process.paused = true;
		stat->vms = stat->pages_merged = stat->idle_passes = 0);
	PROCESS(SEVERITY_NOTE, "paused", process.paused = true);
	PROCESS(SEVERITY_WARNING, "other_domains", stat->pages_sharing = 0;
		process.other_domains = 2);
	PROCESS(SEVERITY_WARNING, "other_domains",
		stat->pages_sharing = stat->pages_merged = 0;
		stat->load.skipped[DKSM_SKIP_ALONE] = 9;
		process.other_domains = 1);
	PROCESS(SEVERITY_NOTE, "alone",
		stat->pages_sharing = stat->pages_merged = 0;
		stat->idle_report.skipped[DKSM_SKIP_ALONE] = 9);
	PROCESS(SEVERITY_NOTE, "huge_split", stat->huge_split = 3);
	PROCESS(SEVERITY_WARNING, "pinned",
		stat->load.skipped[DKSM_SKIP_PINNED] = 5);
	PROCESS(SEVERITY_WARNING, "merged_by_ksm",
		stat->load.skipped[DKSM_SKIP_KSM] = 5);
	PROCESS(SEVERITY_WARNING, "pinned",
		stat->attach.skipped[DKSM_SKIP_PINNED] = 5);
	PROCESS(SEVERITY_WARNING, "merged_by_ksm",
		stat->attach.skipped[DKSM_SKIP_KSM] = 5);
}

/* It ran when it was attached: none was merged at its start, and all is well. */
static void merged_by_attaching(void)
{
	struct process_facts process = healthy_process();
	struct findings all = { .nr = 0 };

	process.stat.vms = 0;
	process.stat.attach = (struct dksm_report){
		.scanned = 1000, .merged = 90, .published = 10,
		.skipped = { [DKSM_SKIP_ALONE] = 900 },
	};
	doctor_process(&all, &process);
	CHECK(!all.nr);
	process.stat.idle = 0;
	doctor_process(&all, &process);
	CHECK(all.nr == 1 && finding(&all, "idle_off"));
}

/* One of 16 MiB, of which 4000 pages were merged, and 10 still are. */
static struct process_facts lost_process(void)
{
	struct process_facts process = healthy_process();

	process.anonymous_bytes = 16 * MIB;
	process.stat.load.merged = 3000;
	process.stat.idle_report.published = 1000;
	process.stat.pages_merged = process.stat.pages_sharing = 10;
	return process;
}

static const char *lost_text(const struct process_facts *process)
{
	static struct findings all;
	const struct finding *found;

	all.nr = 0;
	doctor_process(&all, process);
	found = finding(&all, "was_shared");
	if (!found)
		return "";
	CHECK(all.nr == 1 && found->severity == SEVERITY_WARNING);
	CHECK(strlen(found->text) < sizeof(found->text) - 1);
	CHECK(strstr(found->text, "4000") && strstr(found->text, "10 "));
	return found->text;
}

static void was_shared(void)
{
	struct process_facts process = lost_process();

	CHECK(strstr(lost_text(&process), "given back"));
	process.stat.cow_breaks = 3900;
	CHECK(strstr(lost_text(&process), "written to"));
	process.stat.idle_report.skipped[DKSM_SKIP_PINNED] = 3900;
	CHECK(strstr(lost_text(&process), "pinned"));
}

/* What was freed, or merged again and again, was not lost. */
static void was_not_lost(void)
{
	struct process_facts process = lost_process();

	process.anonymous_bytes = 4 * MIB;
	CHECK(!*lost_text(&process));
	process = lost_process();
	process.stat.vms = 2;		/* one of them has ended */
	CHECK(!*lost_text(&process));
	process = lost_process();
	process.stat.pages_merged = 1000;
	CHECK(!*lost_text(&process));
	process = lost_process();
	process.stat.load.merged = process.stat.idle_report.published = 100;
	process.stat.pages_merged = 0;
	CHECK(!*lost_text(&process));
}

#define STRING(number) #number
#define NUMBER(name) STRING(name)
#define IOCTL NUMBER(__NR_ioctl)

static void threads(void)
{
	static const struct {
		const char *syscall;
		bool enters;
	} rows[] = {
		{ "running\n", true },
		{ IOCTL " 0x1b 0xae80 0x0 0x0 0x0 0x0 0x7ffc 0x7f12\n", true },
		{ IOCTL " 0x1b 0xae81 0x0 0x0 0x0 0x0 0x7ffc 0x7f12\n", false },
		{ "9999 0x7f 0xae80 0x0 0x0 0x0 0x0 0x7ffc 0x7f12\n", false },
		/* A worker that KVM has started in the first KVM_RUN. */
		{ IOCTL " 0xb 0xae80 0x0 0x0 0x143 0x0 0x0 0x0\n", false },
		{ "-1 0x7ffc 0x7f12\n", false }, { "", false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		CHECK_FOR(rows[i].syscall,
			  thread_enters_guest(rows[i].syscall) == rows[i].enters);
}

/* Whether a process that does nothing but @work looks like one of a paused guest. */
static bool seems_paused(void (*work)(void))
{
	pid_t pid = fork();
	bool paused;

	if (!pid)
		for (;;)
			work();
	usleep(50000);
	paused = guest_is_paused(pid);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return paused;
}

static void wait_for_ever(void)
{
	pause();
}

static void compute(void)
{
}

static void pauses(void)
{
	CHECK(seems_paused(wait_for_ever));
	CHECK(!seems_paused(compute));
	CHECK(!guest_is_paused(-1));
}

/* Small shared mappings are the VMM's own business. */
static void what_is_not_guest_memory(void)
{
	struct process_facts process = healthy_process();
	struct findings all = { .nr = 0 };

	process.shared_bytes = process.hugetlb_bytes = MIB;
	process.file_bytes = MIB;
	doctor_process(&all, &process);
	CHECK(!all.nr);
}

/* Mappings of 64 MiB of each kind, as the kernel writes them. */
#define MAPPING(inode, name, flags) \
	"7f0000000000-7f0004000000 rw-p 00000000 00:21 " inode " " name "\n" \
	"Size: 65536 kB\nAnonymous: 1024 kB\nAnonHugePages: 0 kB\nVmFlags: rd " flags "\n"

static void read_mappings(char *text, struct process_facts *process)
{
	FILE *smaps = fmemopen(text, strlen(text), "r");

	REQUIRE(smaps);
	memset(process, 0, sizeof(*process));
	mappings_read(smaps, process);
	fclose(smaps);
}

static void mappings(void)
{
	char text[] = MAPPING("0", "", "wr mr") MAPPING("9", "/memfd:x", "wr sh")
		      MAPPING("9", "/dev/x", "wr ht") MAPPING("9", "/file", "wr")
		      MAPPING("9", "/lib", "ex");
	struct process_facts process;

	read_mappings(text, &process);
	CHECK(process.shared_bytes == 64 * MIB);
	CHECK(process.hugetlb_bytes == 64 * MIB);
	CHECK(process.file_bytes == 64 * MIB);
	CHECK(process.anonymous_bytes == 5 * MIB);
}

/* Wherever a name is cut, its rest must not be taken for a line of its own. */
static void long_names(void)
{
	struct process_facts process;
	char text[2048];

	for (int len = 1; len < 1100; len++) {
		snprintf(text, sizeof(text), MAPPING("0", "/%0*dVmFlags: ht", "mr"),
			 len, 0);
		read_mappings(text, &process);
		CHECK(!process.hugetlb_bytes);
	}
}

static void choices(void)
{
	char word[16];

	choice_word("always [madvise] never\n", word, sizeof(word));
	CHECK(!strcmp(word, "madvise"));
	choice_word("never\n", word, sizeof(word));
	CHECK(!*word);
	choice_word("] a [", word, sizeof(word));
	CHECK(!*word);
	choice_word("[more than there is room for]", word, sizeof(word));
	CHECK(!strcmp(word, "more than there"));
}

static void everything_at_once(void)
{
	struct host_facts host = healthy_host();
	struct process_facts process = healthy_process();
	struct findings all = { .nr = 0 };
	char *text = NULL;
	size_t size = 0;
	FILE *out;

	strcpy(host.thp, "always");
	host.ksmd_runs = true;
	host.global.learn = host.global.use_zero_pages = 0;
	process.shared_bytes = process.hugetlb_bytes = 64 * MIB;
	process.file_bytes = 64 * MIB;
	process.vm_fds = 0;
	process.stat.attached = process.stat.pages_merged = 0;
	process.stat.huge_split = 1;
	doctor_host(&all, &host);
	doctor_process(&all, &process);
	CHECK(all.nr == 10);
	out = open_memstream(&text, &size);
	findings_table(out, &all);
	fclose(out);
	CHECK(strstr(text, "error    64 MiB are hugetlb memory"));
	CHECK(strstr(text, "note     64 MiB are mapped from a file"));
	CHECK(!strstr(text, "\nok "));
	free(text);
	out = open_memstream(&text, &size);
	findings_json(out, 12, &all);
	fclose(out);
	CHECK(strstr(text, "\"pid\": 12") && strstr(text, "\"thp_always\""));
	free(text);
}

static const struct ktap_test tests[] = {
	{ "hosts", hosts },
	{ "processes", processes },
	{ "merged by attaching", merged_by_attaching },
	{ "what was shared, and is not now", was_shared },
	{ "what only looks like that", was_not_lost },
	{ "threads that are in the guest", threads },
	{ "who is paused", pauses },
	{ "what is not guest memory", what_is_not_guest_memory },
	{ "mappings", mappings },
	{ "mappings of files with long names", long_names },
	{ "the word in brackets", choices },
	{ "everything at once", everything_at_once },
};

KTAP_MAIN(tests)
