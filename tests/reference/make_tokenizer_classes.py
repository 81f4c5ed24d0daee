"""Writes down what the tokenizer classes of the imported transformers decide when tokenizer_config.json is silent.

    python make_tokenizer_classes.py [--check]

Reads every class that a name in tokenizer_config.json can lead to, and updates the half of its version (4.56.2 or 5.24.0)
in model-prep/src/checkpoint/tokenizer/classes.json; with --check it compares and writes nothing.

For each class (names that end in Fast lead to the same class, unless they are listed themselves):

    side            "left" where padding goes there; truncation is on the right for all
    mask            false where the attention mask is not among model_input_names
    types           true where token_type_ids is
    pad_type        token type of padding, where it is not 0
    prefix_space    default of add_prefix_space, where the class has one; "file" where tokenizer.json is left as it is
    normalizer      "bert": do_lower_case, strip_accents and tokenize_chinese_chars replace what tokenizer.json says;
                    "case": the first two only
    lowercase       default of do_lower_case, where it is false
    bos_eos         defaults of add_bos_token and add_eos_token, where the class builds its post-processor of them
    tokens          special tokens given as plain strings: their content, or [content, lstrip, rstrip, normalized]
    further         further special tokens
    refused         why ids of the class cannot be had from tokenizer.json
"""

import argparse
import importlib
import inspect
import json
import pathlib
import re

import transformers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

FILE = pathlib.Path(__file__).resolve().parents[2] / "model-prep/src/checkpoint/tokenizer/classes.json"
VERSION = transformers.__version__.split(".")[0]
KEYS = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
LANGUAGES = "MBart MBart50 Nllb SeamlessM4T PLBart".split()


def classes():
    """All tokenizer classes by name; modules that need packages that are not there have none for text."""
    found = {}
    root = pathlib.Path(transformers.models.__file__).parent
    for file in sorted(root.glob("*/tokenization_*.py")):
        if file.stem in ("tokenization_bert_tf", "tokenization_gpt2_tf", "tokenization_pop2piano", "tokenization_auto"):
            continue
        module = importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}")
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and issubclass(kind, PreTrainedTokenizerBase) and kind.__module__ == module.__name__:
                found[name] = kind
    return found


def initializer(kind):
    """The source of every __init__ between the class and the base of all."""
    base = PreTrainedTokenizerBase if VERSION == "4" else transformers.TokenizersBackend
    base = transformers.PreTrainedTokenizerFast if VERSION == "4" else base
    own = [c for c in kind.__mro__ if "__init__" in vars(c) and issubclass(c, base) and c is not base]
    return "\n".join(inspect.getsource(c.__init__) for c in own)


def signature(kind):
    for c in kind.__mro__:
        if "__init__" in vars(c):
            parameters = inspect.signature(c.__init__).parameters
            yield from ((k, v.default) for k, v in parameters.items() if v.default is not inspect._empty)


def instance(kind):
    """One with the least vocabulary, whose special tokens are those of the class."""
    backend = Tokenizer(models.BPE(vocab={"a": 0}, merges=[], end_of_word_suffix=""))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return kind(tokenizer_object=backend)


def token(made, value):
    content = str(value)
    flags = next((t for t in made.added_tokens_decoder.values() if t.content == content), None)
    flags = value if isinstance(value, AddedToken) else flags
    return entry(content, *([flags.lstrip, flags.rstrip, flags.normalized] if flags else [False, False, False]))


def entry(content, *flags):
    return [content, *flags] if any(flags) else content


