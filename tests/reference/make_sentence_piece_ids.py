"""Ids that transformers gives prompts by SentencePiece models alone, for tests/golden/text/sentence_piece_ids.json.

    python make_sentence_piece_ids.py [--check]

Updates the half of the imported version (4.56.2 or 5.24.0); with --check it compares and writes nothing. The models are
those of tests/golden/text, as they are and with some settings of their own changed:

    what         in words
    model        the file
    charsmap     whether the model keeps its table of characters
    normalizer   settings of SentencePiece's normalizer that are changed
    config       what tokenizer_config.json says beside the golden's
    prompts      each with its ids, without padding
"""

import argparse
import json
import pathlib
import shutil
import tempfile
import unicodedata

import transformers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import import_protobuf

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = ROOT / "tests/golden/text/sentence_piece_ids.json"
GOLDEN = ROOT / "tests/golden/text"
PROMPTS = [
    "a red kettle", "  Two  Sparrows!! and\t\nONE  tractor.\u2003", "", " ", "!?", "\u2581", "\u2581a \u2581 b", "a\x1cb\x85c\x00d",
    *(unicodedata.normalize("NFD", text) for text in ("\u0110\u00e8n bi\u1ec3n \u0111\u1ee9ng", "caf\u00e9", "\ud55c\uad6d\uc5b4")),
    "\u0399\u039f\u03a3 \u03a3 \u039f\u03a3a", "\u0130stanbul \uff21\ufb01\u2460", "</s>", "</S>", "<unk>", "a</s>", "</s>a", "a </s> b", "a<unk>!b",
    "</s></s> x", "\u180e\r\x1c", "\x85 x", "a\x85<unk>  ", "<mask> a", "a <mask>", "\u4e2d</s>\u4e2d", "<unk>\u732b!", "!</s>!", "</s>\u2581", "\u2581</s>", " </s> ", "<pad> a", "\U0001f469\u200d\U0001f680 a",
    "a b c d e f g h i j k l m n o p q", "\u0627\u0644\u0633\u0644\u0627\u0645",
]  # fmt: skip
CASES = [
    {"what": "XLM-R", "model": "xlm-roberta/sentencepiece.bpe.model"},
    {"what": "XLM-R, no table", "model": "xlm-roberta/sentencepiece.bpe.model", "charsmap": False},
    {"what": "CamemBERT", "model": "camembert/sentencepiece.bpe.model"},
    {"what": "as it is"},
    {"what": "no table", "charsmap": False, "config": {"do_lower_case": False}},
    {"what": "all spaces", "charsmap": False, "normalizer": {"remove_extra_whitespaces": False}},
    {"what": "table, all spaces, no prefix", "normalizer": {"remove_extra_whitespaces": False, "add_dummy_prefix": False}},
]  # fmt: skip


def tokenizer(case, folder):
    path = GOLDEN / case["model"]
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(path.parent / name, folder)
    model = import_protobuf().ModelProto.FromString(path.read_bytes())
    if not case["charsmap"]:
        model.normalizer_spec.precompiled_charsmap = b""
    for key, value in case["normalizer"].items():
        setattr(model.normalizer_spec, key, value)
    (folder / path.name).write_bytes(model.SerializeToString())
    config = json.loads((folder / "tokenizer_config.json").read_text()) | case["config"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    cases = []
    for case in CASES:
        # By which a file of the newer release is known.
        backend = {"backend": "sentencepiece"} if transformers.__version__ >= "5" else {}
        case = {"what": "", "model": "siglip/spiece.model", "charsmap": True, "normalizer": {}, "config": {}} | case
        case["config"] = {"model_max_length": 16, **backend, **case["config"]}
        with tempfile.TemporaryDirectory() as folder:
            made = tokenizer(case, pathlib.Path(folder))
        ids = [made(prompt, truncation=True, max_length=16)["input_ids"] for prompt in PROMPTS]
        cases.append({**case, "prompts": [list(pair) for pair in zip(PROMPTS, ids)]})
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    if check:
        assert golden[transformers.__version__] == cases, "other ids than those of the golden"
        return
    golden[transformers.__version__] = cases
    FILE.write_text(json.dumps(dict(sorted(golden.items())), separators=(",", ":")).replace('{"what"', '\n{"what"') + "\n")


if __name__ == "__main__":
    main()
