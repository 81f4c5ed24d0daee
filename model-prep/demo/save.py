"""Step 6: saves the checkpoint with transformers: a VisionTextDualEncoder with tokenizer and image processor.

    python save.py --work WORK [--preset cpu|gpu] [--mean-with CHECKPOINT [--share 0.7]] --out model-prep/demo/checkpoint

With --mean-with, the image tower is a weighted mean of the trained one, with the weight --share (0.5), and that of the
checkpoint from which `image.py` started, which reduces forgetting (Wortsman et al., "Robust fine-tuning of zero-shot models",
2022)."""

import argparse
import pathlib

import torch
import transformers

import image
import towers
import tune


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--preset", choices=image.PRESETS, required=True)
    parser.add_argument("--mean-with", type=pathlib.Path)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    module = tune.load(torch.nn.ModuleDict({
        "image": towers.ImageTower(image.PRESETS[arguments.preset]["tower"]), "text": towers.TextTower(), "scale": image.Scale(),
    }), arguments.work / f"tuned-{arguments.preset}.pt")
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        module["image"].model.config, module["text"].model.config, projection_dim=towers.EMBEDDING)
    model = transformers.VisionTextDualEncoderModel(config)
    model.vision_model.load_state_dict(module["image"].model.state_dict())
    model.text_model.load_state_dict(module["text"].model.state_dict())
    model.visual_projection.load_state_dict(module["image"].projection.state_dict())
    model.text_projection.load_state_dict(module["text"].projection.state_dict())
    model.logit_scale.data.copy_(module["scale"].log_scale.data)
    if arguments.mean_with:
        earlier = transformers.VisionTextDualEncoderModel.from_pretrained(arguments.mean_with)
        # Training started from a rotated copy of that checkpoint; the text towers give the rotation.
        turn = towers.turn(earlier.text_projection.weight.data, model.text_projection.weight.data)
        earlier.visual_projection.weight.data = turn @ earlier.visual_projection.weight.data
        for part in ("vision_model", "visual_projection"):
            pairs = zip(getattr(model, part).parameters(), getattr(earlier, part).parameters(), strict=True)
            for mine, theirs in pairs:
                mine.data.lerp_(theirs.data, 1 - arguments.share)
        model.logit_scale.data.lerp_(earlier.logit_scale.data, 1 - arguments.share)
    model.eval().save_pretrained(arguments.out)

    side = config.vision_config.image_size
    transformers.ViTImageProcessor(size={"height": side, "width": side}, resample=2, image_mean=[0.5] * 3,
                                   image_std=[0.5] * 3).save_pretrained(arguments.out)
    transformers.BertTokenizerFast(vocab_file=str(arguments.work / "vocab.txt"), do_lower_case=True,
                                   model_max_length=towers.TEXT["max_position_embeddings"]).save_pretrained(arguments.out)
    _, found = transformers.VisionTextDualEncoderModel.from_pretrained(arguments.out, output_loading_info=True)
    wrong = {kind: keys for kind, keys in found.items() if keys}
    if wrong:
        raise SystemExit(f"{arguments.out}: transformers cannot load what it saved: {wrong}")
    print(f"{arguments.out}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
