"""Bundles for the tests: of other checkpoints, and the demo model under another name and with another logit scale.

SPOTTER_MODEL_PREP names model-prep for the machine that runs this.
"""

import io
import json
import math
import os
import pathlib
import subprocess
import tarfile

DEMO = pathlib.Path(__file__).resolve().parents[2] / "config/demo"
MANIFEST = json.loads((DEMO / "bundle.json").read_text())
# The demo model's factor on cosines.
DEMO_SCALE = math.exp(MANIFEST["logit_scale"])


def export(checkpoint, out, *options):
    """Makes a bundle of a checkpoint."""
    command = [os.environ["SPOTTER_MODEL_PREP"], "export", checkpoint, "--out", out, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def archive(path, name, scale):
    """Writes the archive; a score's logit is its cosine times `scale`, which tells the bundles apart."""
    manifest = MANIFEST | {"name": name, "logit_scale": math.log(scale)}
    contents = {"bundle.json": json.dumps(manifest, indent=2).encode()}
    for file in ["vision.onnx", "text.onnx", "tokenizer.json", "MODEL_CARD.md"]:
        contents[file] = (DEMO / file).read_bytes()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for file, content in contents.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
