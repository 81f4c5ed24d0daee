#!/bin/bash
# Prints the path of a cargo program in a given version; installs it with the build outputs if it is missing, which
# takes some minutes.
#
#   tests/cargo_tool.sh NAME VERSION
set -euo pipefail
name=$1 version=$2
cd "$(dirname "$0")/.."
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
if ! [ -x "$tools/bin/$name" ] || ! grep -qsF "\"$name $version " "$tools/.crates.toml"; then
    echo "Installing $name $version with cargo into $tools (some minutes)." >&2
    CARGO_TARGET_DIR=$tools/build CARGO_PROFILE_DEV_DEBUG=false \
        cargo install "$name" --quiet --locked --debug --force --version "$version" --root "$tools" >&2
    rm -rf "$tools/build"
fi
echo "$tools/bin/$name"
