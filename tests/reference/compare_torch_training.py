"""Compares the speed of `model-prep tune` with PyTorch doing the same, on this machine, in turn.

    python compare_torch_training.py --model-prep target/release/model-prep [--steps 12] [--rounds 3] [--threads 1 2]
    python compare_torch_training.py small --model-prep target/debug/model-prep

Versions: requirements.txt beside this file. Two cases: `lit`, a BERT-base text tower with random weights and sentences of
32 tokens while the image tower is locked, in batches of 64; and `none`, a small pair with everything trained, in batches of
256: a ViT of 4 layers and width 192 on 48 x 48 pixels, and a BERT of 4 layers and width 256. Each round measures one after
the other; the table has the median of pairs per second, and `model-prep` as a share of PyTorch. `small` is one short round of
tiny towers, to see that everything runs.

Both train on the same number of pairs. For `model-prep`, the time is that of a run of N steps less that of one of a
single step, so that reading the checkpoint and the images, and evaluating, do not count.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

WORDS = [f"w{number}" for number in range(500)]
TOKENS = 32


def text_config(small):
    size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64) if small else {}
    return dict(vocab_size=30522, max_position_embeddings=512, **size)


def image_config(case, small):
    if case == "lit" or small:
        return dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=16)
    return dict(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768, image_size=48, patch_size=8)


def make(folder, case, small, pairs):
    """A checkpoint with random weights, and pictures with captions of TOKENS tokens."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import BertConfig, BertTokenizerFast, ViTConfig, ViTImageProcessor
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    torch.manual_seed(0)
    text = text_config(small or case == "none")
    if case == "none" and not small:
        text |= dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, vocab_size=8192)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**image_config(case, small)), BertConfig(**text), projection_dim=256
    )
    checkpoint = folder / "checkpoint"
    VisionTextDualEncoderModel(config).save_pretrained(checkpoint)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(checkpoint)
    side = config.vision_config.image_size
    ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(checkpoint)
    data = folder / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    # One more for evaluation.
    for number in range(pairs):
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(data / f"{number}.png")
        lines.append(f"{number}.png\t{' '.join(rng.choice(WORDS, TOKENS - 2))}\n")
    (data / "captions.tsv").write_text("".join(lines), encoding="utf-8")
    held = folder / "held"
    held.mkdir()
    for number in range(2):
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(held / f"{number}.png")
    (held / "captions.tsv").write_text("0.png\tw1\n1.png\tw2\n", encoding="utf-8")


def rust_seconds(program, folder, case, batch, steps, threads):
    """Seconds of a whole run of so many steps."""
    with tempfile.TemporaryDirectory() as out:
        # As many pairs as one epoch takes.
        data = folder / f"data-{steps}"
        if not data.exists():
            data.mkdir()
            lines = (folder / "data/captions.tsv").read_text(encoding="utf-8").splitlines(keepends=True)[: batch * steps]
            for line in lines:
                name = line.split("\t")[0]
                os.link(folder / "data" / name, data / name)
            (data / "captions.tsv").write_text("".join(lines), encoding="utf-8")
        command = [program, "tune", folder / "checkpoint", "--data", data, "--eval", folder / "held", "--out", f"{out}/out"]
        command += ["--lock", "image" if case == "lit" else "none", "--batch", str(batch), "--epochs", "1", "--warmup", "1"]
        start = time.perf_counter()
        limits = {"RAYON_NUM_THREADS": str(threads), "RUST_LOG": "error"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **limits})
        return time.perf_counter() - start


def torch_worker(args):
    """Trains in this process, and prints the pairs per second."""
    import torch
    from transformers import VisionTextDualEncoderModel
    from transformers.models.vision_text_dual_encoder.modeling_vision_text_dual_encoder import clip_loss

    torch.set_num_threads(args.threads[0])
    model = VisionTextDualEncoderModel.from_pretrained(args.folder / "checkpoint").train()
    lit = args.case == "lit"
    if lit:
        model.vision_model.requires_grad_(False).eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    ids = torch.randint(5, 500, (args.batch, TOKENS))
    side = model.config.vision_config.image_size
    pixels = torch.randn(args.batch, 3, side, side)
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=pixels).pooler_output

    def step():
        optimizer.zero_grad(set_to_none=True)
        images = pooled if lit else model.vision_model(pixel_values=pixels).pooler_output
        images = model.visual_projection(images)
        texts = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        images = images / images.norm(dim=-1, keepdim=True)
        texts = texts / texts.norm(dim=-1, keepdim=True)
        clip_loss(texts @ images.T * model.logit_scale.exp()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    step()
    start = time.perf_counter()
    for _ in range(args.steps - 1):
        step()
    print(json.dumps((args.steps - 1) * args.batch / (time.perf_counter() - start)))


def torch_rate(args, folder, case, batch, threads):
    command = [sys.executable, __file__, "torch", "--folder", folder, "--case", case, "--batch", batch]
    command += ["--steps", args.steps, "--threads", threads]
    found = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return float(found.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", nargs="?", choices=["full", "small", "torch"], default="full")
    parser.add_argument("--model-prep", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="+", choices=["lit", "none"], default=["lit", "none"])
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.form == "torch":
        torch_worker(args)
        return
    small = args.form == "small"
    if small:
        args.steps, args.rounds, args.threads = 3, 1, [1]
    print("| case | threads | PyTorch, pairs/s | model-prep, pairs/s | share |\n|---|---|---|---|---|")
    for case in args.cases:
        batch = args.batch or (8 if small else 64 if case == "lit" else 256)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            make(folder, case, small, batch * args.steps)
            for threads in args.threads:
                rates = {"torch": [], "rust": []}
                for _ in range(args.rounds):
                    rates["torch"].append(torch_rate(args, folder, case, batch, threads))
                    spent = [rust_seconds(args.model_prep, folder, case, batch, n, threads) for n in [1, args.steps]]
                    rates["rust"].append((args.steps - 1) * batch / max(spent[1] - spent[0], 1e-9))
                theirs, ours = [statistics.median(rates[name]) for name in ["torch", "rust"]]
                print(f"| {case} | {threads} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
