#!/bin/bash
# Compares embeddings on ARM, under emulation, with those of x86-64: cross/tower_check.sh HOST_PROGRAM ARM_PROGRAM BUNDLE...
#
# Both programs are spotter. Four pictures of noise go through the image tower on a CPU for each of the kernels' ARM
# instances; every embedding must have a cosine of at least 0.99999 to the one from x86-64.
set -euo pipefail
host=$(realpath "${1:?the program for x86-64}")
arm=$(realpath "${2:?the program for ARM}")
shift 2
bundles=("$@")
for i in "${!bundles[@]}"; do bundles[i]=$(realpath "${bundles[i]}"); done
cd "$(dirname "$0")/.."
source cross/toolchain.sh
install_emulation
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT

for bundle in "${bundles[@]}"; do
    python3 - "$bundle" >"$files/pixels" <<'PYTHON'
import array, json, pathlib, random, sys

shape = json.loads((pathlib.Path(sys.argv[1]) / "bundle.json").read_text())["vision"]["inputs"][0]["shape"]
values = random.Random(1)
count = 4 * shape[1] * shape[2] * shape[3]
sys.stdout.buffer.write(array.array("f", (values.uniform(-2, 2) for _ in range(count))).tobytes())
PYTHON
    command=(bench --tower image --embed --threads 2 --bundle "$bundle")
    "$host" "${command[@]}" <"$files/pixels" >"$files/host"
    for core in cortex-a72 cortex-a76 max; do
        EMULATION="-cpu $core" emulated "$arm" "${command[@]}" <"$files/pixels" >"$files/arm"
        python3 - "$files" "$(basename "$bundle")" "$core" <<'PYTHON'
import array, math, pathlib, sys

def embeddings(name):
    values = array.array("f", (pathlib.Path(sys.argv[1]) / name).read_bytes())
    width = len(values) // 4
    return [values[i * width : (i + 1) * width] for i in range(4)]

def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))

pairs = list(zip(embeddings("host"), embeddings("arm"), strict=True))
least = min(dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) for a, b in pairs)
print(f"{sys.argv[2]:16} {sys.argv[3]:12} least cosine {least:.8f}")
sys.exit(not least >= 0.99999)
PYTHON
    done
done
