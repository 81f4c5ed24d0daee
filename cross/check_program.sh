#!/bin/bash
# Checks what a built program needs from the system it is copied to: cross/check_program.sh PROGRAM...
#
# A program that is linked to the GNU C library must need no version of it above GLIBC_MAX (cross/toolchain.sh), and
# only libraries that are part of every Debian, Raspberry Pi OS and JetPack; a program for musl must need no library at
# all, nor an interpreter. Prints the result for each program.
set -euo pipefail
cd "$(dirname "$0")/.." && source cross/toolchain.sh
cd - >/dev/null

# The parts of the C library, which are files of their own on bullseye. Everything else is inside the program.
readonly ALLOWED=" libc.so.6 libm.so.6 libpthread.so.0 libdl.so.2 librt.so.1 libutil.so.1 libgcc_s.so.1
    ld-linux-aarch64.so.1 ld-linux-armhf.so.3 ld-linux-x86-64.so.2 "

check() {
    local program=$1 needed library versions newest
    if ! objdump -f "$program" >/dev/null; then
        say "$program: not an executable that objdump reads"
        return 1
    fi
    needed=$(objdump -p "$program" | awk '$1 == "NEEDED" { print $2 }')
    versions=$(objdump -T "$program" 2>/dev/null | grep -F '*UND*' | grep -o 'GLIBC_[0-9.]*' | sort -u -V || true)
    if [ -z "$needed" ]; then
        if objdump -p "$program" | grep -q '^ *INTERP'; then
            say "$program: names no library, yet an interpreter"
            return 1
        fi
        echo "$program: static, needs no library"
        return 0
    fi
    for library in $needed; do
        case $ALLOWED in
            *[[:space:]]"$library"[[:space:]]*) ;;
            *) say "$program: needs $library, which not every system has"; return 1 ;;
        esac
    done
    newest=$(tail -n 1 <<<"$versions")
    if [ -z "$newest" ]; then
        say "$program: linked to $(tr '\n' ' ' <<<"$needed")but objdump -T shows no version of glibc"
        return 1
    fi
    newest=${newest#GLIBC_}
    if [ "$(printf '%s\n' "$newest" "$GLIBC_MAX" | sort -V | tail -n 1)" != "$GLIBC_MAX" ]; then
        say "$program: needs glibc $newest; no newer one than $GLIBC_MAX is allowed. Because of:"
        objdump -T "$program" | grep -F '*UND*' | grep -F "GLIBC_$newest" >&2
        return 1
    fi
    echo "$program: needs glibc $newest (at most $GLIBC_MAX) and $(tr '\n' ' ' <<<"$needed")"
}

if ! command -v objdump >/dev/null; then apt_install binutils; fi
for program in "${@:?the programs}"; do check "$program"; done
