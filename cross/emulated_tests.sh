#!/bin/bash
# Runs tests as on 64-bit ARM Linux, on x86-64 under qemu-user: cross/emulated_tests.sh [FILTER...]
#
# Runs the unit tests on an emulated Cortex-A76, and the end-to-end tests of towers, scores and pictures there, on a
# Cortex-A72, which lacks the dot product, and on `max`, which has everything; with arguments all tests whose names
# contain a FILTER, on the A76. That takes up to an hour, so the gate runs it only with SPOTTER_SLOW=1; it always runs
# the kernels' own tests (kernel_tests.sh), compares whole towers, decoders and preprocessing with this machine's
# (same_results.sh), and runs the program on a virtual board (vm/tests.sh), which is where sources, services and faults
# are tested on ARM. The accuracy on photographs is not measured again. Programs and tests are built like those of `make
# test`. Installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
source cross/toolchain.sh
arm64_toolchain
install_emulation
apt_install ffmpeg
unset SPOTTER_DATA
# Checks with ONNX Runtime: the packages of `make test`, for this machine.
if [ -z "${SPOTTER_PYTHON:-}" ] && [ -x .venv/bin/python ]; then export SPOTTER_PYTHON=$PWD/.venv/bin/python; fi

# The programs that the tests start. Tests do not build them here, since a plain cargo would compile for another C
# library.
arm64_cargo build --locked --workspace --bin spotter --bin model-prep

failed=0
# tests CPU ARGUMENT...: cargo test, emulated; sets `failed` if a test fails.
tests() {
    local cpu=$1
    shift
    echo "--- $cpu: $*"
    # With an absolute path: some tests start the program with a useless PATH.
    SPOTTER_TEST_RUNNER="$(command -v qemu-aarch64-static) -cpu $cpu -L /usr/aarch64-linux-gnu"
    SPOTTER_TEST_RUNNER+=" -E LD_LIBRARY_PATH=/usr/aarch64-linux-gnu/lib"
    export SPOTTER_TEST_RUNNER
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$SPOTTER_TEST_RUNNER \
        arm64_cargo test --locked --workspace --no-fail-fast "$@" || failed=1
}

# End-to-end tests of code that differs between kinds of CPU; `towers::` also matches text_towers and vision_towers.
readonly KERNELS=(towers:: scores:: pictures:: jpegs::)

if [ $# -gt 0 ]; then
    tests cortex-a76 --lib --bins --tests -- "$@"
    exit "$failed"
fi
tests cortex-a76 --lib --bins
for cpu in cortex-a76 cortex-a72 max; do
    tests "$cpu" --test e2e -- "${KERNELS[@]}"
done
exit "$failed"
