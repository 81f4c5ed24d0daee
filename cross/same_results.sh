#!/bin/bash
# Checks that 64-bit ARM gives the results of x86-64: cross/same_results.sh [HOST_PROGRAM ARM_PROGRAM BUNDLE...]
#
# Both programs are spotter, by default built as for the tests, with the demo bundle, a tiny one in int8 and one in
# float; the ARM program is emulated, once for each ARM instruction set of the kernels. Four images of noise go through
# the image tower and some prompts, in several scripts, through tokenizer and text tower: every embedding must have a
# cosine of at least 0.9999 to the one from x86-64. Both classify the test images, of every format: scores must agree as
# well, which compares decoders and preprocessing too. Each also reads the other's cache of label embeddings: no
# sentence is embedded again, and the caches have the same keys.
set -euo pipefail
arguments=("$@")
for i in "${!arguments[@]}"; do arguments[i]=$(realpath "${arguments[i]}"); done
cd "$(dirname "$0")/.."
source cross/toolchain.sh
install_emulation
if [ $# = 0 ]; then
    arm64_toolchain
    cargo build --locked --workspace --bin spotter --bin model-prep
    arm64_cargo build --locked --workspace --bin spotter
    arguments=("$CARGO_TARGET_DIR/debug/spotter" "$CARGO_TARGET_DIR/$TARGET/debug/spotter" "$PWD/config/demo")
fi
host=${arguments[0]} arm=${arguments[1]:?the program for ARM}
bundles=("${arguments[@]:2}")
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
if [ $# = 0 ]; then
    for weights in int8 f32; do
        "$CARGO_TARGET_DIR/debug/model-prep" export tests/golden/tiny/checkpoint --out "$files/tiny-$weights" \
            --weights "$weights" >/dev/null
        bundles+=("$files/tiny-$weights")
    done
fi

cat >"$files/prompts" <<'TEXT'
cat
a photo of a dog.
Two RED circles, on the grass; and 12,345.67 of them!
naïve façade – Ünïcödé Ⅷ ﬁ
привет мир 你好，世界 こんにちは 한국어 مرحبا 🦀👍🏽
a very long prompt of a cat that goes on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on and on
TEXT

# compare BUNDLE CORE WHAT: the embeddings in the files host and arm.
compare() {
    python3 - "$files" "$@" <<'PYTHON'
import array, json, math, pathlib, sys

folder, bundle, core, what = sys.argv[1:]

def embeddings(name):
    content = (pathlib.Path(folder) / name).read_bytes()
    if what == "text":
        return [json.loads(line) for line in content.splitlines()]
    values = array.array("f", content)
    width = len(values) // 4
    return [values[i * width : (i + 1) * width] for i in range(4)]

def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))

def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))

host, arm = embeddings("host"), embeddings("arm")
assert len(host) == len(arm) == (6 if what == "text" else 4), (len(host), len(arm))
least = min(cosine(a, b) for a, b in zip(host, arm, strict=True))
# A tower that gives the same for every input must not pass.
apart = min(cosine(host[0], other) for other in host[1:])
print(f"{bundle:16} {core:12} {what:6} least cosine {least:.8f} (of different inputs {apart:.4f})")
sys.exit(not (least >= 0.9999 and apart < 0.9999))
PYTHON
}

# labels PROGRAM... FOLDER SUM: embeds the bundle's labels, with the state in the folder; the last line must begin with
# SUM.
labels() {
    local state=${*: -2:1} sum=${*: -1} said
    said=$(STATE_DIRECTORY=$state "${@:1:$#-2}" labels --bundle "$bundle" --labels config/demo/labels.toml | tail -1)
    [[ $said == "$sum"* ]] || { say "FAILED: expected $sum, found: $said"; exit 1; }
}

