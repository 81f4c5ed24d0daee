"""Writes a small corpus for each fuzz target into tests/fuzz/corpus, or into FOLDER: valid files, from which mutations start.

    python3 seeds.py [FOLDER]

Needs nothing but Python.
"""

import hashlib
import io
import json
import pathlib
import struct
import sys
import tarfile
import zipfile

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden"
CORPUS = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "corpus"


def put(target, name, content):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def safetensors(tensors):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(range(32, 32 + end))


def checkpoints():
    config = (GOLDEN / "tiny/checkpoint/config.json").read_text()
    weights = {
        "logit_scale": ("F32", [], 4),
        "vision_model.layers.0.attention.q_proj.weight": ("BF16", [2, 2], 8),
        "text_model.embeddings.LayerNorm.gamma": ("F16", [3], 6),
        "text_model.embeddings.position_ids": ("I64", [1, 2], 16),
        "wide": ("F64", [1], 8),
    }
    for kind in ["vit", "deit", "beit", "clip_vision_model", "dinov2", "siglip_vision_model", "swin"]:
        other = json.dumps(json.loads(config.replace('"vit"', f'"{kind}"'))).encode()
        put("checkpoint", kind, struct.pack("<H", len(other)) + other + safetensors(weights))
    for kind in ["roberta", "xlm-roberta", "clip_text_model", "mpnet"]:
        other = json.dumps(json.loads(config.replace('"bert"', f'"{kind}"'))).encode()
        put("checkpoint", kind, struct.pack("<H", len(other)) + other + safetensors(weights))


def pickles():
    for path in (GOLDEN / "torch").glob("*.bin"):
        content = path.read_bytes()
        put("pickle", path.stem, content)
        if content.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                put("pickle", f"{path.stem}-alone", b"P" + archive.read(f"{path.stem}/data.pkl"))


def bundles():
    files = {"vision.onnx": b"vision", "text.onnx": b"text", "tokenizer.json": b"{}", "MODEL_CARD.md": b"# A model\n"}
    manifest = json.loads((HERE.parent.parent / "config/demo/bundle.json").read_text())

    def fill(entry, name):
        content = files[name]
        entry.update(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    fill(manifest["vision"]["file"], "vision.onnx")
    fill(manifest["text"]["file"], "text.onnx")
    fill(manifest["tokenizer"]["file"], "tokenizer.json")
    fill(manifest["model_card"], "MODEL_CARD.md")
    text = json.dumps(manifest).encode()
    put("bundle", "manifest", text)
    for name, form in [("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)]:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=form) as archive:
            for file, data in {"bundle.json": text, **files}.items():
                entry = tarfile.TarInfo(file if form == tarfile.USTAR_FORMAT else f"./{file}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        put("bundle", name, content.getvalue())


def segment(code, content):
    return bytes([0xFF, code]) + struct.pack(">H", len(content) + 2) + content


def jpeg(headers, scan):
    """A JPEG with valid structure and no real pixels."""
    return b"\xff\xd8" + headers + segment(0xDA, bytes([1, 1, 0, 0, 63, 0])) + scan + b"\xff\xd9"


def splitter():
    table = segment(0xDB, bytes(65))
    small = jpeg(table, b"\x01\xff\x00\x02\xff\xd0\x03")
    thumbnail = jpeg(segment(0xE1, b"Exif\0\0" + small) + table, bytes(20))
    boundary = b"\r\n--boundary\r\nContent-Type: image/jpeg\r\n\r\n"
    # An index of two images, the second of which comes right behind.
    index = b"MPF\0" + struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 0xB002, 7, 32, 26) + bytes(4)
    second = len(jpeg(segment(0xE2, index + bytes(32)) + table, b"\x07"))
    index += bytes(16) + struct.pack("<IIII", 0, len(small), second - 10, 0)
    put("splitter", "two", small + thumbnail)
    put("splitter", "multipart", boundary + small + boundary + small)
    put("splitter", "pictures", jpeg(segment(0xE2, index) + table, b"\x07") + small + small)
    put("splitter", "cut", small[:40] + thumbnail[:-30] + small)
    put("splitter", "lies", b"\xff\xd8\xff\xe0\x7f\xff" * 9 + small + b"\xff\xd8\xff\xfe\xff\xff" + small)
    put("splitter", "noise", bytes(range(256)) + small + b"\x89PNG" + small[:-2])


def towers():
    # The first byte says which tower it is and what runs it, see src/towers.rs; each change has five bytes.
    for kind in range(8):
        put("towers", f"sound-{kind}", bytes([kind]))
    for kind in range(4):
        for what in range(16):
            put("towers", f"changed-{kind}-{what}", bytes([kind, what, 5 + 3 * what, 0, 1, what]))
        put("towers", f"by-four-{kind}", bytes([kind]) + bytes(range(1, 21)))
    # A whole file: a graph of one node, from its input to its output.
    node = b"\x0a\x0cpixel_values\x12\x0cimage_embeds\x22\x08Identity"
    graph = b"\x0a" + bytes([len(node)]) + node + b"\x5a\x0e\x0a\x0cpixel_values\x62\x0e\x0a\x0cimage_embeds"
    put("towers", "whole", b"\x08" + b"\x08\x08\x3a" + bytes([len(graph)]) + graph + b"\x42\x02\x10\x11")


def tokenizers():
    tiny = json.loads((GOLDEN / "tiny/checkpoint/tokenizer.json").read_text())
    letters = {letter: number for number, letter in enumerate(["<unk>", "</s>", *"abcdefghi\u2581\u0120"])}
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [[letter, -float(number)] for letter, number in letters.items()]}
    pairs = {"type": "BPE", "vocab": {**letters, "ab": 20, "abc": 21}, "merges": [["a", "b"], ["ab", "c"]]}
    words = {"type": "WordLevel", "vocab": letters, "unk_token": "<unk>"}
    replace = {"type": "Replace", "pattern": {"Regex": " +"}, "content": "\u2581"}
    sequence = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "a"}, replace]}
    charsmap = {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAUAABhAA=="}
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": "[a-c]+"}, "behavior": "Isolated", "invert": False}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    roberta = {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<unk>", 0], "trim_offsets": True}
    roberta["add_prefix_space"] = False
    kinds = {
        "word-piece": {},
        "unigram": {"model": unigram, "normalizer": charsmap, "pre_tokenizer": metaspace, "post_processor": None},
        "byte-pairs": {"model": pairs, "normalizer": None, "pre_tokenizer": bytewise, "post_processor": roberta},
        "words": {"model": words, "normalizer": sequence, "pre_tokenizer": split, "post_processor": None},
    }
    for flags, (name, changes) in enumerate(kinds.items()):
        prompt = "abc  the Cat, \ufdfa\u00e9 <unk>".encode()
        content = json.dumps({**tiny, **changes}, ensure_ascii=False).encode()
        put("tokenizer", name, bytes([flags]) + struct.pack("<H", len(prompt)) + prompt + content)


checkpoints()
pickles()
bundles()
splitter()
towers()
tokenizers()
