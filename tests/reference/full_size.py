"""Exports checkpoints of common sizes, with random weights, and prints a table of time, memory and agreement.

    full_size.py WORK --model-prep PROGRAM --spotter PROGRAM [--rows NAME ...]

Fails if an export needs more memory than 1.5 times the checkpoint. full_size.md has a table that it printed. Seven
image towers, each with one of BERT-base, RoBERTa-base and XLM-RoBERTa-base (a vocabulary of 250,002). WORK is a
folder on a disk with 4 GB free; a row's files are deleted when it is printed. Columns: size of the checkpoint; seconds
and peak memory of `model-prep export --weights int8` (in brackets: as a multiple of the checkpoint); size of the bundle;
milliseconds to load each tower; the worst absolute difference of embeddings between the float bundle and transformers,
and the smallest cosine between the int8 bundle and transformers, both over 4 random pictures and 4 prompts.
Needs requirements.txt.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import time

import numpy as np
import tokenizers
import torch
import transformers as t

PROMPTS = ["a photo of a dog", "two red circles on the grass", "night", "the very long prompt of a cat, " * 8]
BASE_768 = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
ROBERTA = {**BASE_768, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1,
           "max_position_embeddings": 514, "layer_norm_eps": 1e-5}  # fmt: skip
# The most memory of an export, by the size of the checkpoint.
PEAK_MAX = 1.5
# The library's small initial weights give every input nearly the same embedding, in which differences would not show.
INITIAL = {"initializer_range": 0.05}


def words(count):
    """That many different words of the letters a to z."""
    drawn = random.Random(1)
    found = dict.fromkeys("dog cat photo red circles grass night very long prompt".split())
    while len(found) < count:
        found["".join(drawn.choices("etaoinshrdlucmfwygpbvkxqjz", k=drawn.randint(2, 9)))] = None
    return list(found)


def bert_tokenizer(folder):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = [*vocabulary, *words(30_522 - len(vocabulary))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return t.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=512)


def roberta_tokenizer(_):
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator([" ".join(words(120_000))], vocab_size=50_265, special_tokens=special, show_progress=False)
    core = tokenizer._tokenizer
    core.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return t.RobertaTokenizerFast(tokenizer_object=core, model_max_length=512)


def xlm_roberta_tokenizer(_):
    pieces = [*(f"▁{word}" for word in words(250_002 - 5 - 28)), "▁", ".", *"abcdefghijklmnopqrstuvwxyz"]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scores = [*((token, 0.0) for token in special), *((p, -8.0 - len(p) / 4) for p in pieces), ("<mask>", 0.0)]
    core = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=3))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return t.XLMRobertaTokenizerFast(tokenizer_object=core, model_max_length=512)


def vit(**keys):
    return t.ViTConfig(image_size=224, **{**BASE_768, **INITIAL, **keys})


SMALL_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256,
               "initializer_range": 0.3}  # fmt: skip
TEXT = {
    "small BERT": (lambda: t.BertConfig(vocab_size=30_522, **{**BASE_768, **SMALL_SIZES}), bert_tokenizer),
    "BERT-base": (lambda: t.BertConfig(vocab_size=30_522, **BASE_768, **INITIAL), bert_tokenizer),
    "RoBERTa-base": (lambda: t.RobertaConfig(vocab_size=50_265, **ROBERTA, **INITIAL), roberta_tokenizer),
    "XLM-R-base": (lambda: t.XLMRobertaConfig(vocab_size=250_002, **ROBERTA, **INITIAL), xlm_roberta_tokenizer),
}
DEIT_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
BEIT = {"use_relative_position_bias": True, "use_absolute_position_embeddings": False, "use_mean_pooling": True,
        "layer_scale_init_value": 0.5}  # fmt: skip
CLIP = {"image_size": 224, "patch_size": 32, "initializer_factor": 2.5}
SWIN = {"image_size": 224, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
DINOV2 = {"hidden_size": 384, "num_attention_heads": 6, "mlp_ratio": 4, "image_size": 518, "patch_size": 14}
# Small enough for a test of this script; the program's own memory is more than its checkpoint.
SMALL = "small"
# Image tower, its configuration, its processor, the text tower beside it.
ROWS = {
    SMALL: (lambda: vit(patch_size=32, **SMALL_SIZES), t.ViTImageProcessor, "small BERT"),
    "ViT-B/16": (lambda: vit(patch_size=16), t.ViTImageProcessor, "BERT-base"),
    "ViT-B/32": (lambda: vit(patch_size=32), t.ViTImageProcessor, "RoBERTa-base"),
    "DeiT-tiny": (lambda: t.DeiTConfig(**{**BASE_768, **DEIT_TINY, **INITIAL}), t.DeiTImageProcessor, "XLM-R-base"),
    "BEiT-base": (lambda: t.BeitConfig(**BASE_768, **BEIT, **INITIAL), t.BeitImageProcessor, "BERT-base"),
    "CLIP-B/32": (lambda: t.CLIPVisionConfig(**BASE_768, **CLIP), t.CLIPImageProcessor, "RoBERTa-base"),
    "DINOv2-small": (lambda: t.Dinov2Config(**DINOV2, **INITIAL), t.BitImageProcessor, "XLM-R-base"),
    # This one runs in tract.
    "Swin-tiny": (lambda: t.SwinConfig(**SWIN, **INITIAL), t.ViTImageProcessor, "BERT-base"),
}


def make(folder, row):
    """Writes a checkpoint; returns the model and the tokenizer."""
    vision, processor, text = ROWS[row]
    text, make_tokenizer = TEXT[text]
    torch.manual_seed(7)
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(vision(), text(), projection_dim=512)
    model = t.VisionTextDualEncoderModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("cls_token") or "position_embeddings" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tokenizer = make_tokenizer(folder)
    tokenizer.save_pretrained(folder)
    keys = {"size": {"shortest_edge": 518}, "crop_size": 518} if row == "DINOv2-small" else {}
    processor(**keys).save_pretrained(folder)
    return model, tokenizer


@torch.no_grad()
def reference(model, tokenizer, pixels):
    """image_embeds and text_embeds of transformers."""
    image = model.get_image_features(torch.from_numpy(pixels))
    text = [model.get_text_features(**tokenizer(prompt, truncation=True, return_tensors="pt")) for prompt in PROMPTS]
    return tuple(torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in (image, torch.cat(text)))


def measured(command):
    """Runs a command; returns seconds and peak memory in bytes."""
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # Not getrusage, where a child's maximum starts with the memory of its parent.
    while process.poll() is None:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
        time.sleep(0.02)
    assert process.returncode == 0, command
    return time.monotonic() - start, peak * 1024


def size(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def embeddings(spotter, bundle, pixels):
    """Of the pictures and of the prompts, by the program."""
    command = [spotter, "bench", "--bundle", bundle, "--embed", "--tower"]
    images = subprocess.run([*command, "image"], input=pixels.tobytes(), stdout=subprocess.PIPE, check=True).stdout
    texts = subprocess.run([*command, "text"], input="\n".join([*PROMPTS, ""]).encode(), stdout=subprocess.PIPE, check=True)
    texts = [json.loads(line) for line in texts.stdout.splitlines()]
    return np.frombuffer(images, "<f4").reshape(len(pixels), -1), np.asarray(texts, np.float32)


def load_ms(spotter, bundle, tower):
    command = [spotter, "bench", "--bundle", bundle, "--tower", tower, "--stdin"]
    ready = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout
    return json.loads(ready.splitlines()[0])["load_ms"]


def run(args, row):
    folder = args.work / "full-size"
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint, int8, f32 = (folder / name for name in ("checkpoint", "int8", "f32"))
    model, tokenizer = make(checkpoint, row)
    pixels_of = {"DINOv2-small": 518}.get(row, 224)
    pixels = np.random.default_rng(3).standard_normal((4, 3, pixels_of, pixels_of)).astype(np.float32)
    expected = reference(model, tokenizer, pixels)
    for rows in expected:
        assert (rows @ rows.T)[0, 1:].max() < 0.99, f"{row}: every input has the same embedding"
    del model
    export = [args.model_prep, "export", checkpoint, "--out"]
    seconds, peak = measured([*export, int8, "--weights", "int8"])
    measured([*export, f32, "--weights", "f32"])
    floats = zip(embeddings(args.spotter, f32, pixels), expected)
    worst = max(np.abs(found - rows).max() for found, rows in floats)
    cosines = [(found * rows).sum(1).min() for found, rows in zip(embeddings(args.spotter, int8, pixels), expected)]
    loads = [load_ms(args.spotter, int8, tower) for tower in ("image", "text")]
    whole = size(checkpoint)
    print(f"| {row} + {ROWS[row][2]} | {whole / 1e6:.0f} | {seconds:.1f} | {peak / 1e6:.0f} ({peak / whole:.2f}x) "
          f"| {size(int8) / 1e6:.0f} | {loads[0]:.0f}, {loads[1]:.0f} | {worst:.1e} "
          f"| {cosines[0]:.5f}, {cosines[1]:.5f} |", flush=True)  # fmt: skip
    shutil.rmtree(folder)
    assert row == SMALL or peak <= PEAK_MAX * whole, f"{row}: {peak / whole:.2f} times the checkpoint, at most {PEAK_MAX} wanted"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--model-prep", type=pathlib.Path, required=True)
    parser.add_argument("--spotter", type=pathlib.Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[row for row in ROWS if row != SMALL])
    args = parser.parse_args()
    print("| towers | checkpoint MB | export s | peak MB | bundle MB | load ms, image, text | float: worst difference "
          "| int8: least cosine, image, text |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for row in args.rows:
        run(args, row)


if __name__ == "__main__":
    main()
