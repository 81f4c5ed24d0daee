#!/bin/bash
# Builds the engine's kernels for 64-bit ARM in a small crate of their own, with cross/kernels.rs around them, in
# seconds instead of the minutes of the whole program; prints the path of the binary. With `tests`, builds the kernels'
# tests. Installs what it needs (cross/toolchain.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
source cross/toolchain.sh
arm64_toolchain

crate=$CARGO_TARGET_DIR/arm64-kernels
mkdir -p "$crate/src"
cat >"$crate/Cargo.toml" <<'TOML'
[package]
name = "kernels"
version = "0.1.0"
edition = "2024"

# As the engine in the product's release profile.
[profile.release]
codegen-units = 1

[workspace]
TOML
ln -sfn "$PWD/cross/kernels.rs" "$crate/src/main.rs"
ln -sfn "$PWD/app/engine/src/fused" "$crate/src/fused"
arguments=(--release --manifest-path "$crate/Cargo.toml")
export CARGO_TARGET_DIR=$crate/target
if [ "${1:-}" = tests ]; then
    arm64_cargo test --quiet --no-run --message-format json "${arguments[@]}" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
else
    arm64_cargo build --quiet "${arguments[@]}" >&2
    echo "$crate/target/$TARGET/release/kernels"
fi
