"""Opens checkpoints that `model-prep tune` writes, with Python's transformers, and compares embeddings and accuracy.

    check_tuned.py MODEL_PREP

MODEL_PREP is the program. Needs torch, safetensors, sentencepiece, pillow, and transformers 4.56.2 or 5 (requirements.txt).
Tiny towers, saved by the transformers that is imported, are composed, and tuned for a few steps on drawn pictures of three
classes. Of the best checkpoint and of the last one:

- VisionTextDualEncoderModel.from_pretrained has no missing, unexpected or mismatched key;
- projections, logit scale and what is not locked differ from the composed checkpoint, and nothing else does;

and of the last one:

- its embeddings are those of the bundle that is exported from it with float weights, within 1e-4, and its tokens are the same;
- its accuracy is that which the run gives, and that which `model-prep evaluate` gives for the bundle.
"""

import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from make_compose import save
from PIL import Image
from safetensors.torch import load_file, save_file

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
SIDE = 8
EXACT = {"size": {"height": SIDE, "width": SIDE}}
CROP = {"crop_size": {"height": SIDE, "width": SIDE}}
SHORTEST = {"size": {"shortest_edge": SIDE}}
# Class of the image processor, and its size.
PROCESSORS = {
    "vit": ("ViTImageProcessor", EXACT),
    "deit": ("DeiTImageProcessor", EXACT | CROP),
    "beit": ("BeitImageProcessor", EXACT | CROP),
    "dinov2": ("BitImageProcessor", SHORTEST | CROP),
    "swin": ("ViTImageProcessor", EXACT),
    "clip": ("CLIPImageProcessor", SHORTEST | CROP),
    "siglip": ("SiglipImageProcessor", EXACT),
}
# Image tower of make_compose.py, text tower of tests/golden/text, what is locked, and other options.
PAIRS = [
    ("vit-classifier", "bert", "none", []),
    ("deit-classifier", "roberta", "none", []),
    ("beit-masked", "xlm-roberta", "image", []),
    ("clip-vision", "clip", "text", []),
    ("dinov2-registers", "camembert", "none", ["--train-layers", "1"]),
    ("siglip-vision", "bert", "none", []),
    ("swin-classifier", "mpnet", "both", []),
]
CLASSES = {"cat": (200, 60, 60), "dog": (60, 200, 60), "red circle": (60, 60, 200)}
PICTURES = 8
PROMPTS = [f"a photo of a {name}." for name in CLASSES]
DIFFERENCE_MAX = 1e-4
# Cosines that are closer than this may be in another order.
MARGIN = 1e-4


