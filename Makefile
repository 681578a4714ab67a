# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A thin face over meson. `make demo` and `make check` install what they lack (apt-get, as root), build and run.
BUILD ?= build
# PREFIX: where to install; meson's own default is /usr/local. Given again, it replaces the prefix of an earlier build.

.PHONY: all setup demo check check-lab check-kernel check-interop bench coverage soak install clean help

all: setup
	@ninja -C $(BUILD)

setup:
	@tools/need build
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log
	@$(if $(PREFIX),meson configure $(BUILD) --prefix=$(abspath $(PREFIX)))

demo:                   # the main job on a 64 MiB file, without a virtual machine
	@tools/need build demo
	@$(MAKE) -s all
	@$(BUILD)/bin/vhk demo

check:                  # every test: native, sanitizers, valgrind, aarch64, fuzzers, real guests
	@tools/need build check
	@tools/check

check-lab: all          # the real guests alone
	@tools/need build check
	@tools/check native-build lab

check-kernel: all       # the guests in which our programs meet the kernel's own vhost, vDPA and VDUSE
	@tools/need build check
	@tools/check native-build kernel

check-interop: all      # the programs and crates of a Debian 13 tree
	@tools/need build check
	@tools/check native-build interop

bench:                  # the ring, and the null device against qemu-storage-daemon
	@tools/need build bench
	@$(MAKE) -s all
	@bench/run $(BUILD)

coverage:               # line coverage of src/, held against tests/coverage-floor
	@tools/need build check
	@tools/check coverage

soak:                   # the long forms: all lab combinations, 10 minutes per fuzzer
	@tools/need build check
	@tools/check --soak

install: setup          # into PREFIX (and DESTDIR); builds what is installed, and no tests
	@ninja -C $(BUILD) installed
	@meson install -C $(BUILD) --no-rebuild
	@$(if $(DESTDIR),:,tools/after-install "$$(PKG_CONFIG_PATH=$(BUILD)/meson-private pkg-config --variable=libdir vhostkit)")

clean:
	@rm -rf $(BUILD) build-*

help:
	@sed -n 's/^\([a-z-]*\):[^#]*# */\1: /p' Makefile
