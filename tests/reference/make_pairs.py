"""Makes the golden files of every image tower with every text tower.

    python make_pairs.py --golden tests/golden [--check]

Versions: requirements.txt beside this file. With --check nothing is written: the goldens are compared with what the
imported transformers gives, which for 5.24.0 (PYTHONPATH=FOLDER, see requirements.txt) is the same within 1e-5. The
towers are those of GOLDEN/vision and GOLDEN/text, which make_vision_towers.py and make_text_towers.py made. Writes GOLDEN/pairs.safetensors:

IMAGE.visual_projection   [24, hidden], 16 bits, random
IMAGE.TEXT.logits_per_image  [2, 2], of both pictures and the prompts 0 and 2 of the group `many`
IMAGE.TEXT.loss           of the pair, by return_loss
IMAGE.image_embeds, TEXT.text_embeds
plain_clip.NAME, plain_siglip.NAME  the same of the two towers as CLIPModel or SiglipModel
"""

import argparse
import json
import pathlib
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import CLIPModel, SiglipModel, VisionTextDualEncoderModel

IMAGE_TOWERS = [
    "vit", "deit", "beit", "beit_shared", "clip", "dinov2", "dinov2_gated", "dinov2_registers", "siglip", "swin",
]  # fmt: skip
# A dual encoder of transformers cannot hold SigLIP's text tower.
TEXT_TOWERS = ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "clip"]
PROMPTS = [0, 2]
PROJECTION_DIM = 24
LOGIT_SCALE = 1.75
LOGIT_BIAS = -0.625


def text_config(golden, tower):
    return json.loads((golden / "text" / tower / "config.json").read_text(encoding="utf-8"))


def opened(model_class, config, weights):
    """The model that is in a folder with these two."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        weights = {name: tensor.float().contiguous() for name, tensor in weights.items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    return model.eval()


def dual_encoder(golden, case, vision_weights, text_tower, projection):
    config = {
        "model_type": "vision-text-dual-encoder",
        "projection_dim": PROJECTION_DIM,
        "vision_config": case["vision_config"],
        "text_config": text_config(golden, text_tower),
    }
    weights = {name: tensor for name, tensor in vision_weights.items() if name.startswith("vision_model.")}
    weights |= load_file(golden / "text" / text_tower / "weights.safetensors")
    weights |= {"visual_projection.weight": projection, "logit_scale": torch.tensor(LOGIT_SCALE)}
    return opened(VisionTextDualEncoderModel, config, weights)


def plain(golden, kind, case, vision_weights, projection):
    """The two towers called `kind` as CLIPModel or SiglipModel, whose weights have one prefix less."""
    config = {
        "model_type": kind,
        "projection_dim": PROJECTION_DIM,
        "vision_config": case["vision_config"],
        "text_config": text_config(golden, kind),
    }
    weights = {**vision_weights, **load_file(golden / "text" / kind / "weights.safetensors")}
    weights = {name.partition(".")[2]: t for name, t in weights.items() if name.count("_model.") == 2} | {
        name: t for name, t in weights.items() if name == "text_projection.weight"
    }
    if kind == "clip":
        weights |= {"visual_projection.weight": projection, "logit_scale": torch.tensor(LOGIT_SCALE)}
        return opened(CLIPModel, config, weights)
    del weights["text_projection.weight"]
    weights |= {"logit_scale": torch.tensor([LOGIT_SCALE]), "logit_bias": torch.tensor([LOGIT_BIAS])}
    return opened(SiglipModel, config, weights)


def outputs(model, pictures, inputs):
    """image_embeds, text_embeds, logits_per_image, loss"""
    try:
        types = torch.zeros_like(inputs["input_ids"])
        found = model(pixel_values=pictures, token_type_ids=types, return_loss=True, **inputs)
        return found.image_embeds, found.text_embeds, found.logits_per_image, found.loss
    except TypeError:
        # forward hands on token_type_ids, which CLIP's and MPNet's text towers do not take: its own lines, without them.
        image = model.visual_projection(model.vision_model(pictures).pooler_output)
        text = model.text_projection(model.text_model(**inputs).pooler_output)
        image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
        per_text = text @ image.t() * model.logit_scale.exp()
        pairs = torch.arange(len(per_text))
        loss = (cross_entropy(per_text, pairs) + cross_entropy(per_text.t(), pairs)) / 2
        return image, text, per_text.t(), loss


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=pathlib.Path, required=True)
    parser.add_argument("--check", action="store_true", help="compare the goldens with what this transformers gives")
    args = parser.parse_args()
    golden = args.golden
    cases = json.loads((golden / "vision/cases.json").read_text(encoding="utf-8"))
    pixels = load_file(golden / "vision/pixels.safetensors")["pixels"].float()
    # Not the global generator, of which loading a model takes numbers too.
    random = torch.Generator().manual_seed(99)
    out = {}
    for image_tower in IMAGE_TOWERS:
        case = cases[image_tower]
        height, width = case["size"]
        vision_weights = load_file(golden / "vision" / f"{case['weights']}.safetensors")
        hidden = vision_weights["visual_projection.weight"].shape[1]
        projection = (torch.randn(PROJECTION_DIM, hidden, generator=random) * 0.3).half()
        out[f"{image_tower}.visual_projection"] = projection
        for text_tower in TEXT_TOWERS:
            model = dual_encoder(golden, case, vision_weights, text_tower, projection)
            tokens = load_file(golden / "text" / text_tower / "goldens.safetensors")
            ids, mask = (tokens[f"many.{name}"].long()[PROMPTS] for name in ["input_ids", "attention_mask"])
            pictures = pixels[:2, :, :height, :width]
            with torch.no_grad():
                image, text, logits, loss = outputs(model, pictures, {"input_ids": ids, "attention_mask": mask})
            out[f"{image_tower}.{text_tower}.logits_per_image"] = logits.contiguous()
            out[f"{image_tower}.{text_tower}.loss"] = loss.reshape(1)
            out[f"{image_tower}.image_embeds"] = image.contiguous()
            out[f"{text_tower}.text_embeds"] = text.contiguous()
        if image_tower in ("clip", "siglip"):
            model = plain(golden, image_tower, case, vision_weights, projection)
            tokens = load_file(golden / "text" / image_tower / "goldens.safetensors")
            inputs = {"input_ids": tokens["many.input_ids"].long()[PROMPTS]}
            if image_tower == "clip":
                inputs["attention_mask"] = tokens["many.attention_mask"].long()[PROMPTS]
            with torch.no_grad():
                found = model(pixel_values=pictures, return_loss=True, **inputs)
            for name in ["image_embeds", "text_embeds", "logits_per_image"]:
                out[f"plain_{image_tower}.{name}"] = found[name].contiguous()
            out[f"plain_{image_tower}.loss"] = found.loss.reshape(1)
    if args.check:
        expected = load_file(golden / "pairs.safetensors")
        assert out.keys() == expected.keys()
        worst = max((tensor.float() - out[name].float()).abs().max().item() for name, tensor in expected.items())
        print(f"transformers {transformers.__version__}: {len(out)} tensors, within {worst:.1e}")
        assert worst <= 1e-5, worst
        return
    save_file(out, golden / "pairs.safetensors")
    print(len(out), "tensors")


if __name__ == "__main__":
    main()
