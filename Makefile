# olla: build, install, test. Works with GNU make; nothing but a C compiler and the libraries below is needed to build.
#
#   make                 build/olla
#   make run             installs what the build lacks, builds, starts olla in front of local servers
#   make test            installs what the tests lack, runs all of them
#   make install         DESTDIR and PREFIX are honoured; an existing configuration is never overwritten;
#                        SYSTEMD_UNITS=/lib/systemd/system installs the service, too
#   make deb             build/olla_VERSION_ARCH.deb, for Debian 12 and later
#   make tarball         build/olla-VERSION-PLATFORM.tar.gz, linked statically
#   make release         both, also for armhf and arm64
#   make size            the table of sizes in README.md, as it is now
#   make lint | bench | bench-baseline | fuzz | test-real | test-browser | test-tls | packages | matrix | test-deb | test-cross | clean
#   make reference       writes olla.ini and docs/olla.ini.5 anew from the table of settings
#
# You may want to set:  CC CFLAGS CPPFLAGS LDFLAGS PREFIX DESTDIR SYSTEMD_UNITS
#                      CROSS=arm-linux-gnueabihf (its compiler and tools; goes to build/arm-linux-gnueabihf)
#                      FUZZ_SECONDS (for each target of make fuzz), FUZZ_JOBS (targets at a time)
# and options with -D:  make CPPFLAGS=-DOLLA_MAX_CLIENTS=64     (limits: see olla.h)
#   RESOLVER=sync       names are resolved at start and reload only; no fork
#   PRESET=tiny         16 clients, 8 endpoints, 48 models: program and pools in less than 1 MB
#   TLS=none            without TLS: no https backends, no https listener, no mbedTLS (default: TLS=mbedtls)

# With or without a "-" at its end: OpenWrt gives it with one, and CC, too.
CROSS ?=
TOOLS := $(patsubst %-,%,$(CROSS))
ifneq ($(TOOLS),)
ifeq ($(origin CC),default)
CC := $(TOOLS)-gcc
endif
BUILD ?= build/$(notdir $(TOOLS))
endif
CC ?= cc
STRIP ?= $(TOOLS:%=%-)strip
PRESET ?=
ifneq ($(filter-out tiny,$(PRESET)),)
$(error PRESET=$(PRESET): there is tiny)
endif
CFLAGS ?= $(if $(PRESET),-Os,-O2) -g
PREFIX ?= /usr/local
SBINDIR ?= $(PREFIX)/sbin
SYSCONFDIR ?= /etc
MANDIR ?= $(PREFIX)/share/man
SYSTEMD_UNITS ?=
DEB_CFLAGS := -O2 -g -fPIE -fstack-protector-strong -D_FORTIFY_SOURCE=2
INSTALL ?= install
PYTHON ?= /usr/bin/python3
TLS ?= mbedtls
RESOLVER ?= child

ifeq ($(wildcard platform/tls_$(TLS).c),)
$(error TLS=$(TLS): there is mbedtls and none)
endif
ifeq ($(filter $(RESOLVER),child sync),)
$(error RESOLVER=$(RESOLVER): there is child and sync)
endif

# Ours, kept apart from CFLAGS so that a CFLAGS on the command line cannot lose them.
OLLA_CFLAGS := -std=c99 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wvla
FRAME := -Wframe-larger-than=2048

# What every request goes through is compiled for speed, the rest for size: where CFLAGS ask for speed at all.
HOT := account attempt body breaker bucket buf choose client exchange forward gate http http_body http_path json_check json_scan \
    json_walk ledger log loop model multipart net pieces pool queue relay reply request route secrets session sha256 socket sse \
    sticky str tally upstream usage
COLD_CFLAGS := $(if $(filter -O2 -O3,$(CFLAGS)),-Os)
optimised = $(if $(filter $(HOT),$(basename $(notdir $(1)))),,$(COLD_CFLAGS))

# No tables for unwinding (C has no exceptions, debuggers have -g), nothing that nobody calls, and relocations packed: that
# only where the C library says that it can unpack them.
SLIM_CFLAGS := -fno-asynchronous-unwind-tables -fno-unwind-tables -ffunction-sections -fdata-sections
GC := -Wl,--gc-sections
PACK := -Wl,-z,pack-relative-relocs
links = echo 'int main(void) { return 0; }' | $(CC) $(CFLAGS) $(LDFLAGS) $(1) -x c -o $$try - 2>/dev/null
SLIM_LDFLAGS := $(shell try=$$(mktemp); ! $(call links,$(GC)) || echo $(GC); \
    ! $(call links,$(PACK)) || ! grep -q GLIBC_ABI_DT_RELR $$try || echo $(PACK); rm -f $$try)

