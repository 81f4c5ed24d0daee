"""Regenerates the golden files that no other script compares, in a separate folder, and compares them.

    check_remade.py [GENERATOR ...]

Numbers must agree within 1e-5 of the largest of their array, or of 1: the last bits depend on the CPU. Half precision: 1e-3. Everything else must agree to
the last bit. ONNX files, which contain their places in Python's source, and pickles of the older kind, which contain memory
addresses, need only be made. What also needs transformers 5 is compared as far as it is made without.
Versions: requirements.txt.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLOSE = 1e-5
CLOSE_HALF = 1e-3
GENERATORS = {
    "make_evaluation.py": ["--out", "tests/golden/evaluation.json"],
    "make_scores.py": ["--tiny", "tests/golden/tiny/checkpoint", "--out", "tests/golden/scores.safetensors"],
    "make_torch_files.py": ["--tiny", "tests/golden/tiny/checkpoint", "--out", "tests/golden/torch"],
    "make_pictures.py": [],
    "make_jpegs.py": ["--out", "tests/golden/jpegs"],
    "make_gifs.py": ["--out", "tests/golden/gifs"],
    "make_tiff.py": [],
    "make_compose.py": ["--out", "tests/golden/compose"],
    "make_onnx_towers.py": ["--out", "tests/golden/onnx"],
    "make_tune.py": ["--out", "tests/golden/tune"],
}


def close(a, b):
    """Whether two values of JSON agree; keys that only the first has are of transformers 5."""
    if isinstance(a, dict) and isinstance(b, dict):
        return b.keys() <= a.keys() and all(key in b or key.endswith("5") for key in a) and all(close(a[key], b[key]) for key in b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= CLOSE * max(1.0, abs(a))
    return a == b


def close_arrays(a, b):
    # A last bit of half precision may be rounded the other way.
    close = CLOSE_HALF if a.dtype == np.float16 else CLOSE
    return a.dtype == b.dtype and a.shape == b.shape and np.allclose(a, b, 0, close * max(1.0, np.abs(a).max(initial=0)))


def same(old, new):
    if old.suffix == ".safetensors":
        a, b = load_file(old), load_file(new)
        return a.keys() == b.keys() and all(close_arrays(a[key], b[key]) for key in a)
    if old.suffix == ".json":
        return close(json.loads(old.read_text(encoding="utf-8")), json.loads(new.read_text(encoding="utf-8")))
    if old.suffix == ".onnx" or old.name.endswith("-legacy.bin"):
        return new.stat().st_size > 0
    return old.read_bytes() == new.read_bytes()


def check(generator, scratch):
    """The files that the generator made, each with whether it is as before."""
    for path in (scratch / "tests/golden").rglob("*"):
        os.utime(path, (0, 0))
    command = [sys.executable, f"tests/reference/{generator}", *GENERATORS[generator]]
    subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    for path in sorted((scratch / "tests/golden").rglob("*")):
        if path.is_file() and path.stat().st_mtime > 0:
            name = path.relative_to(scratch)
            yield name, (ROOT / name).exists() and same(ROOT / name, path)


def main():
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        for part in ["golden", "reference"]:
            shutil.copytree(ROOT / "tests" / part, scratch / "tests" / part, ignore=shutil.ignore_patterns("__pycache__", "rten"))
        for generator in sys.argv[1:] or GENERATORS:
            if generator == "make_onnx_towers.py" and importlib.util.find_spec("onnxscript") is None:
                print(f"{generator}: left out, there is no onnxscript", flush=True)
                continue
            made = list(check(generator, scratch))
            wrong = [str(name) for name, fits in made if not fits]
            print(f"{generator}: {len(made)} files made again{', other ones: ' + ', '.join(wrong) if wrong else ''}", flush=True)
            failed |= bool(wrong) or not made
    sys.exit(failed)


if __name__ == "__main__":
    main()
