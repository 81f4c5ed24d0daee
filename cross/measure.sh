#!/bin/bash
# Lists the sizes of the built programs, and how long the one for this machine takes to its first label:
# cross/measure.sh [PROGRAM]
#
# The programs are those in the folder `dist` of the target folder (make release, make arm64, …), or PROGRAM alone. ARM
# programs are not timed: times under emulation are meaningless. REPEATS is the number of measurements of each start.
set -euo pipefail
[ $# = 0 ] || set -- "$(realpath "$1")"
cd "$(dirname "$0")/.."
CARGO_TARGET_DIR=$(realpath "${CARGO_TARGET_DIR:-target}")

host=${1:-$CARGO_TARGET_DIR/dist/$(rustc -vV | sed -n 's/^host: //p')/spotter}
[ -x "$host" ] || { echo "cross/measure.sh: no $host: make release" >&2; exit 1; }
programs=("$@")
[ $# -gt 0 ] || programs=("$CARGO_TARGET_DIR"/dist/*/spotter)
for program in "${programs[@]}"; do
    printf '%-40s %6.1f MB, %5.1f MB as .xz\n' "$(basename "$(dirname "$program")")" \
        "$(stat -c %s "$program" | awk '{ print $1 / 1e6 }')" \
        "$(xz --stdout -1 "$program" | wc -c | awk '{ print $1 / 1e6 }')"
done

python3 - "$host" "${REPEATS:-10}" <<'PYTHON'
import os
import statistics
import subprocess
import sys
import tempfile
import time

REPEATS = int(sys.argv[2])


def first_label_ms(state: str) -> float:
    """Milliseconds from start to the first line on standard output, which the program then ends with."""
    command = [sys.argv[1], "run", "--source", "test://shapes", "--output", "json", "--frames", "1"]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {"XDG_STATE_HOME": state}
    ) as program:
        line = program.stdout.readline()
        elapsed = time.perf_counter() - start
        program.stdout.read()
    if program.returncode or not line.startswith(b"{"):
        sys.exit(f"spotter run ended with {program.returncode} and said {line!r}")
    return 1000 * elapsed


def milliseconds(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ms (least {min(values):.0f}, most {max(values):.0f})"


first, later = [], []
for _ in range(REPEATS):
    with tempfile.TemporaryDirectory() as state:
        first.append(first_label_ms(state))
        later.append(first_label_ms(state))
print(f"start to first label, 48 sentences to embed: {milliseconds(first)}")
print(f"start to first label, all embeddings kept:   {milliseconds(later)}")
PYTHON
