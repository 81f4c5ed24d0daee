"""Makes the golden files of the text towers and of their tokenizers.

    python make_text_towers.py --out tests/golden/text --transformers-5 FOLDER
    python make_text_towers.py --out tests/golden/text --check

Versions: requirements.txt beside this file. The second command writes nothing: it compares tokens and features with what
the imported transformers gives. Of 5.24.0 (PYTHONPATH=FOLDER) features are the same within 1e-5, and tokens but for one
prompt of OTHER_TOKENS_IN_5. Everything is computed by transformers 4.56.2 from
random weights and from tokenizers that are trained on the text below. FOLDER holds transformers 5.23.0.

OUT/TOWER/                  the text half of a dual encoder:
    config.json             its text_config
    weights.safetensors     text_model.* (of the model alone for SigLIP, whose dual encoder has no projection) and text_projection.weight by the names that transformers 4.56.2 saves, 16 bits
    tokenizer files         as save_pretrained writes them
    generation_5_tokenizer_config.json  tokenizer_config.json of some, as transformers 5.23.0 writes it
    goldens.safetensors     for each GROUP of prompts: GROUP.input_ids, GROUP.attention_mask, GROUP.token_type_ids,
                            GROUP.position_ids [n, sequence], GROUP.pooled and GROUP.text_features; for CLIP also
                            legacy.text_features of the group `many` under eos_token_id 2
OUT/prompts.json            the prompts of each group
OUT/generation_5.json       for each tower, names of tensors that transformers 5.23.0 saves differently
"""

import argparse
import collections
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file

PROJECTION_DIM = 24  # of tests/golden/tiny, whose image tower goes with these text towers
TEXT = """
A photo of a cat. A photo of a dog. The quick brown fox jumps over the lazy dog, and nobody minds.
Two children play football in the park while it rains; a man in a yellow jacket rides his bicycle home.
The school bus stops at the corner of the street at 8:30, 12:15 and 17:45.
It's a naïve idea, they're told, but we've heard it before and I'd say we'll hear it again.
Une photo d'un chat et d'un chien sur l'herbe verte. L'été, la forêt est très belle près de la rivière.
Ein Foto von einem großen roten Kreis über dem grünen Hügel. Schöne Grüße aus München!
Фотография красного круга и зелёного треугольника на белом фоне.
猫と犬の写真。 红色的圆形和绿色的三角形。
صورة قطة في الحديقة.
"""
MANY = [
    "a photo of a cat",
    "",
    "A Photo of a RED circle.",
    " leading and trailing  spaces  ",
    "two\tdogs\nrun\r\non the   grass\u00a0now\u3000here",
    "Café, naïve: ÜBER! cafe\u0301 u\u0308ber \u00c5\u030a İstanbul ΣΊΣΥΦΟΣ",
    "狗 and 猫の写真と한국어",
    "صورة قطة שלום עולם",
    "😀 a 👩‍👩‍👧‍👦 family 🏳️‍🌈 flag",
    "control \x00\x01\x1b\x7f\x85 characters\u200b\ufeff\u00ad!",
    "<s> a </s> cat <pad> <mask> <unk> and [CLS] [MASK] [PAD] [SEP] [UNK] <|startoftext|> <|endoftext|>x<|endoftext|> <|ENDOFTEXT|>",
    "an <extra> token and an<extra>one",
    "it's they're WE'LL I'd don't 'tis o'clock's",
    "ﬁne ﬂour ½ ² Ⅷ ＡＢＣ １２３ ﷺ",
    "3.14159 8:30 1,000,000 user@example.com https://example.com/a_b-c?d=e#f",
    "▁underscore ▁▁ _x_ ## ##ing __",
    "Ünknown ωords ❄ \U0001f9ff \U00010348 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947",
]
GROUPS = {
    "many": MANY,
    "one": ["a photo of a dog."],
    "long": ["the very long prompt of a cat and a dog, " * 60 + "end"],
    # Padding on the left, whatever the tokenizer says.
    "left": MANY[:10:3],
}