# The machine that it is built for, which need not be this one.
MACHINE := $(shell $(CC) -dumpmachine 2>/dev/null)
SYSTEM := $(if $(findstring linux,$(MACHINE)),linux,$(shell uname -s 2>/dev/null | tr 'A-Z' 'a-z'))
PLATFORM_NAME := $(SYSTEM)/$(or $(firstword $(subst -, ,$(MACHINE))),$(shell uname -m 2>/dev/null))
OLLA_CPPFLAGS := -DOLLA_PLATFORM='"$(PLATFORM_NAME)"'
ifeq ($(RESOLVER),sync)
OLLA_CPPFLAGS += -DOLLA_RESOLVER_SYNC=1
endif
# Limits of olla.h for a small router: program and pools together take less than 1 MB. One in CPPFLAGS counts more.
TINY := CLIENTS=16 UPSTREAMS=24 TLS_CLIENTS=4 TLS_UPSTREAMS=4 TRUSTS=2 BUFS=16 BODY_BLOCKS=1 MESSAGES=4 ENDPOINTS=8 \
    MODELS=48 PROBES=2 TOKENS=256 ALIASES=8 PROFILES=2 KEYS=8 SESSIONS=64 RATE_CLIENTS=64 LEDGER=8 METER=16 HOOKS=2 \
    HOOK_EVENTS=8 ENDPOINT_HEADERS=512
TINY := $(TINY:%=-DOLLA_MAX_%) -DOLLA_BUF_SIZE=8192 -DOLLA_BODY_BLOCK=12288 -DOLLA_CONF_TEXT=8192 -DOLLA_LOG_BUF=8192 -DOLLA_HELP=0
ifeq ($(PRESET),tiny)
OLLA_CPPFLAGS += $(foreach limit,$(TINY),$(if $(findstring $(firstword $(subst =, ,$(limit)))=,$(CPPFLAGS)),,$(limit)))
endif
LDLIBS := -linih
ifeq ($(TLS),mbedtls)
LDLIBS += -lmbedtls -lmbedx509 -lmbedcrypto
endif

