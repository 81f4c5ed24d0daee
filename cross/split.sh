#!/bin/bash
# Moves a program's symbols and line tables to a separate file: cross/split.sh PROGRAM FOLDER
#
# FOLDER/NAME is what is shipped. addr2line, gdb and perf need FOLDER/NAME.debug to name places in it; debuggers find it
# if both are in one folder.
set -euo pipefail
program=$(realpath "${1:?the program}")
mkdir -p "${2:?the folder for the results}"
folder=$(realpath "$2")
name=$(basename "$program")
cd "$(dirname "$0")/.."
source cross/toolchain.sh

# An objcopy that handles other machines: LLVM's, which comes with rustup's Rust, else that of binutils.
find_objcopy() {
    local candidate
    for candidate in "$(rustc --print sysroot)"/lib/rustlib/*/bin/rust-objcopy "$(command -v llvm-objcopy)"; do
        if [ -x "$candidate" ] && "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    apt_install binutils-multiarch
    echo objcopy
}

objcopy=$(find_objcopy)
"$objcopy" --only-keep-debug "$program" "$folder/$name.debug"
chmod -x "$folder/$name.debug"
rm -f "$folder/$name"
# The link contains the other file's bare name and a checksum.
(cd "$folder" && "$objcopy" --strip-all --add-gnu-debuglink="$name.debug" "$program" "$name")
