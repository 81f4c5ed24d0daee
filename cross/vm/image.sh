#!/bin/bash
# Makes the boot image of the virtual ARM board: cross/vm/image.sh PROGRAM
#
# Debian's unchanged arm64 kernel, a first program in an initramfs, and a read-only root disk with PROGRAM (spotter for
# 64-bit ARM Linux), busybox, v4l2-ctl and the kernel modules that the tests load. Needs apt to download Debian's
# packages; none of them is installed. Prints the folder that machine.py starts from.
set -euo pipefail
program=$(realpath "${1:?the program, built for 64-bit ARM Linux}")
cd "$(dirname "$0")"
source ../toolchain.sh
CARGO_TARGET_DIR=$(mkdir -p "${CARGO_TARGET_DIR:-../../target}" && cd "${CARGO_TARGET_DIR:-../../target}" && pwd)
vm=$CARGO_TARGET_DIR/vm

apt_install qemu-system-arm e2fsprogs cpio kmod python3 binutils-aarch64-linux-gnu
foreign_architecture arm64

# Kernel modules for disk and root, the shared folder and the host's line, the cameras and their USB.
readonly FIRST_MODULES="virtio_pci virtio_blk ext4"
readonly MODULES="virtio_console 9p 9pnet_virtio vivid xhci-pci uvcvideo"
readonly PACKAGES="busybox-static libc6 libgcc-s1 libstdc++6 libjpeg62-turbo libv4l-0 libv4lconvert0 v4l-utils"

# unpack FOLDER PACKAGE...: Debian's newest versions for arm64; again only if there is a newer one.
unpack() {
    local folder=$1 versions
    shift
    # shellcheck disable=SC2086
    versions=$(apt-cache show --no-all-versions "${@/%/:arm64}" | grep -E '^(Filename|SHA256):')
    [ "$(cat "$folder.versions" 2>/dev/null)" != "$versions" ] || return 0
    rm -rf "$folder" "$folder.versions" "$vm/debs"
    mkdir -p "$folder" "$vm/debs"
    # apt warns that its own user cannot write here, and downloads as root.
    (cd "$vm/debs" && alone apt-get download -qq "${@/%/:arm64}" 2>&1 | { grep -v '^W: Download is performed' || true; }) >&2
    for package in "$vm"/debs/*.deb; do dpkg-deb -x "$package" "$folder"; done
    rm -rf "$vm/debs"
    echo "$versions" >"$folder.versions"
}

# modules KERNEL MODULE...: their files and those of their dependencies, in load order.
modules() {
    local kernel=$1 module
    shift
    for module in "$@"; do
        /sbin/modprobe -d "$vm/kernel" -S "$kernel" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++'
}

mkdir -p "$vm"
package=$(apt-cache depends linux-image-arm64:arm64 | sed -n 's/.*Depends: \(linux-image-[^:]*\).*/\1/p')
unpack "$vm/kernel" "${package:?apt knows no kernel for arm64}"
kernel=$(basename "$vm"/kernel/lib/modules/*)
/sbin/depmod -b "$vm/kernel" "$kernel"
# shellcheck disable=SC2086
unpack "$vm/userland" $PACKAGES

files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
mkdir -p "$files"/first/{bin,modules,proc,sys,dev,root} "$files"/root/{bin,etc,proc,sys,dev,tmp,run,share,mnt,var}
cp "$vm/userland/bin/busybox" "$files/first/bin/"
cp first.sh "$files/first/init"
number=100
# shellcheck disable=SC2086
for module in $(modules "$kernel" $FIRST_MODULES); do
    cp "$module" "$files/first/modules/$((number++))-$(basename "$module")"
done
(cd "$files/first" && find . | cpio --create --format=newc --owner=0:0 --quiet) | gzip -1 >"$vm/initramfs.gz"

cp -a "$vm/userland"/{usr,lib,bin} "$files/root/" 2>/dev/null
[ ! -d "$vm/userland/sbin" ] || cp -a "$vm/userland/sbin" "$files/root/"
rm -rf "$files"/root/usr/share "$files"/root/usr/lib/aarch64-linux-gnu/gconv
mkdir -p "$files/root/sbin"
# shellcheck disable=SC2086
for module in $(modules "$kernel" $MODULES); do
    install -D -m 644 "$module" "$files/root/${module#"$vm/kernel/"}"
done
cp "$vm/kernel/lib/modules/$kernel"/modules.{order,builtin,builtin.modinfo} "$files/root/lib/modules/$kernel/"
/sbin/depmod -b "$files/root" "$kernel"
cp guest.sh "$files/root/sbin/guest"
echo 'root:x:0:0:root:/:/bin/sh' >"$files/root/etc/passwd"
aarch64-linux-gnu-strip --strip-debug -o "$files/root/usr/bin/spotter" "$program"
chmod 755 "$files/first/init" "$files/root/sbin/guest" "$files/root/usr/bin/spotter"
# Without free space: the disk is read-only.
rm -f "$vm/root.ext4"
/sbin/mkfs.ext4 -q -O ^has_journal -E root_owner=0:0 -d "$files/root" "$vm/root.ext4" \
    "$(($(du -sm "$files/root" | cut -f1) * 5 / 4 + 8))M" >&2
cp "$vm/kernel/boot/vmlinuz-$kernel" "$vm/kernel.image"
echo "$vm"
