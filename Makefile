# SPDX-License-Identifier: MIT
# User space of DKSM, and the entry points of everything else.
# Sources are found by directory, so that a new file needs no change here:
#   lib/*.c           the library
#   cli/*.c           the dksm command
#   tests/unit/X.c    a program, linked to both, all built with sanitizers
#   tests/fuzz/X.c    a fuzzer of both, by clang
#   tests/vm/X.c      a program that runs in the VM; testlib.c is linked to each,
#                     and t_*.c are the parts of 'functional'

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
BUILD := build

CC ?= gcc
CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Werror=implicit-function-declaration \
	-Werror=incompatible-pointer-types -Werror=int-conversion -Werror=return-type
LDLIBS += -ljson-c -lelf -lncurses -ltinfo -lpthread -lm
CPPFLAGS += -Iinclude -Ilib -isystem $(BUILD)/include
COMPILE = $(CC) -std=gnu11 $(CFLAGS) $(WARNINGS) $(CPPFLAGS) -MD -MP
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

UAPI := $(BUILD)/include/linux/dksm.h
LIB_SRC := $(wildcard lib/*.c)
CLI_SRC := $(wildcard cli/*.c)
VM_SHARED := $(wildcard tests/vm/testlib.c)
VM_PARTS := $(wildcard tests/vm/t_*.c)
# What tools/vm itself needs stands alone.
VM_ALONE := init tsc
VM_SRC := $(filter-out $(VM_ALONE:%=tests/vm/%.c) $(VM_SHARED) $(VM_PARTS),$(wildcard tests/vm/*.c))
UNIT_SRC := $(wildcard tests/unit/*.c)
FUZZ_SRC := $(wildcard tests/fuzz/*.c)
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))

ANALYZE_SRC := $(LIB_SRC) $(CLI_SRC) $(UNIT_SRC) $(FUZZ_SRC) $(wildcard tests/vm/*.c tests/guests/*.c bench/*.c examples/*.c)
ANALYZED := $(ANALYZE_SRC:%.c=$(BUILD)/analyze/%.ok) $(BUILD)/analyze/cppcheck.ok

LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/obj/%.o)
CLI_OBJ := $(CLI_SRC:%.c=$(BUILD)/obj/%.o)
SANITIZED := $(patsubst %.c,$(BUILD)/sanitized/%.o,$(LIB_SRC) $(filter-out cli/main.c,$(CLI_SRC)))
LIBS := $(if $(LIB_SRC),$(BUILD)/libdksm.a $(BUILD)/libdksm.so)
VM_TESTS := $(VM_SRC:tests/vm/%.c=$(BUILD)/tests/%) $(VM_ALONE:%=$(BUILD)/tests/%)
UNIT_TESTS := $(UNIT_SRC:tests/unit/%.c=$(BUILD)/unit/%)

# Say what is made; V=1 shows the commands.
say = $(if $(V),,@printf '  %-6s %s\n' $(1) $@ &&)

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: help all tests fuzzers analyze check check-deep check-header demo soak bench deb deb-kernel clean install uninstall abi

help: ## show this text
	@echo 'Usage: make TARGET'
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
	@echo 'More: tools/ktree --help, tools/vm --help, tests/run --help'

all: $(LIBS) $(if $(CLI_SRC),$(BUILD)/bin/dksm) ## build the library and the dksm command

tests: all $(VM_TESTS) $(UNIT_TESTS) $(BENCHES) $(BUILD)/guests/initramfs ## build the test programs

analyze: $(ANALYZED) ## static analysis of user space, by gcc, clang and cppcheck

fuzzers: $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/fuzz/%) ## build the fuzzers of user space; tests/fuzz/run runs them

check: ## set up, build and test everything (cold: about half an hour, warm: ten minutes)
	@tools/setup base kernel vm static selftests guests tools deb
	@tests/run $(if $(MINUTES),--minutes $(MINUTES))

check-deep: ## the same, and fuzzing, data races, millions of random operations (an hour)
	@tools/setup base kernel vm static selftests guests tools deb
	@tests/run --deep

demo: ## show virtual machines sharing memory in the patched kernel (GUEST="a.elf b.elf")
	@tools/setup base kernel vm
	@$(MAKE) -s all $(BUILD)/guests/initramfs
	@demo/run $(GUEST)

soak: ## start and end guests for HOURS=1 in the patched kernel (SOAK="--help" tells how else)
	@tools/setup base kernel vm
	@$(MAKE) -s all $(BUILD)/tests/functional $(BUILD)/guests/initramfs
	@tests/soak/run $(if $(HOURS),--hours $(HOURS)) $(SOAK)

bench: ## measure DKSM against KSM and draw build/bench/report.html (hours)
	@tools/setup base kernel vm guests bench
	@$(MAKE) -s all $(BENCHES) $(BENCH_GUESTS) $(BUILD)/guests/initramfs $(BUILD)/tests/guest
	@bench/run $(BENCH)

# Headers have a folder of their own, which pkg-config names: <linux/dksm.h> must not get
# between the kernel's headers that the system has.
VERSION := $(shell sed -n 's/^\#define DKSM_VERSION[[:space:]]*"\(.*\)"/\1/p' include/dksm.h)
INCLUDEDIR := $(PREFIX)/include/libdksm
MAN_PAGES := $(wildcard man/*.[1-8])
COMPLETION := share/bash-completion/completions/dksm
# Where a manual page goes, below PREFIX.
man_dir = share/man/man$(subst .,,$(suffix $1))

install: all ## install the command and the library (PREFIX=/usr/local LIBDIR=PREFIX/lib DESTDIR=)
	install -D -t $(DESTDIR)$(PREFIX)/bin $(BUILD)/bin/dksm
	install -D -m 644 $(BUILD)/libdksm.so $(DESTDIR)$(LIBDIR)/libdksm.so.0
	ln -sf libdksm.so.0 $(DESTDIR)$(LIBDIR)/libdksm.so
	install -D -m 644 -t $(DESTDIR)$(LIBDIR) $(BUILD)/libdksm.a
	install -D -m 644 -t $(DESTDIR)$(INCLUDEDIR) include/dksm.h
	install -D -m 644 -t $(DESTDIR)$(INCLUDEDIR)/linux kernel/files/include/uapi/linux/dksm.h
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig
	sed 's,@prefix@,$(PREFIX),; s,@libdir@,$(LIBDIR),; s,@includedir@,$(INCLUDEDIR),; s,@version@,$(VERSION),' \
		lib/libdksm.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/libdksm.pc
	$(foreach page,$(MAN_PAGES),install -D -m 644 -t $(DESTDIR)$(PREFIX)/$(call man_dir,$(page)) $(page) &&) :
	install -D -m 644 contrib/dksm.bash $(DESTDIR)$(PREFIX)/$(COMPLETION)

uninstall: ## remove what install with the same variables has put there
	rm -f $(addprefix $(DESTDIR)$(LIBDIR)/,libdksm.so libdksm.so.0 libdksm.a pkgconfig/libdksm.pc) \
		$(addprefix $(DESTDIR)$(PREFIX)/,bin/dksm $(COMPLETION) \
			$(foreach page,$(MAN_PAGES),$(call man_dir,$(page))/$(notdir $(page))))
	rm -rf $(DESTDIR)$(INCLUDEDIR)

# What programs that were compiled with the last release rely on; types that are private
# are left out. tests/library compares, tools/release records.
abi: $(BUILD)/libdksm.so ## record the interface of libdksm.so in tests/libdksm.abi
	abidw --exported-interfaces-only --drop-private-types --headers-dir include --no-corpus-path \
		--no-comp-dir-path --no-show-locs --no-elf-needed --out-file tests/libdksm.abi $<

# In a copy, for it needs ./debian. The project has no mail address to give.
DEB := $(BUILD)/deb
deb: ## build Debian packages of the command and the library in build/deb
	@tools/setup base deb
	@rm -rf $(DEB)
	@mkdir -p $(DEB)/source
	@git ls-files -co --exclude-standard -z | rsync -0 --files-from=- --ignore-missing-args ./ $(DEB)/source
	@mv $(DEB)/source/packaging/debian $(DEB)/source/debian
	@cd $(DEB)/source && dpkg-buildpackage -b -us -uc >../log 2>&1 || { tail -n 20 ../log; exit 1; }
	@lintian --allow-root --fail-on error,warning \
		--suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog $(DEB)/*.changes
	@ls $(DEB)/*.deb

deb-kernel: ## build Debian packages of the patched kernel (CONFIG=amd64 for bare metal; hours)
	@tools/setup base kernel deb
	@tools/ktree deb $(or $(CONFIG),cloud-amd64)

# The uapi header stands alone, in strict C and in C++.
check-header: $(UAPI)
	@echo '#include <linux/dksm.h>' | $(CC) $(CPPFLAGS) -std=c99 -pedantic -Wall -Wextra -Werror -fsyntax-only -x c -
	@echo '#include <linux/dksm.h>' | $(CXX) $(CPPFLAGS) -Wall -Wextra -Werror -fsyntax-only -x c++ -

clean: ## remove what was built here (kernels stay in the cache)
	rm -rf $(BUILD)

# The one uapi header is used from where the kernel has it.
$(UAPI): kernel/files/include/uapi/linux/dksm.h
	@mkdir -p $(@D)
	@ln -sfn $(abspath $<) $@

$(BUILD)/obj/%.o: %.c | $(UAPI)
	@mkdir -p $(@D)
	$(call say,CC) $(COMPILE) -fPIC -fvisibility=hidden -c -o $@ $<

$(BUILD)/sanitized/%.o: %.c | $(UAPI)
	@mkdir -p $(@D)
	$(call say,CC) $(COMPILE) $(SANITIZE) -c -o $@ $<

$(BUILD)/libdksm.a: $(LIB_OBJ)
	@rm -f $@
	$(call say,AR) $(AR) rcs $@ $^

$(BUILD)/libdksm.so: $(LIB_OBJ) $(wildcard lib/libdksm.map)
	$(call say,LD) $(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,libdksm.so.0 $(patsubst %.map,-Wl$(comma)--version-script=%.map,$^) -o $@

comma := ,

$(BUILD)/bin/dksm: $(CLI_OBJ) $(BUILD)/libdksm.a
	@mkdir -p $(@D)
	$(call say,LD) $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(VM_ALONE:%=$(BUILD)/tests/%): $(BUILD)/tests/%: tests/vm/%.c
	@mkdir -p $(@D)
	$(call say,CCLD) $(COMPILE) -static -MF $@.d -o $@ $<

$(BUILD)/tests/functional: $(VM_PARTS:%.c=$(BUILD)/obj/%.o)
$(BUILD)/tests/guest: $(BUILD)/obj/tests/vm/t_vmm.o $(BUILD)/obj/tests/vm/t_peer.o

# A guest of raw code, part of the program that runs it.
$(BUILD)/guests/bare.bin: tests/guests/bare.c tests/guests/bare.h
	@mkdir -p $(@D)
	$(call say,CCLD) $(CC) -std=gnu11 -Os -ffreestanding -fno-pie -no-pie -static -nostdlib -mno-red-zone \
		-mgeneral-regs-only -fno-stack-protector -fcf-protection=none -fno-toplevel-reorder \
		-fno-tree-loop-distribute-patterns -fno-asynchronous-unwind-tables $(WARNINGS) \
		-Wl,--build-id=none,-Ttext=0x6000,--oformat=binary,-e,_start -o $@ $<

$(BUILD)/obj/tests/vm/t_vmm.o: $(BUILD)/guests/bare.bin

# The root of a guest that is Linux.
$(BUILD)/guests/root/init: tests/guests/init.c
	@mkdir -p $(@D)
	$(call say,CCLD) $(CC) -std=gnu11 -Os $(WARNINGS) -static -s -o $@ $<

$(BUILD)/guests/initramfs: $(BUILD)/guests/root/init
	$(call say,CPIO) cd $(<D) && echo init | cpio --quiet -o -H newc >$(abspath $@)

$(BUILD)/tests/%: $(BUILD)/obj/tests/vm/%.o $(VM_SHARED:%.c=$(BUILD)/obj/%.o) $(filter %.a,$(LIBS))
	@mkdir -p $(@D)
	$(call say,LD) $(CC) $(CFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)

$(BUILD)/sanitized/units.a: $(SANITIZED)
	@rm -f $@
	$(call say,AR) $(AR) rcs $@ $^

$(BUILD)/bench/%: bench/%.c | $(UAPI)
	@mkdir -p $(@D)
	$(COMPILE) -MF $@.d -o $@ $<

$(BUILD)/unit/%: $(BUILD)/sanitized/tests/unit/%.o $(BUILD)/sanitized/units.a
	@mkdir -p $(@D)
	$(call say,LD) $(CC) $(CFLAGS) $(SANITIZE) -o $@ $^ $(LDLIBS)

# A fuzzer may have a function of its own in place of one of the archive's.
$(BUILD)/fuzz/obj/%.o: CC := clang
$(BUILD)/fuzz/obj/%.o: SANITIZE += -fsanitize=fuzzer-no-link
$(BUILD)/fuzz/obj/%.o: %.c | $(UAPI)
	@mkdir -p $(@D)
	$(call say,CC) $(COMPILE) $(SANITIZE) -c -o $@ $<

$(BUILD)/fuzz/obj/units.a: $(SANITIZED:$(BUILD)/sanitized/%=$(BUILD)/fuzz/obj/%)
	@rm -f $@
	$(call say,AR) $(AR) rcs $@ $^

$(BUILD)/fuzz/%: $(BUILD)/fuzz/obj/tests/fuzz/%.o $(BUILD)/fuzz/obj/units.a
	$(call say,LD) clang $(CFLAGS) $(SANITIZE) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

# One file at a time, so that only what has changed is looked at again. Benchmarks and
# what runs in the VM end soon: they may keep memory and be less strict about numbers.
ANALYZE_GCC := -std=gnu11 -O2 -Wall -Wextra -Werror -fanalyzer
ANALYZE_CLANG := -std=gnu11 -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wmissing-variable-declarations -Wformat=2 -Wundef -Wunreachable-code -Wimplicit-fallthrough \
	-Wconditional-uninitialized -Wunused-macros -Wpointer-arith -Wduplicate-enum -Wextra-semi
ANALYZE_STRICT := -Wconversion -Wcast-qual -Wvla
ANALYZE_LENIENT := tests/vm/% bench/% tests/guests/%

$(BUILD)/analyze/%.ok: %.c Makefile | $(UAPI)
	@mkdir -p $(@D)
	$(if $(V),,@)gcc $(ANALYZE_GCC) $(if $(filter $(ANALYZE_LENIENT),$<),-Wno-analyzer-malloc-leak) \
		$(CPPFLAGS) -MD -MP -MF $(@:ok=d) -MT $@ -S -o /dev/null $<
	$(if $(V),,@)clang $(ANALYZE_CLANG) $(if $(filter $(ANALYZE_LENIENT),$<),,$(ANALYZE_STRICT)) \
		$(CPPFLAGS) -fsyntax-only $<
	@touch $@

$(BUILD)/analyze/cppcheck.ok: $(ANALYZE_SRC) $(wildcard */*.h tests/*/*.h) Makefile | $(UAPI)
	@mkdir -p $(@D)
	$(if $(V),,@)cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
		--error-exitcode=1 -Iinclude -Ilib -I$(BUILD)/include $(ANALYZE_SRC)
	@touch $@

include bench/guests/guests.mk

-include $(wildcard $(BUILD)/*/*/*.d $(BUILD)/fuzz/obj/*/*.d $(BUILD)/*/tests/*/*.d \
	$(BUILD)/fuzz/obj/tests/*/*.d $(BUILD)/tests/*.d)
