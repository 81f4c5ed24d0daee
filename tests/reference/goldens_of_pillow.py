"""Goldens of pictures of one format: the files, and the size and SHA-256 of the RGB bytes that Pillow reads from each; and a
comparison of random files. For `make_jpegs.py` and `make_gifs.py`, whose arguments it reads. Needs pillow 13.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from PIL import Image, ImageOps


def read(data):
    """Width, height and hash of what Pillow reads; `None`: it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    except (OSError, ValueError):
        return None
    return [*image.size, hashlib.sha256(image.tobytes()).hexdigest()]


def compare(ending, random_file, count, seed, program):
    with tempfile.TemporaryDirectory() as folder:
        made = {f"{number}{ending}": random_file() for number in range(count)}
        for name, data in made.items():
            Path(folder, name).write_bytes(data)
        run = subprocess.run([program, *made], cwd=folder, check=True, capture_output=True, text=True)
    wrong, refused = [], 0
    lines = run.stdout.splitlines()
    for line, (name, data) in zip(lines, made.items(), strict=True):
        expected = read(data)
        refused += expected is None
        if expected is not None and line != " ".join(map(str, [name, *expected])):
            wrong.append(f"{line}, expected {expected}")
    print(f"{count} files *{ending}, seed {seed}: {len(wrong)} differ from Pillow, which refuses {refused}", *wrong, sep="\n")
    sys.exit(bool(wrong) or refused > count // 4)


def main(doc, ending, files, random_files):
    """`files()` gives name -> bytes; `random_files(seed)` a function that gives the bytes of one more each time."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--random", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--program", type=Path)
    arguments = parser.parse_args()
    if arguments.random:
        compare(ending, random_files(arguments.seed), arguments.random, arguments.seed, arguments.program.resolve())
    arguments.out.mkdir(parents=True, exist_ok=True)
    made = files()
    for name, data in made.items():
        (arguments.out / name).write_bytes(data)
    pixels = {name: read(data) for name, data in made.items()}
    (arguments.out / "pixels.json").write_text(json.dumps(pixels, indent=0, sort_keys=True) + "\n")
    print(f"{len(made)} files, {sum(map(len, made.values()))} bytes; refused: {[n for n, p in pixels.items() if p is None]}")
