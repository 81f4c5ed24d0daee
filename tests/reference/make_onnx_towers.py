"""Makes towers as written by other exporters, and their outputs.

    python make_onnx_towers.py --out tests/golden/onnx

Versions: requirements.txt beside this file. A tiny random ViT + BERT dual encoder, exported by both of torch's exporters:

OUT/script/vision.onnx   get_image_features by the older exporter, open batch
OUT/script/text.onnx     get_text_features, open batch and sequence
OUT/dynamo/vision.onnx   pooler_output of the image tower by the newer exporter, fixed batch, weights in a file beside
OUT/dynamo/text.onnx     get_text_features by the newer exporter, weights in a file beside
OUT/tokenizer/           tokenizer.json and tokenizer_config.json
OUT/goldens.safetensors  pixel_values, input_ids, attention_mask, token_type_ids, image_features, text_features,
                         visual_projection, as transformers 4.56.2 computes them
"""

import argparse
import pathlib

import onnx
import torch
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer
from transformers import (
    BertConfig,
    BertTokenizerFast,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
)

PROMPTS = ["a cat", "a photo of a red circle", "two dogs", "green"]
WORDS = "a cat dog ##s photo of red circle two green".split()


def strip(path):
    """Removes the exporters' notes about their own source code, which are half of a small file."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    onnx.save(model, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    for folder in ["script", "dynamo", "tokenizer"]:
        (out / folder).mkdir(parents=True, exist_ok=True)

    (out / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8")
    tokenizer = BertTokenizerFast(tokenizer_object=BertWordPieceTokenizer(str(out / "vocab.txt"))._tokenizer)
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(out / "tokenizer")
    (out / "vocab.txt").unlink()
    for name in ["vocab.txt", "special_tokens_map.json"]:
        (out / "tokenizer" / name).unlink()

    torch.manual_seed(7)
    common = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = ViTConfig(**common, image_size=20, patch_size=5, initializer_range=0.2)
    text = BertConfig(**common, vocab_size=len(tokenizer), max_position_embeddings=16, initializer_range=0.2)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=12)
    model = VisionTextDualEncoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)

    pixels = torch.randn(3, 3, 20, 20)
    ids = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    texts = (ids["input_ids"], ids["attention_mask"], ids["token_type_ids"])
    names = ["input_ids", "attention_mask", "token_type_ids"]

    def image_features(pixel_values):
        return model.get_image_features(pixel_values)

    def pooler_output(image):
        return model.vision_model(image).pooler_output

    def text_features(input_ids, attention_mask, token_type_ids):
        return model.get_text_features(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)

    class Call(torch.nn.Module):
        def __init__(self, function):
            super().__init__()
            self.model, self.forward = model, function
            # The exporters put a module back into the mode that they found it in.
            self.eval()

    sequence = {0: "batch", 1: "sequence"}
    torch.onnx.export(
        Call(image_features), (pixels[:1],), out / "script/vision.onnx", dynamo=False, opset_version=17,
        input_names=["pixel_values"], output_names=["image_features"], dynamic_axes={"pixel_values": {0: "batch"}},
    )  # fmt: skip
    torch.onnx.export(
        Call(text_features), tuple(t[:1] for t in texts), out / "script/text.onnx", dynamo=False, opset_version=17,
        input_names=names, output_names=["sentence"], dynamic_axes={name: sequence for name in names},
    )  # fmt: skip
    torch.onnx.export(
        Call(pooler_output), (pixels[:1],), out / "dynamo/vision.onnx", dynamo=True, opset_version=18,
        external_data=True, input_names=["image"], output_names=["pooled"],
    )  # fmt: skip
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", min=2, max=16)}
    torch.onnx.export(
        Call(text_features), texts, out / "dynamo/text.onnx", dynamo=True, opset_version=18, external_data=True,
        input_names=names, output_names=["sentence"], dynamic_shapes=(dynamic,) * 3,
    )  # fmt: skip
    for path in out.glob("*/*.onnx"):
        strip(path)
    with torch.no_grad():
        save_file(
            {
                "pixel_values": pixels,
                **{name: tensor.contiguous() for name, tensor in zip(names, texts)},
                "image_features": image_features(pixels),
                "text_features": text_features(*texts),
                "visual_projection": model.visual_projection.weight.contiguous(),
            },
            out / "goldens.safetensors",
        )


if __name__ == "__main__":
    main()
