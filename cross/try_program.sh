#!/bin/bash
# Starts an ARM program under qemu-user and lets it classify an image: cross/try_program.sh PROGRAM [ARGUMENT...]
#
# SPOTTER_TARGET is what it was built for. The image is a red disc on white, which the demo model must call red; the
# arguments name that model for a program that was built without it.
set -euo pipefail
program=$(realpath "${1:?the program}")
shift
cd "$(dirname "$0")/.."
source cross/toolchain.sh
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT

version=$(emulated "$program" --version)
expected="spotter $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)"
if [ "$version" != "$expected" ]; then
    say "$program --version says '$version', not '$expected'"
    exit 1
fi
python3 - "$files/disc.ppm" <<'PYTHON'
import sys

SIZE = 128
rows = []
for y in range(SIZE):
    for x in range(SIZE):
        inside = (x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2 < (SIZE * 0.3) ** 2
        rows.append(bytes((220, 20, 20) if inside else (255, 255, 255)))
with open(sys.argv[1], "wb") as file:
    file.write(b"P6 %d %d 255\n" % (SIZE, SIZE) + b"".join(rows))
PYTHON
# The state folder keeps the embeddings, and the second call must find them.
export XDG_STATE_HOME=$files/state
for time in first second; do
    labels=$(emulated "$program" classify "$@" --labels config/demo/labels.toml --json --top-k 1 "$files/disc.ppm" 2>"$files/log") || {
        cat "$files/log" >&2
        say "$program: classify failed the $time time"
        exit 1
    }
    name=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["labels"][0]["name"])' <<<"$labels")
    case $name in
        "red "*) ;;
        *) say "$program calls a red disc '$name'"; exit 1 ;;
    esac
done
echo "$program: runs under ${QEMU:-$QEMU_DEFAULT}, calls a red disc '$name'"
