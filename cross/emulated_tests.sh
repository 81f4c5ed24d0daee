#!/bin/bash
# Runs the tests as on 64-bit ARM Linux, on x86-64 under qemu-user: cross/emulated_tests.sh [FILTER...]
#
# Runs all tests on an emulated Cortex-A76, or those whose names contain a FILTER; the tests of towers and kernels also
# on a Cortex-A72, which lacks the dot product, and on `max`, which has everything. That takes over an hour, so the gate
# runs it only with SPOTTER_SLOW=1; it always runs the kernels' own tests (kernel_tests.sh), compares whole towers,
# decoders and preprocessing with this machine's (same_results.sh), and runs the program on a virtual board
# (vm/tests.sh). The accuracy on photographs is not measured again. Programs and tests are built like those of `make
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

# End-to-end tests that use the kernels; `towers::` also matches text_towers and vision_towers.
readonly KERNELS=(towers:: scores::)
# Tests whose frames come at a rate, which an emulated program keeps up with only if nothing else runs.
readonly TIMED=(board:: programs:: reload:: service:: bundles::a_running)

if [ $# -gt 0 ]; then
    tests cortex-a76 --lib --bins --tests -- "$@"
    exit "$failed"
fi
tests cortex-a76 --lib --bins
tests cortex-a76 --test e2e -- "${TIMED[@]/#/--skip=}"
tests cortex-a76 --test e2e -- --test-threads=1 "${TIMED[@]}"
for cpu in cortex-a72 max; do
    tests "$cpu" --lib -- fused
    tests "$cpu" --test e2e -- "${KERNELS[@]}"
done
exit "$failed"
