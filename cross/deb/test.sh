#!/bin/bash
# Tries a Debian package: cross/deb/test.sh PACKAGE.deb
#
# First runs lintian. Then, in a chroot by debootstrap: installs the package, runs the program as the service would,
# upgrades it with an edited configuration, removes it, and purges it, after which every file and account must be as
# before. Packages for arm64 are tried on Debian 11, whose glibc is the oldest supported one, under qemu-user; those for
# this machine on Debian 12. The gate (CI=true) skips the emulated chroot unless SPOTTER_SLOW=1. Needs root; installs
# what it needs. The chroots are kept in the target folder.
set -euo pipefail
package=$(realpath "${1:?the package}")
cd "$(dirname "$0")/../.."
source cross/toolchain.sh
CARGO_TARGET_DIR=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
export CARGO_TARGET_DIR
apt_install debootstrap dpkg-dev lintian qemu-user-static

lintian --allow-root --tag-display-limit 0 --display-info --fail-on error,warning,info "$package"
say "lintian: nothing to say of $(basename "$package")"

architecture=$(dpkg-deb -f "$package" Architecture)
if [ "$architecture" != "$(dpkg --print-architecture)" ] && [ "${CI:-}" = true ] && [ "${SPOTTER_SLOW:-}" != 1 ]; then
    say "not tried in a chroot, which SPOTTER_SLOW=1 does: $(basename "$package")"
    exit
fi
case $architecture in
    arm64) suite=bullseye ;;
    *) suite=bookworm ;;
esac
# Mounts and the registration of the emulator end with this.
as_root env CARGO_TARGET_DIR="$CARGO_TARGET_DIR" unshare --mount --fork \
    cross/deb/chroot.sh "$architecture" "$suite" "$package"
