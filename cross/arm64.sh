#!/bin/bash
# Builds Spotter in release for 64-bit ARM Linux: cross/arm64.sh, or `make arm64`. On Debian or Ubuntu, x86-64.
#
# The compiler comes from rustup; where rustup cannot fetch the target, from Debian's own packages, unpacked into a
# private sysroot in the target folder. The C cross compiler (tract has kernels in assembly) comes from apt either way.
# The program needs glibc 2.34 or newer at run time if built on Debian 12: Raspberry Pi OS 12, JetPack 6.
#
# Tried on Debian 12 with Debian's Rust 1.96: every dependency built, and a small program linked and started under
# qemu-user; the whole program compiled, but its last step, the optimisation across crates, was not waited for (it takes
# over ten minutes on one core). With rustup's compiler the build without that step (profile `dev`) was tried whole; the
# program runs under qemu-user.
#
# SPOTTER_ARM64_RUST=rustup or =debian takes that way only (cross/toolchain.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

source cross/toolchain.sh
arm64_toolchain
cargo build --release --locked --target "$TARGET" --package spotter --bin spotter

program=$CARGO_TARGET_DIR/$TARGET/release/spotter
if QEMU=$(command -v qemu-aarch64-static || command -v qemu-aarch64); then
    emulated "$program" --version
else
    say "not started here: no qemu-user"
fi
echo "$program"
