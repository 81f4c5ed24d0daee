"""Ids that the tokenizer classes of the imported transformers give where tokenizer.json and tokenizer_config.json say other
things, for tests/golden/text/class_ids.json.

    python make_tokenizer_class_ids.py [--check]

Updates the half of its version (4.56.2 or 5.24.0); with --check it compares and writes nothing. Every supported class of the table of make_tokenizer_classes.py goes through
two tokenizers, of words and of bytes, and a few configurations; classes that give the same share a row:

    tokenizer   which of `tokenizers`
    config      what tokenizer_config.json says beside the class
    classes     names, as in tokenizer_class
    ids, types  of each of `prompts`; types are empty where the class gives none
    left        whether padding goes there
    mask        whether there is an attention mask
"""

import argparse
import json
import pathlib
import tempfile

import transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = ROOT / "tests/golden/text/class_ids.json"
VERSION = transformers.__version__.split(".")[0]
TABLE = json.loads((ROOT / "model-prep/src/checkpoint/tokenizer/classes.json").read_text())[VERSION]
PROMPTS = ["a A \u00e9", "ab b", "A<mask> a</s> b", "b a\nb^b a\n", "\nb\na$b\na"]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]",
           "cls_token": "[CLS]", "mask_token": "<mask>"}
# In the newer release most classes rebuild the tokenizer, from files that they saved themselves.
FIVE = ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "ConvBertTokenizer",
        "DPRReaderTokenizer", "GPTNeoXTokenizer"]
PLAIN = ["PreTrainedTokenizerFast", "NoSuchTokenizer"]


def words():
    letters = "a A b B e E \u00e9 ##a ##b ##e".split()
    made = Tokenizer(models.WordPiece(vocabulary(letters), unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    template(made, "[CLS]:2 $A:1 [SEP]:1" if VERSION == "4" else "[CLS]:0 $A:0 [SEP]:0")
    return made


def letters():
    made = Tokenizer(models.BPE(vocabulary("a A b \u0120 \u00c3 \u00a9 \u0120a \u0120b ab \u010a".split()),
                                [("\u0120", "a"), ("\u0120", "b"), ("a", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    template(made, "$A [SEP]")
    return made


def lines():
    """Patterns that match at every line in the library's rules, which are Ruby's."""
    made = letters()
    replace = [("^b", "A"), ("a$", "b"), ("[$^]b", "a"), (r"\^|\$", "A"), ("(?m:b.A)", "aA")]
    made.normalizer = normalizers.Sequence([normalizers.Replace(Regex(old), new) for old, new in replace])
    split = pre_tokenizers.Split(Regex("^a|b$"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
    return made


def vocabulary(pieces):
    # Tokens of all classes are there: none is added behind the vocabulary.
    own = [t if isinstance(t, str) else t[0] for row in TABLE.values() for t in row.get("tokens", {}).values()]
    further = [t for row in TABLE.values() for t in row.get("further", [])]
    return {piece: at for at, piece in enumerate(dict.fromkeys([*SPECIAL.values(), *pieces, *sorted({*own, *further})]))}


def template(made, single):
    tokens = [(t, made.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single=single, pair="$A $B", special_tokens=tokens)


def results(kind, made, config):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        made.save(str(folder / "tokenizer.json"))
        content = {"tokenizer_class": kind, "model_max_length": 16, **SPECIAL, **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(content))
        loaded = AutoTokenizer.from_pretrained(folder)
        prompts = [loaded(prompt) for prompt in PROMPTS]
    return {
        "ids": [prompt["input_ids"] for prompt in prompts],
        "types": [prompt.get("token_type_ids", []) for prompt in prompts],
        "left": loaded.padding_side == "left",
        "mask": "attention_mask" in prompts[0],
    }


MAKERS = {"words": words, "letters": letters, "lines": lines}


def taken():
    """The classes that read a tokenizer.json of any kind."""
    if VERSION == "5":
        return FIVE
    # CLIP and Pegasus take none but their own, SigLIP no tokenizer.json.
    own = ("CLIPTokenizer", "PegasusTokenizer", "SiglipTokenizer")
    return [name for name, row in TABLE.items() if "refused" not in row and name not in own]


def rows():
    configs = [("words", {}), ("words", {"do_lower_case": False, "tokenize_chinese_chars": False}), ("letters", {}),
               ("letters", {"add_bos_token": True, "add_eos_token": True}), ("letters", {"add_bos_token": False}),
               ("lines", {})]
    found = {}
    for tokenizer, config in configs:
        for kind in [*taken(), *(PLAIN if VERSION == "5" else PLAIN[:1])]:
            if VERSION == "5" and tokenizer == "letters" and kind not in ["GPTNeoXTokenizer", *PLAIN]:
                continue
            if VERSION == "5" and tokenizer == "words" and kind == "GPTNeoXTokenizer":
                continue
            # Its fast class refuses to add one.
            if kind == "CodeGenTokenizer" and config.get("add_bos_token"):
                continue
            # BERT's relatives expect its normaliser.
            if tokenizer == "letters" and "normalizer" in TABLE.get(kind, {}):
                continue
            if tokenizer == "lines" and kind not in PLAIN:
                continue
            made = MAKERS[tokenizer]()
            row = {"tokenizer": tokenizer, "config": config, **results(kind, made, config)}
            found.setdefault(json.dumps(row), []).append(kind)
    return [{**json.loads(row), "classes": kinds} for row, kinds in found.items()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    content = json.loads(FILE.read_text()) if FILE.exists() else {}
    half = {"special": SPECIAL, "prompts": PROMPTS, "rows": rows(),
            "tokenizers": {name: json.loads(make().to_str()) for name, make in MAKERS.items()}}
    if check:
        assert json.loads(json.dumps(half)) == content[VERSION], f"{FILE.name}: transformers {transformers.__version__} differs"
        print(f"{FILE.name}: as transformers {transformers.__version__} gives them")
    else:
        content = dict(sorted({**content, VERSION: half}.items()))
        FILE.write_text(json.dumps(content, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
