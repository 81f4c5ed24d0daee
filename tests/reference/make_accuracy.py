"""Makes the golden file of the drawn shapes: the label that transformers gives each frame.

    cargo run --package e2e --example draw_shapes 'test://shapes?seed=7&fps=0&hold=1&frames=300' FRAMES
    python make_accuracy.py --frames FRAMES --checkpoint model-prep/demo/checkpoint \
        --labels config/demo/labels.toml --out tests/golden/shapes.json

Versions: requirements.txt beside this file.

OUT holds `sha256` over the RGB bytes of all frames in their order, `right`, how many predictions are true, and
`frames`, each with its `truth` and transformers' best label, `predicted`.
"""

import argparse
import hashlib
import json
import pathlib
import tomllib

import torch
from PIL import Image
from transformers import AutoTokenizer, VisionTextDualEncoderModel, ViTImageProcessor

BATCH = 50


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--labels", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()

    model = VisionTextDualEncoderModel.from_pretrained(args.checkpoint).eval()
    processor = ViTImageProcessor.from_pretrained(args.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    labels = tomllib.loads(args.labels.read_text())
    names = [label["name"] for label in labels["label"]]
    (template,) = labels["templates"]
    prompts = tokenizer([template.replace("{}", name) for name in names], padding=True, return_tensors="pt")

    truths = json.loads((args.frames / "truth.json").read_text())
    paths = sorted(args.frames.glob("*.png"))
    assert len(paths) == len(truths), (len(paths), len(truths))
    pictures = [Image.open(path).convert("RGB") for path in paths]
    predicted = []
    with torch.no_grad():
        for at in range(0, len(pictures), BATCH):
            pixels = processor(pictures[at : at + BATCH], return_tensors="pt")
            logits = model(**pixels, **prompts).logits_per_image
            predicted += [names[best] for best in logits.argmax(dim=1).tolist()]

    sha256 = hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()
    right = sum(a == b for a, b in zip(truths, predicted))
    rows = ",\n".join(json.dumps({"truth": t, "predicted": p}) for t, p in zip(truths, predicted))
    args.out.write_text(f'{{\n"sha256": "{sha256}",\n"right": {right},\n"frames": [\n{rows}\n]\n}}\n')
    print(f"{right} of {len(truths)} right ({100 * right / len(truths):.1f} %)")


if __name__ == "__main__":
    main()
