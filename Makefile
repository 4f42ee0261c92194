# olla: build, install, test. Works with GNU make; nothing but a C compiler and the libraries below is needed to build.
#
#   make                 build/olla
#   make run             installs what the build lacks, builds, starts olla in front of local servers
#   make test            installs what the tests lack, runs all of them
#   make install         DESTDIR and PREFIX are honoured; an existing configuration is never overwritten;
#                        SYSTEMD_UNITS=/lib/systemd/system installs the service, too
#   make size | lint | bench | fuzz | test-real | test-browser | clean
#
# You may want to set:  CC CFLAGS CPPFLAGS LDFLAGS PREFIX DESTDIR SYSTEMD_UNITS
#                      FUZZ_SECONDS (for each target of make fuzz)
# and options with -D:  make CPPFLAGS=-DOLLA_MAX_CLIENTS=64     (limits: see olla.h)
#   RESOLVER=sync       names are resolved at start and reload only; no fork
#   TLS=none            without TLS: no https backends, no https listener, no mbedTLS (default: TLS=mbedtls)

CC ?= cc
CFLAGS ?= -O2 -g
PREFIX ?= /usr/local
SBINDIR ?= $(PREFIX)/sbin
SYSCONFDIR ?= /etc
SYSTEMD_UNITS ?=
INSTALL ?= install
PYTHON ?= /usr/bin/python3
TLS ?= mbedtls
RESOLVER ?= child

ifeq ($(wildcard platform/tls_$(TLS).c),)
$(error TLS=$(TLS): there is mbedtls and none)
endif

# Ours, kept apart from CFLAGS so that a CFLAGS on the command line cannot lose them.
OLLA_CFLAGS := -std=c99 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wvla
FRAME := -Wframe-larger-than=2048
PLATFORM_NAME := $(shell uname -s 2>/dev/null | tr 'A-Z' 'a-z')/$(shell uname -m 2>/dev/null)
OLLA_CPPFLAGS := -DOLLA_PLATFORM='"$(PLATFORM_NAME)"'
ifeq ($(RESOLVER),sync)
OLLA_CPPFLAGS += -DOLLA_RESOLVER_SYNC=1
endif
LDLIBS := -linih
ifeq ($(TLS),mbedtls)
LDLIBS += -lmbedtls -lmbedx509 -lmbedcrypto
endif

