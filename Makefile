# The one door for tasks. Every target does its own set-up and is quick the second time.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

BUILD_PACKAGES := clang llvm gcc make libbpf-dev libelf-dev zlib1g-dev python3-dev python3-venv
TEST_PACKAGES  := $(BUILD_PACKAGES) prometheus bpftool util-linux iproute2 tmux
BENCH_PACKAGES := $(TEST_PACKAGES) python3-bpfcc bpfcc-tools libbpf-tools linux-headers-amd64 prometheus-node-exporter

SOURCES := setup.py pyproject.toml $(wildcard native/*.c native/*.h native/build_*.py native/simulator/*.c native/simulator/*.h bpf/*.c bpf/*.h)

KERNEL_PACKAGES := $(TEST_PACKAGES) qemu-system-x86 qemu-system-common busybox-static kmod cpio

# Installs the Debian packages that are missing; says the command instead where it may not.
define debian
@missing=""; for p in $(1); do \
  dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; \
done; \
[ -z "$$missing" ] || { \
  command -v apt-get >/dev/null || { echo "install what your system calls:$$missing" >&2; exit 1; }; \
  [ "$$(id -u)" = 0 ] || { echo "run: sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; }; \
  echo "installing Debian packages:$$missing"; \
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $$missing >/dev/null; }
endef

.PHONY: help build run test lint types unit test-engine bench wheel docs clean packages-build packages-test packages-bench packages-kernels test-kernels

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: packages-build $(VENV)/.installed ## .venv with the eagle-eye command, BPF objects and C modules

run: build ## everything on this machine: NATS server, agent, live view (ARGS="-d 10" for more)
	@$(BIN)/eagle-eye run $(ARGS)

test: packages-test build lint types unit ## all checks and tests, quick ones first

lint: build ## ruff, and imports that go down the floors only
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo

types: build ## mypy --strict
	@$(BIN)/mypy

unit: build ## pytest (ARGS="-k name" to choose)
	@$(BIN)/pytest $(ARGS)

test-kernels: packages-kernels build ## every probe on Debian's kernels under QEMU (KERNELS="sid" for others)
	@$(BIN)/python tests/kernels/run.py $(KERNELS)

test-engine: ## the vLLM plugin in real engines on the CPU, own environment of 2 GB (ARGS="-m slow" for ranks and versions)
	@tests/engine/install.sh $(if $(findstring slow,$(ARGS)),0.28.0 0.30.0 0.31.0)
	@cd tests/engine && ../../build/engine-venv/bin/python -m pytest -c pytest.ini --confcutdir . $(or $(ARGS),-m "not slow")

bench: packages-bench build ## benchmarks beside their peers (BENCH=drain for one)
	@for b in $(if $(BENCH),$(BENCH),$(patsubst tests/bench/bench_%.py,%,$(wildcard tests/bench/bench_*.py))); do \
	  $(BIN)/python tests/bench/bench_$$b.py || exit 1; done

docs: build ## writes the tables of docs that follow from the registry
	@$(BIN)/python tests/docs_tables.py --write

wheel: build ## wheels of the product and of its vLLM plugin, under build/dist
	@$(BIN)/pip -q wheel --no-deps --no-build-isolation -w build/dist . ./probes/engine/vllm

clean: ## removes everything that build made
	rm -rf $(VENV) build *.egg-info bpf/obj native/simulator/lib native/*.so native/_*.c native/_*.o

packages-build:
	$(call debian,$(BUILD_PACKAGES))

packages-test:
	$(call debian,$(TEST_PACKAGES))

packages-kernels:
	$(call debian,$(KERNEL_PACKAGES))

packages-bench:
	$(call debian,$(BENCH_PACKAGES))

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 build" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip -q install --disable-pip-version-check "setuptools>=77" "cffi>=1.17"

$(VENV)/.installed: $(VENV)/bin/python $(SOURCES)
	@echo "building"
	@$(BIN)/pip -qq install --disable-pip-version-check --no-build-isolation -e '.[dev]'
	@touch $@