def byte_level(folder, merges, special_tokens, suffix=""):
    """vocab.json and merges.txt of byte-level BPE: the alphabet, what merges make of it, and special tokens.

    The most frequent pair is merged first, of several the last in the order of strings, so that every run agrees.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: (ord(c) > 126, c))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = TEXT
    if suffix:
        text = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]).normalize_str(TEXT)
        words = pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", True)
        split = pre_tokenizers.Sequence([words, split])
    words = [[*word[:-1], word[-1] + suffix] for word, _ in split.pre_tokenize_str(text)]
    found = []
    for _ in range(merges):
        pairs = collections.Counter(pair for word in words for pair in zip(word, word[1:]))
        best, _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        found.append(best)
        for word in words:
            places = range(len(word) - 1, 0, -1)
            for place in places:
                if tuple(word[place - 1 : place + 1]) == best:
                    word[place - 1 : place + 1] = ["".join(best)]
    letters = [*alphabet, *[letter + suffix for letter in alphabet if suffix]]
    tokens = [*letters, *("".join(pair) for pair in found)]
    before, after = special_tokens
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*before, *tokens, *after]))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in found)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / "vocab.json"), str(folder / "merges.txt")


def roberta_tokenizer(folder, max_length):
    from transformers import RobertaTokenizerFast

    files = byte_level(folder, 60, (["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"]))
    return RobertaTokenizerFast(*files, model_max_length=max_length)


def clip_tokenizer(folder, max_length):
    from transformers import CLIPTokenizerFast

    files = byte_level(folder, 60, ([], ["<|startoftext|>", "<|endoftext|>"]), "</w>")
    return CLIPTokenizerFast(*files, model_max_length=max_length)


def bert_words():
    letters = sorted({c for c in TEXT.lower() if not c.isspace() and ord(c) < 0x500})
    words = "cat dog photo of a the red circle green grass two and very long prompt ##ing ##s ##ed run"
    return [*words.split(), *letters, *(f"##{c}" for c in letters if c.isalnum()), "狗", "猫", "写"]


def mpnet_tokenizer(folder, max_length):
    from transformers import MPNetTokenizerFast

    vocab = ["<s>", "<pad>", "</s>", "<unk>", *bert_words(), "[UNK]", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocab)) + "\n", encoding="utf-8")
    return MPNetTokenizerFast(str(folder / "vocab.txt"), model_max_length=max_length)


def bert_tokenizer(folder, max_length):
    from transformers import BertTokenizerFast

    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *bert_words()]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocab)) + "\n", encoding="utf-8")
    return BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=max_length, do_lower_case=False)


# What the model replaces before it looks for pieces: a few of the rules of nmt_nfkc, whose table is too large to keep.
CHARACTERS = {
    "\ufb01": "fi", "\ufb02": "fl", "\u00bd": "1\u20442", "\u00b2": "2", "\u2167": "VIII",
    "\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u0001": "", "\u001b": "", "\u007f": "",
    "\u200b": " ", "\ufeff": " ", "\u00ad": "", "e\u0301": "\u00e9", "u\u0308": "\u00fc", "A\u030a": "\u00c5",
    **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},
}  # fmt: skip


def sentencepiece_model(path, vocab_size, model_type="unigram", lower=False, **options):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    rules = path.with_suffix(".tsv")
    hexadecimal = lambda text: " ".join(f"{ord(c):X}" for c in text)
    table = {**CHARACTERS, **({chr(i): chr(i + 32) for i in range(65, 91)} if lower else {})}
    rules.write_text("".join(f"{hexadecimal(a)}\t{hexadecimal(b)}\n" for a, b in table.items()))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter((TEXT * 3).splitlines()),
        model_writer=model,
        vocab_size=vocab_size,
        model_type=model_type,
        character_coverage=0.995,
        normalization_rule_tsv=str(rules),
        minloglevel=2,
        num_threads=1,
        **options,
    )
    rules.unlink()
    parsed = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # The path of the rules is not part of the model.
    parsed.normalizer_spec.ClearField("normalization_rule_tsv")
    path.write_bytes(parsed.SerializeToString(deterministic=True))
    return str(path)


def xlm_roberta_tokenizer(folder, max_length):
    from transformers import XLMRobertaTokenizerFast

    file = sentencepiece_model(folder / "sentencepiece.bpe.model", 180)
    return XLMRobertaTokenizerFast(vocab_file=file, model_max_length=max_length)


def camembert_tokenizer(folder, max_length):
    from transformers import CamembertTokenizerFast

    file = sentencepiece_model(folder / "sentencepiece.bpe.model", 170)
    return CamembertTokenizerFast(vocab_file=file, model_max_length=max_length)


def siglip_tokenizer(folder, max_length):
    from transformers import SiglipTokenizer

    file = sentencepiece_model(folder / "spiece.model", 160, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return SiglipTokenizer(vocab_file=file, model_max_length=max_length, model_input_names=["input_ids"])


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "initializer_range": 0.3}


def towers():
    """Name: (configuration class, its keys, model class, tokenizer, longest prompt)."""
    import transformers as t

    small = {**SIZES, "num_attention_heads": 4}
    roberta = {**small, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
    clip = {**small, "initializer_factor": 5.0, "max_position_embeddings": 77}
    return {
        "bert": (t.BertConfig, {**small, "max_position_embeddings": 40, "hidden_act": "relu"}, t.BertModel,
                 bert_tokenizer, 512),
        "roberta": (t.RobertaConfig, {**roberta, "max_position_embeddings": 514, "layer_norm_eps": 1e-5},
                    t.RobertaModel, roberta_tokenizer, 512),
        "xlm-roberta": (t.XLMRobertaConfig, {**roberta, "max_position_embeddings": 66}, t.XLMRobertaModel,
                        xlm_roberta_tokenizer, 512),
        "camembert": (t.CamembertConfig, {**roberta, "max_position_embeddings": 42, "hidden_act": "gelu_new"},
                      t.CamembertModel, camembert_tokenizer, 30),
        "mpnet": (t.MPNetConfig, {**small, "max_position_embeddings": 514}, t.MPNetModel, mpnet_tokenizer, 512),
        "clip": (t.CLIPTextConfig, clip, t.CLIPTextModel, clip_tokenizer, 77),
        "siglip": (t.SiglipTextConfig, {**small, "max_position_embeddings": 64, "projection_size": 40},
                   t.SiglipTextModel, siglip_tokenizer, 64),
    }  # fmt: skip


def random_model(kind, keys, model_class, vocab_size, eos):
    config = kind(vocab_size=vocab_size, **keys)
    if eos is not None:
        config.eos_token_id = eos
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                # Biases and layer norms start at 0 and 1, where a mistake would not show.
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif "embedding" in name or "relative_attention_bias" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.7)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.4)
            # What is stored is what is computed with.
            parameter.copy_(parameter.to(torch.bfloat16).float())
    return model


AFTER_PADDING = ["roberta", "xlm-roberta", "camembert", "mpnet"]


def position_ids(name, model, ids):
    if name in AFTER_PADDING:
        # A function of the module in transformers 4, of the embeddings in 5.
        module = sys.modules[type(model).__module__]
        owner = module if hasattr(module, "create_position_ids_from_input_ids") else model.embeddings
        return owner.create_position_ids_from_input_ids(ids, 1)
    return torch.arange(ids.shape[1]).expand(ids.shape)


def goldens(name, model, tokenizer, projection):
    result = {}
    # As long as the tokenizer says, and no longer than there are positions.
    positions = model.config.max_position_embeddings - (2 if name in AFTER_PADDING else 0)
    max_length = min(tokenizer.model_max_length, positions)
    for group, prompts in GROUPS.items():
        side, pad_token = tokenizer.padding_side, tokenizer.pad_token
        if group == "left":
            tokenizer.padding_side = "left"
            if name == "clip":
                # By default the end of the text, whose first one is pooled.
                tokenizer.pad_token = "!"
        # SigLIP was trained on prompts of one length.
        padding = "max_length" if name == "siglip" else True
        options = {"padding": padding, "truncation": True, "max_length": max_length, "return_tensors": "pt"}
        # SigLIP's tokenizer leaves the mask out by itself: the model sees all tokens.
        tokens = tokenizer(prompts, **options)
        mask = tokenizer(prompts, **options, return_attention_mask=True)["attention_mask"]
        tokenizer.padding_side, tokenizer.pad_token = side, pad_token
        with torch.no_grad():
            given = {key: tensor for key, tensor in tokens.items() if key != "token_type_ids" or name == "bert"}
            pooled = model(**given).pooler_output
            features = projection(pooled)
        ids = tokens["input_ids"]
        integers = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": tokens.get("token_type_ids", torch.zeros_like(ids)),
            "position_ids": position_ids(name, model, ids),
        }
        assert ids.max() < 2**15
        result |= {f"{group}.{key}": np.ascontiguousarray(tensor.numpy().astype(np.int16)) for key, tensor in integers.items()}
        result |= {f"{group}.pooled": pooled.numpy(), f"{group}.text_features": features.numpy()}
        assert pooled.isfinite().all(), (name, group)
        # The tower must be able to tell prompts apart.
        if len(prompts) > 1:
            print(f"{name}: {group}: {ids.shape}, spread of features {features.std(0).mean():.3f}")
            assert features.std(0).mean() > 0.05, (name, group)
    return result


def make(name, folder):
    kind, keys, model_class, make_tokenizer, max_length = towers()[name]
    torch.manual_seed(sum(name.encode()))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder, max_length)
    if name == "clip":
        # An id above that of the end of the text, which the old rule of pooling takes for the end.
        tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    eos = tokenizer.eos_token_id if name == "clip" else None
    model = random_model(kind, keys, model_class, len(tokenizer), eos)
    prefix = "text_model."
    state = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    pooled_width = getattr(model.config, "projection_size", model.config.hidden_size)
    projection = torch.nn.Linear(pooled_width, PROJECTION_DIM, bias=False)
    with torch.no_grad():
        projection.weight.copy_((torch.randn_like(projection.weight) * 0.4).to(torch.bfloat16).float())
    state["text_projection.weight"] = projection.weight
    save_file({key: t.detach().to(torch.bfloat16).contiguous() for key, t in state.items()}, folder / "weights.safetensors")
    config = model.config.to_diff_dict()
    config = {key: value for key, value in config.items() if not key.startswith(("_", "transformers_version"))}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    arrays = goldens(name, model, tokenizer, projection)
    if name == "clip":
        model.text_model.eos_token_id = 2
        legacy = goldens(name, model, tokenizer, projection)
        arrays["legacy.text_features"] = legacy["many.text_features"]
    save_arrays(arrays, folder / "goldens.safetensors")
    path = folder / "tokenizer.json"
    if path.exists():
        path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False, separators=(",", ":")))
    return sorted(state)


# Prompts that the tokenizers of transformers 5 split in another way than those of 4.56.2, which this project follows.
# There, the mark of a space within a prompt is a piece of its own.
OTHER_TOKENS_IN_5 = {name: ["▁underscore ▁▁ _x_ ## ##ing __"] for name in ["xlm-roberta", "camembert"]}


def check(name, folder):
    """What the imported transformers, of whatever version, gives: the goldens, within 1e-5."""
    import transformers
    from transformers import AutoTokenizer, SiglipTokenizer

    kind, _, model_class, *_ = towers()[name]
    expected = load_arrays(folder / "goldens.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        state = {key: t.float() for key, t in load_torch(folder / "weights.safetensors").items()}
        projection = torch.nn.Linear(*reversed(state["text_projection.weight"].shape), bias=False)
        projection.weight.data.copy_(state.pop("text_projection.weight"))
        save_file({key.removeprefix("text_model."): t for key, t in state.items()}, scratch / "model.safetensors",
                  {"format": "pt"})  # fmt: skip
        (scratch / "config.json").write_text((folder / "config.json").read_text())
        model, info = model_class.from_pretrained(scratch, output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"] and not info["unexpected_keys"], (name, info)
    model.eval()
    worst = 0.0
    for group in [*GROUPS, *(["legacy"] if name == "clip" else [])]:
        if group == "legacy":
            getattr(model, "text_model", model).eos_token_id = 2
        integers = lambda key: torch.from_numpy(expected[f"{group.replace('legacy', 'many')}.{key}"].astype(np.int64))
        ids, mask, types = integers("input_ids"), integers("attention_mask"), integers("token_type_ids")
        given = {"input_ids": ids} if name == "siglip" else {"input_ids": ids, "attention_mask": mask}
        with torch.no_grad():
            found = model(**given, **({"token_type_ids": types} if name == "bert" else {})).pooler_output
            features = projection(found).numpy()
        assert torch.equal(position_ids(name, model, ids), integers("position_ids")), (name, group)
        differ = np.abs(features - expected[f"{group}.text_features"]).max()
        assert differ <= 1e-5, (name, group, differ)
        worst = max(worst, differ)
    # Only the files say which class it is: transformers 5 has one class where 4 has a fast and a slow one.
    tokenizer = (SiglipTokenizer if name == "siglip" else AutoTokenizer).from_pretrained(folder)
    longest = expected["long.input_ids"].shape[1]
    other = []
    for prompt, row, ones in zip(MANY, expected["many.input_ids"], expected["many.attention_mask"]):
        padding = "max_length" if name == "siglip" else False
        found = tokenizer(prompt, truncation=True, max_length=longest, padding=padding)["input_ids"]
        if found != row[: len(row) if name == "siglip" else ones.sum()].tolist():
            other.append(prompt)
    print(f"{name}: features within {worst:.1e}, tokens of {len(MANY) - len(other)} of {len(MANY)} prompts")
    known = OTHER_TOKENS_IN_5.get(name, []) if transformers.__version__.startswith("5.") else []
    assert other == [prompt for prompt in MANY if prompt in known], (name, other)


def generation_5_names(out):
    """Names that each tower's tensors have in a dual encoder (SigLIP: in a SigLIP model) saved by transformers 5."""
    from safetensors import safe_open
    from transformers import SiglipConfig, SiglipModel, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, ViTConfig

    vision = {**SIZES, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}
    result = {}
    for name, (kind, keys, *_) in towers().items():
        text = kind(vocab_size=60000 if name == "clip" else 300, **keys)
        if name == "siglip":
            model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision))
        else:
            model = VisionTextDualEncoderModel(
                VisionTextDualEncoderConfig.from_vision_text_configs(ViTConfig(**vision), text)
            )
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            with safe_open(f"{scratch}/model.safetensors", "pt") as file:
                saved = {key for key in file.keys() if key.startswith("text_")}
        assert saved == {key for key in model.state_dict() if key.startswith("text_")}, name
        result[name] = sorted(saved)
    out.write_text(json.dumps(result))


