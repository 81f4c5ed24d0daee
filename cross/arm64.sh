#!/bin/bash
# Builds Spotter for ARM Linux on x86-64, ready to copy to a board: cross/arm64.sh [CARGO_ARGUMENT...], or `make arm64`.
#
# The compiler is rustup's; where rustup is not there or cannot fetch the target, Debian's own, unpacked into a private
# sysroot in the target folder. The C compiler and linker (tract has kernels in assembly) is Zig, with cargo-zigbuild from
# PyPI: that is what lets the program start on a glibc older than this system's, which is checked. What is built is tried
# under qemu-user. The program is stripped; its debug information is beside it. Prints the path of the program.
#
# SPOTTER_TARGET       aarch64-unknown-linux-gnu, or aarch64-unknown-linux-musl for one that needs no library at all (for
#                      systems with an older glibc), or armv7-unknown-linux-gnueabihf for 32-bit systems
# SPOTTER_PROFILE      release, or dev: what the tests use
# SPOTTER_ARM64_RUST   rustup or debian: that compiler and no other
set -euo pipefail
cd "$(dirname "$0")/.."
source cross/toolchain.sh
profile=${SPOTTER_PROFILE:-release}
arm64_toolchain

# The tests build the whole workspace, with which dependencies have other features: built the same way here, nothing is
# compiled twice. Not so a small program: the tests ask for all features of it.
scope=(--package spotter)
[ "$profile" = release ] || scope=(--workspace)
dist=$CARGO_TARGET_DIR/dist/$TARGET
small=()
for argument in "$@"; do
    [ "$argument" = --no-default-features ] || continue
    dist=$dist-small scope=(--package spotter)
    small=(--bundle config/demo --labels config/demo/labels.toml)
done
arm64_cargo build --profile "$profile" --locked "${scope[@]}" --bin spotter "$@"

folder=$profile
[ "$profile" != dev ] || folder=debug
cross/split.sh "$CARGO_TARGET_DIR/$TARGET/$folder/spotter" "$dist"
cross/check_program.sh "$dist/spotter" >&2
if [ ${#small[@]} != 0 ] && grep -q 'demo bundle inside the program' "$dist/spotter"; then
    say "FAILED: the demo model is in a program that was built small"
    exit 1
fi
if [ "${CI:-}" = true ] || command -v apt-get >/dev/null; then install_emulation; fi
if command -v "${QEMU:-$QEMU_DEFAULT}" >/dev/null; then
    cross/try_program.sh "$dist/spotter" ${small[@]+"${small[@]}"} >&2
else
    say "not started here: no qemu-user"
fi
echo "$dist/spotter"
