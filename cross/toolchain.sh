# shellcheck shell=bash
# Sourced by the scripts beside it: what compiling for ARM Linux on x86-64 needs.

# SPOTTER_TARGET chooses: 64-bit ARM with the GNU C library, or with musl inside the program, or 32-bit ARM.
readonly TARGET=${SPOTTER_TARGET:-aarch64-unknown-linux-gnu}
# The oldest GNU C library that the programs start on: that of JetPack 5, Debian 11 and Raspberry Pi OS 11.
readonly GLIBC_MAX=2.31
# Zig includes a C compiler, a linker and every C library for all targets; cargo-zigbuild makes cargo use it.
readonly ZIG_PACKAGES="ziglang==0.17.1 cargo-zigbuild==0.24.1"

case $TARGET in
    aarch64-unknown-linux-gnu | aarch64-unknown-linux-musl) QEMU_DEFAULT=qemu-aarch64-static ;;
    armv7-unknown-linux-gnueabihf | armv7-unknown-linux-musleabihf) QEMU_DEFAULT=qemu-arm-static ;;
    *) echo "SPOTTER_TARGET: $TARGET is none of the targets in cross/toolchain.sh" >&2; exit 2 ;;
esac

say() { echo "${0#"$PWD/"}: $*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# alone COMMAND...: runs it while nothing else here uses apt, which fails if two instances run.
alone() (
    exec 9>"${TMPDIR:-/tmp}/spotter-apt.lock"
    flock 9
    "$@"
)

# apt_install PACKAGE...: installs the missing ones.
apt_install() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing with apt: ${missing[*]}"
    alone as_root apt-get update -qq
    alone as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# foreign_architecture NAME: lets apt download packages for it; nothing is installed.
foreign_architecture() {
    if dpkg --print-foreign-architectures | grep -qx "$1"; then return 0; fi
    say "telling dpkg of the architecture $1, to download packages of it"
    alone as_root dpkg --add-architecture "$1"
    alone as_root apt-get update -qq
}

# The target for the Rust in use, from rustup.
rust_from_rustup() {
    command -v rustup >/dev/null || { say "no rustup here"; return 1; }
    rustup target add "$TARGET" >&2
}

# Debian's rustc with the standard libraries of both machines side by side. The ARM one is unpacked instead of
# installed: installing it would bring the ARM C library, which qemu-user then confuses with the cross compiler's.
rust_from_debian() {
    if [ "$TARGET" != aarch64-unknown-linux-gnu ]; then
        say "Debian has no standard library for $TARGET; rustup has"
        return 1
    fi
    command -v apt-get >/dev/null || { say "no apt here: take Rust from https://rustup.rs"; return 1; }
    local version sysroot=$CARGO_TARGET_DIR/arm64-sysroot packages=$CARGO_TARGET_DIR/arm64-packages
    apt_install rustc-web cargo-web
    version=$(dpkg-query -W -f '${Version}' rustc-web)
    if [ "$(cat "$sysroot/version" 2>/dev/null)" != "$version" ]; then
        foreign_architecture arm64
        rm -rf "$sysroot" "$packages"
        mkdir -p "$sysroot/lib/rustlib" "$packages"
        # apt warns that its own user cannot write here, and downloads as root.
        (cd "$packages" && alone apt-get download -qq "libstd-rust-web-dev:arm64=$version")
        dpkg-deb -x "$packages"/libstd-rust-web-dev_*_arm64.deb "$packages/x"
        ln -s "$packages/x/usr/lib/rustlib/$TARGET" "$sysroot/lib/rustlib/"
        ln -s /usr/lib/rustlib/x86_64-unknown-linux-gnu "$sysroot/lib/rustlib/"
        echo "$version" >"$sysroot/version"
    fi
    export RUSTC=/usr/bin/rustc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--sysroot=$sysroot"
}

# Zig and cargo-zigbuild: those on the PATH, else from PyPI into a folder beside the build.
zig_from_pypi() {
    local venv=$CARGO_TARGET_DIR/zig
    if command -v cargo-zigbuild >/dev/null; then return 0; fi
    export PATH=$venv/bin:$PATH
    [ "$(cat "$venv/packages" 2>/dev/null)" != "$ZIG_PACKAGES" ] || return 0
    say "installing with pip into $venv: $ZIG_PACKAGES"
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        command -v apt-get >/dev/null || { say "needs python3 with its module venv"; return 1; }
        apt_install python3 python3-venv
    fi
    rm -rf "$venv"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086
    "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check $ZIG_PACKAGES >&2
    echo "$ZIG_PACKAGES" >"$venv/packages"
}

# Compilers for Rust and C, and cargo's settings for them. SPOTTER_ARM64_RUST=rustup or =debian uses only that way.
arm64_toolchain() {
    CARGO_TARGET_DIR=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
    export CARGO_TARGET_DIR
    zig_from_pypi
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
            return 2
            ;;
    esac
}

# arm64_cargo build|test ARGUMENT...: cargo for the target, after arm64_toolchain. Everything for ARM is built through
# this function, since another C compiler would rebuild half of the dependencies. Results are in
# $CARGO_TARGET_DIR/$TARGET, as with cargo's own --target.
#
# Must be called in a folder that does not contain Zig: Zig gives relative paths for headers below the current folder,
# which cargo-zigbuild passes on to bindgen, which runs elsewhere.
arm64_cargo() {
    local command=$1 target=$TARGET
    shift
    case $target in *-gnu*) target=$target.$GLIBC_MAX ;; esac
    [ "$command" != build ] || command=zigbuild
    (cd cross && cargo-zigbuild "$command" --target "$target" "$@")
}