def generation_5_tokenizers(folder):
    """How transformers 5 writes tokenizer_config.json."""
    from transformers import CamembertTokenizer, CLIPTokenizer, RobertaTokenizer

    for name, kind in [("roberta", RobertaTokenizer), ("camembert", CamembertTokenizer), ("clip", CLIPTokenizer)]:
        with tempfile.TemporaryDirectory() as scratch:
            kind.from_pretrained(folder / name).save_pretrained(scratch)
            config = json.loads(pathlib.Path(f"{scratch}/tokenizer_config.json").read_text())
        path = folder / name / "generation_5_tokenizer_config.json"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--transformers-5", type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="compare the goldens with what this transformers gives")
    parser.add_argument("--names-of-5", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()

    import transformers

    if args.check:
        print("transformers", transformers.__version__)
        for name in towers():
            check(name, args.out / name)
        return
    if args.names_of_5:
        assert transformers.__version__ == "5.23.0", transformers.__version__
        generation_5_names(args.names_of_5)
        generation_5_tokenizers(args.out)
        return
    assert transformers.__version__ == "4.56.2", transformers.__version__
    names = {name: make(name, args.out / name) for name in towers()}
    (args.out / "prompts.json").write_text(json.dumps(GROUPS, indent=1, ensure_ascii=True) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, *sys.argv, "--names-of-5", f"{scratch}/names.json"]
        path = os.pathsep.join([str(args.transformers_5), os.environ.get("PYTHONPATH", "")])
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
        theirs = json.loads(pathlib.Path(f"{scratch}/names.json").read_text())
    renamed = {}
    for name, ours in names.items():
        # Each of our names ends as one of theirs does, and no name is left over on either side.
        short = lambda key: key.replace("text_model.text_model.", "text_model.")
        ours = [key for key in ours if not (name == "siglip" and "projection" in key)]
        assert sorted(map(short, ours)) == theirs[name], name
        renamed[name] = {key: short(key) for key in ours if key not in theirs[name]}
    (args.out / "generation_5.json").write_text(json.dumps(renamed, indent=1) + "\n")


if __name__ == "__main__":
    main()