SRC := olla.c $(sort $(wildcard src/*.c)) $(sort $(filter-out platform/tls_%.c,$(wildcard platform/*.c))) platform/tls_$(TLS).c
BUILD ?= build
UI_OBJ := $(BUILD)/obj/ui.o
OBJ := $(SRC:%.c=$(BUILD)/obj/%.o) $(UI_OBJ)

all: $(BUILD)/olla

# Changed options rebuild everything.
STAMP := $(BUILD)/.options
OPTIONS := $(CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) $(CPPFLAGS) $(CFLAGS) $(SLIM_CFLAGS) $(SLIM_LDFLAGS) $(LDFLAGS) $(LDLIBS) $(HOT)
$(shell mkdir -p $(BUILD); printf '%s\n' '$(subst ','\'',$(OPTIONS))' | cmp -s - $(STAMP) || printf '%s\n' '$(subst ','\'',$(OPTIONS))' > $(STAMP))

$(BUILD)/olla: $(OBJ)
	$(CC) $(CFLAGS) $(SLIM_LDFLAGS) $(LDFLAGS) -o $@ $(OBJ) $(LDLIBS)

$(BUILD)/obj/%.o: %.c $(STAMP)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) $(FRAME) $(SLIM_CFLAGS) $(OLLA_CPPFLAGS) $(CPPFLAGS) $(CFLAGS) $(call optimised,$<) -MMD -MP -c -o $@ $<

objects: $(OBJ)

# The dashboard, as strings of C: data only, the same for all programs.
UI := src/ui/index.html src/ui/olla.js src/ui/olla.css

$(BUILD)/ui.c: src/ui/embed.sh $(UI)
	@mkdir -p $(@D)
	sh $^ > $@.new
	@mv $@.new $@

$(UI_OBJ): $(BUILD)/ui.c $(STAMP)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) -Isrc $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

install: $(BUILD)/olla
	$(INSTALL) -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(SYSCONFDIR) $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8
	$(INSTALL) -m 0755 $(BUILD)/olla $(DESTDIR)$(SBINDIR)/olla
	$(INSTALL) -m 0644 docs/olla.ini.5 $(DESTDIR)$(MANDIR)/man5/olla.ini.5
	$(INSTALL) -m 0644 docs/olla.8 $(DESTDIR)$(MANDIR)/man8/olla.8
	[ -e $(DESTDIR)$(SYSCONFDIR)/olla.ini ] || $(INSTALL) -m 0640 olla.ini $(DESTDIR)$(SYSCONFDIR)/olla.ini
ifneq ($(SYSTEMD_UNITS),)
	$(INSTALL) -d $(DESTDIR)$(SYSTEMD_UNITS)
	sed 's|/usr/sbin/olla|$(SBINDIR)/olla|g; s|/etc/olla.ini|$(SYSCONFDIR)/olla.ini|g' package/systemd/olla.service \
	    > $(BUILD)/olla.service
	$(INSTALL) -m 0644 $(BUILD)/olla.service $(DESTDIR)$(SYSTEMD_UNITS)/olla.service
endif

install-strip: install
	$(STRIP) $(DESTDIR)$(SBINDIR)/olla

deb: deps-build deps-deb
	rm -rf $(BUILD)/deb $(BUILD)/olla_*.deb && mkdir -p $(BUILD)/deb
	$(MAKE) --no-print-directory DESTDIR=$(abspath $(BUILD))/deb PREFIX=/usr SYSCONFDIR=/etc SYSTEMD_UNITS=/usr/lib/systemd/system \
	    CFLAGS="$(DEB_CFLAGS)" LDFLAGS="-Wl,-z,relro -Wl,-z,now -pie" BUILD=$(BUILD)/for-deb install-strip
	package/debian/build.sh $(BUILD)/deb $(TOOLS)

# Other machines, under qemu. CROSS_ARCHS: armhf arm64 mipsel s390x riscv64
test-cross: deps-chroot
	tests/cross.sh $(CROSS_ARCHS)

# The newer one differs in its revision and in the configuration that comes with it.
test-deb: deb deps-chroot
	rm -rf $(BUILD)/deb-newer && cp -a $(BUILD)/deb $(BUILD)/deb-newer && rm -r $(BUILD)/deb-newer/DEBIAN
	echo '; newer' >> $(BUILD)/deb-newer/etc/olla.ini
	REVISION=2 package/debian/build.sh $(BUILD)/deb-newer
	tests/deb.sh $(BUILD)/olla_*-1_*.deb $(BUILD)/olla_*-2_*.deb

# One program without libraries, for systems without packages.
tarball: deps-build
	rm -rf $(BUILD)/static && mkdir -p $(BUILD)/static
	$(MAKE) --no-print-directory DESTDIR=$(abspath $(BUILD))/static PREFIX=/usr SYSCONFDIR=/etc LDFLAGS=-static CFLAGS="-O2 -g -fno-pie" \
	    BUILD=$(BUILD)/for-tarball install-strip
	package/tarball.sh $(BUILD)/static $(PLATFORM_NAME)

# The same two, for a Raspberry Pi: in small Debians that have the compilers.
RELEASE_ARCHS ?= armhf arm64
release: deps-chroot deb tarball
	MAKE_IN="deb tarball" tests/cross.sh $(RELEASE_ARCHS)

# What is committed, so that nobody needs to run the program to install it.
reference: $(BUILD)/olla
	$(BUILD)/olla --print-settings > $(BUILD)/reference
	cp $(BUILD)/reference olla.ini
	awk -f docs/settings.awk -v page=docs/olla.ini.5 < $(BUILD)/reference > $(BUILD)/olla.ini.5
	cp $(BUILD)/olla.ini.5 docs/olla.ini.5

# With and without TLS, fast and small: text, data and bss of each, and whether the README says the same.
size: deps-build
	@tests/matrix.sh gcc gcc-small none none-small tiny tiny-none

clean:
	rm -rf $(BUILD)/obj $(BUILD)/test $(BUILD)/bench $(SMALL) $(FUZZ)/obj $(BUILD)/matrix $(BUILD)/deb* $(BUILD)/static $(BUILD)/for-*
	rm -f $(BUILD)/olla_*.deb $(BUILD)/olla-*.tar.gz $(addprefix $(BUILD)/,olla olla.service ui.c reference olla.ini.5) $(STAMP)

# ---- tests: everything below runs a build with sanitizers and leak checks ------------------

T := $(BUILD)/test
ifeq ($(TOOLS),)
TEST_CFLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else
# An emulator cannot run the sanitizers' libraries; what is undefined ends the program at once.
TEST_CFLAGS := -O1 -g -fsanitize=undefined -fsanitize-undefined-trap-on-error
endif
TEST_CPPFLAGS := -DOLLA_TEST=1 -DTEST_DIR='"$(T)"'
TEST_OBJ := $(SRC:%.c=$(T)/obj/%.o) $(UI_OBJ)
UNITS := $(patsubst tests/unit/%.c,$(T)/unit/%,$(sort $(wildcard tests/unit/test_*.c))) $(T)/unit/test_resolve_sync

# The program without main, and with a platform in memory in the place of the system's sockets, clock and files.
FAKED_SRC := $(filter-out olla.c platform/posix.c platform/socket.c platform/resolve.c,$(SRC)) $(wildcard tests/fake/*.c)

$(T)/obj/%.o: %.c $(STAMP)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) $(TEST_CPPFLAGS) $(CPPFLAGS) $(TEST_CFLAGS) -MMD -MP -c -o $@ $<

$(T)/olla: $(TEST_OBJ)
	$(CC) $(TEST_CFLAGS) $(LDFLAGS) -o $@ $(TEST_OBJ) $(LDLIBS)

$(T)/unit/%: tests/unit/%.c $(TEST_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) $(TEST_CPPFLAGS) $(CPPFLAGS) $(TEST_CFLAGS) -MMD -MP -o $@ $< $(filter-out $(T)/obj/olla.o,$(TEST_OBJ)) $(LDLIBS) -lcmocka

# Whole sessions.
FAKED_UNITS := $(T)/unit/test_exchange $(T)/unit/test_torture
$(FAKED_UNITS): $(T)/unit/%: tests/unit/%.c $(FAKED_SRC:%.c=$(T)/obj/%.o) $(UI_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) $(TEST_CPPFLAGS) $(CPPFLAGS) $(TEST_CFLAGS) -MMD -MP -o $@ $^ $(LDLIBS) -lcmocka

# The resolver without its child, with the same tests.
$(T)/unit/test_resolve_sync: tests/unit/test_resolve.c platform/resolve.c $(TEST_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) -DOLLA_RESOLVER_SYNC=1 $(TEST_CPPFLAGS) $(TEST_CFLAGS) -o $@ tests/unit/test_resolve.c platform/resolve.c \
	    $(filter-out $(T)/obj/olla.o $(T)/obj/platform/resolve.o,$(TEST_OBJ)) $(LDLIBS) -lcmocka

# Not to be had by deps.sh when the compiler is another machine's: whoever sets CROSS has its libraries.
deps-%:
	@$(if $(TOOLS),:,tests/deps.sh $*)

# RUN goes in front of each, for programs of another machine.
RUN ?=
test-programs: $(UNITS) $(T)/olla
unit: $(UNITS)
	@set -e; for t in $(UNITS); do echo "== $$t"; $(RUN) $$t; done

# Every limit so low that a handful of connections reaches it (tests/wire/test_exhaustion.py).
SMALL := $(BUILD)/small
small:
	@$(MAKE) --no-print-directory BUILD=$(SMALL) CPPFLAGS="-DOLLA_MAX_CLIENTS=48 -DOLLA_MAX_UPSTREAMS=36 -DOLLA_MAX_BUFS=24 \
	    -DOLLA_MAX_BODY_BLOCKS=2 -DOLLA_MAX_MESSAGES=4 -DOLLA_MAX_PROBES=2 -DOLLA_MAX_MODELS=8 -DOLLA_MAX_SESSIONS=4 \
	    -DOLLA_MAX_RATE_CLIENTS=4" $(SMALL)/test/olla

# Most tests wait most of the time: twice as many processes as processors. Each file is one process's.
WIRE_JOBS ?= 4
wire: $(T)/olla $(BUILD)/olla small
	OLLA_BIN=$(abspath $(T)/olla) $(PYTHON) -m pytest -q -n $(WIRE_JOBS) --dist loadscope tests/wire

JOBS ?= 2
test: deps-build deps-test
	$(MAKE) --no-print-directory -j$(JOBS) all test-programs $(T)/olla
	$(MAKE) --no-print-directory -j$(JOBS) small
	$(MAKE) --no-print-directory layers unit wire

run: deps-build
	$(MAKE) --no-print-directory all
	@tests/run.sh $(BUILD)/olla

test-real: deps-build deps-real
	$(MAKE) --no-print-directory all
	OLLA_BIN=$(abspath $(BUILD)/olla) tests/real/run.sh

# The dashboard in a headless Chromium; pictures of it stay in build/screenshots.
test-browser: deps-build deps-browser
	$(MAKE) --no-print-directory $(T)/olla
	OLLA_BIN=$(abspath $(T)/olla) $(PYTHON) -m pytest -q tests/browser

# The other version of the TLS library, in a Debian that has it.
test-tls: deps-chroot
	tests/tls.sh

bench: deps-build deps-bench
	$(MAKE) --no-print-directory all
	@$(PYTHON) tests/bench/bench.py $(BUILD)/olla

# What the fixed exchange costs now is what later runs are compared with.
bench-baseline: deps-build deps-bench
	$(MAKE) --no-print-directory all
	@BENCH_ONLY=instructions BENCH_BASELINE=write $(PYTHON) tests/bench/bench.py $(BUILD)/olla

# Arbitrary bytes, for every parser and for whole sessions. A target is one file and gets all of src/, with a platform
# in memory (tests/fake) in the place of the system's. Inputs that fail stay in build/fuzz; run one again with
# build/fuzz/TARGET FILE.
FUZZ := $(BUILD)/fuzz
FUZZ_CC ?= clang
FUZZ_SECONDS ?= 30
FUZZ_JOBS ?= 2
FUZZ_CFLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
FUZZ_TARGETS := $(patsubst tests/fuzz/%.c,$(FUZZ)/%,$(sort $(wildcard tests/fuzz/*.c)))
FUZZ_OBJ := $(FAKED_SRC:%.c=$(FUZZ)/obj/%.o)

FUZZ_COVER := -fsanitize=fuzzer-no-link
$(FUZZ)/obj/tests/fake/%.o: FUZZ_COVER := # what is done there is no news

$(FUZZ)/obj/%.o: %.c $(STAMP)
	@mkdir -p $(@D)
	$(FUZZ_CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) $(TEST_CPPFLAGS) $(CPPFLAGS) $(FUZZ_CFLAGS) $(FUZZ_COVER) -MMD -MP -c -o $@ $<

$(FUZZ)/%: $(FUZZ)/obj/tests/fuzz/%.o $(FUZZ_OBJ) $(UI_OBJ)
	$(FUZZ_CC) $(FUZZ_CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

# FUZZ_JOBS targets at a time; all of them run, even when one fails.
fuzz-run: $(FUZZ_TARGETS)
	@printf '%s\n' $(notdir $(FUZZ_TARGETS)) | xargs -n 1 -P $(FUZZ_JOBS) tests/fuzz/run.sh $(FUZZ) $(FUZZ_SECONDS)

fuzz: deps-build deps-fuzz
	$(MAKE) --no-print-directory fuzz-run

layers:
	@tests/check-layers.sh

packages: deps-build deps-packages
	$(MAKE) --no-print-directory all
	@tests/packages.sh $(BUILD)/olla

# Every way to build it, without warnings.
matrix: deps-build deps-test deps-matrix
	tests/matrix.sh

lint: deps-build deps-lint layers
	tests/lint.sh
	shellcheck -x src/ui/*.sh tests/*.sh tests/fuzz/*.sh tests/real/*.sh package/*.sh package/debian/build.sh .ci/run
	shellcheck -s sh package/debian/postinst package/debian/prerm package/debian/postrm

.PHONY: all release tarball test-cross objects matrix test-programs install install-strip deb test-deb reference size clean unit small wire test run test-real test-browser test-tls bench bench-baseline fuzz fuzz-run layers packages lint
.SECONDARY:
-include $(OBJ:.o=.d) $(FAKED_SRC:%.c=$(T)/obj/%.d) $(TEST_OBJ:.o=.d) $(UNITS:=.d) $(FUZZ_OBJ:.o=.d) $(FUZZ_TARGETS:$(FUZZ)/%=$(FUZZ)/obj/tests/fuzz/%.d)
