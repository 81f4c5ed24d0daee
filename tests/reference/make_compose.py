"""Writes tests/golden/compose/towers.json: the results of from_vision_text_pretrained for checkpoints of single towers.

    python make_compose.py --transformers-5 FOLDER --out tests/golden/compose

For each checkpoint: its config.json, its tensors with their shapes, and where each of them is in the dual encoder (found
by its values, which are random), or null; the tensors of the dual encoder's tower that are in no checkpoint; the tower's
part of the dual encoder's config.json. All of it by transformers 4.56.2, but for the checkpoints whose names end in "5",
which 5.23.0 wrote and read. Versions: requirements.txt beside this file.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

VISION = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 8,
    "patch_size": 4,
    "initializer_range": 0.2,
}
TEXT = {
    "vocab_size": 20,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 10,
    "max_position_embeddings": 9,
    "initializer_range": 0.2,
}
DINO = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
SWIN = {"embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2], "image_size": 8, "patch_size": 2, "window_size": 2}
MASKED = {"use_mean_pooling": False, "use_mask_token": True, "use_shared_relative_position_bias": True, "vocab_size": 30}
BIASED = {"use_relative_position_bias": True, "use_absolute_position_embeddings": True}

# Name: class of the saved model, class of its configuration, what the configuration sets.
TOWERS = {
    "vit": ("ViTModel", "ViTConfig", VISION),
    "vit-classifier": ("ViTForImageClassification", "ViTConfig", VISION),
    "vit-masked": ("ViTForMaskedImageModeling", "ViTConfig", VISION),
    "deit": ("DeiTModel", "DeiTConfig", VISION),
    "deit-classifier": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", VISION),
    "beit": ("BeitModel", "BeitConfig", VISION),
    "beit-classifier": ("BeitForImageClassification", "BeitConfig", VISION | BIASED),
    "beit-masked": ("BeitForMaskedImageModeling", "BeitConfig", VISION | MASKED),
    "beit-masked-mean": ("BeitForMaskedImageModeling", "BeitConfig", VISION | MASKED | {"use_mean_pooling": True}),
    "dinov2": ("Dinov2Model", "Dinov2Config", DINO),
    "dinov2-no-mask": ("Dinov2ForImageClassification", "Dinov2Config", DINO | {"use_mask_token": False}),
    "dinov2-registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", DINO),
    "swin-classifier": ("SwinForImageClassification", "SwinConfig", SWIN),
    "swin-masked": ("SwinForMaskedImageModeling", "SwinConfig", SWIN | {"encoder_stride": 4}),
    "clip": ("CLIPModel", None, ("CLIPConfig", "CLIPTextConfig", "CLIPVisionConfig")),
    "clip-vision": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", VISION | {"projection_dim": 6}),
    "clip-vision-5": ("CLIPVisionModel", "CLIPVisionConfig", VISION),
    "siglip": ("SiglipModel", None, ("SiglipConfig", "SiglipTextConfig", "SiglipVisionConfig")),
    "siglip-vision": ("SiglipVisionModel", "SiglipVisionConfig", VISION),
    "vit-5": ("ViTForImageClassification", "ViTConfig", VISION),
    "bert": ("BertModel", "BertConfig", TEXT),
    "bert-masked": ("BertForMaskedLM", "BertConfig", TEXT),
    "bert-pretraining": ("BertForPreTraining", "BertConfig", TEXT),
    "roberta-masked": ("RobertaForMaskedLM", "RobertaConfig", TEXT),
    "xlm-roberta-masked": ("XLMRobertaForMaskedLM", "XLMRobertaConfig", TEXT),
    "camembert-masked": ("CamembertForMaskedLM", "CamembertConfig", TEXT),
    "mpnet": ("MPNetModel", "MPNetConfig", TEXT),
    "clip-text": ("CLIPTextModel", "CLIPTextConfig", TEXT | {"eos_token_id": 2, "bos_token_id": 1}),
    "clip-text-5": ("CLIPTextModel", "CLIPTextConfig", TEXT | {"eos_token_id": 2, "bos_token_id": 1}),
    "bert-masked-5": ("BertForMaskedLM", "BertConfig", TEXT),
}


def save(name, folder):
    model, config, values = TOWERS[name]
    if config is None:
        whole, text, vision = (getattr(transformers, each) for each in values)
        config = whole(text_config=text(**TEXT).to_dict(), vision_config=vision(**VISION).to_dict())
    else:
        config = getattr(transformers, config)(**values)
    torch.manual_seed(len(name))
    model = getattr(transformers, model)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model.main_input_name == "pixel_values" or name in ["clip", "siglip"]


def case(name):
    with tempfile.TemporaryDirectory() as scratch:
        tower, other, out = (pathlib.Path(scratch, each) for each in ["tower", "other", "out"])
        vision = save(name, tower)
        save("bert" if vision else "vit", other)
        paths = (tower, other) if vision else (other, tower)
        if name == "siglip":
            # The reference takes the whole of such a checkpoint; what its image tower gives is meant here.
            parts = transformers.SiglipVisionModel.from_pretrained(tower), transformers.BertModel.from_pretrained(other)
            model = transformers.VisionTextDualEncoderModel(None, *parts)
        else:
            model = transformers.VisionTextDualEncoderModel.from_vision_text_pretrained(*paths)
        model.save_pretrained(out)
        saved, made = load_file(tower / "model.safetensors"), load_file(out / "model.safetensors")
        prefix = "vision_model." if vision else "text_model."
        made = {key[len(prefix) :]: tensor for key, tensor in made.items() if key.startswith(prefix)}
        tensors = {}
        for key, tensor in saved.items():
            same = [other for other, values in made.items() if values.shape == tensor.shape and torch.equal(values, tensor)]
            # Buffers and layer scales may be equal: then the name decides.
            same = [other for other in same if key.endswith(other) or other.endswith(key)] if len(same) > 1 else same
            assert len(same) <= 1, (name, key, same)
            tensors[key] = [str(tensor.dtype)[6:], list(tensor.shape), *same]
        known = {each[2] for each in tensors.values() if len(each) == 3}
        part = json.loads((out / "config.json").read_text())["vision_config" if vision else "text_config"]
        part.pop("_name_or_path", None)
        return {
            "side": "vision" if vision else "text",
            "config": json.loads((tower / "config.json").read_text()),
            "tensors": tensors,
            "new": {key: list(tensor.shape) for key, tensor in made.items() if key not in known},
            "made_config": part,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers-5", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--as-generation-5", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    version = "5.23.0" if args.as_generation_5 else "4.56.2"
    assert transformers.__version__ == version, transformers.__version__
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "towers.json"
    cases = json.loads(path.read_text()) if args.as_generation_5 else {}
    cases |= {name: case(name) for name in TOWERS if name.endswith("-5") == args.as_generation_5}
    lines = [f"{json.dumps(name)}: {json.dumps(each, separators=(',', ':'))}" for name, each in cases.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if args.transformers_5 and not args.as_generation_5:
        environment = {**os.environ, "PYTHONPATH": str(args.transformers_5)}
        subprocess.run([sys.executable, *sys.argv, "--as-generation-5"], check=True, env=environment)


if __name__ == "__main__":
    main()
