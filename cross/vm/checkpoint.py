"""Writes a checkpoint of ViT-B/32 and BERT-base with random weights; needs no package.

    python3 checkpoint.py FOLDER

Its results are meaningless; its size is that of real checkpoints. Weights have 16 bits (bfloat16).
"""

import json
import pathlib
import random
import struct
import sys

DEMO = pathlib.Path(__file__).resolve().parents[2] / "config/demo"
WIDTH, INNER, PATCH, PROJECTION = 768, 3072, 32, 512
IMAGE, VOCABULARY, POSITIONS = 224, 30_522, 512
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": INNER}

# A random byte becomes a sign and an exponent, so that values are as large as trained ones: from 0.008 to 0.03.
UPPER = bytes(0xBC if byte & 1 else 0x3C for byte in range(256))
ONE = struct.pack("<H", 0x3F80)


def tower(prefix, layer, names):
    """Names and shapes of twelve layers; `layer` is the pattern of a layer's prefix."""
    query, key, value, out, inner, outer, norms = names
    shapes = {}
    for number in range(12):
        at = prefix + layer.format(number)
        for name in (query, key, value, out):
            shapes |= {f"{at}{name}.weight": (WIDTH, WIDTH), f"{at}{name}.bias": (WIDTH,)}
        shapes |= {f"{at}{inner}.weight": (INNER, WIDTH), f"{at}{inner}.bias": (INNER,)}
        shapes |= {f"{at}{outer}.weight": (WIDTH, INNER), f"{at}{outer}.bias": (WIDTH,)}
        for norm in norms:
            shapes |= {f"{at}{norm}.weight": (WIDTH,), f"{at}{norm}.bias": (WIDTH,)}
    return shapes | {f"{prefix}pooler.dense.weight": (WIDTH, WIDTH), f"{prefix}pooler.dense.bias": (WIDTH,)}


def tensors():
    """Names and shapes, as transformers 4 has them."""
    vision, text = "vision_model.", "text_model."
    attention = ["attention.output.dense", "intermediate.dense", "output.dense"]
    vit = [f"attention.attention.{name}" for name in ("query", "key", "value")] + attention
    bert = [f"attention.self.{name}" for name in ("query", "key", "value")] + attention
    shapes = tower(vision, "encoder.layer.{}.", [*vit, ["layernorm_before", "layernorm_after"]])
    shapes |= tower(text, "encoder.layer.{}.", [*bert, ["attention.output.LayerNorm", "output.LayerNorm"]])
    for norm in (f"{vision}layernorm", f"{text}embeddings.LayerNorm"):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return shapes | {
        f"{vision}embeddings.cls_token": (1, 1, WIDTH),
        f"{vision}embeddings.position_embeddings": (1, (IMAGE // PATCH) ** 2 + 1, WIDTH),
        f"{vision}embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        f"{vision}embeddings.patch_embeddings.projection.bias": (WIDTH,),
        f"{text}embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        f"{text}embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        f"{text}embeddings.token_type_embeddings.weight": (2, WIDTH),
        "visual_projection.weight": (PROJECTION, WIDTH),
        "text_projection.weight": (PROJECTION, WIDTH),
        "logit_scale": (),
    }


def values(name, count, chance):
    if name.endswith("orm.weight") or "layernorm_" in name and name.endswith("weight"):
        return ONE * count
    if name == "logit_scale":
        return struct.pack("<f", 2.6592)[2:]
    mixed = bytearray()
    for start in range(0, count, 1 << 22):
        drawn = chance.randbytes(2 * min(1 << 22, count - start))
        part = bytearray(drawn)
        part[1::2] = drawn[1::2].translate(UPPER)
        mixed += part
    return bytes(mixed)


def write_weights(path):
    header, offset, shapes = {}, 0, tensors()
    counts = {}
    for name, shape in shapes.items():
        counts[name] = 1
        for side in shape:
            counts[name] *= side
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + 2 * counts[name]]}
        offset += 2 * counts[name]
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    chance = random.Random(1)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, count in counts.items():
            file.write(values(name, count, chance))


def tokenizer():
    """The demo's vocabulary, filled up with unused words to the size of BERT's."""
    found = json.loads((DEMO / "tokenizer.json").read_text())
    words = found["model"]["vocab"]
    for number in range(len(words), VOCABULARY):
        words[f"##unused{number}"] = number
    return found


def main(folder):
    folder.mkdir(parents=True)
    config = {
        "model_type": "vision-text-dual-encoder",
        "architectures": ["VisionTextDualEncoderModel"],
        "projection_dim": PROJECTION,
        "logit_scale_init_value": 2.6592,
        "vision_config": {"model_type": "vit", "image_size": IMAGE, "patch_size": PATCH, "num_channels": 3,
                          "hidden_act": "gelu", "qkv_bias": True, "layer_norm_eps": 1e-12, **SIZES},
        "text_config": {"model_type": "bert", "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS,
                        "type_vocab_size": 2, "pad_token_id": 0, "hidden_act": "gelu", "layer_norm_eps": 1e-12, **SIZES},
    }  # fmt: skip
    half = [0.5, 0.5, 0.5]
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": IMAGE, "width": IMAGE},
                 "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
                 "image_mean": half, "image_std": half}  # fmt: skip
    special = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
    for name, content in {
        "config.json": config,
        "preprocessor_config.json": processor,
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": POSITIONS,
                                  **special},  # fmt: skip
    }.items():
        (folder / name).write_text(json.dumps(content))
    write_weights(folder / "model.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