SRC := olla.c $(sort $(wildcard src/*.c)) $(sort $(filter-out platform/tls_%.c,$(wildcard platform/*.c))) platform/tls_$(TLS).c
BUILD ?= build
OBJ := $(SRC:%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/ui.o

all: $(BUILD)/olla

# Changed options rebuild everything.
STAMP := $(BUILD)/.options
OPTIONS := $(CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(LDLIBS)
$(shell mkdir -p $(BUILD); printf '%s\n' '$(subst ','\'',$(OPTIONS))' | cmp -s - $(STAMP) || printf '%s\n' '$(subst ','\'',$(OPTIONS))' > $(STAMP))

$(BUILD)/olla: $(OBJ)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(OBJ) $(LDLIBS)

$(BUILD)/obj/%.o: %.c $(STAMP)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) $(FRAME) $(OLLA_CPPFLAGS) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# The dashboard, as strings of C.
UI := src/ui/index.html src/ui/olla.js src/ui/olla.css

$(BUILD)/ui.c: src/ui/embed.sh $(UI)
	@mkdir -p $(@D)
	sh $^ > $@.new
	@mv $@.new $@

$(BUILD)/obj/ui.o: $(BUILD)/ui.c $(STAMP)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) -Isrc $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

install: $(BUILD)/olla
	$(INSTALL) -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(SYSCONFDIR)
	$(INSTALL) -m 0755 $(BUILD)/olla $(DESTDIR)$(SBINDIR)/olla
	[ -e $(DESTDIR)$(SYSCONFDIR)/olla.ini ] || $(INSTALL) -m 0640 olla.ini $(DESTDIR)$(SYSCONFDIR)/olla.ini
ifneq ($(SYSTEMD_UNITS),)
	$(INSTALL) -d $(DESTDIR)$(SYSTEMD_UNITS)
	sed 's|/usr/sbin/olla|$(SBINDIR)/olla|g; s|/etc/olla.ini|$(SYSCONFDIR)/olla.ini|g' package/systemd/olla.service \
	    > $(BUILD)/olla.service
	$(INSTALL) -m 0644 $(BUILD)/olla.service $(DESTDIR)$(SYSTEMD_UNITS)/olla.service
endif

size: $(BUILD)/olla
	size $(BUILD)/olla
	@cp $(BUILD)/olla $(BUILD)/olla.stripped && strip $(BUILD)/olla.stripped && wc -c < $(BUILD)/olla.stripped | sed 's/$$/ bytes stripped/'

clean:
	rm -rf $(BUILD)/obj $(BUILD)/test $(SMALL) $(BUILD)/lint-* $(BUILD)/olla $(BUILD)/olla.stripped $(BUILD)/olla.service $(BUILD)/ui.c $(STAMP)

# ---- tests: everything below runs a build with sanitizers and leak checks ------------------

T := $(BUILD)/test
TEST_CFLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
TEST_CPPFLAGS := -DOLLA_TEST=1
TEST_OBJ := $(SRC:%.c=$(T)/obj/%.o) $(T)/obj/ui.o
UNITS := $(patsubst tests/unit/%.c,$(T)/unit/%,$(sort $(wildcard tests/unit/test_*.c))) $(T)/unit/test_resolve_sync

$(T)/obj/%.o: %.c $(STAMP)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) $(TEST_CPPFLAGS) $(CPPFLAGS) $(TEST_CFLAGS) -MMD -MP -c -o $@ $<

$(T)/obj/ui.o: $(BUILD)/ui.c $(STAMP)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) -Isrc $(CPPFLAGS) $(TEST_CFLAGS) -c -o $@ $<

$(T)/olla: $(TEST_OBJ)
	$(CC) $(TEST_CFLAGS) $(LDFLAGS) -o $@ $(TEST_OBJ) $(LDLIBS)

$(T)/unit/%: tests/unit/%.c $(TEST_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) $(TEST_CPPFLAGS) $(CPPFLAGS) $(TEST_CFLAGS) -MMD -MP -o $@ $< $(filter-out $(T)/obj/olla.o,$(TEST_OBJ)) $(LDLIBS) -lcmocka

# The resolver without its child, with the same tests.
$(T)/unit/test_resolve_sync: tests/unit/test_resolve.c platform/resolve.c $(TEST_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) -DOLLA_RESOLVER_SYNC=1 $(TEST_CPPFLAGS) $(TEST_CFLAGS) -o $@ tests/unit/test_resolve.c platform/resolve.c \
	    $(filter-out $(T)/obj/olla.o $(T)/obj/platform/resolve.o,$(TEST_OBJ)) $(LDLIBS) -lcmocka

deps-%:
	@tests/deps.sh $*

unit: $(UNITS)
	@set -e; for t in $(UNITS); do echo "== $$t"; $$t; done

# Every limit so low that a handful of connections reaches it (tests/wire/test_exhaustion.py).
SMALL := $(BUILD)/small
small:
	@$(MAKE) --no-print-directory BUILD=$(SMALL) CPPFLAGS="-DOLLA_MAX_CLIENTS=48 -DOLLA_MAX_UPSTREAMS=36 -DOLLA_MAX_BUFS=24 \
	    -DOLLA_MAX_BODY_BLOCKS=2 -DOLLA_MAX_MESSAGES=4 -DOLLA_MAX_PROBES=2 -DOLLA_MAX_MODELS=8 -DOLLA_MAX_SESSIONS=4 \
	    -DOLLA_MAX_RATE_CLIENTS=4" $(SMALL)/test/olla

wire: $(T)/olla $(BUILD)/olla small
	OLLA_BIN=$(abspath $(T)/olla) $(PYTHON) -m pytest -q tests/wire

test: deps-build deps-test
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

bench: deps-build deps-bench
	$(MAKE) --no-print-directory all
	@$(PYTHON) tests/bench/bench.py $(BUILD)/olla
	@$(PYTHON) tests/bench/catalogue.py $(BUILD)/olla
	@$(PYTHON) tests/bench/messages.py $(BUILD)/olla

# Arbitrary bytes for what does no I/O. Inputs that fail stay in build/fuzz; run one again with build/fuzz/TARGET FILE.
FUZZ := $(BUILD)/fuzz
FUZZ_CC ?= clang
FUZZ_SECONDS ?= 30
FUZZ_CFLAGS := -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
FUZZ_TARGETS := $(patsubst tests/fuzz/%.c,$(FUZZ)/%,$(sort $(wildcard tests/fuzz/*.c)))
FUZZ_SRC := $(sort $(wildcard src/json*.c) $(wildcard src/anthropic*.c)) src/failure.c src/pieces.c src/sse.c src/str.c src/usage.c

$(FUZZ)/%: tests/fuzz/%.c $(FUZZ_SRC) $(wildcard olla.h src/*.h tests/unit/*.h)
	@mkdir -p $(@D)
	$(FUZZ_CC) $(OLLA_CFLAGS) $(OLLA_CPPFLAGS) $(TEST_CPPFLAGS) $(CPPFLAGS) $(FUZZ_CFLAGS) -o $@ $< $(FUZZ_SRC)

fuzz-run: $(FUZZ_TARGETS)
	@bad=0; for t in $(notdir $(FUZZ_TARGETS)); do \
	    echo "== fuzz $$t, $(FUZZ_SECONDS) s"; mkdir -p $(FUZZ)/corpus/$$t; \
	    if $(FUZZ)/$$t -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=20 -print_final_stats=1 \
	        -dict=tests/fuzz/words.dict -artifact_prefix=$(FUZZ)/$$t- \
	        $(FUZZ)/corpus/$$t tests/fuzz/corpus/$$t > $(FUZZ)/$$t.log 2>&1; \
	    then grep number_of_executed_units $(FUZZ)/$$t.log; else tail -n 40 $(FUZZ)/$$t.log; bad=1; fi; \
	done; exit $$bad

fuzz: deps-build deps-fuzz
	$(MAKE) --no-print-directory fuzz-run

layers:
	@tests/check-layers.sh

# Warnings are errors with both compilers, in both TLS-less builds; then the tools.
lint: deps-build deps-lint layers
	$(MAKE) --no-print-directory BUILD=$(BUILD)/lint-gcc CC=gcc CFLAGS="-O2 -Werror" all
	$(MAKE) --no-print-directory BUILD=$(BUILD)/lint-clang CC=clang CFLAGS="-O2 -Werror" all
	$(MAKE) --no-print-directory BUILD=$(BUILD)/lint-sync CC=gcc RESOLVER=sync CFLAGS="-Os -Werror" all
	$(MAKE) --no-print-directory BUILD=$(BUILD)/lint-tiny CC=gcc CFLAGS="-Os -Werror" \
	    CPPFLAGS="-DOLLA_MAX_CLIENTS=2 -DOLLA_MAX_BUFS=8 -DOLLA_BUF_SIZE=4096 -DOLLA_MAX_ENDPOINTS=2 -DOLLA_MAX_MODELS=16" all
	tests/lint.sh
	shellcheck src/ui/*.sh tests/*.sh tests/real/*.sh .ci/run

.PHONY: all install size clean unit small wire test run test-real test-browser bench fuzz fuzz-run layers lint
.SECONDARY:
-include $(OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(UNITS:=.d)
