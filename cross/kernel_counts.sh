#!/bin/bash
# Counts the instructions that the ARM kernels take for the linear layers of two vision towers: cross/kernel_counts.sh.
#
# Counts are exact and repeatable, by qemu-user with a counting plugin: a run with two repetitions minus one with a
# single one. They are not times. The plugin is compiled from QEMU's source, which QEMU_SOURCE names (`apt-get source
# qemu`).
set -euo pipefail
cd "$(dirname "$0")/.."
source cross/toolchain.sh
arm64_toolchain
build_counter
binary=$(cross/kernel_driver.sh)

# count CORE NAME WHAT ROWS INPUTS OUTPUTS: instructions of one repetition.
count() {
    local core=$1 once twice
    shift
    once=$(instructions_of "$core" "$binary" "$@" 1)
    twice=$(instructions_of "$core" "$binary" "$@" 2)
    echo $((twice - once))
}

# tower MODEL LAYERS CORE NAME ROWS WIDTH: one line for each matrix product of a layer (four linear ones, and two per
# attention head), and their sum over all layers.
tower() {
    local model=$1 layers=$2 core=$3 name=$4 rows=$5 width=$6 sum=0 products=0
    local shape inputs outputs times instructions
    local heads=$((width / 64))
    for shape in "$width $((3 * width)) 1" "64 $rows $heads" "$rows 64 $heads" "$width $width 1" \
        "$width $((4 * width)) 1" "$((4 * width)) $width 1"; do
        read -r inputs outputs times <<<"$shape"
        instructions=$(count "$core" "$name" i8 "$rows" "$inputs" "$outputs")
        report "$model" "$name" "$rows" "$inputs" "$outputs" "$instructions" $((rows * inputs * outputs))
        sum=$((sum + times * instructions)) products=$((products + times * rows * inputs * outputs))
    done
    report "$model" "$name" "$rows" all "x$layers" $((sum * layers)) $((products * layers))
}

report() {
    awk -v a="$1" -v b="$2" -v c="$3" -v d="$4" -v e="$5" -v i="$6" -v p="$7" 'BEGIN {
        printf "%-10s %-8s %5s %6s %6s %12.3f %10.2f\n", a, b, c, d, e, i / 1e6, p / i }'
}

printf '%-10s %-8s %5s %6s %6s %12s %10s\n' model kernel rows inputs outs 'million' 'products/i'
for kernel in cortex-a72:neon cortex-a76:dotprod max:i8mm; do
    tower ViT-B/32 12 "${kernel%:*}" "${kernel#*:}" 50 768
    tower DeiT-tiny 12 "${kernel%:*}" "${kernel#*:}" 197 192
done

# Row functions around the layers: instructions per value.
printf '\n%-10s %-8s %12s\n' function kernel 'instr/value'
for what in quantize layer_norm softmax gelu quick_gelu; do
    instructions=$(count cortex-a72 neon "$what" 50 768 768)
    awk -v a="$what" -v i="$instructions" 'BEGIN { printf "%-10s %-8s %12.2f\n", a, "neon", i / 50 / 768 }'
done
