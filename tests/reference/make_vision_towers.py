"""Makes the golden files of the image towers.

    python make_vision_towers.py --out tests/golden/vision --transformers-5 FOLDER
    python make_vision_towers.py --out tests/golden/vision --add
    python make_vision_towers.py --out tests/golden/vision --check

Versions: requirements.txt beside this file. The second command adds what is missing by 4.56.2 alone and keeps the rest. The
third writes nothing: it compares the goldens with what the
imported transformers gives, which for 5.24.0 (PYTHONPATH=FOLDER) is the same within 2e-5. In the first command FOLDER
holds transformers 5.23.0. The goldens are those of 4.56.2; 5.23.0 must
agree, but for Swin's absolute position embeddings, which 4.56.2 cannot run: those goldens are 5.23.0's.

OUT/WEIGHTS.safetensors   random image towers of odd little sizes with their projections, as they stand in a
                          VisionTextDualEncoder: half-precision numbers, by the names that 4.56.2 saves
OUT/cases.json            for each case its weights, vision_config, size of the input, and whether that was requested
OUT/generation_5.json     for WEIGHTS whose tensors have other names in the modules of transformers 5: those names, with
                          the name in 4.56.2, or [name, first row, end] where a tensor is part of another
OUT/pixels.safetensors    two pictures of noise; a case takes their upper left corner
OUT/goldens.safetensors   CASE.pooled and CASE.features
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

SIDE = 48
PROJECTION = 20
VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=22, image_size=30, patch_size=7)
DINO = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=35, patch_size=7)
SWIN = dict(image_size=24, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=3, mlp_ratio=1.5)
# The size and the architecture of the text tower that it is paired with without a projection.
SIGLIP = {**VIT, "hidden_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 12, "image_size": 20, "patch_size": 5}
SWINV2 = {**SWIN, "num_heads": [2, 4]}
WEIGHTS = {
    "vit": ("vit", VIT),
    "vit_flat": ("vit", {**VIT, "image_size": [16, 30], "patch_size": [8, 5]}),
    "deit": ("deit", VIT),
    "clip": ("clip_vision_model", VIT),
    "dinov2": ("dinov2", DINO),
    "dinov2_gated": ("dinov2", {**DINO, "use_swiglu_ffn": True}),
    "dinov2_registers": ("dinov2_with_registers", {**DINO, "num_register_tokens": 3}),
    "beit": ("beit", {**VIT, "use_absolute_position_embeddings": True, "use_mask_token": True}),
    "beit_shared": ("beit", {**VIT, "use_shared_relative_position_bias": True, "layer_scale_init_value": 0.0}),
    "beit_layers": ("beit", {**VIT, "use_relative_position_bias": True, "use_mean_pooling": False}),
    "beit_all": (
        "beit",
        {
            **VIT,
            "use_absolute_position_embeddings": True,
            "use_relative_position_bias": True,
            "use_shared_relative_position_bias": True,
        },
    ),
    "beit_flat": ("beit", {**VIT, "image_size": [16, 30], "use_relative_position_bias": True}),
    "siglip": ("siglip_vision_model", SIGLIP),
    "swin": ("swin", SWIN),
    "swin_absolute": ("swin", {**SWIN, "use_absolute_embeddings": True, "qkv_bias": False}),
    "swinv2": ("swinv2", SWINV2),
}
# Weights, changes to their vision_config, size of the input if it is not the configuration's, whether the reference is told
# to interpolate.
CASES = {
    **{name: (name, {}, None, False) for name in WEIGHTS},
    "vit_larger": ("vit", {}, [38, 45], True),
    "vit_smaller": ("vit", {}, [24, 15], True),
    "deit_larger": ("deit", {}, [45, 45], True),
    "deit_unbiased": ("deit", {"qkv_bias": False}, None, False),
    "deit_flat": ("deit", {"hidden_act": "relu", "pooler_act": "relu"}, [22, 37], True),
    "clip_larger": ("clip", {}, [37, 44], True),
    "clip_same_grid": ("clip", {"hidden_act": "gelu"}, [34, 34], True),
    "clip_gelu_new": ("clip", {"hidden_act": "gelu_new", "num_attention_heads": 4}, None, False),
    "clip_relu": ("clip", {"hidden_act": "relu", "layer_norm_eps": 0.02}, None, False),
    "dinov2_larger": ("dinov2", {}, [47, 42], False),
    "dinov2_unbiased": ("dinov2", {"qkv_bias": False}, None, False),
    "dinov2_smaller": ("dinov2", {"hidden_act": "gelu_new"}, [22, 31], False),
    "dinov2_registers_larger": ("dinov2_registers", {}, [47, 42], False),
    "dinov2_registers_smaller": ("dinov2_registers", {}, [16, 22], False),
    "beit_larger": ("beit", {}, [38, 45], False),
    "beit_shared_larger": ("beit_shared", {"hidden_act": "relu"}, [38, 45], False),
    "beit_layers_smaller": ("beit_layers", {"hidden_act": "quick_gelu"}, [22, 15], False),
    "beit_all_flat": ("beit_all", {}, [15, 44], True),
    "siglip_larger": ("siglip", {}, [27, 36], True),
    "siglip_quick_gelu": ("siglip", {"hidden_act": "quick_gelu", "layer_norm_eps": 0.01}, None, False),
    "swin_padded": ("swin", {}, [27, 34], False),
    "swin_one_window": ("swin", {"window_size": 3}, [12, 12], False),
    "swin_relu": ("swin", {"hidden_act": "relu", "layer_norm_eps": 0.01}, [20, 13], False),
    "vit_mish": ("vit", {"hidden_act": "mish", "pooler_act": "sigmoid"}, None, False),
    "vit_linear": ("vit", {"hidden_act": "linear", "pooler_act": "linear"}, None, False),
    "deit_laplace": ("deit", {"hidden_act": "laplace", "pooler_act": "leaky_relu"}, None, False),
    "clip_relu2": ("clip", {"hidden_act": "relu2", "layer_norm_eps": 0.0}, None, False),
    "dinov2_relu6": ("dinov2", {"hidden_act": "relu6"}, None, False),
    "beit_gelu_10": ("beit", {"hidden_act": "gelu_10"}, None, False),
    "siglip_leaky_relu": ("siglip", {"hidden_act": "leaky_relu"}, None, False),
    "swin_sigmoid": ("swin", {"hidden_act": "sigmoid"}, None, False),
    "swinv2_padded": ("swinv2", {"pretrained_window_sizes": [6, 2]}, [27, 34], False),
    "swinv2_small": ("swinv2", {"window_size": 5, "hidden_act": "relu"}, [9, 16], False),
    "swinv2_unbiased": ("swinv2", {"qkv_bias": False, "pretrained_window_sizes": None}, None, False),
    "swin_absolute_larger": ("swin_absolute", {}, [28, 34], True),
}


def only_5(case):
    return case.startswith("swin_absolute")


def configured(weights, changes):
    from transformers import AutoConfig

    kind, values = WEIGHTS[weights]
    return AutoConfig.for_model(kind, **{**values, **changes})


def tower(config):
    from transformers import AutoModel

    return AutoModel.from_config(config, attn_implementation="eager").eval()


def drawn(model):
    """Random weights in which every part matters, exact in half precision."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            if parameter.ndim == 1 and "norm" in name and name.endswith("weight"):
                values = 1 + 0.2 * values
            elif "lambda" in name:
                values = 0.7 + 0.3 * values
            elif name.endswith("logit_scale"):
                values = 1 + 0.5 * values
                if name.startswith("encoder.layers.0.blocks.0."):
                    # Its factor would be above the largest, 100.
                    values[0] = 5
            elif "bias_table" in name:
                values = 0.8 * values
            elif parameter.ndim == 1 or "token" in name or "position" in name or "probe" in name:
                values = 0.3 * values
            else:
                values = values * (0.9 / parameter[0].numel() ** 0.5)
            parameter.copy_(values.half().float())