# Installs what `emulated` needs: qemu-user, and the ARM C library for programs that are linked to it.
install_emulation() {
    case $TARGET in
        aarch64-*) apt_install qemu-user-static libc6-arm64-cross libgcc-s1-arm64-cross ;;
        armv7-*) apt_install qemu-user-static libc6-armhf-cross libgcc-s1-armhf-cross ;;
    esac
}

# emulated PROGRAM ARGUMENT...: runs an ARM program with qemu-user; EMULATION holds options, such as the CPU. The library
# path keeps an installed ARM C library out, if there is one.
emulated() {
    local root=/usr/aarch64-linux-gnu
    case $TARGET in armv7-*) root=/usr/arm-linux-gnueabihf ;; esac
    # shellcheck disable=SC2086
    "${QEMU:-$QEMU_DEFAULT}" -L "$root" -E "LD_LIBRARY_PATH=$root/lib" ${EMULATION:-} "$@"
}

# Installs what instructions_of needs; QEMU_SOURCE names QEMU's source (`apt-get source qemu`), which includes the
# plugin.
build_counter() {
    local source=${QEMU_SOURCE:?the unpacked source of QEMU}
    install_emulation
    apt_install qemu-user gcc pkg-config libglib2.0-dev
    mkdir -p "$CARGO_TARGET_DIR"
    COUNTER=$CARGO_TARGET_DIR/libbb.so
    # shellcheck disable=SC2046
    gcc -O2 -shared -fPIC -I"$source/include/qemu" $(pkg-config --cflags glib-2.0) "$source/tests/plugin/bb.c" \
        -o "$COUNTER" $(pkg-config --libs glib-2.0)
}

# instructions_of CORE PROGRAM ARGUMENT...: how many instructions the program executes on that core, over all its
# threads. Discards its output. The plugin `insn` would lose some if threads run in parallel.
instructions_of() {
    local core=$1 count
    shift
    count=$(QEMU=qemu-aarch64 EMULATION="-cpu $core -plugin $COUNTER -d plugin" emulated "$@" 2>&1 |
        awk '/^bb.s: .* insns: / { print $NF }')
    [ -n "$count" ] || { say "this did not run to its end on $core: $*"; return 1; }
    echo "$count"
}
