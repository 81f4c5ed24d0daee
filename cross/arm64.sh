#!/bin/bash
# Builds Spotter for ARM Linux on x86-64, ready to copy to a board: cross/arm64.sh [CARGO_ARGUMENT...], or `make arm64`.
#
# Uses rustup's compiler; without rustup, or if it cannot fetch the target, Debian's own, unpacked into a private
# sysroot in the target folder. The C compiler and linker (tract has kernels in assembly) is Zig, with cargo-zigbuild
# from PyPI: it lets the program start on a glibc older than this system's, which is checked. The result is tried under
# qemu-user. The program is stripped, with its debug information beside it. Prints the path of the program.
#
# SPOTTER_TARGET       aarch64-unknown-linux-gnu, aarch64-unknown-linux-musl for a program that needs no library (for
#                      systems with an older glibc), or armv7-unknown-linux-gnueabihf for 32-bit systems
# SPOTTER_PROFILE      release, or dev, which the tests use
# SPOTTER_ARM64_RUST   rustup or debian, to use only that compiler
set -euo pipefail
cd "$(dirname "$0")/.."
source cross/toolchain.sh
profile=${SPOTTER_PROFILE:-release}
arm64_toolchain

# The tests build the whole workspace, which gives dependencies other features: built in the same way here, nothing is
# compiled twice. A small program is different: the tests request all its features.
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
