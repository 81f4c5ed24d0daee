#!/bin/bash
# Takes a program's symbols and line tables out of it: cross/split.sh PROGRAM FOLDER
#
# FOLDER/NAME is what is shipped, FOLDER/NAME.debug what addr2line, gdb and perf need to name places in it; debuggers find
# it where both lie in one folder.
set -euo pipefail
program=$(realpath "${1:?the program}")
mkdir -p "${2:?the folder for the results}"
folder=$(realpath "$2")
name=$(basename "$program")
cd "$(dirname "$0")/.."
source cross/toolchain.sh

# An objcopy for machines other than this one: LLVM's, which rustup's Rust brings along, else binutils'.
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
# The link holds the other file's bare name and a checksum.
(cd "$folder" && "$objcopy" --strip-all --add-gnu-debuglink="$name.debug" "$program" "$name")