# The keys and values of two caches: equal keys, nearly equal values.
same_caches() {
    python3 - "$@" <<'PYTHON'
import array, json, math, pathlib, struct, sys

def read(path):
    content = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    return {name: array.array("f", data[slice(*tensor["data_offsets"])]) for name, tensor in tensors.items()}

a, b = read(sys.argv[1]), read(sys.argv[2])
assert a.keys() == b.keys() and len(a) > 0, "other keys"
dot = lambda x, y: math.fsum(p * q for p, q in zip(x, y, strict=True))
least = min(dot(a[k], b[k]) / math.sqrt(dot(a[k], a[k]) * dot(b[k], b[k])) for k in a)
print(f"caches: {len(a)} entries with the same keys, least cosine {least:.8f}, "
      f"{'the same' if a == b else 'not the same'} to the last bit")
sys.exit(not least >= 0.9999)
PYTHON
}

# same_scores BUNDLE: compares the scores of the test images; cosines may differ by 0.001, as an int8 tower rounds.
same_scores() {
    python3 - "$files" "$1" <<'PYTHON'
import json, pathlib, sys

folder, bundle = sys.argv[1:]

def cosines(name):
    rows = [json.loads(line) for line in (pathlib.Path(folder) / name).read_text().splitlines()]
    return {(row["path"], label["name"]): label["cosine"] for row in rows for label in row["labels"]}

host, arm = cosines("host"), cosines("arm")
assert host.keys() == arm.keys() and len(host) > 1000, (len(host), len(arm))
worst = max(abs(host[key] - arm[key]) for key in host)
images = len({path for path, _ in host})
print(f"{bundle:16} cortex-a76   {images} images, {len(host)} scores: cosines differ by at most {worst:.6f}")
sys.exit(not worst <= 0.001)
PYTHON
}

# Every format that is read; huge.png is too large on purpose.
images=()
for image in tests/golden/pictures/*.{jpg,png,webp,bmp,gif,tiff,ppm,pgm}; do
    [ "${image##*/}" = huge.png ] || images+=("$image")
done

# classify FILE PROGRAM...: the images' scores.
classify() {
    local out=$1
    shift
    STATE_DIRECTORY=$files/state-classify "$@" classify --json --top-k 48 --bundle "$bundle" \
        --labels config/demo/labels.toml "${images[@]}" >"$out" 2>"$out.log" || { cat "$out.log" >&2; exit 1; }
}

for bundle in "${bundles[@]}"; do
    name=$(basename "$bundle")
    python3 - "$bundle" >"$files/pixels" <<'PYTHON'
import array, json, pathlib, random, sys

shape = json.loads((pathlib.Path(sys.argv[1]) / "bundle.json").read_text())["vision"]["inputs"][0]["shape"]
values = random.Random(1)
count = 4 * shape[1] * shape[2] * shape[3]
sys.stdout.buffer.write(array.array("f", (values.uniform(-2, 2) for _ in range(count))).tobytes())
PYTHON
    command=(bench --embed --threads 2 --bundle "$bundle" --tower)
    for core in cortex-a72 cortex-a76 max; do
        for tower in image:pixels text:prompts; do
            "$host" "${command[@]}" "${tower%:*}" <"$files/${tower#*:}" >"$files/host"
            EMULATION="-cpu $core" emulated "$arm" "${command[@]}" "${tower%:*}" <"$files/${tower#*:}" >"$files/arm"
            compare "$name" "$core" "${tower%:*}"
        done
    done

    export EMULATION="-cpu cortex-a76"
    classify "$files/host" "$host"
    classify "$files/arm" emulated "$arm"
    same_scores "$name"
    count=$(grep -c '^name = ' config/demo/labels.toml)
    rm -rf "$files"/state-*
    labels "$host" "$files/state-host" "$count sentences: 0 cached, $count embedded"
    labels emulated "$arm" "$files/state-arm" "$count sentences: 0 cached, $count embedded"
    same_caches "$files"/state-{host,arm}/label-cache.safetensors
    labels emulated "$arm" "$files/state-host" "$count sentences: $count cached, 0 embedded"
    labels "$host" "$files/state-arm" "$count sentences: $count cached, 0 embedded"
    echo "$name: each takes the other's cache"
done
