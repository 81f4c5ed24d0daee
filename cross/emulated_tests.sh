#!/bin/bash
# Runs the tests as 64-bit ARM Linux does, on x86-64 under qemu-user: cross/emulated_tests.sh [ARGUMENT...]
#
# All tests of the workspace, or what the arguments for `cargo test` leave of them (`-- tower` after --test and the like).
# SPOTTER_CPU is the emulated core: cortex-a76 unless it says otherwise; cortex-a72 lacks the dot product, max has all.
# Programs and tests are built like those of `make test`. Installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
source cross/toolchain.sh
arm64_toolchain
install_emulation
apt_install ffmpeg
cpu=${SPOTTER_CPU:-cortex-a76}

SPOTTER_TEST_RUNNER="qemu-aarch64-static -cpu $cpu -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=/usr/aarch64-linux-gnu/lib"
export SPOTTER_TEST_RUNNER
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$SPOTTER_TEST_RUNNER
# What the tests start; they leave building to us, since a plain cargo would compile for another C library.
arm64_cargo build --locked --workspace --bin spotter --bin model-prep
arm64_cargo test --locked --workspace --lib --bins --tests "$@"
