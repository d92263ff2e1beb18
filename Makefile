# Holdfast: one non-recursive Makefile; objects under build/.

CC ?= cc
BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
VERSION := 0.1.0
JOBS := $(shell nproc 2>/dev/null || echo 2)

VARIANT_CFLAGS ?= -O2
WARNINGS = -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes -Wpointer-arith -Wcast-qual -Wvla -Wundef \
	-Wwrite-strings -Wno-unused-parameter
CPPFLAGS += -D_GNU_SOURCE -I. -DHOLDFAST_VERSION='"$(VERSION)"'
ALL_CFLAGS = -std=gnu17 -g -pthread -fno-common -fstack-protector-strong \
	$(WARNINGS) $(VARIANT_CFLAGS) $(CFLAGS)

PACKAGES = liburing libcrypto libsodium libzstd yaml-0.1 libqpid-proton \
	libwebsockets jansson libcurl lmdb
PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)
# Debian 12's liburing.so does not export io_uring_enable_rings(); its archive,
# 20 kB in the same package, has it.
# libcurl is loaded by the few who need it: base/http_client.c.
LDLIBS += $(filter-out -lcurl,$(patsubst -luring,-l:liburing.a,$(PKG_LIBS))) -lm

# Variants keep their objects apart.  UBSan stops at the first finding: what
# only prints is overlooked.
ASAN = BUILD=build/asan VARIANT_CFLAGS='-O1 -fsanitize=address,undefined \
	-fno-sanitize-recover=all -fno-omit-frame-pointer'
TSAN = BUILD=build/tsan VARIANT_CFLAGS='-O1 -fsanitize=thread \
	-fno-omit-frame-pointer'
FUZZ = BUILD=build/fuzz CC=clang FUZZ_ENGINE=-fsanitize=fuzzer VARIANT_CFLAGS='-O1 \
	-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all \
	-fno-omit-frame-pointer -Wno-unused-command-line-argument'

# journal/log/mutant.h; nothing else is built so.
MUTANT = BUILD=build/mutant VARIANT_CFLAGS='-O2 -DHOLDFAST_MUTANTS'

# Unit tests that start threads (% is any text); ThreadSanitizer watches these.
THREADED_TESTS = test_crc32c test_crypto test_io test_loop test_socket test_log% \
	test_blob% test_fetch test_store% test_follow test_member test_core% test_amqp% test_admin% \
	test_load test_load_run test_kubernetes

