"""Makes the golden files of text towers whose configurations differ from those of make_text_towers.py.

    python make_text_variants.py --out tests/golden/text
    python make_text_variants.py --out tests/golden/text --check

Versions: requirements.txt beside this file. Everything is computed by transformers 4.56.2 from the weights and tokenizers
that make_text_towers.py made. The second command writes nothing: it compares features and tokens with what the imported
transformers gives.

OUT/variants.json            for each VARIANT its tower, changes to its text_config, the groups of prompts, and a factor
                             for the weights of all `intermediate.dense` layers, which takes activations beyond their bounds
OUT/variants.safetensors     VARIANT.weights.TENSOR: further tensors; VARIANT.GROUP.text_features of the group's golden
                             tokens; TOWER.truncated: token ids of the group `long` under truncation_side "left"
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file, save_file

ACTIVATIONS = [
    "gelu", "gelu_python", "gelu_10", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate", "quick_gelu", "silu",
    "swish", "mish", "relu", "relu2", "relu6", "leaky_relu", "laplace", "linear", "sigmoid", "tanh",
]  # fmt: skip
TOWERS = ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "clip", "siglip"]
# Tower, changes to its configuration, groups of prompts, factor.
VARIANTS = {
    **{name: ("bert", {"hidden_act": name}, ["left"], 8) for name in ACTIVATIONS},
    "mpnet_mish": ("mpnet", {"hidden_act": "mish"}, ["left"], 1),
    "clip_relu6": ("clip", {"hidden_act": "relu6"}, ["left"], 1),
    "layer_norm_eps_0": ("bert", {"layer_norm_eps": 0.0}, ["left"], 1),
    "bert_relative_key": ("bert", {"position_embedding_type": "relative_key"}, ["many", "long"], 1),
    "bert_relative_key_query": ("bert", {"position_embedding_type": "relative_key_query"}, ["left"], 1),
    "roberta_relative_key_query": ("xlm-roberta", {"position_embedding_type": "relative_key_query"}, ["many", "left"], 1),
}


def load(out, tower, changes, factor, further):
    from transformers import AutoConfig, AutoModel, CLIPTextModel

    config = json.loads((out / tower / "config.json").read_text())
    config = AutoConfig.for_model(**{**config, **changes})
    state = {name: t.float() for name, t in load_file(out / tower / "weights.safetensors").items()}
    projection = state.pop("text_projection.weight")
    state = {name.removeprefix("text_model."): t for name, t in {**state, **further}.items()}
    for name in state:
        if name.endswith("intermediate.dense.weight"):
            state[name] = state[name] * factor
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        save_file(state, pathlib.Path(scratch) / "model.safetensors", {"format": "pt"})
        kind = CLIPTextModel if tower == "clip" else AutoModel
        model, info = kind.from_pretrained(scratch, output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"] and not info["unexpected_keys"], (tower, info)
    return model.eval(), projection


def distance_tables(out, variant, tower):
    config = json.loads((out / tower / "config.json").read_text())
    generator = torch.Generator().manual_seed(sum(variant.encode()))
    shape = 2 * config["max_position_embeddings"] - 1, config["hidden_size"] // config["num_attention_heads"]
    name = "text_model.encoder.layer.{}.attention.self.distance_embedding.weight"
    # What is stored is what is computed with.
    table = lambda: (0.7 * torch.randn(shape, generator=generator)).to(torch.bfloat16).float()
    return {name.format(layer): table() for layer in range(config["num_hidden_layers"])}


def features(out, variant):
    tower, changes, groups, factor = VARIANTS[variant]
    further = distance_tables(out, variant, tower) if "position_embedding_type" in changes else {}
    model, projection = load(out, tower, changes, factor, further)
    result = {f"{variant}.weights.{name}": table.to(torch.bfloat16) for name, table in further.items()}
    goldens = load_file(out / tower / "goldens.safetensors")
    for group in groups:
        integers = lambda key: goldens[f"{group}.{key}"].long()
        given = {"input_ids": integers("input_ids"), "attention_mask": integers("attention_mask")}
        with torch.no_grad():
            found = model(**given, **({"token_type_ids": integers("token_type_ids")} if tower == "bert" else {}))
        values = found.pooler_output @ projection.T
        assert values.isfinite().all(), variant
        if len(values) > 1:
            print(f"{variant}: {group}: spread of features {values.std(0).mean():.3f}")
            assert values.std(0).mean() > 0.02, (variant, group)
        result[f"{variant}.{group}.text_features"] = values.contiguous()
    return result


def truncated(out, tower):
    from transformers import AutoTokenizer, SiglipTokenizer

    kind = SiglipTokenizer if tower == "siglip" else AutoTokenizer
    tokenizer = kind.from_pretrained(out / tower, truncation_side="left")
    prompt = json.loads((out / "prompts.json").read_text())["long"][0]
    longest = load_file(out / tower / "goldens.safetensors")["long.input_ids"].shape[1]
    padding = "max_length" if tower == "siglip" else False
    ids = tokenizer(prompt, truncation=True, max_length=longest, padding=padding)["input_ids"]
    return torch.tensor(ids, dtype=torch.int16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--check", action="store_true", help="compare the goldens with what this transformers gives")
    args = parser.parse_args()

    import transformers

    five = transformers.__version__.startswith("5.")
    # Transformers 5 has no relative positions in BERT.
    chosen = [name for name, (_, changes, *_) in VARIANTS.items() if not (five and "position_embedding_type" in changes)]
    found = {name: t for variant in chosen for name, t in features(args.out, variant).items()}
    found |= {f"{tower}.truncated": truncated(args.out, tower) for tower in TOWERS}
    if args.check:
        expected = load_file(args.out / "variants.safetensors")
        worst = max(np.abs(t.float().numpy() - expected[name].float().numpy()).max() for name, t in found.items())
        print(f"transformers {transformers.__version__}: {len(found)} tensors, within {worst:.1e}")
        assert worst <= 2e-5, worst
        return
    assert transformers.__version__ == "4.56.2", transformers.__version__
    save_file(found, args.out / "variants.safetensors")
    keys = ["tower", "text_config", "groups", "factor"]
    variants = {name: dict(zip(keys, values)) for name, values in VARIANTS.items()}
    (args.out / "variants.json").write_text(json.dumps(variants, indent=1) + "\n")


if __name__ == "__main__":
    main()
