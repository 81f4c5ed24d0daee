"""Compares token ids of random prompts with those of the imported transformers, for every supported tokenizer class.

    python fuzz_ids.py IDS [--count N] [--seed N] [--only TEXT]

IDS is the program of tests/examples/ids.rs. Each tokenizer is trained here on a few sentences, loaded by transformers, saved
by it, and loaded again; both programs then read the saved files. Some are also read as vocabularies alone, as in older
checkpoints. Prints a line for each, with the first prompt that differs, and exits with 1 if any does; a tokenizer that Spotter
refuses, or that transformers does not load, is listed. Prompts are of many scripts, composed and decomposed, with
controls, special tokens, emoji and joiners, of either direction, some beyond the limit. Versions: requirements.txt.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata
import warnings

import sentencepiece
import transformers
from make_tokenizer_class_ids import PLAIN, SPECIAL, TABLE, VERSION, taken
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

LENGTH = 32
CORPUS = [
    "a photo of a red kettle on the stove, next to two blue cups", "an empty street at night; the lamps are lit",
    "the quick brown fox jumps over 13 lazy dogs & runs", "Ein Mädchen läuft über die große Straße", "un café à la crème, s'il vous plaît",
    "những con mòng biển đứng trên vách đá", "красный чайник стоит на плите", "ένα κόκκινο βραστήρα πάνω στη σόμπα ΟΔΟΣ",
    "قطة تجلس على السرير", "חתול יושב על המיטה", "一只红色的水壶放在炉子上", "赤いやかんがストーブの上にある", "빨간 주전자가 난로 위에 있다",
    "एक लाल केतली चूल्हे पर", "กาน้ำสีแดงบนเตา", "İstanbul'da ışıklı bir sokak", "ﬁne ① ½ Å ﾊﾝｶｸ ＡＢＣ", "👩‍🚀 🧑🏽‍🌾 ❤️ 🏳️‍🌈 a face 😀",
]  # fmt: skip
SPACES = " \t\n\r\u00a0\u2003\u3000\u200b\u2028\x1c\x1f\x85\u202f\ufeff\u1680\u180e\u2581"
MARKS = "\u0301\u0323\u0308\u0327\u0338\u20e3\ufe0f\u200d\u200c\u0653\u094d\u3099"
CONTROLS = "".join(map(chr, [0, 1, 7, 8, 11, 12, 27, 127, 128, 159, 0xAD, 0x202E, 0x2066, 0xFFFD, 0xFFFE, 0xE000, 0xE0001]))


def piece(rng, specials):
    kind = rng.randrange(14)
    if kind < 5:
        text = rng.choice(rng.choice(CORPUS).split())
        return rng.choice([text, text, text.upper(), text.title()])
    if kind == 5:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 3)))
    if kind == 6:
        return "".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»…—“”、。¿") for _ in range(rng.randint(1, 3)))
    if kind == 7:
        return rng.choice(CONTROLS)
    if kind == 8:
        special = rng.choice(specials)
        return rng.choice([special, special, special.upper(), special.lower(), special[1:], special + rng.choice(specials)])
    if kind == 9:
        return rng.choice("aeiouAEOnσΣشक") + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 3)))
    if kind == 10:
        return rng.choice(["👩‍🚀", "🏳️‍🌈", "👍🏽", "🇩🇪", "😀", "❤️", "1️⃣", "𝔘𝔫𝔦", "𠮷", "ǅ", "ẞ", "ΟΔΟΣ", "İ", "ı", "ﷺ", "㍿"])
    low, high = rng.choice([(0x20, 0x250), (0x370, 0x600), (0x600, 0x1000), (0x1E00, 0x2C00), (0x3000, 0xA000), (0xAC00, 0xD7A4), (0xF900, 0xFFFE), (0x10000, 0x1F900)])  # fmt: skip
    # Python's table of characters may be older than the library's: only what it knows.
    found = [c for c in (chr(rng.randrange(low, high)) for _ in range(3)) if unicodedata.category(c) not in ("Cn", "Cs")]
    return "".join(found)


def prompts(count, seed, specials):
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        parts = [piece(rng, specials) for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 8, 13, 60]))]
        text = rng.choice(["", " "]).join(parts) if rng.random() < 0.6 else "".join(p + rng.choice(["", " ", "  "]) for p in parts)
        form = rng.choice([None, None, "NFC", "NFD", "NFKD"])
        made.append(unicodedata.normalize(form, text) if form else text)
    return made


def words(lowercase=True):
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(show_progress=False, vocab_size=600, special_tokens=list(SPECIAL.values())))
    ends = [(t, made.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends)
    return made


def letters():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(show_progress=False, vocab_size=700, initial_alphabet=alphabet, special_tokens=list(SPECIAL.values())))
    made.post_processor = processors.RobertaProcessing(("</s>", made.token_to_id("</s>")), ("<s>", made.token_to_id("<s>")), add_prefix_space=False)
    return made


def sentence_pieces(file, rule, **keys):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_prefix=str(file.with_suffix("")), vocab_size=330, character_coverage=0.99,
        normalization_rule_name=rule, hard_vocab_limit=False, minloglevel=2, **keys)  # fmt: skip
    file.with_suffix(".vocab").unlink()


def write(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def pairs(folder):
    """The vocabulary of letters in the two files of older checkpoints."""
    model = json.loads(letters().to_str())["model"]
    write(folder / "vocab.json", model["vocab"])
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def clip(folder):
    """CLIP's vocabulary, which marks the end of words."""
    made = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(show_progress=False, vocab_size=900, initial_alphabet=alphabet, end_of_word_suffix="</w>"))
    model = json.loads(made.to_str())["model"]
    vocab = list(dict.fromkeys([*alphabet, *(c + "</w>" for c in alphabet), *model["vocab"], "<|startoftext|>", "<|endoftext|>"]))
    write(folder / "vocab.json", {token: at for at, token in enumerate(vocab)})
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def vocabularies():
    """Names, classes, how their files are written, and what tokenizer_config.json says."""
    own = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}  # fmt: skip
    vocabulary = words().get_vocab()
    listed = "\n".join(sorted(vocabulary, key=vocabulary.get))
    text = lambda folder: (folder / "vocab.txt").write_text(listed + "\n", encoding="utf-8")  # noqa: E731
    bert = {key: SPECIAL[key] for key in ("unk_token", "sep_token", "pad_token", "cls_token")} | {"mask_token": "<mask>"}
    for kind in ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"]:
        for config in ({}, {"do_lower_case": False}, {"strip_accents": False, "tokenize_chinese_chars": False}):
            yield f"{kind} of vocab.txt {config}", kind, text, {**bert, **config}
    for kind in ["RobertaTokenizer"]:
        for config in ({}, {"add_prefix_space": True}):
            yield f"{kind} of two files {config}", kind, pairs, {**SPECIAL, **config}
    yield "CLIPTokenizer", "CLIPTokenizer", clip, {}
    for rule in ["nmt_nfkc", "identity"]:
        fairseq = lambda folder, rule=rule: sentence_pieces(folder / "sentencepiece.bpe.model", rule)  # noqa: E731
        for kind in ["XLMRobertaTokenizer", "CamembertTokenizer"]:
            yield f"{kind} {rule}", kind, fairseq, own
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    for rule in ["nmt_nfkc", "nfkc_cf", "identity"]:
        for more in ({}, {"remove_extra_whitespaces": False}):
            siglip = lambda folder, rule=rule, more=more: sentence_pieces(folder / "spiece.model", rule, **ids, **more)  # noqa: E731
            for config in ({}, {"do_lower_case": False}):
                yield f"SiglipTokenizer {rule} {more} {config}", "SiglipTokenizer", siglip, config