# Everything but the programs' own files is one library.
LIB_SRC := $(wildcard base/*.c base/sim/*.c journal/log/*.c journal/store/*.c \
	replication/*.c broker/core/*.c broker/protocols/*.c \
	broker/protocols/*/*.c broker/admin/*.c)
DAEMON_SRC := $(wildcard broker/daemon/*.c)
TOOL_SRC := $(wildcard tools/*.c)
UNIT_SRC := $(wildcard tests/unit/test_*.c)
# tests/sim/sim_*.c are programs; what else lies there is shared by them.
SIM_SRC := $(wildcard tests/sim/sim_*.c)
SIM_SHARED_SRC := $(filter-out $(SIM_SRC),$(wildcard tests/sim/*.c))
PEER_SRC := $(wildcard tests/interop/*.c tests/crash/*.c)
# To be preloaded into a broker.
LAB_SRC := $(wildcard tests/lab/*.c)
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
# Without libFuzzer the targets get a main that replays their corpora.
FUZZ_ENGINE ?= $(BUILD)/tests/fuzz/replay.o
BENCH_SRC := $(wildcard bench/*.c)
# One program of several files; unit tests named test_load* link them, too.
LOAD_SRC := $(wildcard bench/load/*.c)
# One program, which bench/check/check.py runs under callgrind.
CHECK_SRC := $(wildcard bench/check/*.c)
MAN_SRC := $(wildcard docs/man/*.scd)

LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o)
DAEMON_OBJ := $(DAEMON_SRC:%.c=$(BUILD)/%.o)
TOOL_OBJ := $(TOOL_SRC:%.c=$(BUILD)/%.o)
SIM_SHARED_OBJ := $(SIM_SHARED_SRC:%.c=$(BUILD)/%.o)
UNIT_BIN := $(UNIT_SRC:%.c=$(BUILD)/%)
SIM_BIN := $(SIM_SRC:%.c=$(BUILD)/%)
PEER_BIN := $(PEER_SRC:%.c=$(BUILD)/%)
LAB_LIB := $(LAB_SRC:%.c=$(BUILD)/%.so)
FUZZ_BIN := $(FUZZ_SRC:%.c=$(BUILD)/%)
BENCH_BIN := $(BENCH_SRC:%.c=$(BUILD)/%)
LOAD_BIN := $(BUILD)/bench/holdfast-load
LOAD_OBJ := $(LOAD_SRC:%.c=$(BUILD)/%.o) \
	$(BUILD)/tools/bench_value.o $(BUILD)/tools/histogram.o $(BUILD)/tools/options.o
CHECK_BIN := $(BUILD)/bench/check/cost
CHECK_OBJ := $(CHECK_SRC:%.c=$(BUILD)/%.o)
LOAD_UNIT_BIN := $(filter $(BUILD)/tests/unit/test_load%,$(UNIT_BIN))
# test_log_sim runs in the simulator alone, on one thread, and for minutes.
THREADED_BIN := $(filter-out %/test_log_sim,\
	$(filter $(THREADED_TESTS:%=$(BUILD)/tests/unit/%),$(UNIT_BIN)))
MAN_PAGES := $(MAN_SRC:docs/man/%.scd=$(BUILD)/man/%)
ALL_OBJ := $(LIB_OBJ) $(DAEMON_OBJ) $(TOOL_OBJ) $(SIM_SHARED_OBJ) \
	$(patsubst %.c,$(BUILD)/%.o,$(UNIT_SRC) $(SIM_SRC) $(PEER_SRC) \
	$(FUZZ_SRC) tests/fuzz/replay.c $(BENCH_SRC) $(LOAD_SRC) $(CHECK_SRC))

LINK = $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
# A sub-make of its own takes all cores, unless the caller has said -j.
PARALLEL = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS))
SUBMAKE = +@$(MAKE) --no-print-directory $(PARALLEL)

.PHONY: all
all: $(BUILD)/holdfastd $(BUILD)/holdfast

# ---- for people ----

.PHONY: help
help:
	@echo 'make            build the broker (build/holdfastd) and the command (build/holdfast)'
	@echo 'make run        install what is missing, build, run the broker on ./data'
	@echo 'make test       install what is missing, build and test everything (CI runs this)'
	@echo 'make deps       install the Debian packages that building and testing need'
	@echo 'make install    into $$(DESTDIR)$$(PREFIX), with man pages   [PREFIX=$(PREFIX)]'
	@echo 'make clean      remove build/'
	@echo
	@echo 'make lint       layers, format, cppcheck and house rules'
	@echo 'make format     let clang-format rewrite all sources'
	@echo 'make unit       unit tests'
	@echo 'make asan       unit tests under AddressSanitizer and UBSan'
	@echo 'make tsan       threaded unit tests under ThreadSanitizer'
	@echo 'make sim        simulation with the fixed seeds; SEEDS=n: n others'
	@echo 'make soak       long runs: many seeds, many kills   [SIM_SEEDS=10000 KILL_CYCLES=1000]'
	@echo 'make model      check the leadership protocol with spin, in larger sizes than make test does'
	@echo 'make fuzz       every fuzz target under libFuzzer   [FUZZ_SECONDS=30]'
	@echo 'make lab        a full disk, power cuts on a real ext4, failovers on real NFS, in guests'
	@echo '                [LAB_CUTS=200 N=120 FAULTS= (docs/testing.md); FAULTS: failovers only]'
	@echo 'make bench      measure the journal and the broker (bench/README.md)'
	@echo 'make bench-check  instructions a message, against the committed ones   [UPDATE=1 SHOW=1]'
	@echo 'make bench-peers  beside other brokers   [ROUNDS=3 SECONDS=5 PEERS= LOADS=core BACKLOG=1000000 OUT=]'

.PHONY: deps
deps:
	@tools/dev/deps test

# After deps in a make of its own: this one has asked pkg-config too early.
.PHONY: run
run:
	@tools/dev/deps run
	$(SUBMAKE) all
	@exec $(BUILD)/holdfastd --data-dir ./data

.PHONY: test
test:
	@tools/dev/deps test
	@tools/dev/run-tests

.PHONY: lint
lint:
	@tools/dev/lint

.PHONY: format
format:
	@tools/dev/lint --list-sources | xargs -r clang-format -i

.PHONY: unit asan tsan sim soak
unit asan tsan sim soak:
	@tools/dev/run-tests $@

.PHONY: fuzz
fuzz:
	@tools/dev/deps fuzz
	@tools/dev/run-tests fuzz

# Each is skipped, with a word, where it cannot run.
N ?= 120
.PHONY: lab
lab:
	$(SUBMAKE) all bench-programs $(LAB_LIB)
ifeq ($(FAULTS),)
	@BUILD=$(BUILD) tests/lab/full.py || [ $$? -eq 77 ]
	@BUILD=$(BUILD) tests/lab/powercut.py || [ $$? -eq 77 ]
	@BUILD=$(BUILD) tests/lab/failover.py --blind --faults pause --rounds 2 --patience 15
	@BUILD=$(BUILD) tests/lab/claim_cost.py --json $(BUILD)/lab/claim_cost.json || [ $$? -eq 77 ]
endif
	@BUILD=$(BUILD) tests/lab/failover.py --faults '$(FAULTS)' --failovers $(N) \
		--json $(BUILD)/lab/failover.json || [ $$? -eq 77 ]
	@BUILD=$(BUILD) tests/lab/failover.py --nfs --faults '$(FAULTS)' --failovers $(N) \
		--json $(BUILD)/lab/failover_nfs.json || [ $$? -eq 77 ]

.PHONY: model
model:
	@tools/dev/deps test
	@VERBOSE=1 replication/model/run

.PHONY: bench
bench:
	$(SUBMAKE) all bench-programs
	@BUILD=$(BUILD) bench/run.sh

# Skipped, with a word, where the figures do not apply.
.PHONY: bench-check
bench-check:
	@tools/dev/deps test
	$(SUBMAKE) check-programs
	@BUILD=$(BUILD) bench/check/check.py $(if $(UPDATE),--update) $(if $(SHOW),--show) \
		|| [ $$? -eq 77 ]

# Peers that cannot be had are left out, and the report says so.
ROUNDS ?= 3
SECONDS ?= 5
LOADS ?= core
BACKLOG ?= 1000000
.PHONY: bench-peers
bench-peers:
	@tools/dev/deps peers || echo 'Going on with the peers that are here.'
	$(SUBMAKE) all bench-programs
	@BUILD=$(BUILD) bench/peers/run.py --rounds '$(ROUNDS)' --seconds '$(SECONDS)' \
		--loads '$(LOADS)' --peers '$(PEERS)' \
		--backlog '$(BACKLOG)' $(if $(OUT),--out '$(OUT)')

.PHONY: man
man: $(MAN_PAGES)

.PHONY: install
install: all man
	@install -d $(DESTDIR)$(PREFIX)/bin
	@install -m 755 $(BUILD)/holdfastd $(BUILD)/holdfast $(DESTDIR)$(PREFIX)/bin
	@set -e; for page in $(MAN_PAGES); do \
		install -D -m 644 "$$page" \
			"$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}"; \
	done
	@set -e; share=$(DESTDIR)$(PREFIX)/share; \
	put() { [ ! -e "$$1" ] || install -D -m 644 "$$1" "$$2"; }; \
	put tools/completions/holdfast.bash $$share/bash-completion/completions/holdfast; \
	put tools/completions/_holdfast $$share/zsh/site-functions/_holdfast; \
	put tools/completions/holdfast.fish $$share/fish/vendor_completions.d/holdfast.fish; \
	put deploy/systemd/holdfast.service $(DESTDIR)$(PREFIX)/lib/systemd/system/holdfast.service; \
	sed -i 's|^ExecStart=/usr/bin/|ExecStart=$(PREFIX)/bin/|' \
		$(DESTDIR)$(PREFIX)/lib/systemd/system/holdfast.service

.PHONY: clean
clean:
	@rm -rf build

# ---- for tools/dev/run-tests ----

.PHONY: unit-programs sim-programs peer-programs bench-programs check-programs \
	fuzz-programs
unit-programs: $(UNIT_BIN)
sim-programs: $(SIM_BIN)
peer-programs: $(PEER_BIN) $(LAB_LIB)
bench-programs: $(BENCH_BIN) $(LOAD_BIN)
check-programs: $(CHECK_BIN)
fuzz-programs: $(FUZZ_BIN)

.PHONY: build-plain build-asan build-tsan build-fuzz build-mutant
build-plain:
	$(SUBMAKE) all unit-programs sim-programs peer-programs bench-programs man
build-asan:
	$(SUBMAKE) $(ASAN) all unit-programs sim-programs fuzz-programs
build-tsan:
	$(SUBMAKE) $(TSAN) threaded-programs
build-fuzz:
	$(SUBMAKE) $(FUZZ) fuzz-programs
build-mutant:
	$(SUBMAKE) $(MUTANT) build/mutant/tests/sim/sim_takeover

.PHONY: threaded-programs list-threaded
threaded-programs: $(THREADED_BIN)
list-threaded:
	@echo $(notdir $(THREADED_BIN))

# ---- rules ----

.PHONY: packages
packages:
	@pkg-config --exists $(PACKAGES) || { \
		echo 'Libraries are missing; "make deps" installs them:' >&2; \
		pkg-config --print-errors --exists $(PACKAGES); exit 1; }

$(BUILD)/libholdfast.a: $(LIB_OBJ)
	@rm -f $@
	@ar rcs $@ $^

$(BUILD)/holdfastd: $(DAEMON_OBJ) $(BUILD)/libholdfast.a
	@$(LINK)

$(BUILD)/holdfast: $(TOOL_OBJ) $(BUILD)/libholdfast.a
	@$(LINK)

$(filter-out $(LOAD_UNIT_BIN),$(UNIT_BIN)): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libholdfast.a
	@$(LINK) -lcmocka

$(LOAD_UNIT_BIN): $(BUILD)/%: $(BUILD)/%.o $(filter-out %/main.o,$(LOAD_OBJ)) $(BUILD)/libholdfast.a
	@$(LINK) -lcmocka

$(LOAD_BIN): $(LOAD_OBJ) $(BUILD)/libholdfast.a
	@$(LINK)

$(CHECK_BIN): $(CHECK_OBJ) $(BUILD)/libholdfast.a
	@$(LINK)

# Their allocations can be made to fail (base/sim/sim.h).
$(BUILD)/tests/sim/sim_crash $(BUILD)/tests/unit/test_entries $(BUILD)/tests/unit/test_index \
$(BUILD)/tests/unit/test_fetch_damage $(BUILD)/tests/unit/test_state_faults: LDFLAGS += \
	-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc \
	-Wl,--wrap=posix_memalign,--wrap=strdup,--wrap=strndup

$(SIM_BIN): $(BUILD)/%: $(BUILD)/%.o $(SIM_SHARED_OBJ) $(BUILD)/libholdfast.a
	@$(LINK) -lcmocka

$(PEER_BIN) $(BENCH_BIN): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libholdfast.a
	@$(LINK)

$(LAB_LIB): $(BUILD)/%.so: %.c
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(LDFLAGS) -fPIC -shared -o $@ $<

$(FUZZ_BIN): $(BUILD)/%: $(BUILD)/%.o $(filter %.o,$(FUZZ_ENGINE)) $(BUILD)/libholdfast.a
	@$(LINK) $(filter-out %.o,$(FUZZ_ENGINE))

$(BUILD)/man/%: docs/man/%.scd
	@mkdir -p $(@D)
	@scdoc < $< > $@.tmp && mv $@.tmp $@

$(BUILD)/%.o: %.c | packages
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

.SECONDARY:
-include $(wildcard $(ALL_OBJ:.o=.d))
