#!/bin/bash
# Runs the tests of the ARM kernels on x86-64, under qemu-user: cross/kernel_tests.sh.
#
# Runs them once for each CPU that supports one more instruction set than the one before, after checking that the
# kernels choose that set. Only the kernels are compiled, so it takes a minute or two. Installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
source cross/toolchain.sh

if ! driver=$(cross/kernel_driver.sh) || ! tests=$(cross/kernel_driver.sh tests) || [ ! -x "$tests" ]; then
    say "FAILED: the kernels or their tests do not compile for ARM"
    exit 1
fi
install_emulation

for expected in cortex-a72:neon cortex-a76:dotprod max:i8mm; do
    EMULATION="-cpu ${expected%:*}"
    if ! found=$(emulated "$driver"); then
        say "FAILED: the kernels do not start on ${expected%:*}"
        exit 1
    fi
    if [ "${found##*best: }" != "${expected#*:}" ]; then
        say "FAILED: on ${expected%:*} the kernels should choose ${expected#*:}; they say: $found"
        exit 1
    fi
    echo "${expected%:*}: $found"
    if ! emulated "$tests" --quiet; then
        say "FAILED: the kernels' tests on ${expected%:*}"
        exit 1
    fi
done
