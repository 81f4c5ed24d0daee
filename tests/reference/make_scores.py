"""Makes the golden file of logits, probabilities and losses of batches.

    python make_scores.py --tiny tests/golden/tiny/checkpoint --out tests/golden/scores.safetensors

Versions: requirements.txt beside this file.

Each case is a batch of random pictures and token ids through a tiny model: `dual` is the VisionTextDualEncoder of --tiny,
`siglip` a SiglipModel with random weights. OUT holds, named KIND.IMAGESxTEXTS.SCALE.NAME: logit_scale, logit_bias
(siglip), image_embeds, text_embeds, logits_per_image, logits_per_text, probabilities (of logits_per_image), and loss
where there are as many pictures as texts.
"""

import argparse
import pathlib

import torch
from safetensors.torch import save_file
from transformers import SiglipConfig, SiglipModel, VisionTextDualEncoderModel

BATCHES = [(1, 1), (1, 17), (5, 3), (8, 8)]
# Logarithms: the models' own, one that makes all logits alike, one at which softmax and sigmoid saturate.
SCALES = {"usual": 2.6592, "small": -6.0, "large": 11.0}
BIAS = -3.25


def siglip():
    size = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4)
    vision = dict(size, image_size=30, patch_size=10)
    text = dict(size, vocab_size=90, max_position_embeddings=12, projection_size=32)
    return SiglipModel(SiglipConfig(vision_config=vision, text_config=text))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()

    torch.manual_seed(7)
    models = {"dual": VisionTextDualEncoderModel.from_pretrained(args.tiny), "siglip": siglip()}
    tensors = {}
    for kind, model in models.items():
        model.eval()
        for images, texts in BATCHES:
            pixels = torch.randn(images, 3, 30, 30)
            ids = torch.randint(5, 85, (texts, 12))
            for name, scale in SCALES.items():
                with torch.no_grad():
                    model.logit_scale.fill_(scale)
                    if kind == "siglip":
                        model.logit_bias.fill_(BIAS)
                    square = images == texts
                    out = model(pixel_values=pixels, input_ids=ids, return_loss=square)
                logits = out.logits_per_image
                case = {
                    "logit_scale": model.logit_scale.detach().reshape(1),
                    "image_embeds": out.image_embeds,
                    "text_embeds": out.text_embeds,
                    "logits_per_image": logits,
                    "logits_per_text": out.logits_per_text,
                    "probabilities": logits.sigmoid() if kind == "siglip" else logits.softmax(dim=-1),
                }
                if kind == "siglip":
                    case["logit_bias"] = model.logit_bias.detach().reshape(1)
                if square:
                    case["loss"] = out.loss.reshape(1)
                    print(f"{kind} {images}x{texts} {name}: loss {out.loss.item()}")
                tensors |= {f"{kind}.{images}x{texts}.{name}.{key}": t.clone().contiguous() for key, t in case.items()}
    save_file(tensors, args.out)


if __name__ == "__main__":
    main()
