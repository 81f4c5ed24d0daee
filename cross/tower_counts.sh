#!/bin/bash
# Counts the instructions of one inference of whole vision towers on ARM: cross/tower_counts.sh PROGRAM FOLDER MODEL...
#
# PROGRAM is spotter for 64-bit ARM. FOLDER has for each MODEL the bundles MODEL-int8, MODEL-f32 (model-prep) and
# MODEL-dynamic (dynamic_bundle.py). Counts Spotter's kernels, and tract with the float tower and the one that ONNX
# Runtime quantised: on one thread, a run of two passes minus one of a single pass, which repeats to better than 1 in
# 1000. QEMU_SOURCE is as in kernel_counts.sh. A large tower takes many minutes.
set -euo pipefail
program=$(realpath "${1:?the ARM program}")
folder=$(realpath "${2:?the folder with bundles}")
shift 2
cd "$(dirname "$0")/.."
source cross/toolchain.sh
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
build_counter
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# run CORE KERNELS BUNDLE PASSES
run() {
    SPOTTER_KERNELS=$2 instructions_of "$1" "$program" bench --tower image --stdin --threads 1 --bundle "$folder/$3" \
        <<<"$4"
}

printf '%-12s %-12s %-22s %10s %8s\n' model core computed million ratio
for model in "$@"; do
    for core in cortex-a72:neon cortex-a76:dotprod; do
        kernels=${core#*:} core=${core%:*} ours=
        for way in "int8:$kernels" "dynamic:tract" "f32:tract"; do
            bundle=$model-${way%:*}
            run "$core" "${way#*:}" "$bundle" 1 >"$results/once" &
            twice=$(run "$core" "${way#*:}" "$bundle" 2)
            wait $!
            count=$((twice - $(cat "$results/once")))
            ours=${ours:-$count}
            awk -v a="$model" -v b="$core" -v c="${way#*:}, ${way%:*}" -v i="$count" -v ours="$ours" \
                'BEGIN { printf "%-12s %-12s %-22s %10.1f %8.2f\n", a, b, c, i / 1e6, i / ours }'
        done
    done
done
