#!/bin/bash
# How close the inner loops of the ARM kernels come to what a core can multiply: cross/kernel_loops.sh BINARY [FOLDER].
#
# Takes every innermost loop with multiplications from the kernels in BINARY (64-bit ARM, with symbols; kernel_driver.sh
# builds a small one), and models it with llvm-mca. Prints one line per loop and core: instructions and cycles of an
# iteration, the cycles that the multiplications alone need on the core's pipes, and the ratio. A loop is named after
# its kernel and its number of multiplications, which grows with the rows that it works on; `finish` turns 16 sums into
# results. Of the row functions, every loop is listed with its number of vector instructions, without a limit. Needs
# aarch64-linux-gnu-objdump (binutils-aarch64-linux-gnu) and llvm-mca (llvm-19; LLVM_MCA names another).
#
# With FOLDER, the loops are left there as assembly, for llvm-mca -timeline and the like.
set -euo pipefail

binary=${1:?binary}
folder=${2:-$(mktemp -d)}
mca=${LLVM_MCA:-llvm-mca-19}
mkdir -p "$folder"

# One file for each loop: from the target of a backward branch to that branch, without another such branch inside.
aarch64-linux-gnu-objdump -d --no-show-raw-insn "$binary" | awk -v folder="$folder" '
/^[0-9a-f]+ <.*>:$/ {
    kept = 0
    # Module and function, from the mangled name.
    if (match($0, /kernels[0-9]+[a-z0-9]+/)) {
        path = $0
        sub(/.*kernels[0-9]+/, "", path); sub(/17h.*/, "", path)
        module = path; sub(/[0-9].*/, "", module)
        if (path ~ /^i8mm/) module = "i8mm"
        kept = module ~ /^(neon|dotprod|i8mm)$/
        kind = path ~ /finish/ ? "finish" : path ~ /f32/ ? "f32" : "i8"
        row = match(path, /activate|quantize|layer_norm|softmax_u8/)
        if (row) kind = substr(path, RSTART, RLENGTH)
    }
    n = 0; next
}
kept && /^ +[0-9a-f]+:\t/ {
    address = $1; sub(/:/, "", address)
    code = $0; sub(/^[^\t]*\t/, "", code); sub(/ *\/\/.*/, "", code)
    n++; at[n] = address; text[n] = code; index_of[address] = n
    if (code !~ /^(b\.[a-z]+|cbn?z|tbn?z)\t/) next
    target = code; sub(/ <.*/, "", target); sub(/.*[\t ]/, "", target)
    start = index_of[target] + 0
    if (start == 0 || at[start] != target || start >= n) next
    multiplies = 0; body = ""
    for (i = start; i < n; i++) {
        if (text[i] ~ /^(b|b\.[a-z]+|bl|cbn?z|tbn?z|ret)[\t ]/) { multiplies = 0; break }
        if (row ? text[i] ~ /v[0-9]+\.(4s|16b)/ : text[i] ~ /^(smull2?|smlal2?|sdot|smmla|fmla|fmls|mls)\t/) multiplies++
        body = body "\t" text[i] "\n"
        # Cores update the pointer at once; the models would wait for the stored value.
        if (row && text[i] ~ /^st.*\], #/) {
            step = text[i]; sub(/.*\], /, "", step)
            pointer = text[i]; sub(/.*\[/, "", pointer); sub(/\].*/, "", pointer)
            sub(/\], #[^\n]*\n$/, "]\n", body)
            body = body "\tadd\t" pointer ", " pointer ", " step "\n"
        }
    }
    if (multiplies < (row ? 4 : 8) || (kind == "i8" && body ~ /fmla/)) next
    # Of the two ways to finish sums, the more expensive one, which accumulates; the other may be unrolled.
    if (kind == "finish" && body !~ /fadd/) next
    if (kind == "finish" && body ~ /\tmls/) kind = "finish_large"
    last = text[n]; sub(/ <.*/, "", last); sub(/[0-9a-f]+$/, ".Lloop", last)
    file = sprintf("%s/%s-%s-%03d.s", folder, module, kind, multiplies)
    printf ".Lloop:\n%s\t%s\n", body, last > file
    close(file)
}'

printf '%-24s %-12s %6s %8s %8s %9s\n' loop core instr cycles limit share
for loop in "$folder"/*.s; do
    name=$(basename "$loop" .s)
    # Multiplications per cycle: two pipes for the float and dot instructions of the big cores, else one.
    case $name in
        neon-i8-* | neon-finish*) cores="cortex-a53:1 cortex-a72:1 neoverse-n1:1" ;;
        neon-f32-*) cores="cortex-a53:1 cortex-a72:1 neoverse-n1:2" ;;
        neon-*) cores="cortex-a72:1 neoverse-n1:1" ;;
        dotprod-*) cores="neoverse-n1:2" ;;
        i8mm-*) cores="neoverse-n2:2" ;;
    esac
    for core in $cores; do
        count=$((10#${name##*-}))
        # The one pipe of the A53 also adds.
        [ "${core%:*}" != cortex-a53 ] || count=$((count + $(grep -c $'^\tsadalp' "$loop" || true)))
        report=$("$mca" -march=aarch64 -mcpu="${core%:*}" -mattr=+dotprod,+i8mm -iterations=1000 "$loop" 2>/dev/null)
        cycles=$(awk '/^Total Cycles:/ { print $3 / 1000 }' <<<"$report")
        instructions=$(awk '/^Instructions:/ { print $2 / 1000 }' <<<"$report")
        awk -v name="$name" -v core="${core%:*}" -v instr="$instructions" -v cycles="$cycles" -v count="$count" \
            -v pipes="${core#*:}" 'BEGIN { limit = count / pipes
            printf "%-24s %-12s %6d %8.1f", name, core, instr, cycles
            if (name ~ /i8-|f32-/) printf " %8.1f %8.0f%%", limit, 100 * limit / cycles
            print "" }'
    done
done
