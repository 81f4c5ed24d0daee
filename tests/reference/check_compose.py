"""Opens checkpoints that `model-prep compose` writes, with Python's transformers, and compares them with its own.

    check_compose.py MODEL_PREP [TOWER TOWER ...]

MODEL_PREP is the program. Needs torch, safetensors, sentencepiece, and transformers 4.56.2 or 5 (requirements.txt). For
pairs of the single towers of make_compose.py, saved by the transformers that is imported:

- VisionTextDualEncoderModel.from_pretrained has no missing, unexpected or mismatched key and reports no new weights;
- both towers give what the towers alone give, to the last bit;
- the projections' distribution is the reference's, and the seed determines the file;
- logit_scale, projection_dim and the configurations are the requested ones;
- image processor and tokenizer open as a VisionTextDualEncoderProcessor, and give what the towers' own give.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from make_compose import TOWERS, save
from safetensors.torch import load_file

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
VISION = ["vit", "vit-classifier", "deit-classifier", "beit-classifier", "beit-masked", "dinov2", "dinov2-registers", "swin-classifier",
          "swin-masked", "clip", "clip-vision", "siglip-vision"]  # fmt: skip
TEXT = ["bert", "bert-masked", "roberta-masked", "xlm-roberta-masked", "camembert-masked", "mpnet", "clip-text"]
# Files of a tokenizer for each architecture, from the golden text towers; vocabularies of these tests are smaller.
TOKENIZERS = {"bert": "bert", "roberta": "roberta", "xlm": "xlm-roberta", "camembert": "camembert", "mpnet": "mpnet", "clip": "clip"}
PROCESSORS = {"vit": "ViT", "deit": "DeiT", "beit": "Beit", "dinov2": "Bit", "swin": "ViT", "clip": "CLIP", "siglip": "Siglip"}
PROJECTION_DIM = 6


def made(program, folder, name, *options):
    out = folder / name
    command = [program, "compose", "--vision", folder / "vision", "--text", folder / "text", "--out", out]
    subprocess.run([*command, "--projection-dim", str(PROJECTION_DIM), *options], check=True, capture_output=True)
    return out


def digest(path):
    return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


def pixels_of(model, count=2):
    side = model.config.vision_config.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def pooled(model, **inputs):
    return model(**inputs).pooler_output


def check(program, vision, text, folder):
    torch.manual_seed(1)
    save(vision, folder / "vision")
    save(text, folder / "text")
    kind = getattr(transformers, PROCESSORS[vision.split("-")[0]] + "ImageProcessor")
    kind().save_pretrained(folder / "vision")
    tokenizer = GOLDEN / "text" / TOKENIZERS[text.split("-")[0]]
    for file in tokenizer.iterdir():
        if file.name not in ("config.json", "weights.safetensors", "goldens.safetensors") and "generation_5" not in file.name:
            shutil.copy(file, folder / "text" / file.name)

    out = made(program, folder, "out", "--seed", "3", "--logit-scale-init", "1.5")
    model, info = transformers.VisionTextDualEncoderModel.from_pretrained(out, output_loading_info=True)
    for kind in ["missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"]:
        assert not info[kind], (kind, info[kind])
    model = model.eval()
    assert model.logit_scale.item() == 1.5 and model.config.projection_dim == PROJECTION_DIM
    assert model.config.logit_scale_init_value == 1.5

    # Each tower against the same tower opened by itself; a pooler that no checkpoint has is new on both sides.
    new_pooler = [side for side in ["vision", "text"] if drawn(folder / side, model, side)]
    pixels = pixels_of(model)
    ids = torch.tensor([[1, 5, 7, 9, 2], [1, 4, 4, 6, 2]])
    if "vision" not in new_pooler:
        alone = type(model.vision_model).from_pretrained(folder / "vision").eval()
        assert torch.equal(pooled(model.vision_model, pixel_values=pixels), pooled(alone, pixel_values=pixels)), "image tower"
    if "text" not in new_pooler:
        alone = type(model.text_model).from_pretrained(folder / "text").eval()
        assert torch.equal(pooled(model.text_model, input_ids=ids), pooled(alone, input_ids=ids)), "text tower"

    for layer in [model.visual_projection, model.text_projection]:
        bound = layer.in_features**-0.5
        values = layer.weight.detach().numpy()
        assert layer.bias is None and np.abs(values).max() <= bound and np.abs(values).max() > 0.7 * bound
        assert abs(values.std() / (bound / 3**0.5) - 1) < 0.35, values.std()
    assert digest(made(program, folder, "again", "--seed", "3", "--logit-scale-init", "1.5")) == digest(out)
    other = load_file(made(program, folder, "other", "--seed", "4", "--logit-scale-init", "1.5") / "model.safetensors")
    same = load_file(out / "model.safetensors")
    differ = {key for key in same if not torch.equal(same[key], other[key])}
    assert {"visual_projection.weight", "text_projection.weight"} <= differ, differ
    assert all("projection" in key or "pooler" in key for key in differ), differ

    processor = transformers.VisionTextDualEncoderProcessor.from_pretrained(out)
    picture = (np.arange(40 * 50 * 3) * 7 % 251).astype(np.uint8).reshape(40, 50, 3)
    own = transformers.AutoImageProcessor.from_pretrained(folder / "vision")
    found = processor(text=["a photo of a cat"], images=[picture], return_tensors="pt")
    assert torch.equal(found["pixel_values"], own(picture, return_tensors="pt")["pixel_values"]), "pixels"
    own = transformers.AutoTokenizer.from_pretrained(folder / "text")
    assert found["input_ids"].tolist() == own(["a photo of a cat"])["input_ids"], "tokens"
    print(f"{vision} + {text}: {len(same)} tensors, no key missing or unexpected{', new pooler' if new_pooler else ''}")


def drawn(tower, model, side):
    """Whether the tower's checkpoint lacks the pooler that the model has."""
    saved = load_file(tower / "model.safetensors")
    poolers = [name for name in getattr(model, f"{side}_model").state_dict() if name.startswith("pooler.")]
    return [name for name in poolers if not any(key.endswith(name) for key in saved)]


def main():
    program, *names = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print("transformers", transformers.__version__)
    pairs = [(VISION[i % len(VISION)], TEXT[i % len(TEXT)]) for i in range(max(len(VISION), len(TEXT)))]
    pairs = list(zip(names[::2], names[1::2])) or pairs
    assert all(name in TOWERS for pair in pairs for name in pair), pairs
    for vision, text in pairs:
        with tempfile.TemporaryDirectory() as folder:
            check(pathlib.Path(program).resolve(), vision, text, pathlib.Path(folder))
    print(f"{len(pairs)} pairs")


if __name__ == "__main__":
    main()
