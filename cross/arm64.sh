#!/bin/bash
# Builds Spotter in release for 64-bit ARM Linux: cross/arm64.sh, or `make arm64`. On Debian or Ubuntu, x86-64.
#
# The compiler comes from rustup; where rustup cannot fetch the target, from Debian's own packages, unpacked into a
# private sysroot in the target folder. The C cross compiler (tract has kernels in assembly) comes from apt either way.
# The program needs glibc 2.34 or newer at run time if built on Debian 12: Raspberry Pi OS 12, JetPack 6.
#
# Tried on Debian 12 with Debian's Rust 1.96: every dependency built, and a small program linked and started under
# qemu-user; the whole program compiled, but its last step, the optimisation across crates, was not waited for (it takes
# over ten minutes on one core). With rustup, fetching the target was tried, not the build.
#
# SPOTTER_ARM64_RUST=rustup or =debian takes that way only.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TARGET=aarch64-unknown-linux-gnu
target_dir=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
export CARGO_TARGET_DIR=$target_dir

say() { echo "cross/arm64.sh: $*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# apt_install PACKAGE...: installs those that are missing.
apt_install() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing with apt: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# The target for the Rust in use, from rustup.
rust_from_rustup() {
    command -v rustup >/dev/null || { say "no rustup here"; return 1; }
    rustup target add "$TARGET" >&2
}

# Debian's rustc with the standard libraries of both machines side by side. The ARM one is unpacked rather than
# installed: installing it would bring the ARM C library, which qemu-user then mixes up with the cross compiler's.
rust_from_debian() {
    local version sysroot=$target_dir/arm64-sysroot packages=$target_dir/arm64-packages
    apt_install rustc-web cargo-web
    version=$(dpkg-query -W -f '${Version}' rustc-web)
    if [ "$(cat "$sysroot/version" 2>/dev/null)" != "$version" ]; then
        if ! dpkg --print-foreign-architectures | grep -qx arm64; then
            say "telling dpkg of the architecture arm64, to download one package of it"
            as_root dpkg --add-architecture arm64
            as_root apt-get update -qq
        fi
        rm -rf "$sysroot" "$packages"
        mkdir -p "$sysroot/lib/rustlib" "$packages"
        # apt warns that its own user cannot write here; it downloads as root then.
        (cd "$packages" && apt-get download -qq "libstd-rust-web-dev:arm64=$version")
        dpkg-deb -x "$packages"/libstd-rust-web-dev_*_arm64.deb "$packages/x"
        ln -s "$packages/x/usr/lib/rustlib/$TARGET" "$sysroot/lib/rustlib/"
        ln -s /usr/lib/rustlib/x86_64-unknown-linux-gnu "$sysroot/lib/rustlib/"
        echo "$version" >"$sysroot/version"
    fi
    export RUSTC=/usr/bin/rustc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--sysroot=$sysroot"
}

if ! command -v apt-get >/dev/null; then
    say "needs apt; elsewhere use the tool cross: cross build --release --target $TARGET --package spotter"
    exit 1
fi
apt_install gcc-aarch64-linux-gnu libc6-dev-arm64-cross

case ${SPOTTER_ARM64_RUST:-any} in
    rustup) rust_from_rustup ;;
    debian) rust_from_debian ;;
    any)
        if ! rust_from_rustup; then
            say "no $TARGET from rustup: taking Debian's Rust"
            rust_from_debian
        fi
        ;;
    *)
        say "SPOTTER_ARM64_RUST is rustup or debian, not $SPOTTER_ARM64_RUST"
        exit 2
        ;;
esac

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
cargo build --release --locked --target "$TARGET" --package spotter --bin spotter

program=$target_dir/$TARGET/release/spotter
if qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64); then
    # The library path keeps an installed ARM C library out, if there is one.
    "$qemu" -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=/usr/aarch64-linux-gnu/lib "$program" --version
else
    say "not started here: no qemu-user"
fi
echo "$program"