def run(program, *arguments):
    """Runs a command of the program; returns what it prints."""
    done = subprocess.run([str(part) for part in [program, *arguments]], capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def make_towers(vision, text, folder):
    torch.manual_seed(1)
    save(vision, folder / "vision")
    name, size = PROCESSORS[vision.split("-")[0]]
    getattr(transformers, name)(**size).save_pretrained(folder / "vision")
    golden = GOLDEN / "text" / text
    config = transformers.AutoConfig.from_pretrained(golden)
    transformers.AutoModel.from_config(config).save_pretrained(folder / "text")
    for file in golden.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json" and "generation_5" not in file.name:
            shutil.copy(file, folder / "text" / file.name)


def make_pictures(folder):
    drawn = np.random.default_rng(2)
    for name, color in CLASSES.items():
        place = folder / name.replace(" ", "_")
        place.mkdir(parents=True)
        for number in range(PICTURES):
            pixels = np.array(color) + drawn.normal(0, 40, (12, 10, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")


def opened(folder):
    model, info = transformers.VisionTextDualEncoderModel.from_pretrained(folder, output_loading_info=True)
    for kind in ["missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"]:
        assert not info[kind], (kind, info[kind])
    assert model.logit_scale.item() <= math.log(100) + 1e-6
    return model.eval()


def check_changes(before, after, lock):
    """Checks which weights were trained."""
    before, after = [load_file(folder / "model.safetensors") for folder in [before, after]]
    assert before.keys() == after.keys(), before.keys() ^ after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale"} <= changed, changed
    for prefix, is_locked in [("vision_model.", lock in ["image", "both"]), ("text_model.", lock in ["text", "both"])]:
        assert any(key.startswith(prefix) for key in changed) != is_locked, (lock, changed)


@torch.no_grad()
def embeddings(model, pixels, tokens):
    """Normalised embeddings of images and texts."""
    images = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    arguments = {key: tokens[key] for key in ["input_ids", "attention_mask"]}
    texts = model.text_projection(model.text_model(**arguments).pooler_output)
    return [torch.nn.functional.normalize(rows, dim=-1) for rows in [images, texts]]


def check(program, vision, text, lock, options, folder):
    make_towers(vision, text, folder)
    data, pair, tuned = folder / "data", folder / "pair", folder / "tuned"
    make_pictures(data)
    run(program, "compose", "--vision", folder / "vision", "--text", folder / "text", "--out", pair, "--projection-dim", 6)
    steps = ["--epochs", 2, "--batch", 6, "--warmup", 1, "--lr", 3e-3]
    run(program, "tune", pair, "--data", data, "--eval", data, "--out", tuned, "--lock", lock, *steps, *options)
    last = tuned / "last"
    opened(tuned)
    model = opened(last)
    check_changes(pair, last, lock)

    processor = transformers.VisionTextDualEncoderProcessor.from_pretrained(last)
    files = [file for name in CLASSES for file in sorted((data / name.replace(" ", "_")).iterdir())]
    pictures = [Image.open(file).convert("RGB") for file in files]
    pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    tokens = processor.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    images, texts = embeddings(model, pixels, tokens)
    goldens = {"pixel_values": pixels, "image_embeds": images, "text_embeds": texts}
    goldens |= {key: tokens[key] for key in ["input_ids", "attention_mask"]}
    goldens["token_type_ids"] = tokens.get("token_type_ids", torch.zeros_like(tokens["input_ids"]))
    goldens = {key: values.contiguous() for key, values in goldens.items()}
    save_file(goldens, folder / "goldens.safetensors", metadata={"prompts": json.dumps(PROMPTS)})

    bundle = folder / "bundle"
    run(program, "export", last, "--weights", "f32", "--out", bundle)
    report = run(program, "verify", bundle, "--checkpoint", last, "--goldens", folder / "goldens.safetensors")
    found = re.findall(r"^bundle and goldens, (images|texts) +\S+ +\S+ +(\S+)", report, re.MULTILINE)
    assert [kind for kind, _ in found] == ["images", "texts"], report
    assert all(float(worst) <= DIFFERENCE_MAX for _, worst in found), report

    cosines = images @ texts.T
    truths = torch.arange(len(CLASSES)).repeat_interleave(PICTURES)
    best = cosines.topk(2).values
    unsure = (best[:, 0] - best[:, 1] < MARGIN).sum().item() / len(files)
    accuracy = (cosines.argmax(1) == truths).float().mean().item()
    evaluated = json.loads(run(program, "evaluate", bundle, data, "--json"))["bundles"][0]["classification"]["top_1"]
    assert abs(evaluated - accuracy) <= unsure + 1e-6, (evaluated, accuracy, unsure)
    card = (last / "MODEL_CARD.md").read_text(encoding="utf-8")
    own = float(re.findall(r"top-1 ([\d.]+)%", card)[-1])
    # The card rounds to a tenth of a percent.
    assert abs(own - 100 * accuracy) <= 100 * unsure + 0.06, (own, accuracy, unsure)
    worst = max(float(worst) for _, worst in found)
    print(f"{vision} + {text}, --lock {lock}: no key missing or unexpected, embeddings within {worst:.0e}, top-1 {own}%", flush=True)


def main():
    (program,) = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print("transformers", transformers.__version__)
    for pair in PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            check(pathlib.Path(program).resolve(), *pair, pathlib.Path(folder))


if __name__ == "__main__":
    main()