def classes():
    """The classes of the table that read a tokenizer.json, each with both trained ones."""
    # Two cannot be made without files of their own.
    kinds_of_all = [kind for kind in taken() if kind not in ("BlenderbotSmallTokenizer", "SplinterTokenizer")]
    for name, make in [("words", words), ("letters", letters)]:
        # In the newer release most classes rebuild the tokenizer, from models of their own kind.
        fits = lambda kind, name=name: VERSION == "4" or (kind == "GPTNeoXTokenizer") == (name == "letters")  # noqa: E731
        kinds = filter(fits, kinds_of_all)
        for kind in [*kinds, *PLAIN[:1]]:
            if name == "words" or "normalizer" not in TABLE.get(kind, {}):
                yield f"{kind} of {name}", kind, lambda folder, make=make: make().save(str(folder / "tokenizer.json")), SPECIAL


def known_ids(folder):
    """Ids of the vocabulary in a folder's tokenizer.json; of other files, all."""
    if not (folder / "tokenizer.json").exists():
        return set(range(100_000))
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return set(library.get_vocab(with_added_tokens=True).values())


def compare(program, name, kind, make, config, args):
    with tempfile.TemporaryDirectory() as at:
        given, saved = pathlib.Path(at, "given"), pathlib.Path(at, "saved")
        given.mkdir()
        make(given)
        write(given / "tokenizer_config.json", {"tokenizer_class": kind, "model_max_length": LENGTH, **config})
        write(given / "config.json", {"transformers_version": transformers.__version__})
        folders = [saved]
        try:
            AutoTokenizer.from_pretrained(given).save_pretrained(saved)
            write(saved / "config.json", {"transformers_version": transformers.__version__})
            loaded = {saved: AutoTokenizer.from_pretrained(saved)}
            # From a vocabulary alone, the newer release supports only SentencePiece models.
            if VERSION == "4" or list(given.glob("*.model")):
                loaded[given] = AutoTokenizer.from_pretrained(given)
                folders.append(given)
        except Exception as error:  # Some classes want files of their own.
            return print(f"{name}: transformers: {type(error).__name__}: {str(error)[:100]}") or 0
        texts = prompts(args.count, args.seed, sorted(set(loaded[saved].all_special_tokens)))
        jobs = [{"folder": str(folder), "prompts": texts} for folder in folders]
        done = subprocess.run([program], input=json.dumps(jobs), capture_output=True, text=True, check=True)
        differ = 0
        for folder, line in zip(folders, done.stdout.splitlines()):
            found = json.loads(line)
            if isinstance(found, dict):
                print(f"{name}, {folder.name}: refused: {found['error'][-160:]}")
                continue
            wanted = loaded[folder](texts, truncation=True, max_length=LENGTH)["input_ids"]
            # A text tower has no rows for tokens that a class adds after the vocabulary.
            known = known_ids(folder)
            wrong = [at for at in range(len(texts)) if wanted[at] != found[at] and set(wanted[at]) <= known]
            differ += len(wrong)
            first = min(wrong, key=lambda at: len(texts[at]), default=None)
            tail = "" if first is None else f", as {texts[first]!a}: {wanted[first]}, found {found[first]}"
            print(f"{name}, {folder.name}: {len(wrong)} of {len(texts)} differ{tail}", flush=True)
        return differ


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    rows = [row for row in [*vocabularies(), *classes()] if args.only in row[0]]
    differ = sum(compare(args.program, *row, args) for row in rows)
    print(f"transformers {transformers.__version__}: {len(rows)} tokenizers, {differ} prompts differ")
    sys.exit(differ > 0 or not rows)


if __name__ == "__main__":
    main()
