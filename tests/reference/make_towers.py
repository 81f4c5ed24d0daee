"""Makes the golden files of the towers.

    python make_towers.py --demo model-prep/demo/checkpoint --out tests/golden --transformers-5 FOLDER

Versions: requirements.txt beside this file. FOLDER holds transformers 5.23.0; every golden is computed with 4.56.2 and
again with 5.23.0, and the two must agree.

OUT/tiny/checkpoint/             a random ViT + BERT dual encoder of odd little sizes, its own tokenizer
OUT/tiny/generation_5.safetensors  the same weights by the names that the modules of transformers 5 have
OUT/{tiny,demo}/goldens.safetensors  pixel_values, input_ids, attention_mask, token_type_ids, image_embeds,
                                 text_embeds, logits_per_image, logits_per_text
OUT/{tiny,demo}/prompts.json     the prompts behind input_ids
OUT/tiny/variants.safetensors    VARIANT.image_embeds and VARIANT.text_embeds of the tiny checkpoint's weights under
                                 the changed configurations of VARIANTS
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

TINY_PROMPTS = [
    "a cat",
    "A photo of a red circle.",
    "two dogs run on the green grass",
    "Café, naïve: ÜBER!",
    "狗 and 猫",
    "xyzzy unknown words",
    "a photo of a " + "very " * 40 + "long prompt",
    "",
]
DEMO_PROMPTS = [
    "a photo of a dog.",
    "a photo of a cat.",
    "a photo of a red circle.",
    "a photo of a green triangle.",
    "a blue star on a white background",
    "two children play football in the park",
    "A man in a YELLOW jacket rides a bicycle.",
    "boat",
    "a photo of a school bus.",
    "goldfish, jellyfish and brain coral",
    "an espresso machine on the kitchen counter beside a stack of white plates and a bowl of oranges",
    "Café crème & naïve résumé",
    "a photo of a heart.",
    "people",
    "the " * 80 + "end",
    "?",
]
# Keys of vision_config and text_config to change.
VARIANTS = {
    "gelu_new": ({"hidden_act": "gelu_new"}, {"hidden_act": "gelu_new"}),
    "relu": ({"hidden_act": "relu"}, {"hidden_act": "relu"}),
    "qkv_bias": ({"qkv_bias": False}, {}),
    "layer_norm_eps": ({"layer_norm_eps": 0.01}, {"layer_norm_eps": 0.02}),
    "heads": ({"num_attention_heads": 2}, {"num_attention_heads": 5}),
}


def tiny_checkpoint(folder):
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    torch.manual_seed(20260)
    words = "cat dog photo of red circle green grass two run on the and very long prompt un ##known word caf na ##ive"
    letters = [*"abcdefghijklmnopqrstuvwxyz.,:!", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), "狗", "猫"]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words.split(), *letters]
    vision = ViTConfig(
        hidden_size=36,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=50,
        image_size=30,
        patch_size=7,
        initializer_range=0.2,
    )
    text = BertConfig(
        vocab_size=len(vocab),
        hidden_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=44,
        max_position_embeddings=20,
        initializer_range=0.2,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=24)
    model = VisionTextDualEncoderModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(3.25)
        for name, parameter in model.named_parameters():
            # Biases and layer norms start at 0 and 1, where a mistake would not show.
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=18)
    tokenizer.save_pretrained(folder)
    ViTImageProcessor(size={"height": 30, "width": 30}).save_pretrained(folder)


def pictures(side, count):
    """Drawn pictures: gradients, shapes, stripes and noise."""
    random = np.random.default_rng(7)
    result = []
    for index in range(count):
        y, x = np.mgrid[0:side, 0:side] / side
        planes = [x, y, (x + y) / 2] if index % 2 else [1 - y, x * y, np.sin(9 * x + index) / 2 + 0.5]
        if index % 4 == 3:
            planes = random.random((3, side, side))
        picture = Image.fromarray((np.stack(planes, -1) * 255).astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        low, high = side * (1 + index % 3) // 8, side * 3 // 4
        colour = tuple(int(v) for v in random.integers(0, 256, 3))
        if index % 3 == 0:
            draw.ellipse([low, low, high, high], fill=colour)
        elif index % 3 == 1:
            draw.rectangle([low, low, high, high - 2], fill=colour)
        else:
            draw.polygon([(low, high), (high, high), ((low + high) // 2, low)], fill=colour)
        result.append(picture)
    return result


def goldens(checkpoint, prompts, count):
    from transformers import AutoImageProcessor, AutoTokenizer, VisionTextDualEncoderModel

    model = VisionTextDualEncoderModel.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    processor = AutoImageProcessor.from_pretrained(checkpoint, use_fast=False)
    side = processor.size["height"]
    tokens = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
    pixels = processor(pictures(side, count), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(pixel_values=pixels, **tokens)
    named = {
        "pixel_values": pixels,
        "input_ids": tokens["input_ids"],
        "attention_mask": tokens["attention_mask"],
        "token_type_ids": tokens["token_type_ids"],
        "image_embeds": out.image_embeds,
        "text_embeds": out.text_embeds,
        "logits_per_image": out.logits_per_image,
        "logits_per_text": out.logits_per_text,
    }
    return {name: tensor.contiguous() for name, tensor in named.items()}, model


def variants(checkpoint, inputs):
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    result = {}
    for name, (vision, text) in VARIANTS.items():
        config = VisionTextDualEncoderConfig.from_pretrained(checkpoint)
        config.vision_config.update(vision)
        config.text_config.update(text)
        model = VisionTextDualEncoderModel.from_pretrained(checkpoint, config=config).eval()
        keys = ["pixel_values", "input_ids", "attention_mask", "token_type_ids"]
        with torch.no_grad():
            out = model(**{key: inputs[key] for key in keys})
        result[f"{name}.image_embeds"] = out.image_embeds
        result[f"{name}.text_embeds"] = out.text_embeds
    return result


def check(ours, theirs, where):
    assert ours.keys() == theirs.keys(), where
    for name, tensor in ours.items():
        worst = (tensor.double() - theirs[name].double()).abs().max().item()
        print(f"{where}: {name}: 4.56.2 and 5.23.0 differ by at most {worst:.2e}")
        assert worst <= (0 if tensor.dtype == torch.int64 else 2e-5), (where, name, worst)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--transformers-5", type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="compare the goldens with what this transformers gives")
    parser.add_argument("--as-generation-5", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sets = {
        "tiny": (args.out / "tiny/checkpoint", TINY_PROMPTS, 4),
        "demo": (args.demo, DEMO_PROMPTS, 8),
    }

    import transformers

    if args.check:
        found = {name: goldens(*sets[name])[0] for name in sets}
        found["variants"] = variants(sets["tiny"][0], found["tiny"])
        files = {name: args.out / name / "goldens.safetensors" for name in sets}
        files["variants"] = args.out / "tiny/variants.safetensors"
        for name, file in files.items():
            worst = 0.0
            for key, expected in load_file(file).items():
                differ = (expected.double() - found[name][key].double()).abs().max().item()
                assert differ <= (0 if expected.dtype == torch.int64 else 2e-5), (name, key, differ)
                worst = max(worst, differ)
            print(f"transformers {transformers.__version__}: {name}: within {worst:.1e}")
        return
    if args.as_generation_5:
        assert transformers.__version__ == "5.23.0", transformers.__version__
        for name, (checkpoint, prompts, count) in sets.items():
            tensors, model = goldens(checkpoint, prompts, count)
            save_file(tensors, args.as_generation_5 / f"{name}.safetensors")
            if name == "tiny":
                save_file(variants(checkpoint, tensors), args.as_generation_5 / "variants.safetensors")
                state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
                save_file(state, args.out / "tiny/generation_5.safetensors")
        return

    assert transformers.__version__ == "4.56.2", transformers.__version__
    (args.out / "tiny/checkpoint").mkdir(parents=True, exist_ok=True)
    (args.out / "demo").mkdir(parents=True, exist_ok=True)
    tiny_checkpoint(args.out / "tiny/checkpoint")
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, *sys.argv, "--as-generation-5", scratch]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(args.transformers_5)})
        for name, (checkpoint, prompts, count) in sets.items():
            tensors, _ = goldens(checkpoint, prompts, count)
            check(tensors, load_file(pathlib.Path(scratch) / f"{name}.safetensors"), name)
            save_file(tensors, args.out / name / "goldens.safetensors", metadata={"prompts": json.dumps(prompts)})
            if name == "tiny":
                tensors = variants(checkpoint, tensors)
                check(tensors, load_file(pathlib.Path(scratch) / "variants.safetensors"), "variants")
                save_file(tensors, args.out / "tiny/variants.safetensors")
            text = json.dumps(prompts, indent=2, ensure_ascii=False)
            (args.out / name / "prompts.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