def run(model, projection, pixels, interpolate):
    arguments = {"interpolate_pos_encoding": True} if interpolate else {}
    with torch.no_grad():
        pooled = model(pixel_values=pixels, **arguments).pooler_output
    return pooled, pooled @ projection.T


def pixels_of(pictures, size):
    height, width = size
    return pictures[:, :, :height, :width].float()


def size_of(weights, size):
    if size:
        return size
    size = WEIGHTS[weights][1]["image_size"]
    return size if isinstance(size, list) else [size, size]


def load(model, tensors):
    """Weights by the names that 4.56.2 saves in a VisionTextDualEncoder; either version of transformers reads them."""
    prefix = "vision_model."
    state = {name[len(prefix) :]: t.float() for name, t in tensors.items() if name.startswith(prefix)}
    if not getattr(model.config, "qkv_bias", True):
        modules = [".attention.attention", ".attention.self"]
        biases = tuple(f"{module}.{part}.bias" for module in modules for part in ["query", "key", "value"])
        state = {name: t for name, t in state.items() if not name.endswith(biases)}
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        save_file(state, pathlib.Path(folder) / "model.safetensors", metadata={"format": "pt"})
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    # A Swin Transformer of 4.56.2 saves an index that 5.23.0 computes.
    assert all("relative_position_index" in key for key in info["unexpected_keys"]), info
    return loaded.eval()


def goldens(out, cases, pictures):
    result = {}
    for case in cases:
        weights, changes, size, interpolate = CASES[case]
        tensors = load_file(out / f"{weights}.safetensors")
        model = load(tower(configured(weights, changes)), tensors)
        projection = tensors["visual_projection.weight"].float()
        pixels = pixels_of(pictures, size_of(weights, size))
        pooled, features = run(model, projection, pixels, interpolate)
        result[f"{case}.pooled"], result[f"{case}.features"] = pooled.contiguous(), features.contiguous()
    return result


