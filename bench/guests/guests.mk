# SPDX-License-Identifier: MIT
# Unikernels to measure with: a program for Linux, one configuration of libraries and
# what the program needs of Linux, in one file that boots by PVH. Each is linked
#   NAME-default.elf   as the linker does it: the program, the library that it is named
#                      after if any, and the others
#   NAME-aligned.elf   with each library at an address of its own (aligned.ld)

GUESTS := $(BUILD)/guests
GUEST_NAMES := $(patsubst bench/guests/%.c,%,$(wildcard bench/guests/*.c))
BENCH_GUESTS := $(foreach layout,default aligned,$(GUEST_NAMES:%=$(GUESTS)/%-$(layout).elf))

GUEST_CC = $(CC) -std=gnu11 -O2 $(WARNINGS) -fno-pie -MD -MP
# The linker would warn that SQLite can load extensions, which none does here.
GUEST_LINK = $(CC) -static -no-pie -Wl,--build-id=none,-z,noexecstack,--no-warnings
GUEST_BASE := $(patsubst bench/guests/base/%,$(GUESTS)/base/%.o,$(wildcard bench/guests/base/*.[cS]))
GUEST_LIBS := $(GUESTS)/base.a -lz -llz4 -lbz2 -llzma -lzstd -lsqlite3

guest_libs = -Wl,--whole-archive $(1) -Wl,--no-whole-archive -lm -lc

$(GUESTS)/obj/%.o: bench/guests/%.c
	@mkdir -p $(@D)
	$(call say,CC) $(GUEST_CC) -c -o $@ $<

$(GUESTS)/base/%.o: bench/guests/base/%
	@mkdir -p $(@D)
	$(call say,CC) $(GUEST_CC) -c -o $@ $<

# Runs before the C library does, and with its caller's SSE registers.
$(GUESTS)/base/kernel.c.o: GUEST_CC += -ffreestanding -mgeneral-regs-only -mno-red-zone \
	-fno-stack-protector -fno-tree-loop-distribute-patterns

$(GUESTS)/base.a: $(GUEST_BASE)
	@rm -f $@
	$(call say,AR) $(AR) rcs $@ $^

$(GUESTS)/obj/aligned.ld: bench/guests/aligned.ld
	@mkdir -p $(@D)
	$(call say,CPP) $(CC) -E -P -undef -x assembler-with-cpp -o $@ $<

$(GUESTS)/%-default.elf: $(GUESTS)/obj/%.o $(GUESTS)/base.a
	$(call say,LD) $(GUEST_LINK) -o $@ $< $(call guest_libs,$(filter -l$*,$(GUEST_LIBS)) $(filter-out -l$*,$(GUEST_LIBS)))

$(GUESTS)/%-aligned.elf: $(GUESTS)/obj/%.o $(GUESTS)/base.a $(GUESTS)/obj/aligned.ld
	$(call say,LD) $(GUEST_LINK) -Wl,-z,norelro,-T,$(GUESTS)/obj/aligned.ld -o $@ $(call guest_libs,$(GUEST_LIBS)) $<

# Linked by the linker's own script and what 'dksm analyze' suggests for these two.
$(GUESTS)/suggested.ld: $(GUESTS)/hello-default.elf $(GUESTS)/z-default.elf $(BUILD)/bin/dksm
	$(call say,LAYOUT) $(BUILD)/bin/dksm analyze --suggest-layout $(filter %.elf,$^) >$@

$(GUESTS)/%-suggested.elf: $(GUESTS)/obj/%.o $(GUESTS)/base.a $(GUESTS)/suggested.ld
	$(call say,LD) $(GUEST_LINK) -Wl,-z,norelro,-T,$(GUESTS)/suggested.ld -o $@ $< $(call guest_libs,$(GUEST_LIBS))

# Two of them linked in each way, for tests/tools/analyze.py.
.PHONY: test-guests
test-guests: $(foreach layout,default aligned suggested,$(foreach name,hello z,$(GUESTS)/$(name)-$(layout).elf))
