#!/bin/bash
# Makes a Debian package of a built program: cross/deb/build.sh amd64|arm64 PROGRAM [VERSION]
#
# PROGRAM is already stripped (cross/split.sh). VERSION is by default that of the workspace, with the revision 1.
# Installs cargo-deb with cargo, into the target folder. Prints the path of the package.
set -euo pipefail
architecture=${1:?amd64 or arm64}
program=$(realpath "${2:?the program}")
version=${3:-}
cd "$(dirname "$0")/../.."
source cross/toolchain.sh
readonly CARGO_DEB_VERSION=3.8.0
case $architecture in
    amd64) target=x86_64-unknown-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu ;;
    *) say "the architecture is amd64 or arm64, not $architecture"; exit 2 ;;
esac
version=${version:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-1}
CARGO_TARGET_DIR=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)

tool=$CARGO_TARGET_DIR/cargo-deb
if ! "$tool/bin/cargo-deb" --version 2>/dev/null | grep -qFx "cargo-deb $CARGO_DEB_VERSION"; then
    say "installing cargo-deb $CARGO_DEB_VERSION with cargo"
    # Not optimised, as it runs only for seconds; xz does the compression.
    CARGO_TARGET_DIR=$tool/build CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --locked --debug --no-default-features \
        --version "$CARGO_DEB_VERSION" --root "$tool" cargo-deb >&2
    rm -rf "$tool/build"
fi
apt_install dpkg-dev xz-utils

# cargo-deb takes built files from where cargo puts them: here a separate folder, with the files that are generated for
# the package.
stage=$CARGO_TARGET_DIR/deb/$architecture
rm -rf "$stage"
files=$stage/$target/release
mkdir -p "$files"
cp "$program" "$files/spotter"

# packaged FILE: FILE with the two keys set that make the service and manual commands agree.
packaged() {
    sed -e 's|^#labels = .*|labels = "/etc/spotter/labels.toml"|' \
        -e 's|^#state_dir = .*|state_dir = "/var/lib/spotter"|' "$1"
}
packaged config/spotter.toml >"$files/spotter.toml"
for key in labels state_dir; do
    if [ "$(grep -c "^$key = " "$files/spotter.toml")" != 1 ]; then
        say "config/spotter.toml does not show the default of $key once, as '#$key = …'"
        exit 1
    fi
done
# The board configurations contain only differences, and replace the whole configuration when they are copied.
mkdir "$files/boards"
for board in config/boards/*.toml; do
    if grep -Eq '^(labels|state_dir) *=' "$board"; then
        say "$board sets labels or state_dir, which the package sets"
        exit 1
    fi
    {
        sed -n '/^#/p;/^#/!q' "$board"
        printf '\nlabels = "/etc/spotter/labels.toml"\nstate_dir = "/var/lib/spotter"\n'
        sed '1,/^$/d' "$board" | sed '1i\\'
    } >"$files/boards/$(basename "$board")"
done
# Additional files for a board's service.
find config/boards -name '*.conf' -exec cp {} "$files/boards/" \;
{
    echo '# What Spotter looks for: what the demo model tells apart. How to write labels, and more of them:'
    echo '# /usr/share/spotter/labels.toml.'
    sed -n '/^$/,$p' config/demo/everyday.toml
} >"$files/labels.toml"

# dpkg finds the dependencies of a program for this machine. Those of an ARM program were checked by
# cross/check_program.sh.
variant=()
[ "$architecture" != amd64 ] || variant=(--variant amd64)
output=$CARGO_TARGET_DIR/debian/spotter_${version}_$architecture.deb
mkdir -p "$(dirname "$output")"
CARGO_TARGET_DIR=$stage "$tool/bin/cargo-deb" --quiet --locked --no-build --no-strip --compress-system \
    --manifest-path app/Cargo.toml --target "$target" ${variant[@]+"${variant[@]}"} \
    --deb-version "$version" --output "$output" >&2
echo "$output"
