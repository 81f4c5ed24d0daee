"""Writes a small corpus for each fuzz target into tests/fuzz/corpus, or into FOLDER: sound files, from which mutations start.

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


checkpoints()
pickles()
bundles()
