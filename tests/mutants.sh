#!/bin/bash
# Mutation testing: changes one place of the code at a time, in a copy, and runs the tests, one of which should fail.
# Prints the changes that no test noticed, and those that made the tests hang.
#
#   tests/mutants.sh [FILE]...
#
# FILE is a source file, or a pattern such as 'app/src/bundles/*.rs'; by default everything that .cargo/mutants.toml
# names, which takes days. Installs cargo-mutants with the build outputs; its results are in mutants.out there. The exit
# code is 0 if every change was noticed, 2 if one was not, 3 if tests hung.
set -euo pipefail
cd "$(dirname "$0")/.."
mutants=$(tests/cargo_tool.sh cargo-mutants 27.0.0)
output=$(realpath -m "${CARGO_TARGET_DIR:-target}")
mkdir -p "$output"
files=()
for file in "$@"; do files+=(--file "$file"); done

code=0
# Each copy has build outputs of its own, or tests would start the programs of another copy.
env --unset=CARGO_TARGET_DIR "$mutants" mutants --jobs 1 --output "$output" --no-shuffle --colors never "${files[@]}" || code=$?
for kind in missed timeout; do
    echo "=== $kind:"
    cat "$output/mutants.out/$kind.txt" || true
done
exit $code