def facts(name, kind):
    given = {}
    for key, value in signature(kind):
        given.setdefault(key, value)
    row = {}
    python = VERSION == "4" and not issubclass(kind, transformers.PreTrainedTokenizerFast)
    python |= VERSION == "5" and not issubclass(kind, transformers.TokenizersBackend)
    if kind.padding_side != "right" or given.get("padding_side", "right") != "right":
        row["side"] = given.get("padding_side", kind.padding_side)
    assert kind.truncation_side == "right", name
    if "attention_mask" not in kind.model_input_names:
        row["mask"] = False
    if "token_type_ids" in kind.model_input_names:
        row["types"] = True
    if python:
        if name != "SiglipTokenizer":
            row["refused"] = "it runs in Python and looks at no tokenizer.json"
        tokens = {key: given[key] for key in KEYS if isinstance(given.get(key), (str, AddedToken))}
        if name == "SiglipTokenizer":
            row["tokens"] = {k: entry(str(v), True, True, False) for k, v in tokens.items()}
        return row
    if any(name.startswith(language + "Tok") for language in LANGUAGES):
        row["refused"] = "it adds the token of a language"
    elif name.startswith("MarkupLM") or "boxes" in inspect.signature(kind.__call__).parameters:
        row["refused"] = "its text comes with boxes or nodes of a page"
    elif "Jieba" in initializer(kind) or name.startswith("CpmTok"):
        row["refused"] = "it splits words by rules of its own"
    source = initializer(kind)
    if "lowercase" in source and "normalizer" in source and VERSION == "4":
        row["normalizer"] = "bert" if "handle_chinese_chars" in source else "case"
    # The newer release rebuilds the tokenizer if the class itself defines how.
    own = inspect.getsource(vars(kind)["__init__"]) if "__init__" in vars(kind) else ""
    if VERSION == "5" and "BertNormalizer(" in source and "do_lower_case=do_lower_case" in own:
        row["normalizer"] = "bert"
    if given.get("do_lower_case") is False:
        row["lowercase"] = False
    if "add_prefix_space" in given:
        row["prefix_space"] = "file" if given["add_prefix_space"] is None else given["add_prefix_space"]
    if "update_post_processor()" in source and VERSION == "4":
        row["bos_eos"] = [given["add_bos_token"], given["add_eos_token"]]
    # It reads neither key where there is a tokenizer.json.
    if VERSION == "5" and name == "GPTNeoXTokenizer" and "self.update_post_processor()" in source:
        row["bos_eos"] = [False, False]
    if "refused" in row:
        return row
    if VERSION == "4":
        made = instance(kind)
        pad_type = made.pad_token_type_id
        special = {k: v for k, v in made._special_tokens_map.items() if k in KEYS and v is not None}
        row["tokens"] = {k: token(made, v) for k, v in special.items()}
        further = [str(t) for t in made._special_tokens_map.get("additional_special_tokens") or []]
        # T5's and Pegasus' hundred are in every tokenizer.json of theirs.
        if 0 < len(further) < 8:
            row["further"] = further
        if pad_type:
            row["pad_type"] = pad_type
    else:
        special = {k: given[k] for k in KEYS if isinstance(given.get(k), (str, AddedToken))}
        lstrip = {k for k in KEYS if re.search(rf"AddedToken\({k}, lstrip=True", source)}
        row["tokens"] = {k: entry(str(v), k in lstrip, False, False) for k, v in special.items()}
        further = re.search(r"additional_special_tokens = (\[\".*\])", source)
        if further:
            row["further"] = json.loads(further[1])
    return row


def table():
    found = classes()
    if VERSION == "4":
        # AutoTokenizer takes the fast class of a name where there is one.
        names = {name.removesuffix("Fast"): found.get(name.removesuffix("Fast") + "Fast", kind) for name, kind in found.items()}
    else:
        names = dict(found)
    rows = {}
    for name, kind in sorted(names.items()):
        rows[name] = facts(name, kind)
    if VERSION == "5":
        # A name in Fast that means what the plain one means.
        for name in content["4"]:
            kind = tokenizer_class_from_name(name)
            if name not in rows and kind is not None and kind.__name__ in rows:
                rows[name] = rows[kind.__name__]
        rows = dict(sorted(rows.items()))
        rows = {n: r for n, r in rows.items() if not (n.endswith("Fast") and rows.get(n[:-4]) == r)}
    return rows


def text(content):
    """One class a line."""
    versions = []
    for version, rows in sorted(content.items()):
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row, ensure_ascii=True)}" for name, row in rows.items())
        versions.append(f'"{version}": {{\n{lines}\n}}')
    return "{" + ",\n".join(versions) + "}\n"


parser = argparse.ArgumentParser()
parser.add_argument("--check", action="store_true")
check = parser.parse_args().check
content = json.loads(FILE.read_text()) if FILE.exists() else {}
rows = table()
if check:
    different = [n for n in {*rows, *content[VERSION]} if rows.get(n) != content[VERSION].get(n)]
    assert not different, f"{FILE.name}: other than transformers {transformers.__version__}: {sorted(different)}"
    print(f"{FILE.name}: {len(rows)} classes of transformers {transformers.__version__} are as written down")
else:
    FILE.write_text(text({**content, VERSION: rows}))