def generation_5(out):
    """Names of the modules of transformers 5, found by their values."""
    names = {}
    # One of each architecture that has other names.
    for weights in ["deit", "dinov2_gated", "dinov2_registers", "beit_all", "swin"]:
        tensors = load_file(out / f"{weights}.safetensors")
        state = load(tower(configured(weights, {})), tensors).state_dict()
        old = {name: t.float() for name, t in tensors.items() if name.startswith("vision_model.")}
        names[weights] = {}
        for new, values in state.items():
            new = f"vision_model.{new}"
            same = [name for name, t in old.items() if t.shape == values.shape and torch.equal(t, values)]
            if same and same[0].removeprefix("vision_model.") == new.removeprefix("vision_model."):
                continue
            if same:
                names[weights][new] = same[0]
                continue
            [(name, first)] = [
                (name, first)
                for name, t in old.items()
                for first in range(0, t.shape[0], values.shape[0])
                if torch.equal(t[first : first + values.shape[0]], values)
            ]
            names[weights][new] = [name, first, first + values.shape[0]]
    return names


def make_weights(out, cases, kept=False):
    for weights in WEIGHTS:
        if kept and (out / f"{weights}.safetensors").exists():
            continue
        if only_5(weights) not in cases:
            continue
        torch.manual_seed(20261 + list(WEIGHTS).index(weights))
        model = tower(configured(weights, {}))
        drawn(model)
        prefix = "vision_model."
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            state = load_file(pathlib.Path(folder) / "model.safetensors")
        tensors = {f"{prefix}{name}": t if t.dtype == torch.int64 else t.half() for name, t in state.items()}
        if not weights.startswith("siglip"):
            width = model.config.hidden_size
            tensors["visual_projection.weight"] = (torch.randn(PROJECTION, width) / width**0.5).half()
        else:
            tensors["visual_projection.weight"] = torch.eye(model.config.hidden_size).half()
        save_file({name: t.contiguous() for name, t in tensors.items()}, out / f"{weights}.safetensors")


def cases_json():
    result = {}
    for case, (weights, changes, size, interpolate) in CASES.items():
        kind, values = WEIGHTS[weights]
        result[case] = {
            "weights": weights,
            "vision_config": {"model_type": kind, **values, **changes},
            "size": size_of(weights, size),
            "asked": interpolate,
        }
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--transformers-5", type=pathlib.Path)
    parser.add_argument("--add", action="store_true", help="add weights and cases that have no goldens yet")
    parser.add_argument("--check", action="store_true", help="compare the goldens with what this transformers gives")
    parser.add_argument("--as-generation-5", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()

    import transformers

    transformers.logging.disable_progress_bar()
    if args.check:
        pictures = load_file(args.out / "pixels.safetensors")["pixels"]
        expected = load_file(args.out / "goldens.safetensors")
        old = transformers.__version__.startswith("4.")
        found = goldens(args.out, [case for case in CASES if not (old and only_5(case))], pictures)
        worst = max((values - expected[name].float()).abs().max().item() for name, values in found.items())
        print(f"transformers {transformers.__version__}: {len(found)} tensors, within {worst:.1e}")
        assert worst <= 2e-5, worst
        return
    if args.as_generation_5:
        assert transformers.__version__ == "5.23.0", transformers.__version__
        make_weights(args.out, [True])
        pictures = load_file(args.out / "pixels.safetensors")["pixels"]
        save_file(goldens(args.out, CASES, pictures), args.as_generation_5)
        text = json.dumps(generation_5(args.out), indent=0)
        (args.out / "generation_5.json").write_text(text + "\n", encoding="utf-8")
        return

    assert transformers.__version__ == "4.56.2", transformers.__version__
    if args.add:
        make_weights(args.out, [False], kept=True)
        pictures = load_file(args.out / "pixels.safetensors")["pixels"]
        kept = load_file(args.out / "goldens.safetensors")
        missing = [case for case in CASES if f"{case}.pooled" not in kept]
        assert not any(map(only_5, missing)), "needs --transformers-5"
        save_file({**kept, **goldens(args.out, missing, pictures)}, args.out / "goldens.safetensors")
        (args.out / "cases.json").write_text(json.dumps(cases_json(), indent=1) + "\n", encoding="utf-8")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(20260)
    pictures = torch.randn(2, 3, SIDE, SIDE).half()
    save_file({"pixels": pictures}, args.out / "pixels.safetensors")
    make_weights(args.out, [False])
    with tempfile.TemporaryDirectory() as scratch:
        theirs = pathlib.Path(scratch) / "goldens.safetensors"
        command = [sys.executable, *sys.argv, "--as-generation-5", str(theirs)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(args.transformers_5)})
        theirs = load_file(theirs)
    ours = goldens(args.out, [case for case in CASES if not only_5(case)], pictures)
    for name, values in ours.items():
        worst = (values - theirs[name]).abs().max().item()
        print(f"{name}: {values.abs().max():.2f} at most, 4.56.2 and 5.23.0 differ by at most {worst:.2e}")
        assert worst <= 2e-5, (name, worst)
    save_file({**theirs, **ours}, args.out / "goldens.safetensors")
    text = json.dumps(cases_json(), indent=1)
    (args.out / "cases.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
