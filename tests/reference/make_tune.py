"""Makes the golden files of tuning: gradients, losses and weights of PyTorch.

    python make_tune.py --out tests/golden/tune

Versions: requirements.txt beside this file. Each PAIR is a dual encoder of odd little towers with random weights, without
dropout, trained by torch.optim.AdamW on two batches in turn for 20 steps: warm-up and cosine, clipping of the gradients'
norm, logit scale at most ln 100. Locked towers and layers are in eval mode and without gradients.

OUT/PAIR.json         the config.json of the dual encoder
OUT/PAIR.safetensors  input_ids, attention_mask [2, batch, tokens]; pixel_values [2, batch, 3, height, width];
                      weight/NAME, the weights before training, by the names that save_pretrained writes, 16 bits;
                      gradient/NAME, the gradient of each parameter that has one in the first step with nothing locked;
                      losses/LOCK [20]; change/LOCK/NAME, by how much each trained weight changes in 20 steps, 16 bits.
                      LOCK is image, text, both, none, or last: the last layer of both towers.
"""

import argparse
import json
import math
import pathlib
import tempfile

import torch
from safetensors.torch import load_file, save_file

BATCH, TOKENS, STEPS, WARMUP = 5, 7, 20, 4
RATE, DECAY, NORM = 1e-3, 0.1, 1.0
SIZE = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=18)
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attention_dropout=0.0)
VIT = dict(**SIZE, **NO_DROPOUT, image_size=15, patch_size=5)
DINO = {**VIT, "mlp_ratio": 1.5}
BERT = dict(**SIZE, **NO_DROPOUT, vocab_size=29, max_position_embeddings=12, type_vocab_size=2)
ROBERTA = {**BERT, "pad_token_id": 1, "type_vocab_size": 1}
CLIP_TEXT = {**BERT, "hidden_act": "quick_gelu", "eos_token_id": 28, "bos_token_id": 27, "pad_token_id": 28}
BEIT = {**VIT, "drop_path_rate": 0.0}
# Image tower, text tower, side of the pictures, initial logit scale.
PAIRS = {
    "vit_bert": (("vit", VIT), ("bert", BERT), 15, 2.6592),
    "deit_roberta": (("deit", VIT), ("roberta", ROBERTA), 15, 2.6592),
    "beit_xlm": (
        (
            "beit",
            {
                **BEIT,
                "use_absolute_position_embeddings": True,
                "use_relative_position_bias": True,
                "use_shared_relative_position_bias": True,
                "use_mean_pooling": False,
            },
        ),
        ("xlm-roberta", ROBERTA),
        15,
        2.6592,
    ),
    "beit_bert": (
        ("beit", {**BEIT, "use_relative_position_bias": True, "layer_scale_init_value": 0.0, "hidden_act": "gelu_new"}),
        ("bert", {**BERT, "hidden_act": "relu"}),
        20,
        2.6592,
    ),
    "clip_clip": (("clip_vision_model", VIT), ("clip_text_model", CLIP_TEXT), 15, 4.604),
    "dinov2_bert": (("dinov2", DINO), ("bert", BERT), 20, 2.6592),
    "registers_roberta": (
        ("dinov2_with_registers", {**DINO, "num_register_tokens": 2, "use_swiglu_ffn": True}),
        ("roberta", ROBERTA),
        15,
        2.6592,
    ),
    "siglip_bert": (("siglip_vision_model", VIT), ("bert", BERT), 15, 2.6592),
}
LOCKS = ["none", "image", "text", "both", "last"]


