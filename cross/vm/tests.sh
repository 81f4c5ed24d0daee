#!/bin/bash
# The tests on a virtual ARM board, with a real kernel and camera driver: cross/vm/tests.sh [TEST...], or `make vm-tests`.
#
# TEST is a file beside this one without its extension, `test_camera`, or a part of it as Python's unittest names it; by
# default all. Builds spotter like the tests, without optimisation across crates. SPOTTER_SLOW=1 runs the long forms.
# For Debian or Ubuntu on x86-64; installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
source cross/toolchain.sh
arm64_toolchain
arm64_cargo build --locked --workspace --bin spotter
SPOTTER_VM=$(cross/vm/image.sh "$CARGO_TARGET_DIR/$TARGET/debug/spotter")
export SPOTTER_VM
# Makes the large bundle on this machine.
cargo build --locked --workspace --bin model-prep
export SPOTTER_MODEL_PREP=$CARGO_TARGET_DIR/debug/model-prep
apt_install ffmpeg
cd cross/vm
if [ $# -gt 0 ]; then
    exec python3 -m unittest -v "$@"
fi
# The camera's tests take as long as all others and are run beside them; each test file starts boards of its own.
others=(test_[!c]*.py)
log=$(mktemp)
python3 -m unittest -v test_camera >"$log" 2>&1 &
failed=0
python3 -m unittest -v "${others[@]%.py}" || failed=1
wait $! || failed=1
cat "$log"
rm -f "$log"
exit $failed
