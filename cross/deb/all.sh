#!/bin/bash
# Makes the Debian packages for amd64 and arm64: cross/deb/all.sh [test], or `make deb` and `make deb-test`.
#
# Builds the programs if they are not built yet. With `test`, each package is tried too (cross/deb/test.sh), which needs
# root. SPOTTER_PROFILE=dev packs the programs of the tests instead of the release build.
set -euo pipefail
cd "$(dirname "$0")/../.."
profile=${SPOTTER_PROFILE:-release}
target=${CARGO_TARGET_DIR:-target}
folder=$profile
[ "$profile" != dev ] || folder=debug
[ "$(dpkg --print-architecture)" = amd64 ] || { echo "cross/deb/all.sh: needs an x86-64 machine" >&2; exit 1; }

cargo build --profile "$profile" --locked --workspace --bin spotter
amd64=$target/dist/x86_64-unknown-linux-gnu
cross/split.sh "$target/$folder/spotter" "$amd64"
arm64=$(cross/arm64.sh)
packages=("$(cross/deb/build.sh amd64 "$amd64/spotter")" "$(cross/deb/build.sh arm64 "$arm64")")
printf '%s\n' "${packages[@]}"
if [ "${1:-}" = test ]; then
    for package in "${packages[@]}"; do cross/deb/test.sh "$package"; done
fi
