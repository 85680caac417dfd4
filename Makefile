# The few commands that people and CI type. What they do is in scripts/ and in CMake.

# On a system that scripts/setup does not know, install what it names and run make with SETUP=true.
SETUP ?= scripts/setup
PREFIX ?= /usr/local
SEEDS ?= 100000
CYCLES ?= 100
STEPS ?=
COMMIT ?=
DESTDIR ?=
BUILD := build/release
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)

goals := help demo check build bench format install sim chaos clean setup configure $(BUILD)/build.ninja
.PHONY: $(filter-out %.ninja,$(goals))
# Before anything is done: a goal that does not exist would fail only after the others, or be a folder's name.
ifneq ($(filter-out $(goals),$(MAKECMDGOALS)),)
$(error there is no goal '$(filter-out $(goals),$(MAKECMDGOALS))'; 'make help' lists them. A part of the checks: make check STEPS='static release'. One test: see CONTRIBUTING.md)
endif
ifneq ($(filter chaos,$(MAKECMDGOALS)),)
ifeq ($(filter $(COMMIT),async replicated),)
$(error COMMIT is async or replicated, not '$(COMMIT)')
endif
endif

help:
	@echo 'make demo               build, start a cluster, kill its leader twice and see it go on'
	@echo 'make check              every test and every check, with and without sanitizers;'
	@echo '                        STEPS="static release": only these of static, release, fuzz, asan, tsan'
	@echo 'make build              the library, the programs, the tests'
	@echo 'make bench              measure, each figure beside a reference (ARGS=--quick: in four minutes)'
	@echo 'make sim SEEDS=1000000  the simulator with many seeds'
	@echo 'make chaos CYCLES=100   nodes and NATS killed at random, again and again (SEED=1: the same once more;'
	@echo '                        COMMIT=async|replicated: only this mode)'
	@echo 'make format             lay out the code with clang-format'
	@echo 'make install PREFIX=DIR install what make build has built (default $(PREFIX))'
	@echo 'make clean              remove what was built'

setup:
	@$(SETUP)

# A configured build folder looks after itself: ninja runs CMake again when a CMake file has changed. It
# does not look at the presets.
$(BUILD)/build.ninja: CMakePresets.json | setup
	@cmake --preset release
	@touch $@

configure: setup $(BUILD)/build.ninja

build: configure
	@cmake --build --preset release

demo: configure
	@cmake --build --preset release --target demo_programs
	@scripts/demo $(BUILD)

check:
	@SETUP='$(SETUP)' scripts/check $(STEPS)

bench: configure
	@cmake --build --preset release --target bench_programs
	@scripts/bench $(BUILD) $(ARGS)

sim: configure
	@cmake --build --preset release --target cluster-sim
	@$(BUILD)/tests/cluster-sim --seeds $(SEEDS)

chaos: configure
	@cmake --build --preset release --target e2e_tests
	@CHAOS_SEED='$(or $(SEED),$(shell date +%s))' CHAOS_CYCLES='$(CYCLES)' \
	  $(BUILD)/tests/e2e_tests --gtest_filter='Chaos.*$(subst async,Async,$(subst replicated,Replicated,$(COMMIT)))' --gtest_brief=1

format:
	@$(SETUP) --check
	@scripts/format

# The library knows where its guardian is installed, so that one file is compiled for the prefix.
install:
	@test -f $(BUILD)/build.ninja || { echo 'nothing is built yet: run make build first' >&2; exit 1; }
	@cmake --preset release -D CMAKE_INSTALL_PREFIX='$(PREFIX)'
	@cmake --build --preset release
	@DESTDIR='$(DESTDIR)' cmake --install $(BUILD) --prefix '$(PREFIX)'

clean:
	rm -rf build