def drawn(model):
    """Random weights in which every part matters, exact in half precision."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            if name == "logit_scale":
                continue
            if parameter.ndim == 1 and "norm" in name.lower() and name.endswith("weight"):
                values = 1 + 0.2 * values
            elif "lambda" in name:
                values = 0.7 + 0.3 * values
            elif parameter.ndim == 1 or "token" in name or "position" in name or "probe" in name or "bias" in name:
                values = 0.3 * values
            else:
                values = values * (0.9 / parameter[0].numel() ** 0.5)
            parameter.copy_(values.half().float())


def batches(text, side):
    pad, eos = text.pad_token_id, 28
    ids = torch.randint(3, 27, (2, BATCH, TOKENS))
    mask = torch.ones_like(ids)
    for row in range(BATCH):
        length = TOKENS - row % 4
        ids[:, row, length - 1] = eos
        ids[:, row, length:] = pad
        mask[:, row, length:] = 0
    pixels = torch.randn(2, BATCH, 3, side, side).half()
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def frozen(name, lock):
    """Whether the parameter `name` is not trained."""
    vision, text = name.startswith("vision_model."), name.startswith("text_model.")
    if lock == "last" and (vision or text):
        below = ["embeddings.", "pre_layrnorm", "layer.0.", "layers.0.", "encoder.relative_position_bias"]
        return any(part in name for part in below)
    return vision and lock in ["image", "both"] or text and lock in ["text", "both"]


def loss_of(model, data, step):
    batch = {name: values[step % 2] for name, values in data.items()}
    batch["pixel_values"] = batch["pixel_values"].float()
    return model(**batch, return_loss=True).loss


def share(step):
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def trained(folder, lock, data, out):
    from transformers import VisionTextDualEncoderModel

    model = VisionTextDualEncoderModel.from_pretrained(folder, attn_implementation="eager").train()
    if model.config.text_config.model_type == "clip_text_model":
        # The dual encoder passes token types, which this tower does not take.
        forward = model.text_model.forward
        model.text_model.forward = lambda token_type_ids, **arguments: forward(**arguments)
    groups = {True: [], False: []}
    before = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen(name, lock))
        if parameter.requires_grad:
            groups[parameter.ndim >= 2].append(parameter)
            before[name] = parameter.detach().clone()
    parameters = groups[True] + groups[False]
    options = [{"params": groups[True], "weight_decay": DECAY}, {"params": groups[False], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(options, lr=RATE, betas=(0.9, 0.98), eps=1e-6)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, data, step)
        loss.backward()
        if step == 0 and lock == "none":
            named = model.named_parameters()
            out |= {f"gradient/{name}": p.grad.clone() for name, p in named if p.grad is not None}
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, NORM).item())
        for group in optimizer.param_groups:
            group["lr"] = RATE * share(step)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        losses.append(loss.item())
    out[f"losses/{lock}"] = torch.tensor(losses)
    for name, parameter in model.named_parameters():
        if name in before and parameter.grad is not None:
            out[f"change/{lock}/{name}"] = (parameter.detach() - before[name]).half()
    print(f"  {lock}: losses {losses[0]:.4f} to {losses[-1]:.4f}, norms {min(norms):.3f} to {max(norms):.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()

    import transformers
    from transformers import AutoConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    transformers.logging.disable_progress_bar()
    assert transformers.__version__ == "4.56.2", transformers.__version__
    args.out.mkdir(parents=True, exist_ok=True)
    for number, (pair, (image, text, side, scale)) in enumerate(PAIRS.items()):
        print(pair)
        torch.manual_seed(30_000 + number)
        vision_config, text_config = [AutoConfig.for_model(kind, **values) for kind, values in [image, text]]
        config = VisionTextDualEncoderConfig.from_vision_text_configs(
            vision_config, text_config, projection_dim=10, logit_scale_init_value=scale
        )
        model = VisionTextDualEncoderModel(config)
        drawn(model)
        data = batches(text_config, side)
        out = dict(data)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            weights = load_file(pathlib.Path(folder) / "model.safetensors")
            text = json.loads((pathlib.Path(folder) / "config.json").read_text(encoding="utf-8"))
            (args.out / f"{pair}.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
            for lock in LOCKS:
                trained(folder, lock, data, out)
        for name, values in weights.items():
            out[f"weight/{name}"] = values if name == "logit_scale" else values.half()
        save_file({name: values.contiguous() for name, values in out.items()}, args.out / f"{pair}.safetensors")


if __name__ == "__main__":
    main()
