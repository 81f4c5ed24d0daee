#!/bin/bash
# Runs fuzz targets (checkpoint, pickle, bundle, splitter, towers, tokenizer; by default all) for 10 minutes each, or
# for SECONDS_EACH.
#
#   tests/fuzz/run.sh [TARGET]...
#
# Needs Spotter's build dependencies, a C++ compiler and Python 3; cargo-fuzz is installed with the build outputs. The
# stable compiler is enough: RUSTC_BOOTSTRAP lets it instrument. Inputs that break a target are left in
# tests/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")"
tool=$(../cargo_tool.sh cargo-fuzz 0.13.2)
PATH=$(dirname "$tool"):$PATH
export PATH RUSTC_BOOTSTRAP=1
python3 seeds.py
targets=("$@")
[ $# -gt 0 ] || targets=(checkpoint pickle bundle splitter towers tokenizer)
for target in "${targets[@]}"; do
    # Inputs of up to 64 kB, with 5 seconds and 1 GB of memory for each. The code under test has no unsafe code, which
    # an address sanitiser would watch at the cost of most of the speed.
    cargo fuzz run --sanitizer none "$target" -- -max_total_time="${SECONDS_EACH:-600}" -max_len=65536 -timeout=5 \
        -rss_limit_mb=1024 -malloc_limit_mb=1024 -print_final_stats=1
done
